//! Launches of the pair of thin products that forward, backward and merge have in common.

use kernel_abi::{DevicePtr, Float, Launch, LaunchError, Launcher, Module};

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
    /// Bytes of an element of x, the weights and u (two: on the tensor cores), and of y.
    pub(crate) bytes: usize,
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

/// How entries name the element type: f32 goes without.
pub(crate) fn element<T: Float>() -> &'static str {
    match T::NAME {
        "f16" => "_f16",
        "bf16" => "_bf16",
        _ => "",
    }
}

/// The module for 32-bit or for 16-bit elements.
pub(crate) fn by_width<T>(wide: &'static Module, half: &'static Module) -> &'static Module {
    if size_of::<T>() == 4 { wide } else { half }
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

    /// Rows of a block. Results do not depend on it.
    fn block_rows(&self) -> usize {
        match () {
            () if self.group.is_some() => 16,
            () if self.m >= TALL || self.y_bytes < self.bytes => 64,
            () => 16,
        }
    }

    fn submit(&self, p: Places, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        let Rows { m, k, n, rank, ldx, ldy, bytes, .. } = *self;
        let null = DevicePtr::NULL;
        let (r, rows) = (ranks_at_once(rank), self.block_rows());
        // columns of a tile of y, threads
        let (cols, threads) = if bytes == 4 { (64, 256) } else { (if rows == 16 { 128 } else { 64 }, 128) };
        let blocks = m.div_ceil(rows);
        let tiles = n.div_ceil(cols).max(1);
        let splits = if p.y == null { 1 } else { BLOCKS.div_ceil(blocks).clamp(1, tiles) };
        let per_split = tiles.div_ceil(splits);
        let chunks = if p.y == null { rank.div_ceil(r) } else { 1 };
        let stages = if rows == 16 { 4 } else { 3 };
        let (u, w2) = (bytes * rows * r, bytes * cols * r);
        let shared = match p.x == null {
            true => 2 * (u + w2),
            false => (stages * 128 * (rows + r)).max(u + 2 * w2),
        };
        let (ld1, ld2) = if self.columns_first { (k, rank) } else { (rank, n) };
        // y's lanes move 8 columns of 16 bits at a time or none.
        let y_columns = bytes == 4 || n.is_multiple_of(8);
        let whole = flags([
            whole(p.x, ldx, bytes),
            whole(p.w1, ld1, bytes),
            whole(p.u, rank, bytes),
            whole(p.w2, ld2, bytes),
            whole(p.y, ldy, self.y_bytes) && y_columns,
        ]);
        let launch = Launch::new(self.module, format_args!("{}{}_m{rows}_r{r}", self.prefix, self.element))
            .grid(blocks, tiles.div_ceil(per_split), chunks)
            .block(threads)
            .shared(shared);
        let mut launch = launch.arg(p.x).arg(p.w1).arg(p.u).arg(p.w2).arg(p.y);
        if let Some((index, scales, adapters)) = self.group {
            launch = launch.arg(index).arg(scales).dim(adapters);
        }
        let launch = launch.dim(m).dim(k).dim(n).dim(rank).dim(ldx).dim(ldy);
        on.launch(launch.arg(self.down).arg(self.up).dim(per_split * cols).arg(whole))
    }
}
