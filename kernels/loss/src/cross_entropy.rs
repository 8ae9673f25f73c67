//! Softmax cross-entropy over given logits, for classifiers.

use crate::{check, softmax::log_sum_exp};
use kernel_abi::{ArgError, Cost, In, Kernel, Out, expect_len};

/// `loss[i] = -ln softmax(logits[i])[targets[i]]`; the gradient is of the mean over the rows.
#[derive(Debug, Clone, Copy)]
pub struct SoftmaxCrossEntropy {
    /// Rows.
    pub rows: usize,
    /// Classes.
    pub classes: usize,
}

/// Arguments of [`SoftmaxCrossEntropy`].
pub struct SoftmaxCrossEntropyArgs<'a> {
    /// `[rows, classes]`.
    pub logits: In<'a>,
    /// `[rows]`, each below `classes`.
    pub targets: In<'a, u32>,
    /// `[rows]`.
    pub loss: Out<'a>,
    /// `[rows, classes]`.
    pub probs: Out<'a>,
    /// `[rows, classes]`.
    pub dlogits: Out<'a>,
}

impl Kernel for SoftmaxCrossEntropy {
    type Args<'a> = SoftmaxCrossEntropyArgs<'a>;
    const NAME: &'static str = "softmax_cross_entropy";

    fn check(&self, args: &SoftmaxCrossEntropyArgs<'_>) -> Result<(), ArgError> {
        let n = self.rows * self.classes;
        expect_len(Self::NAME, "logits", args.logits.len(), n)?;
        check::targets(Self::NAME, args.targets, self.rows, self.classes)?;
        expect_len(Self::NAME, "loss", args.loss.len(), self.rows)?;
        expect_len(Self::NAME, "probs", args.probs.len(), n)?;
        expect_len(Self::NAME, "dlogits", args.dlogits.len(), n)
    }

    fn cost(&self) -> Cost {
        let (rows, n) = (self.rows as u64, (self.rows * self.classes) as u64);
        Cost { bytes_read: 4 * (n + rows), bytes_written: 4 * (2 * n + rows), flops: 6 * n, int8_ops: 0 }
    }

    fn cpu(&self, args: SoftmaxCrossEntropyArgs<'_>) {
        let SoftmaxCrossEntropy { rows, classes } = *self;
        let (logits, targets) = (args.logits.host(), args.targets.host());
        let (loss, probs, dlogits) = (args.loss.host(), args.probs.host(), args.dlogits.host());
        let row = |i: usize| &logits[i * classes..][..classes];
        cpu::par_rows(loss, 1, 1, 16 * classes, |i, out| {
            out[0] = log_sum_exp(row(i), 1.0) - row(i)[targets[i] as usize];
        });
        let loss = &*loss;
        cpu::par_rows(probs, classes, 1, 16 * classes, |i, out| {
            // The normaliser again, rather than one more array to carry it.
            probabilities(row(i), loss[i] + row(i)[targets[i] as usize], out);
        });
        let (probs, mean) = (&*probs, 1.0 / rows.max(1) as f32);
        cpu::par_rows(dlogits, classes, 1, classes, |i, out| {
            out.iter_mut().zip(&probs[i * classes..]).for_each(|(d, p)| *d = mean * *p);
            out[targets[i] as usize] -= mean;
        });
    }
}

cpu::simd_fn! {
    fn probabilities(row: &[f32], lse: f32, out: &mut [f32]) {
        for (p, x) in out.iter_mut().zip(row) {
            *p = cpu::exp(*x - lse);
        }
    }
}
