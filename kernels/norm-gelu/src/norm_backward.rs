//! Gradients of the norms in one pass over x and dy.
//!
//! With z = (x - mean) rstd and g = dy * weight: dx = rstd (g - mean(g) - z mean(g z)) (LayerNorm; RMSNorm
//! without the middle term), dweight = sum dy z, dbias = sum dy. The sums over rows run in fixed blocks of
//! rows, added up in order, so they do not depend on the threads.

use crate::{Norm, layout, norm_backward_launch};
use kernel_abi::{
    ArgError, Cost, Half, In, Kernel, LaunchError, Launcher, Out, expect_len, narrow, typed, widen,
};
use std::cell::RefCell;

/// Gradients of [`crate::NormForward`].
#[derive(Debug, Clone, Copy)]
pub struct NormBackward {
    /// Rows.
    pub rows: usize,
    /// Elements per row.
    pub cols: usize,
    /// LayerNorm or RMSNorm.
    pub kind: Norm,
    /// Add to dx instead of overwriting it.
    pub accumulate: bool,
}

/// Arguments of [`NormBackward`].
pub struct NormBackwardArgs<'a, T = f32> {
    /// `[rows, cols]`.
    pub x: In<'a, T>,
    /// `[cols]`.
    pub weight: In<'a, T>,
    /// `[rows]` from the forward pass.
    pub mean: In<'a>,
    /// `[rows]` from the forward pass.
    pub rstd: In<'a>,
    /// `[rows, cols]`.
    pub dy: In<'a, T>,
    /// `[rows, cols]`.
    pub dx: Out<'a, T>,
    /// `[cols]`, f32, added to.
    pub dweight: Option<Out<'a>>,
    /// `[cols]`, f32, added to.
    pub dbias: Option<Out<'a>>,
}

cpu::simd_fn! {
    fn input_row(
        x: &[f32], weight: &[f32], mean: f32, rstd: f32, dy: &[f32], center: bool, accumulate: bool,
        g: &mut [f32], z: &mut [f32], dx: &mut [f32],
    ) {
        let n = x.len() as f32;
        for i in 0..x.len() {
            g[i] = dy[i] * weight[i];
            z[i] = (x[i] - mean) * rstd;
        }
        let mean_g = if center { cpu::sum(g) / n } else { 0.0 };
        let mean_gz = cpu::dot(g, z) / n;
        for i in 0..x.len() {
            let d = rstd * z[i].mul_add(-mean_gz, g[i] - mean_g);
            dx[i] = if accumulate { dx[i] + d } else { d };
        }
    }
}

cpu::simd_fn! {
    fn weight_rows(x: &[f32], mean: &[f32], rstd: &[f32], dy: &[f32], cols: usize, dw: &mut [f32], db: &mut [f32]) {
        for (i, (x, dy)) in x.chunks_exact(cols).zip(dy.chunks_exact(cols)).enumerate() {
            for j in 0..cols {
                dw[j] = dy[j].mul_add((x[j] - mean[i]) * rstd[i], dw[j]);
                db[j] += dy[j];
            }
        }
    }
}

/// Rows of a partial sum: part of the definition of the result, not a tuning knob.
const CHUNK: usize = 64;

thread_local! {
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

impl NormBackward {
    fn check_lens<T>(&self, args: &NormBackwardArgs<'_, T>) -> Result<(), ArgError> {
        let NormBackward { rows, cols, .. } = *self;
        layout::check(Self::NAME, rows, cols)?;
        expect_len(Self::NAME, "x", args.x.len(), rows * cols)?;
        expect_len(Self::NAME, "weight", args.weight.len(), cols)?;
        expect_len(Self::NAME, "mean", args.mean.len(), rows)?;
        expect_len(Self::NAME, "rstd", args.rstd.len(), rows)?;
        expect_len(Self::NAME, "dy", args.dy.len(), rows * cols)?;
        expect_len(Self::NAME, "dx", args.dx.len(), rows * cols)?;
        expect_len(Self::NAME, "dweight", args.dweight.as_ref().map_or(cols, |d| d.len()), cols)?;
        expect_len(Self::NAME, "dbias", args.dbias.as_ref().map_or(cols, |d| d.len()), cols)
    }

    /// With elements of so many bytes: x, dy, weight and the statistics in, dx (in, too, to be added to), dweight and dbias
    /// out.
    fn bytes(&self, element: u64) -> Cost {
        let (r, c) = (self.rows as u64, self.cols as u64);
        let times = 2 + u64::from(self.accumulate);
        Cost {
            bytes_read: element * (times * r * c + c) + 8 * r + 8 * c,
            bytes_written: element * r * c + 8 * c,
            flops: 14 * r * c,
            ..Cost::default()
        }
    }
}

impl Kernel for NormBackward {
    type Args<'a> = NormBackwardArgs<'a>;
    const NAME: &'static str = "norm_backward";

    fn check(&self, args: &NormBackwardArgs<'_>) -> Result<(), ArgError> {
        self.check_lens(args)
    }

    fn cost(&self) -> Cost {
        self.bytes(4)
    }

    fn ptx(&self, args: NormBackwardArgs<'_>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        norm_backward_launch::launch(self, &args, on)
    }

    fn cpu(&self, args: NormBackwardArgs<'_>) {
        let NormBackward { rows, cols, kind, accumulate } = *self;
        if rows == 0 || cols == 0 {
            return;
        }
        let (x, weight, dy) = (args.x.host(), args.weight.host(), args.dy.host());
        let (mean, rstd) = (args.mean.host(), args.rstd.host());
        cpu::par_rows(args.dx.host(), cols, 16, 8 * cols, |first, block| {
            let mut scratch = SCRATCH.take();
            scratch.resize(2 * cols, 0.0);
            let (g, z) = scratch.split_at_mut(cols);
            for (i, dx) in block.chunks_exact_mut(cols).enumerate() {
                let i = first + i;
                let at = i * cols..(i + 1) * cols;
                let center = kind == Norm::Layer;
                input_row(&x[at.clone()], weight, mean[i], rstd[i], &dy[at], center, accumulate, g, z, dx);
            }
            SCRATCH.set(scratch);
        });
        if args.dweight.is_none() && args.dbias.is_none() {
            return;
        }
        let chunks = rows.div_ceil(CHUNK);
        let mut partial = vec![0.0f32; chunks * 2 * cols];
        cpu::par_rows(&mut partial, 2 * cols, 1, CHUNK * cols * 4, |c, sums| {
            let (dw, db) = sums.split_at_mut(cols);
            let r = c * CHUNK..((c + 1) * CHUNK).min(rows);
            let at = r.start * cols..r.end * cols;
            weight_rows(&x[at.clone()], &mean[r.clone()], &rstd[r], &dy[at], cols, dw, db);
        });
        let add = |out: Option<Out<'_>>, offset: usize| {
            let Some(out) = out else { return };
            let out = out.host();
            for sums in partial.chunks_exact(2 * cols) {
                out.iter_mut().zip(&sums[offset..]).for_each(|(o, s)| *o += *s);
            }
        };
        add(args.dweight, 0);
        add(args.dbias, cols);
    }
}

typed!(
    /// [`NormBackward`] over 16-bit elements; statistics, dweight and dbias are f32.
    NormBackwardOf,
    NormBackward
);

impl<T: Half> Kernel for NormBackwardOf<T> {
    type Args<'a> = NormBackwardArgs<'a, T>;
    const NAME: &'static str = NormBackward::NAME;

    fn check(&self, args: &NormBackwardArgs<'_, T>) -> Result<(), ArgError> {
        self.kernel.check_lens(args)
    }

    fn cost(&self) -> Cost {
        self.kernel.bytes(size_of::<T>() as u64)
    }

    fn cpu(&self, args: NormBackwardArgs<'_, T>) {
        let dx = args.dx.host();
        let mut exact = widen(dx);
        let [x, weight, dy] = [args.x, args.weight, args.dy].map(|a| widen(a.host()));
        self.kernel.cpu(NormBackwardArgs {
            x: (&x).into(),
            weight: (&weight).into(),
            mean: args.mean,
            rstd: args.rstd,
            dy: (&dy).into(),
            dx: (&mut exact).into(),
            dweight: args.dweight,
            dbias: args.dbias,
        });
        narrow(&exact, dx);
    }

    fn ptx(&self, args: NormBackwardArgs<'_, T>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        norm_backward_launch::launch(&self.kernel, &args, on)
    }
}
