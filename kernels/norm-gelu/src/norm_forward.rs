//! y = (x - mean) * rstd * weight + bias (LayerNorm, arXiv 1607.06450); without mean and bias, RMSNorm
//! (arXiv 1910.07467).
//!
//! The row stays in the first-level cache for its three passes: sum, squared deviations, output.

use kernel_abi::{ArgError, Cost, In, Kernel, Out, expect_len};

/// Which normalisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Norm {
    /// Subtract the mean, divide by the standard deviation.
    Layer,
    /// Divide by the root mean square.
    Rms,
}

/// Normalises each row.
#[derive(Debug, Clone, Copy)]
pub struct NormForward {
    /// Rows.
    pub rows: usize,
    /// Elements per row.
    pub cols: usize,
    /// Added to the variance.
    pub eps: f32,
    /// LayerNorm or RMSNorm.
    pub kind: Norm,
}

/// Arguments of [`NormForward`].
pub struct NormForwardArgs<'a> {
    /// `[rows, cols]`.
    pub x: In<'a>,
    /// `[cols]`.
    pub weight: In<'a>,
    /// `[cols]`.
    pub bias: Option<In<'a>>,
    /// `[rows, cols]`.
    pub y: Out<'a>,
    /// `[rows]`; zero for RMSNorm.
    pub mean: Out<'a>,
    /// `[rows]` 1 / sqrt(variance + eps).
    pub rstd: Out<'a>,
}

cpu::simd_fn! {
    fn norm_row(x: &[f32], weight: &[f32], bias: Option<&[f32]>, eps: f32, center: bool, y: &mut [f32]) -> (f32, f32) {
        let n = x.len() as f32;
        let mean = if center { cpu::sum(x) / n } else { 0.0 };
        for (y, x) in y.iter_mut().zip(x) {
            *y = x - mean;
        }
        let rstd = 1.0 / (cpu::dot(y, y) / n + eps).sqrt();
        match bias {
            Some(bias) => {
                for ((y, w), b) in y.iter_mut().zip(weight).zip(bias) {
                    *y = (*y * rstd).mul_add(*w, *b);
                }
            }
            None => {
                for (y, w) in y.iter_mut().zip(weight) {
                    *y = *y * rstd * w;
                }
            }
        }
        (mean, rstd)
    }
}

/// Rows per task.
const BLOCK: usize = 16;

impl Kernel for NormForward {
    type Args<'a> = NormForwardArgs<'a>;
    const NAME: &'static str = "norm_forward";

    fn check(&self, args: &NormForwardArgs<'_>) -> Result<(), ArgError> {
        let NormForward { rows, cols, .. } = *self;
        expect_len(Self::NAME, "x", args.x.len(), rows * cols)?;
        expect_len(Self::NAME, "weight", args.weight.len(), cols)?;
        expect_len(Self::NAME, "bias", args.bias.map_or(cols, |b| b.len()), cols)?;
        expect_len(Self::NAME, "y", args.y.len(), rows * cols)?;
        expect_len(Self::NAME, "mean", args.mean.len(), rows)?;
        expect_len(Self::NAME, "rstd", args.rstd.len(), rows)
    }

    fn cost(&self) -> Cost {
        let (r, c) = (self.rows as u64, self.cols as u64);
        Cost {
            bytes_read: 4 * (r * c + 2 * c),
            bytes_written: 4 * (r * c + 2 * r),
            flops: 7 * r * c,
            int8_ops: 0,
        }
    }

    fn cpu(&self, args: NormForwardArgs<'_>) {
        let NormForward { cols, eps, kind, .. } = *self;
        let (x, weight, bias) = (args.x.host(), args.weight.host(), args.bias.map(In::host));
        let (mean, rstd) = (args.mean.host(), args.rstd.host());
        let (mean, rstd) = (cpu::Shared::new(mean), cpu::Shared::new(rstd));
        cpu::par_rows(args.y.host(), cols, BLOCK, 4 * cols, |first, block| {
            for (i, y) in block.chunks_exact_mut(cols).enumerate() {
                let i = first + i;
                let s = norm_row(&x[i * cols..(i + 1) * cols], weight, bias, eps, kind == Norm::Layer, y);
                // SAFETY: row i belongs to this task alone.
                unsafe { (mean.slice(i, 1)[0], rstd.slice(i, 1)[0]) = s };
            }
        });
    }
}
