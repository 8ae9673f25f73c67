//! dx = dy W with an int8 weight, dequantised panel by panel.
//!
//! A task dequantises `tile_cols` input columns of W into an f32 panel in its own scratch, once, and runs the
//! dense register tile over all rows with it: no layer-sized temporary, and the dequantisation costs one
//! multiplication per weight against m multiply-adds.

use crate::pack::{COLS, packed_len};
use kernel_abi::{ArgError, Cost, In, Kernel, Out, expect_len};
use matmul::{Strided, Target, product, tile_cols};
use std::cell::RefCell;

/// dx (+)= dy W, W int8 `[n, k]` dequantised as q * scb / 127.
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
pub struct Int8LinearBackwardArgs<'a> {
    /// `[m, n]`.
    pub dy: In<'a>,
    /// W packed by [`crate::PackInt8`].
    pub packed: In<'a, i8>,
    /// `[n]` row absmax of W.
    pub scb: In<'a>,
    /// `[m, k]`.
    pub dx: Out<'a>,
}

thread_local! {
    static PANEL: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

cpu::simd_fn! {
    /// panel[j, c] = q(j, first + c) * scb[j] / 127 for all n outputs j; `first` is even.
    fn dequantize_panel(packed: &[i8], scb: &[f32], k: usize, first: usize, cols: usize, panel: &mut [f32]) {
        let stride = k.next_multiple_of(2) * COLS;
        let pairs = (cols.min(k.next_multiple_of(2) - first)) / 2;
        for (block, (scb, rows)) in scb.chunks(COLS).zip(panel.chunks_mut(COLS * cols)).enumerate() {
            let base = &packed[block * stride + first * COLS..];
            for (j, s) in scb.iter().enumerate() {
                let s = *s / 127.0;
                let row = &mut rows[j * cols..(j + 1) * cols];
                for t in 0..pairs {
                    let q = &base[t * 2 * COLS + 2 * j..][..2];
                    row[2 * t] = f32::from(q[0]) * s;
                    row[2 * t + 1] = f32::from(q[1]) * s;
                }
                row[2 * pairs..].fill(0.0);
            }
        }
    }
}

impl Kernel for Int8LinearBackward {
    type Args<'a> = Int8LinearBackwardArgs<'a>;
    const NAME: &'static str = "int8_linear_backward";

    fn check(&self, args: &Int8LinearBackwardArgs<'_>) -> Result<(), ArgError> {
        let Int8LinearBackward { m, n, k, .. } = *self;
        expect_len(Self::NAME, "dy", args.dy.len(), m * n)?;
        expect_len(Self::NAME, "packed", args.packed.len(), packed_len(n, k))?;
        expect_len(Self::NAME, "scb", args.scb.len(), n)?;
        expect_len(Self::NAME, "dx", args.dx.len(), m * k)
    }

    fn cost(&self) -> Cost {
        let (m, n, k) = (self.m as u64, self.n as u64, self.k as u64);
        Cost { bytes_read: 4 * m * n + n * k, bytes_written: 4 * m * k, flops: 2 * m * n * k, int8_ops: 0 }
    }

    fn cpu(&self, args: Int8LinearBackwardArgs<'_>) {
        let Int8LinearBackward { m, n, k, accumulate } = *self;
        let (dy, packed, scb) = (args.dy.host(), args.packed.host(), args.scb.host());
        let target = Target::new(args.dx.host(), k, k).accumulating(accumulate);
        let cols = tile_cols();
        cpu::par_for(k.div_ceil(cols), (m + 1) * n * cols / 4, |p| {
            let mut panel = PANEL.take();
            if panel.len() < n * cols {
                panel.resize(n * cols, 0.0);
            }
            dequantize_panel(packed, scb, k, p * cols, cols, &mut panel[..n * cols]);
            // SAFETY: panel p's columns belong to this task.
            unsafe { product(Strided { data: dy, row: n, step: 1 }, 0..m, n, &panel, p, 1, &target) };
            PANEL.set(panel);
        });
    }
}
