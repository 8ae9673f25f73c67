//! y = x W^T + bias + residual over a packed weight.
//!
//! One task is a block of rows times a few panels: the rows stay in the core's cache while the panels stream
//! through once. In generation (few rows) a task is a slice of the panels, so each weight is read once a step.

use crate::{
    blocks::for_blocks,
    dense::{Dense, DenseTile, Operand},
    pack::packed_len,
    panel::{Strided, Target, product, tile_cols, tile_rows},
};
use kernel_abi::{ArgError, Cost, In, Kernel, LaunchError, Launcher, Out, expect_len, optional};

/// y = x W^T + bias + residual, W `[n, k]`.
#[derive(Debug, Clone, Copy)]
pub struct Linear {
    /// Rows of x.
    pub m: usize,
    /// Outputs.
    pub n: usize,
    /// Inputs.
    pub k: usize,
}

/// Arguments of [`Linear`].
pub struct LinearArgs<'a> {
    /// `[m, k]`.
    pub x: In<'a>,
    /// W packed by [`crate::PackWeight`].
    pub packed: In<'a>,
    /// `[n]`.
    pub bias: Option<In<'a>>,
    /// `[m, n]`.
    pub residual: Option<In<'a>>,
    /// `[m, n]`.
    pub y: Out<'a>,
}

impl Kernel for Linear {
    type Args<'a> = LinearArgs<'a>;
    const NAME: &'static str = "linear";

    fn check(&self, args: &LinearArgs<'_>) -> Result<(), ArgError> {
        let Linear { m, n, k } = *self;
        expect_len(Self::NAME, "x", args.x.len(), m * k)?;
        expect_len(Self::NAME, "packed", args.packed.len(), packed_len(n, k))?;
        expect_len(Self::NAME, "bias", args.bias.map_or(n, |b| b.len()), n)?;
        expect_len(Self::NAME, "residual", args.residual.map_or(m * n, |r| r.len()), m * n)?;
        expect_len(Self::NAME, "y", args.y.len(), m * n)
    }

    fn cost(&self) -> Cost {
        let (m, n, k) = (self.m as u64, self.n as u64, self.k as u64);
        Cost {
            bytes_read: 4 * (m * k + n * k),
            bytes_written: 4 * m * n,
            flops: 2 * m * n * k,
            ..Cost::default()
        }
    }

    fn cpu(&self, args: LinearArgs<'_>) {
        let Linear { m, n, k } = *self;
        let (x, packed, cols) = (args.x.host(), args.packed.host(), tile_cols());
        let target =
            Target::new(args.y.host(), n, n).with(args.bias.map(In::host), args.residual.map(In::host));
        for_blocks(m, n, cols, tile_rows(), k, |rows, panels| {
            let slice = &packed[panels.start * k * cols..panels.end * k * cols];
            // SAFETY: `for_blocks` hands each (row, panel) to one task.
            unsafe { product(Strided::rows(x, k), rows, k, slice, panels.start, panels.len(), &target) };
        });
    }

    fn ptx(&self, args: LinearArgs<'_>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        let Linear { m, n, k } = *self;
        let rows = |at| Operand { at, ld: k, inner: true };
        let (a, b) = (rows(args.x.device()), rows(args.packed.device()));
        let (bias, add, out) = (optional(args.bias), optional(args.residual), args.y.device());
        Dense { m, n, k, a, b, alpha: 1.0, bias, add, out, ldc: n }.launch(DenseTile::of(m, n), on)
    }
}
