//! An int8 weight with an adapter added, quantised again.

use crate::ptx;
use kernel_abi::{ArgError, Cost, In, Kernel, Launch, LaunchError, Launcher, Out, expect_len, f16};

/// q, scb = quantised(q * scb / 127 + s B A), in place; with a negative scale, takes an adapter out again as far as the
/// rounding of the merge allows.
///
/// The rule of quantisation is `int8_matmul::QuantizeWeight`'s (bitsandbytes'): v = f16(merged), scb = row absmax of v,
/// q = round(v * 127 / scb), ties to even. q is row-major, as before `PackInt8`.
#[derive(Debug, Clone, Copy)]
pub struct LoraMergeInt8 {
    /// Inputs.
    pub n_in: usize,
    /// Outputs.
    pub n_out: usize,
    /// Rank.
    pub rank: usize,
    /// alpha / rank.
    pub scale: f32,
}

/// Arguments of [`LoraMergeInt8`].
pub struct LoraMergeInt8Args<'a> {
    /// A `[rank, n_in]`.
    pub a: In<'a>,
    /// B `[n_out, rank]`.
    pub b: In<'a>,
    /// `[n_out, n_in]`, replaced.
    pub q: Out<'a, i8>,
    /// `[n_out]` row absmax, replaced.
    pub scb: Out<'a>,
    /// `[n_out]`: the greatest |q * scb / 127 - merged| of each row, both after the merge.
    pub max_error: Out<'a>,
    /// `[n_out]`: the mean of the same.
    pub mean_error: Out<'a>,
}

/// One row: merged in f32, then rounded.
fn merge_row(k: &LoraMergeInt8, a: &[f32], b: &[f32], q: &mut [i8], scb: &mut f32) -> [f32; 2] {
    let before = *scb / 127.0;
    let mut merged = vec![0.0f32; k.n_in];
    for (r, b) in b.iter().enumerate() {
        for (m, a) in merged.iter_mut().zip(&a[r * k.n_in..][..k.n_in]) {
            *m = b.mul_add(*a, *m);
        }
    }
    merged.iter_mut().zip(&*q).for_each(|(m, q)| *m = k.scale * *m + f32::from(*q) * before);
    let half = |v: f32| f16::from_f32(v).to_f32();
    *scb = merged.iter().fold(0.0f32, |most, m| most.max(half(*m).abs()));
    let (inverse, after) = (if *scb > 0.0 { 127.0 / *scb } else { 0.0 }, *scb / 127.0);
    let (mut most, mut sum) = (0.0f32, 0.0f64);
    for (q, m) in q.iter_mut().zip(&merged) {
        *q = (half(*m) * inverse).round_ties_even() as i8;
        let error = (f32::from(*q) * after - m).abs();
        most = most.max(error);
        sum += f64::from(error);
    }
    [most, (sum / k.n_in.max(1) as f64) as f32]
}

impl Kernel for LoraMergeInt8 {
    type Args<'a> = LoraMergeInt8Args<'a>;
    const NAME: &'static str = "lora_merge_int8";

    fn check(&self, args: &LoraMergeInt8Args<'_>) -> Result<(), ArgError> {
        expect_len(Self::NAME, "a", args.a.len(), self.rank * self.n_in)?;
        expect_len(Self::NAME, "b", args.b.len(), self.n_out * self.rank)?;
        expect_len(Self::NAME, "q", args.q.len(), self.n_out * self.n_in)?;
        expect_len(Self::NAME, "scb", args.scb.len(), self.n_out)?;
        expect_len(Self::NAME, "max_error", args.max_error.len(), self.n_out)?;
        expect_len(Self::NAME, "mean_error", args.mean_error.len(), self.n_out)
    }

    fn cost(&self) -> Cost {
        let (i, o, r) = (self.n_in as u64, self.n_out as u64, self.rank as u64);
        Cost {
            bytes_read: 4 * (r * i + o * r + o) + o * i,
            bytes_written: o * i + 12 * o,
            flops: 2 * o * i * r,
            ..Cost::default()
        }
    }

    fn cpu(&self, args: LoraMergeInt8Args<'_>) {
        let LoraMergeInt8 { n_in, rank, .. } = *self;
        let (a, b) = (args.a.host(), args.b.host());
        let outputs = [args.scb.host(), args.max_error.host(), args.mean_error.host()];
        if n_in == 0 {
            outputs.into_iter().for_each(|o| o.fill(0.0));
            return;
        }
        let outputs = outputs.map(cpu::Shared::new);
        cpu::par_rows(args.q.host(), n_in, 1, 2 * (rank + 4) * n_in, |j, row| {
            // SAFETY: every row of q is another task's, and so are its elements of the outputs.
            let [scb, max, mean] = outputs.map(|o| unsafe { &mut o.slice(j, 1)[0] });
            [*max, *mean] = merge_row(self, a, &b[j * rank..][..rank], row, scb);
        });
    }

    fn ptx(&self, args: LoraMergeInt8Args<'_>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        let LoraMergeInt8 { n_in, n_out, rank, scale } = *self;
        if n_out == 0 {
            return Ok(());
        }
        let (a, q) = (args.a.device(), args.q.device());
        let four = n_in.is_multiple_of(4) && a.0.is_multiple_of(16) && q.0.is_multiple_of(4);
        let launch = Launch::new(&ptx::MERGE_INT8, format_args!("merge_int8_v{}", if four { 4 } else { 1 }))
            .grid(n_out.div_ceil(8), 1, 1)
            .block(256);
        let launch = launch.arg(a).arg(args.b.device()).arg(q).arg(args.scb.device());
        let launch = launch.arg(args.max_error.device()).arg(args.mean_error.device());
        on.launch(launch.dim(n_in).dim(n_out).dim(rank).arg(scale))
    }
}
