//! What an iteration logs, under TRL's metric names.

use crate::error::{Result, check_len};
use crate::kl::KlSummary;
use crate::moments::{mean, variance};
use crate::ragged::{check_starts, sequence_sums};

/// One iteration's rollouts, for [`PpoStats::new`]. `T` tokens, `R` responses.
#[derive(Debug, Clone, Copy)]
pub struct Rollout<'a> {
    /// Offsets of the responses, `[R + 1]`.
    pub starts: &'a [usize],
    /// Log-probabilities of the tokens when they were generated, `[T]`.
    pub logprob: &'a [f32],
    /// KL per token, `[T]`.
    pub kl: &'a [f32],
    /// The penalty's share of the rewards, `[T]`.
    pub non_score: &'a [f32],
    /// What the value head learns, `[T]`.
    pub returns: &'a [f32],
    /// Values when the tokens were generated, `[T]`, if there is a value head.
    pub values: Option<&'a [f32]>,
    /// The reward model's scores, `[R]`.
    pub raw_scores: &'a [f32],
    /// The scores trained on, `[R]`.
    pub scores: &'a [f32],
    /// Whether each response ended by itself, `[R]`.
    pub has_eos: &'a [bool],
    /// The KL coefficient these rewards were made with.
    pub kl_coef: f64,
}

/// One minibatch's numbers, for [`PpoStats::minibatch`]. Means are over its tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Minibatch {
    /// Clipped policy loss.
    pub policy_loss: f64,
    /// Clipped value loss, before `vf_coef`.
    pub value_loss: f64,
    /// `mean((new - old)^2) / 2`.
    pub approx_kl: f64,
    /// `mean(old - new)`.
    pub policy_kl: f64,
    /// Share of tokens whose policy loss is clipped.
    pub clip_fraction: f64,
    /// Share of tokens whose value loss is clipped.
    pub value_clip_fraction: f64,
    /// `mean((value - return)^2)` of the new values.
    pub value_error: f64,
    /// Mean entropy, nats per token.
    pub entropy: f64,
    /// Mean probability ratio.
    pub ratio: f64,
    /// Whether `ratio_threshold` kept it out of the update.
    pub skipped: bool,
}

/// Gathers an iteration and gives `(name, value)` pairs in a fixed order.
#[derive(Debug, Clone, PartialEq)]
pub struct PpoStats {
    rollout: Vec<(&'static str, f64)>,
    returns_var: f64,
    old_value_error: Option<f64>,
    minibatches: Vec<Minibatch>,
    early_stopped: bool,
}

impl PpoStats {
    /// Starts an iteration with its rollouts.
    ///
    /// # Errors
    /// [`crate::Error::Length`] and those of [`check_starts`].
    pub fn new(rollout: &Rollout) -> Result<PpoStats> {
        check(rollout)?;
        let responses = (rollout.starts.len() - 1) as f64;
        let kl = KlSummary::new(rollout.kl, rollout.starts)?;
        let per_response = |v: &[f32]| -> Result<f64> {
            Ok(sequence_sums(v, rollout.starts)?.iter().sum::<f64>() / responses)
        };
        let non_score = per_response(rollout.non_score)?;
        let (scores, ended) = (mean(rollout.scores), rollout.has_eos.iter().filter(|e| **e).count());
        let squared = |values: &[f32]| {
            let errors =
                values.iter().zip(rollout.returns).map(|(&v, &r)| (f64::from(v) - f64::from(r)).powi(2));
            errors.sum::<f64>() / rollout.returns.len() as f64
        };
        Ok(PpoStats {
            rollout: vec![
                ("objective/kl", kl.per_sequence),
                ("objective/kl_per_token", kl.per_token),
                ("objective/kl_coef", rollout.kl_coef),
                // Sampled: minus the responses' log-probabilities, nats per response.
                ("objective/entropy", -per_response(rollout.logprob)?),
                ("objective/scores", scores),
                ("objective/non_score_reward", non_score),
                ("objective/rlhf_reward", non_score + scores),
                ("env/reward_mean", mean(rollout.raw_scores)),
                ("env/reward_std", variance(rollout.raw_scores).sqrt()),
                ("ppo/mean_scores", scores),
                ("ppo/std_scores", variance(rollout.scores).sqrt()),
                ("ppo/mean_non_score_reward", mean(rollout.non_score)),
                ("tokens/responses_len_mean", rollout.kl.len() as f64 / responses),
                ("val/num_eos_tokens", ended as f64),
            ],
            returns_var: variance(rollout.returns),
            old_value_error: rollout.values.map(squared),
            minibatches: Vec::new(),
            early_stopped: false,
        })
    }

    /// Adds a minibatch, skipped ones too.
    pub fn minibatch(&mut self, minibatch: Minibatch) {
        self.minibatches.push(minibatch);
    }

    /// Notes that `early_stopping` ended the epochs.
    pub fn early_stop(&mut self) {
        self.early_stopped = true;
    }

    /// All metrics, in a fixed order. Minibatch numbers are averaged over minibatches, each counting the
    /// same; with none of them only the rollouts' metrics are given. Without a value head the value
    /// metrics are left out. `ppo/val/error` is that of the new values; `ppo/val/old_error` that of the
    /// values at generation, which the update had no part in.
    pub fn finish(&self) -> Vec<(&'static str, f64)> {
        let mut out = self.rollout.clone();
        out.push(("ppo/returns/var", self.returns_var));
        let explained =
            |error: f64| if self.returns_var > 0.0 { 1.0 - error / self.returns_var } else { 0.0 };
        if let Some(error) = self.old_value_error {
            out.push(("ppo/val/old_error", error));
            out.push(("ppo/val/old_var_explained", explained(error)));
        }
        if self.minibatches.is_empty() {
            return out;
        }
        let count = self.minibatches.len() as f64;
        let average = |f: fn(&Minibatch) -> f64| self.minibatches.iter().map(f).sum::<f64>() / count;
        let ratio = average(|m| m.ratio);
        let spread: f64 = self.minibatches.iter().map(|m| (m.ratio - ratio).powi(2)).sum();
        out.extend([
            ("policy/approxkl_avg", average(|m| m.approx_kl)),
            ("policy/clipfrac_avg", average(|m| m.clip_fraction)),
            ("policy/entropy_avg", average(|m| m.entropy)),
            ("loss/policy_avg", average(|m| m.policy_loss)),
            ("ppo/policy/policykl", average(|m| m.policy_kl)),
            // As in TRL: mean and unbiased variance of the minibatches' mean ratios.
            ("val/ratio", ratio),
            ("val/ratio_var", if count < 2.0 { 0.0 } else { spread / (count - 1.0) }),
        ]);
        if self.old_value_error.is_some() {
            let error = average(|m| m.value_error);
            out.extend([
                ("loss/value_avg", average(|m| m.value_loss)),
                ("val/clipfrac_avg", average(|m| m.value_clip_fraction)),
                ("ppo/val/error", error),
                ("ppo/val/var_explained", explained(error)),
            ]);
        }
        out.extend([
            ("ppo/minibatches", count),
            ("ppo/skipped_minibatches", self.minibatches.iter().filter(|m| m.skipped).count() as f64),
            ("ppo/early_stopped", f64::from(u8::from(self.early_stopped))),
        ]);
        out
    }
}

fn check(r: &Rollout) -> Result<()> {
    check_starts(r.starts, r.kl.len())?;
    let (tokens, responses) = (r.kl.len(), r.starts.len() - 1);
    check_len("logprob", r.logprob.len(), tokens, "one per token")?;
    check_len("non_score", r.non_score.len(), tokens, "one per token")?;
    check_len("returns", r.returns.len(), tokens, "one per token")?;
    check_len("values", r.values.map_or(tokens, <[f32]>::len), tokens, "one per token")?;
    check_len("raw_scores", r.raw_scores.len(), responses, "one per response")?;
    check_len("scores", r.scores.len(), responses, "one per response")?;
    check_len("has_eos", r.has_eos.len(), responses, "one per response")
}
