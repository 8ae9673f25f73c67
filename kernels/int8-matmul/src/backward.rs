//! dx = dy W with an int8 weight, dequantised panel by panel.
//!
//! W = diag(scb / 127) q, so dx = (dy diag(scb / 127)) q: the scale goes to dy, which is then rounded to bf16, and q
//! is exact in bf16 (|q| <= 127 has seven bits). That runs at twice the speed of f32 where the CPU multiplies bf16,
//! and rounds what a 16-bit backward pass rounds. A task turns `tile_cols()` input columns of q into a panel in its
//! own scratch, once, and runs the register tile over all rows with it: no layer-sized temporary.

use crate::gpu;
use crate::pack::{COLS, expect_packed};
use kernel_abi::{
    ArgError, Cost, Half, In, Kernel, LaunchError, Launcher, Out, expect_len, narrow, typed, widen,
};
use matmul::{tile_cols, times_packed};

/// dx (+)= dy W, W int8 `[n, k]` standing for q * scb / 127; dy * scb / 127 is rounded to bf16, sums are f32.
#[derive(Debug, Clone, Copy)]
pub struct Int8LinearBackward {
    /// Rows of dy.
    pub m: usize,
    /// Outputs.
    pub n: usize,
    /// Inputs.
    pub k: usize,
    /// Add to dx instead of overwriting it.
    pub accumulate: bool,
}

/// Arguments of [`Int8LinearBackward`].
pub struct Int8LinearBackwardArgs<'a, T = f32> {
    /// `[m, n]`.
    pub dy: In<'a, T>,
    /// W packed by [`crate::PackInt8`].
    pub packed: In<'a, i8>,
    /// `[n]` row absmax of W.
    pub scb: In<'a>,
    /// `[m, k]`.
    pub dx: Out<'a, T>,
}

cpu::simd_fn! {
    /// The panel of columns `first..first + cols` over pairs of outputs, in bf16; `first` and `cols` are multiples
    /// of 4.
    fn panel_of_pairs(packed: &[i8], k: usize, first: usize, cols: usize, panel: &mut [u32]) {
        let wide = k.next_multiple_of(4);
        let quads = (cols.min(wide - first)) / 4;
        for (block, rows) in panel.chunks_mut(COLS / 2 * cols).enumerate() {
            let base = &packed[block * wide * COLS + first * COLS..][..quads * 4 * COLS];
            for (v, row) in rows.chunks_exact_mut(cols).enumerate() {
                let (have, rest) = row.split_at_mut(4 * quads);
                for (to, quad) in have.as_chunks_mut::<4>().0.iter_mut().zip(base.as_chunks::<{ 4 * COLS }>().0) {
                    let two: &[i8; 8] = quad[8 * v..8 * v + 8].try_into().expect("two outputs");
                    *to = std::array::from_fn(|t| {
                        f32::from(two[t]).to_bits() | f32::from(two[4 + t]).to_bits() >> 16
                    });
                }
                rest.fill(0);
            }
        }
    }
}

impl Int8LinearBackward {
    fn check_args<T>(&self, args: &Int8LinearBackwardArgs<'_, T>) -> Result<(), ArgError> {
        let Int8LinearBackward { m, n, k, .. } = *self;
        expect_len(Self::NAME, "dy", args.dy.len(), m * n)?;
        expect_packed(Self::NAME, &args.packed, (n, k))?;
        expect_len(Self::NAME, "scb", args.scb.len(), n)?;
        expect_len(Self::NAME, "dx", args.dx.len(), m * k)
    }
}

impl Kernel for Int8LinearBackward {
    type Args<'a> = Int8LinearBackwardArgs<'a>;
    const NAME: &'static str = "int8_linear_backward";

    fn check(&self, args: &Int8LinearBackwardArgs<'_>) -> Result<(), ArgError> {
        self.check_args(args)
    }

    fn cost(&self) -> Cost {
        let (m, n, k) = (self.m as u64, self.n as u64, self.k as u64);
        Cost {
            bytes_read: 4 * m * n + n * k,
            bytes_written: 4 * m * k,
            half_flops: 2 * m * n * k,
            ..Cost::default()
        }
    }

    fn cpu(&self, args: Int8LinearBackwardArgs<'_>) {
        let Int8LinearBackward { m, n, k, accumulate } = *self;
        let (packed, cols) = (args.packed.host(), tile_cols());
        let scale: Vec<f32> = args.scb.host().iter().map(|s| s / 127.0).collect();
        let pack = |first: usize, panel: &mut [u32]| panel_of_pairs(packed, k, first, cols, panel);
        times_packed(args.dy.host(), Some(&scale), (m, n, k), pack, args.dx.host(), accumulate);
    }

    fn ptx(&self, args: Int8LinearBackwardArgs<'_>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        gpu::backward(self, &args, on)
    }
}

typed!(
    /// [`Int8LinearBackward`] over 16-bit gradients.
    Int8LinearBackwardOf,
    Int8LinearBackward
);

impl<T: Half> Kernel for Int8LinearBackwardOf<T> {
    type Args<'a> = Int8LinearBackwardArgs<'a, T>;
    const NAME: &'static str = Int8LinearBackward::NAME;

    fn check(&self, args: &Int8LinearBackwardArgs<'_, T>) -> Result<(), ArgError> {
        self.kernel.check_args(args)
    }

    fn cost(&self) -> Cost {
        let Int8LinearBackward { m, n, k, .. } = self.kernel;
        let (m, n, k) = (m as u64, n as u64, k as u64);
        Cost { bytes_read: 2 * m * n + n * k, bytes_written: 2 * m * k, ..self.kernel.cost() }
    }

    fn cpu(&self, args: Int8LinearBackwardArgs<'_, T>) {
        let (dy, dx) = (widen(args.dy.host()), args.dx.host());
        let mut wide = widen(dx);
        let (packed, scb) = (args.packed, args.scb);
        self.kernel.cpu(Int8LinearBackwardArgs { dy: (&dy).into(), packed, scb, dx: (&mut wide).into() });
        narrow(&wide, dx);
    }

    fn ptx(&self, args: Int8LinearBackwardArgs<'_, T>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        gpu::backward(&self.kernel, &args, on)
    }
}
