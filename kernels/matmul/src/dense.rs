//! The launches of the f32 product: which entry, which tile.

use crate::ptx;
use kernel_abi::{DevicePtr, Launch, LaunchError, Launcher};

/// Up to this many rows or columns, the other operand is streamed.
const THIN: usize = 16;
/// Tiles from which on a GPU of some 80 multiprocessors is busy with them.
const BUSY: usize = 80;

/// The entry that computes an f32 product. They differ in speed, not in a bit of the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DenseTile {
    /// 128 x 128 elements a block.
    Large,
    /// 64 x 64 elements a block.
    Small,
    /// 32 x 64 elements a block: for a few dozen rows, which larger tiles would spread over too few multiprocessors.
    Low,
    /// At most 16 rows (or columns), which stay on the chip while the other operand streams by.
    Thin,
}

impl DenseTile {
    /// The tile for an `[m, n]` result.
    pub fn of(m: usize, n: usize) -> DenseTile {
        let tiles = |rows, cols| m.div_ceil(rows) * n.div_ceil(cols);
        match () {
            _ if m.min(n) <= THIN => DenseTile::Thin,
            _ if m.min(n) > 64 && tiles(128, 128) >= BUSY => DenseTile::Large,
            _ if m > 32 && tiles(64, 64) >= BUSY => DenseTile::Small,
            _ => DenseTile::Low,
        }
    }
}

/// An operand as it lies in memory: `ld` from one row to the next, inner elements side by side (or, if not `inner`, rows
/// side by side and `ld` from one inner element to the next).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Operand {
    pub at: DevicePtr,
    pub ld: usize,
    pub inner: bool,
}

impl Operand {
    fn form(&self) -> char {
        if self.inner { 'k' } else { 'r' }
    }

    fn wide(&self) -> bool {
        self.at.0.is_multiple_of(16) && self.ld.is_multiple_of(4)
    }
}

/// out = alpha op(A) op(B) (+ bias) (+ add), out and add `[m, n]` with rows `ldc` apart, bias `[n]`.
pub(crate) struct Dense {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub a: Operand,
    pub b: Operand,
    pub alpha: f32,
    /// Null: none.
    pub bias: DevicePtr,
    /// Null: none.
    pub add: DevicePtr,
    pub out: DevicePtr,
    pub ldc: usize,
}

impl Dense {
    pub fn launch(&self, tile: DenseTile, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        match tile {
            _ if self.m == 0 || self.n == 0 => Ok(()),
            DenseTile::Large => self.tiles((128, 128), 256, on),
            DenseTile::Small => self.tiles((64, 64), 64, on),
            DenseTile::Low => self.tiles((32, 64), 64, on),
            DenseTile::Thin => self.thin(on),
        }
    }

    fn tiles(
        &self,
        (rows, cols): (usize, usize),
        threads: usize,
        on: &mut dyn Launcher,
    ) -> Result<(), LaunchError> {
        let Dense { m, n, k, a, b, alpha, bias, add, out, ldc } = *self;
        let out_wide = (out.0 | add.0).is_multiple_of(16) && ldc.is_multiple_of(4);
        let wide = u32::from(a.wide()) | u32::from(b.wide()) << 1 | u32::from(out_wide) << 2;
        let launch = Launch::new(&ptx::SGEMM, format_args!("sgemm_{}{}_{rows}x{cols}", a.form(), b.form()))
            .grid(m.div_ceil(rows) * n.div_ceil(cols), 1, 1)
            .block(threads);
        let launch = launch.arg(a.at).arg(b.at).arg(bias).arg(add).arg(out).dim(m).dim(n).dim(k);
        on.launch(launch.dim(a.ld).dim(b.ld).dim(ldc).arg(alpha).arg(wide))
    }

    fn thin(&self, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        let Dense { m, n, k, a, b, alpha, bias, add, out, ldc } = *self;
        // The rows of A are the thin side, or else the columns of B: a product of two numbers has no order.
        let by_rows = m <= n;
        let (thin, t, long, l) = if by_rows { (a, m, b, n) } else { (b, n, a, m) };
        let (out_t, out_l) = if by_rows { (ldc, 1) } else { (1, ldc) };
        let (bias_t, bias_l) = if by_rows { (0, 1) } else { (1, 0) };
        assert!(t <= THIN, "the thin side has {t} rows");
        let launch = Launch::new(&ptx::THIN, format_args!("thin_{}{}", thin.form(), long.form()))
            .grid(l.div_ceil(32), 1, 1)
            .block(128);
        let launch = launch.arg(thin.at).arg(long.at).arg(bias).arg(add).arg(out).dim(t).dim(l).dim(k);
        let launch = launch.dim(thin.ld).dim(long.ld).dim(out_t).dim(out_l).dim(bias_t).dim(bias_l);
        on.launch(launch.arg(alpha).arg(u32::from(long.wide())))
    }
}
