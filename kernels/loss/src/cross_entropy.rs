//! Softmax cross-entropy over given logits, for classifiers.

use crate::{
    check, ptx,
    softmax::log_sum_exp,
    tiles::{RowResults, RowTiles},
};
use kernel_abi::{ArgError, Cost, DevicePtr, In, Kernel, Launch, LaunchError, Launcher, Out, expect_len};

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
    /// `[rows]`, each below `classes`; on the GPU, where nobody checks, another one gives a loss of NaN and a gradient
    /// without the target's term.
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
        Cost {
            bytes_read: 4 * (n + rows),
            bytes_written: 4 * (2 * n + rows),
            flops: 6 * n,
            ..Cost::default()
        }
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

    fn ptx(&self, args: SoftmaxCrossEntropyArgs<'_>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        let SoftmaxCrossEntropy { rows, classes } = *self;
        if rows == 0 || classes == 0 {
            return Ok(());
        }
        let (logits, targets) = (args.logits.device(), args.targets.device());
        let outputs = |launch: Launch| {
            let launch = launch.arg(args.loss.device()).arg(args.probs.device());
            launch.arg(args.dlogits.device())
        };
        let mean = 1.0 / rows as f32;
        // Threads a row and elements a thread.
        let shapes =
            [(1, 1), (2, 1), (4, 1), (8, 1), (8, 2), (8, 4), (32, 4), (32, 32), (256, 32), (1024, 24)];
        if let Some((t, e)) = shapes.into_iter().find(|(t, e)| classes <= t * e) {
            let launch = Launch::new(&ptx::CROSS_ENTROPY, format_args!("cross_entropy_{t}_{e}"))
                .grid((rows * t).div_ceil(t.max(256)), 1, 1)
                .block(t.max(256));
            return on.launch(outputs(launch.arg(logits).arg(targets)).dim(rows).dim(classes).arg(mean));
        }
        let tiles = RowTiles::new((rows, classes), 1.0, false, on)?;
        let lse = on.workspace(4 * rows)?;
        tiles.read(logits, DevicePtr::NULL, on)?;
        tiles.merge(DevicePtr::NULL, RowResults { lse, ..RowResults::default() }, on)?;
        let launch = Launch::new(&ptx::CROSS_ENTROPY, format_args!("cross_entropy_wide"))
            .grid(rows, classes.div_ceil(256), 1)
            .block(256);
        on.launch(outputs(launch.arg(logits).arg(targets).arg(lse)).dim(classes).arg(mean))
    }
}

cpu::simd_fn! {
    fn probabilities(row: &[f32], lse: f32, out: &mut [f32]) {
        for (p, x) in out.iter_mut().zip(row) {
            *p = cpu::exp(*x - lse);
        }
    }
}
