//! Launches of the pair of thin products that forward, backward and merge have in common.

use kernel_abi::{DevicePtr, Float, Launch, LaunchError, Launcher, Module};

/// Most ranks that a block keeps in shared memory: one launch up to here, two beyond.
const FUSED: usize = 64;
/// Blocks that keep a large device busy; a constant, so that launches do not depend on the device.
const BLOCKS: usize = 128;
/// Rows from which on blocks take 64 of them rather than 16: those blocks are enough.
const TALL: usize = 64 * BLOCKS;

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
        self.launch_with(self.block_rows(), p, on)
    }

    fn launch_with(&self, rows: usize, p: Places, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        if self.rank > FUSED && p.x != DevicePtr::NULL {
            self.submit(rows, Places { y: DevicePtr::NULL, ..p }, on)?;
            if p.y == DevicePtr::NULL {
                return Ok(());
            }
            return self.submit(rows, Places { x: DevicePtr::NULL, ..p }, on);
        }
        self.submit(rows, p, on)
    }

    /// Rows of a block. Results do not depend on it.
    fn block_rows(&self) -> usize {
        match () {
            () if self.group.is_some() => 16,
            () if self.m >= TALL || self.y_bytes < self.bytes => 64,
            () => 16,
        }
    }

    fn submit(&self, rows: usize, p: Places, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        let Rows { m, k, n, rank, ldx, ldy, bytes, .. } = *self;
        let null = DevicePtr::NULL;
        let r = ranks_at_once(rank);
        // columns of a tile of y, threads
        let (cols, threads) = if bytes == 4 { (64, 256) } else { (if rows == 16 { 128 } else { 64 }, 128) };
        let blocks = m.div_ceil(rows);
        let tiles = n.div_ceil(cols).max(1);
        let splits = if p.y == null { 1 } else { BLOCKS.div_ceil(blocks).clamp(1, tiles) };
        let per_split = tiles.div_ceil(splits);
        let chunks = if p.y == null { rank.div_ceil(r) } else { 1 };
        let stages = match (rows, r, bytes) {
            (16, ..) => 4,
            (64, 64, 4) => 2,
            _ => 3,
        };
        let w2 = bytes * cols * r;
        // f32 rows that are read along the inner dimension are padded by 16 bytes.
        let (u, stage) = match (bytes, self.columns_first) {
            (4, true) => (rows * (4 * r + 16), 144 * (rows + r)),
            (4, false) => (rows * (4 * r + 16), 144 * rows + 128 * r),
            _ => (2 * rows * r, 128 * (rows + r)),
        };
        let shared = if p.x == null { 2 * (u + w2) } else { (stages * stage).max(u + 2 * w2) };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ptx;
    use kernel_abi::{In, Out, f16, narrow};
    use kernel_test::{Gpu, compare::values};

    /// u and y by blocks of `rows` rows.
    fn run<T: Float>(k: &Rows, rows: usize) -> (Vec<f32>, Vec<f32>) {
        let rounded = |n: usize, seed: u32| {
            let mut v = vec![T::from_f32(0.0); n];
            narrow(&values(n, seed), &mut v);
            v
        };
        let mut gpu = Gpu::new();
        let x = gpu.upload(&rounded(k.m * k.ldx, 1));
        let (w1, w2) = (gpu.upload(&rounded(k.rank * k.k, 2)), gpu.upload(&rounded(k.rank * k.n, 3)));
        let (mut u, mut y) = (gpu.upload(&rounded(k.m * k.rank, 4)), gpu.upload(&rounded(k.m * k.ldy, 5)));
        let input = |v: In<'_, T>| v.device();
        let output = |v: Out<'_, T>| v.device();
        let places = Places {
            x: input(x.arg()),
            w1: input(w1.arg()),
            u: output(u.arg_mut()),
            w2: input(w2.arg()),
            y: output(y.arg_mut()),
        };
        k.launch_with(rows, places, &mut gpu).unwrap();
        assert_eq!(gpu.launches[0].grid[0] as usize, k.m.div_ceil(rows));
        let wide = |v: Vec<T>| v.iter().map(|v| v.to_f32()).collect();
        (wide(u.to_vec()), wide(y.to_vec()))
    }

    #[test]
    fn tall_blocks_give_the_bits_of_short_ones() {
        for (rank, k, n) in [(3, 300, 72), (24, 72, 300), (64, 136, 40), (72, 64, 72), (70, 131, 67)] {
            let half = Rows {
                module: &ptx::FORWARD16,
                prefix: "forward",
                element: "_f16",
                m: 70,
                k,
                n,
                rank,
                ldx: k,
                ldy: n,
                down: 0.5,
                up: 0.3,
                columns_first: true,
                bytes: 2,
                y_bytes: 2,
                group: None,
            };
            let wide = Rows { module: &ptx::FORWARD, element: "", bytes: 4, y_bytes: 4, ..half };
            let back = |r: Rows, module| Rows { module, prefix: "backward", columns_first: false, ..r };
            let (back_half, back_wide) = (back(half, &ptx::BACKWARD16), back(wide, &ptx::BACKWARD));
            for k in [half, back_half] {
                assert_eq!(run::<f16>(&k, 16), run::<f16>(&k, 64), "{k:?}");
            }
            for k in [wide, back_wide] {
                assert_eq!(run::<f32>(&k, 16), run::<f32>(&k, 64), "{k:?}");
            }
        }
    }
}
