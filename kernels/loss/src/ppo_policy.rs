//! PPO's clipped policy loss (Schulman et al., arXiv 1707.06347, eq. 7) with its gradient and diagnostics.
//!
//! One pass, a handful of operations per token. Sums run in f64 in token order.

use crate::ptx;
use kernel_abi::{ArgError, Cost, DevicePtr, In, Kernel, Launch, LaunchError, Launcher, Out, expect_len};

/// loss = sum weight max(-A r, -A clip(r, 1 - c, 1 + c)), r = exp(logprob - old_logprob).
#[derive(Debug, Clone, Copy)]
pub struct PpoPolicyLoss {
    /// Tokens.
    pub n: usize,
    /// The clip range c.
    pub cliprange: f32,
}

/// Arguments of [`PpoPolicyLoss`].
pub struct PpoPolicyLossArgs<'a> {
    /// `[n]`.
    pub logprob: In<'a>,
    /// `[n]`, of the policy that drew the tokens.
    pub old_logprob: In<'a>,
    /// `[n]`.
    pub advantage: In<'a>,
    /// `[n]`: 0 for tokens that do not count; sums to 1 over a batch that counts as one mean.
    pub weight: In<'a>,
    /// `[n]`: gradient of the loss.
    pub dlogprob: Out<'a>,
    /// `[8]`, overwritten: loss; share of clipped tokens; approximate KL 0.5 (new - old)^2; policy KL
    /// old - new; ratio's mean, variance, largest and smallest. Shares and means are sums over `weight`, so
    /// those of parts of a batch add up; the variance is within this call.
    pub stats: Out<'a>,
}

impl Kernel for PpoPolicyLoss {
    type Args<'a> = PpoPolicyLossArgs<'a>;
    const NAME: &'static str = "ppo_policy_loss";

    fn check(&self, args: &PpoPolicyLossArgs<'_>) -> Result<(), ArgError> {
        if self.cliprange.is_nan() || self.cliprange < 0.0 {
            let problem = format!("is {}, expected 0 or more", self.cliprange);
            return Err(ArgError { kernel: Self::NAME, arg: "cliprange", problem });
        }
        expect_len(Self::NAME, "logprob", args.logprob.len(), self.n)?;
        expect_len(Self::NAME, "old_logprob", args.old_logprob.len(), self.n)?;
        expect_len(Self::NAME, "advantage", args.advantage.len(), self.n)?;
        expect_len(Self::NAME, "weight", args.weight.len(), self.n)?;
        expect_len(Self::NAME, "dlogprob", args.dlogprob.len(), self.n)?;
        expect_len(Self::NAME, "stats", args.stats.len(), 8)
    }

    fn cost(&self) -> Cost {
        let n = self.n as u64;
        Cost { bytes_read: 16 * n, bytes_written: 4 * n + 32, flops: 24 * n, ..Cost::default() }
    }

    fn cpu(&self, args: PpoPolicyLossArgs<'_>) {
        let (new, old) = (args.logprob.host(), args.old_logprob.host());
        let (advantage, weight) = (args.advantage.host(), args.weight.host());
        let (lo, hi) = (1.0 - self.cliprange, 1.0 + self.cliprange);
        let mut s = Sums { largest: f32::NEG_INFINITY, smallest: f32::INFINITY, ..Sums::default() };
        for (i, d) in args.dlogprob.host().iter_mut().enumerate() {
            let (a, w) = (advantage[i], weight[i]);
            if w == 0.0 {
                *d = 0.0;
                continue;
            }
            let diff = new[i] - old[i];
            let ratio = cpu::exp(diff);
            let (plain, clipped) = (-a * ratio, -a * ratio.clamp(lo, hi));
            // Where both agree the ratio is inside the range (or A = 0): the gradient is the plain one's.
            let is_clipped = clipped > plain;
            *d = if is_clipped { 0.0 } else { w * plain };
            s.add(w, if is_clipped { clipped } else { plain }, is_clipped, diff, ratio);
        }
        args.stats.host().copy_from_slice(&s.stats());
    }

    fn ptx(&self, args: PpoPolicyLossArgs<'_>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        let blocks = token_blocks(self.n);
        let part = if blocks > 1 { on.workspace(8 * 9 * blocks)? } else { DevicePtr::NULL };
        let stats = args.stats.device();
        let launch = Launch::new(&ptx::PPO_POLICY, format_args!("ppo_policy")).grid(blocks, 1, 1).block(256);
        let launch = launch.arg(args.logprob.device()).arg(args.old_logprob.device());
        let launch = launch.arg(args.advantage.device()).arg(args.weight.device());
        let launch = launch.arg(args.dlogprob.device()).arg(stats).arg(part).dim(self.n);
        on.launch(launch.arg(1.0 - self.cliprange).arg(1.0 + self.cliprange))?;
        if blocks == 1 {
            return Ok(());
        }
        let total = Launch::new(&ptx::PPO_POLICY, format_args!("ppo_policy_total")).block(288);
        on.launch(total.arg(part).arg(stats).dim(blocks))
    }
}

/// Blocks for `n` tokens: four a thread, until every multiprocessor has a few.
pub(crate) fn token_blocks(n: usize) -> usize {
    n.div_ceil(1024).clamp(1, 256)
}

/// Weighted sums over the tokens that count.
#[derive(Default)]
struct Sums {
    weight: f64,
    loss: f64,
    clipped: f64,
    squared: f64,
    difference: f64,
    /// Of ratio - 1, so that the variance does not cancel.
    excess: f64,
    excess_squared: f64,
    largest: f32,
    smallest: f32,
}

impl Sums {
    fn add(&mut self, weight: f32, loss: f32, is_clipped: bool, diff: f32, ratio: f32) {
        let (w, d, e) = (f64::from(weight), f64::from(diff), f64::from(ratio) - 1.0);
        self.weight += w;
        self.loss += w * f64::from(loss);
        self.clipped += if is_clipped { w } else { 0.0 };
        self.squared += w * d * d;
        self.difference += w * d;
        self.excess += w * e;
        self.excess_squared += w * e * e;
        self.largest = self.largest.max(ratio);
        self.smallest = self.smallest.min(ratio);
    }

    fn stats(&self) -> [f32; 8] {
        if self.weight == 0.0 {
            return [0.0; 8];
        }
        let mean = self.excess / self.weight;
        let variance = (self.excess_squared / self.weight - mean * mean).max(0.0);
        [
            self.loss as f32,
            self.clipped as f32,
            (0.5 * self.squared) as f32,
            -self.difference as f32,
            // Exactly 1 where every ratio is, whatever the weights' rounding.
            (1.0 + mean) as f32,
            variance as f32,
            self.largest,
            self.smallest,
        ]
    }
}
