//! Row-wise absmax quantisation of weights, by bitsandbytes' rule.

use crate::ptx;
use half::f16;
use kernel_abi::{ArgError, Cost, In, Kernel, Launch, LaunchError, Launcher, Out, expect_len};

/// q = round(fp16(w) * 127 / scb), scb = row absmax of fp16(w); ties to even; a zero row has scb 0 and q 0.
#[derive(Debug, Clone, Copy)]
pub struct QuantizeWeight {
    /// Outputs.
    pub n: usize,
    /// Inputs.
    pub k: usize,
}

/// Arguments of [`QuantizeWeight`].
pub struct QuantizeWeightArgs<'a> {
    /// `[n, k]`.
    pub w: In<'a>,
    /// `[n, k]`, in -127..=127.
    pub q: Out<'a, i8>,
    /// `[n]` row absmax.
    pub scb: Out<'a>,
}

impl Kernel for QuantizeWeight {
    type Args<'a> = QuantizeWeightArgs<'a>;
    const NAME: &'static str = "quantize_weight";

    fn check(&self, args: &QuantizeWeightArgs<'_>) -> Result<(), ArgError> {
        expect_len(Self::NAME, "w", args.w.len(), self.n * self.k)?;
        expect_len(Self::NAME, "q", args.q.len(), self.n * self.k)?;
        expect_len(Self::NAME, "scb", args.scb.len(), self.n)
    }

    fn cost(&self) -> Cost {
        let n = (self.n * self.k) as u64;
        Cost { bytes_read: 4 * n, bytes_written: n + 4 * self.n as u64, flops: 2 * n, ..Cost::default() }
    }

    fn cpu(&self, args: QuantizeWeightArgs<'_>) {
        let k = self.k;
        let (w, scb) = (args.w.host(), args.scb.host());
        let wide = |i: usize| w[i * k..(i + 1) * k].iter().map(|v| f16::from_f32(*v).to_f32());
        cpu::par_rows(scb, 1, 8, 8 * k, |first, rows| {
            for (i, s) in rows.iter_mut().enumerate() {
                *s = wide(first + i).fold(0.0f32, |m, v| m.max(v.abs()));
            }
        });
        let scb = &*scb;
        cpu::par_rows(args.q.host(), k.max(1), 8, 8 * k, |first, rows| {
            for (i, q) in rows.chunks_exact_mut(k.max(1)).enumerate() {
                let s = scb[first + i];
                let inverse = if s > 0.0 { 127.0 / s } else { 0.0 };
                for (q, v) in q.iter_mut().zip(wide(first + i)) {
                    *q = (v * inverse).round_ties_even() as i8;
                }
            }
        });
    }

    fn ptx(&self, args: QuantizeWeightArgs<'_>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        if self.n == 0 {
            return Ok(());
        }
        let launch =
            Launch::new(&ptx::WEIGHTS, format_args!("quantize_weight")).grid(self.n, 1, 1).block(256);
        on.launch(launch.arg(args.w.device()).arg(args.q.device()).arg(args.scb.device()).dim(self.k))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_half_to_even_after_the_cast_to_half() {
        // Row absmax 127: q is the value itself, so ties show.
        let w = [127.0f32, 0.5, 1.5, -2.5, 0.0, 0.0, 0.0, 0.0];
        let (mut q, mut scb) = ([9i8; 8], [9.0f32; 2]);
        let k = QuantizeWeight { n: 2, k: 4 };
        k.cpu(QuantizeWeightArgs { w: w[..].into(), q: q[..].as_mut().into(), scb: scb[..].as_mut().into() });
        assert_eq!((q, scb), ([127, 0, 2, -2, 0, 0, 0, 0], [127.0, 0.0]));
    }
}
