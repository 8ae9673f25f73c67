//! PPO's clipped value loss, as TRL computes it, with its gradient.

use crate::{ppo_policy::token_blocks, ptx};
use kernel_abi::{ArgError, Cost, DevicePtr, In, Kernel, Launch, LaunchError, Launcher, Out, expect_len};

/// loss = 0.5 sum weight max((v - R)^2, (clip(v, old - c, old + c) - R)^2).
#[derive(Debug, Clone, Copy)]
pub struct PpoValueLoss {
    /// Tokens.
    pub n: usize,
    /// The clip range c.
    pub cliprange_value: f32,
    /// Factor of this loss in the whole; applied to the gradient only.
    pub vf_coef: f32,
}

/// Arguments of [`PpoValueLoss`].
pub struct PpoValueLossArgs<'a> {
    /// `[n]`.
    pub value: In<'a>,
    /// `[n]`, at the time of the rollout.
    pub old_value: In<'a>,
    /// `[n]`.
    pub returns: In<'a>,
    /// `[n]`: 0 for tokens that do not count; sums to 1 over a batch that counts as one mean.
    pub weight: In<'a>,
    /// `[n]`: gradient of `vf_coef` * loss.
    pub dvalue: Out<'a>,
    /// `[4]`, overwritten, sums over `weight`: loss (without `vf_coef`); share of clipped tokens; mean
    /// squared error (v - R)^2; mean value.
    pub stats: Out<'a>,
}

impl Kernel for PpoValueLoss {
    type Args<'a> = PpoValueLossArgs<'a>;
    const NAME: &'static str = "ppo_value_loss";

    fn check(&self, args: &PpoValueLossArgs<'_>) -> Result<(), ArgError> {
        expect_len(Self::NAME, "value", args.value.len(), self.n)?;
        expect_len(Self::NAME, "old_value", args.old_value.len(), self.n)?;
        expect_len(Self::NAME, "returns", args.returns.len(), self.n)?;
        expect_len(Self::NAME, "weight", args.weight.len(), self.n)?;
        expect_len(Self::NAME, "dvalue", args.dvalue.len(), self.n)?;
        expect_len(Self::NAME, "stats", args.stats.len(), 4)
    }

    fn cost(&self) -> Cost {
        let n = self.n as u64;
        Cost { bytes_read: 16 * n, bytes_written: 4 * n + 16, flops: 12 * n, ..Cost::default() }
    }

    fn cpu(&self, args: PpoValueLossArgs<'_>) {
        let (value, old) = (args.value.host(), args.old_value.host());
        let (returns, weight) = (args.returns.host(), args.weight.host());
        let mut stats = [0.0f64; 4];
        for (i, d) in args.dvalue.host().iter_mut().enumerate() {
            let (v, w) = (value[i], weight[i]);
            if w == 0.0 {
                *d = 0.0;
                continue;
            }
            // max then min rather than clamp: a NaN bound is an answer, not a panic.
            let limited = v.max(old[i] - self.cliprange_value).min(old[i] + self.cliprange_value);
            let (error, limited_error) = (v - returns[i], limited - returns[i]);
            let (plain, clipped) = (error * error, limited_error * limited_error);
            let is_clipped = clipped > plain;
            *d = if is_clipped { 0.0 } else { self.vf_coef * w * error };
            let w = f64::from(w);
            stats[0] += 0.5 * w * f64::from(if is_clipped { clipped } else { plain });
            stats[1] += if is_clipped { w } else { 0.0 };
            stats[2] += w * f64::from(plain);
            stats[3] += w * f64::from(v);
        }
        for (out, s) in args.stats.host().iter_mut().zip(stats) {
            *out = s as f32;
        }
    }

    fn ptx(&self, args: PpoValueLossArgs<'_>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        let blocks = token_blocks(self.n);
        let part = if blocks > 1 { on.workspace(8 * 4 * blocks)? } else { DevicePtr::NULL };
        let stats = args.stats.device();
        let launch = Launch::new(&ptx::PPO_VALUE, format_args!("ppo_value")).grid(blocks, 1, 1).block(256);
        let launch = launch.arg(args.value.device()).arg(args.old_value.device());
        let launch = launch.arg(args.returns.device()).arg(args.weight.device());
        let launch = launch.arg(args.dvalue.device()).arg(stats).arg(part).dim(self.n);
        on.launch(launch.arg(self.cliprange_value).arg(self.vf_coef))?;
        if blocks == 1 {
            return Ok(());
        }
        let total = Launch::new(&ptx::PPO_VALUE, format_args!("ppo_value_total")).block(128);
        on.launch(total.arg(part).arg(stats).dim(blocks))
    }
}
