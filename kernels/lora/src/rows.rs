//! Launches of the pair of thin products that forward, backward and merge have in common.

use kernel_abi::{DevicePtr, Launch, LaunchError, Launcher, Module};

/// Most ranks that a block keeps in shared memory: one launch up to here, two beyond.
const FUSED: usize = 64;
/// Rows from which on blocks take 64 of them rather than 16.
const TALL: usize = 4096;
/// Blocks that keep the largest device busy; a constant, so that launches do not depend on the device.
const BLOCKS: usize = 256;

/// u = down * x W1 and y += up * u W2 over rows `0..m`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rows {
    pub(crate) module: &'static Module,
    /// Entries are `{prefix}{element}_m16_r64` and so on.
    pub(crate) prefix: &'static str,
    pub(crate) element: &'static str,
    /// Rows, inner elements of the first product, columns of y.
    pub(crate) m: usize,
    pub(crate) k: usize,
    pub(crate) n: usize,
    pub(crate) rank: usize,
    pub(crate) ldx: usize,
    pub(crate) ldy: usize,
    pub(crate) down: f32,
    pub(crate) up: f32,
    /// Whether W1 is `[rank, k]` and W2 `[n, rank]`, rather than `[k, rank]` and `[rank, n]`.
    pub(crate) columns_first: bool,
    /// Bytes of an element of y.
    pub(crate) y_bytes: usize,
    /// Where rows choose their adapter: the rows' indices, the adapters' scales, how many there are.
    pub(crate) group: Option<(DevicePtr, DevicePtr, usize)>,
}

/// Addresses for [`Rows`]; a null x: u is given; a null y: u is all that is wanted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Places {
    pub(crate) x: DevicePtr,
    pub(crate) w1: DevicePtr,
    pub(crate) u: DevicePtr,
    pub(crate) w2: DevicePtr,
    pub(crate) y: DevicePtr,
}

/// The variant that takes this rank: 16, 32 or 64 ranks at a time.
pub(crate) fn ranks_at_once(rank: usize) -> usize {
    rank.next_power_of_two().clamp(16, FUSED)
}

/// Whether rows of `ld` elements of `bytes` bytes from `at` on are 16-byte aligned.
pub(crate) fn whole(at: DevicePtr, ld: usize, bytes: usize) -> bool {
    at.0.is_multiple_of(16) && (ld * bytes).is_multiple_of(16)
}

/// Bits in the order of `all`.
pub(crate) fn flags<const N: usize>(all: [bool; N]) -> u32 {
    all.iter().enumerate().map(|(i, f)| u32::from(*f) << i).sum()
}

impl Rows {
    /// One launch, or two when the rank does not fit a block.
    pub(crate) fn launch(&self, p: Places, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        if self.m == 0 || self.rank == 0 {
            return Ok(());
        }
        if self.rank > FUSED && p.x != DevicePtr::NULL {
            self.submit(Places { y: DevicePtr::NULL, ..p }, on)?;
            if p.y == DevicePtr::NULL {
                return Ok(());
            }
            return self.submit(Places { x: DevicePtr::NULL, ..p }, on);
        }
        self.submit(p, on)
    }

    fn submit(&self, p: Places, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        let Rows { m, k, n, rank, ldx, ldy, .. } = *self;
        let null = DevicePtr::NULL;
        let (r, rows) = (ranks_at_once(rank), if m >= TALL && self.group.is_none() { 64 } else { 16 });
        let blocks = m.div_ceil(rows);
        let tiles = n.div_ceil(64).max(1);
        let splits = if p.y == null { 1 } else { BLOCKS.div_ceil(blocks).clamp(1, tiles) };
        let columns = tiles.div_ceil(splits) * 64;
        let chunks = if p.y == null { rank.div_ceil(r).max(1) } else { 1 };
        let stages = if rows == 16 { 4 } else { 3 };
        let shared = match p.x == null {
            true => 2 * (4 * rows * r + 256 * r),
            false => (stages * 128 * (rows + r)).max(4 * rows * r + 512 * r),
        };
        let (ld1, ld2) = if self.columns_first { (k, rank) } else { (rank, n) };
        let whole = flags([
            whole(p.x, ldx, 4),
            whole(p.w1, ld1, 4),
            whole(p.u, rank, 4),
            whole(p.w2, ld2, 4),
            whole(p.y, ldy, self.y_bytes),
        ]);
        let launch = Launch::new(self.module, format_args!("{}{}_m{rows}_r{r}", self.prefix, self.element))
            .grid(blocks, tiles.div_ceil(columns / 64).min(splits), chunks)
            .block(256)
            .shared(shared);
        let mut launch = launch.arg(p.x).arg(p.w1).arg(p.u).arg(p.w2).arg(p.y);
        if let Some((index, scales, adapters)) = self.group {
            launch = launch.arg(index).arg(scales).dim(adapters);
        }
        let launch = launch.dim(m).dim(k).dim(n).dim(rank).dim(ldx).dim(ldy);
        on.launch(launch.arg(self.down).arg(self.up).dim(columns).arg(whole))
    }
}
