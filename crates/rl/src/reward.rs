//! From a score per response to a reward per token.

use serde::{Deserialize, Serialize};

use crate::config::PpoConfig;
use crate::error::{Result, check_finite, check_len};
use crate::moments::RunningMoments;
use crate::ragged::check_starts;

/// Turns the reward model's raw scores into the scores trained on. Its serialised form is its whole state.
///
/// In order: `missing_eos_penalty` is subtracted from responses that never ended (so it is in the reward
/// model's own units); `use_score_scaling` divides by the running standard deviation of all scores so far,
/// this batch included, and with `use_score_norm` subtracts their running mean first; `score_clip` clamps
/// to `±score_clip`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScoreShaper {
    use_score_scaling: bool,
    use_score_norm: bool,
    score_clip: Option<f32>,
    missing_eos_penalty: Option<f32>,
    moments: RunningMoments,
}

impl ScoreShaper {
    /// A shaper that has seen nothing, with the configuration's settings.
    pub fn new(config: &PpoConfig) -> ScoreShaper {
        ScoreShaper {
            use_score_scaling: config.use_score_scaling,
            use_score_norm: config.use_score_norm,
            score_clip: config.score_clip,
            missing_eos_penalty: config.missing_eos_penalty,
            moments: RunningMoments::default(),
        }
    }

    /// The moments of the scores seen so far (after the penalty, before scaling).
    pub fn moments(&self) -> &RunningMoments {
        &self.moments
    }

    /// Shapes one batch: `scores` and `has_eos` have one entry per response.
    ///
    /// Scores that have all been equal so far carry no scale, and are not divided.
    ///
    /// # Errors
    /// [`crate::Error::Length`], or [`crate::Error::NonFinite`] before the moments are touched.
    pub fn shape(&mut self, scores: &[f32], has_eos: &[bool]) -> Result<Vec<f32>> {
        check_len("has_eos", has_eos.len(), scores.len(), "one per response")?;
        check_finite("scores", scores)?;
        let mut shaped = scores.to_vec();
        if let Some(penalty) = self.missing_eos_penalty {
            for (s, _) in shaped.iter_mut().zip(has_eos).filter(|(_, ended)| !**ended) {
                *s -= penalty;
            }
        }
        self.moments.update(&shaped);
        self.scale_and_clip(&mut shaped);
        Ok(shaped)
    }

    /// Scales and clips as [`ScoreShaper::shape`] did last, in place; nothing is remembered.
    pub fn scale_and_clip(&self, scores: &mut [f32]) {
        if self.use_score_scaling {
            let shift = if self.use_score_norm { self.moments.mean } else { 0.0 };
            let scale = self.scale();
            for s in &mut *scores {
                *s = ((f64::from(*s) - shift) / scale) as f32;
            }
        }
        if let Some(clip) = self.score_clip {
            scores.iter_mut().for_each(|s| *s = s.clamp(-clip, clip));
        }
    }

    fn scale(&self) -> f64 {
        let eps = f64::from(f32::EPSILON);
        let std = self.moments.std();
        if std <= eps * self.moments.mean.abs().max(1.0) { 1.0 } else { std + eps }
    }
}

/// Per-token rewards, `[T]` each.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenRewards {
    /// `-kl_coef * kl`, and the score added at each response's last token.
    pub rewards: Vec<f32>,
    /// `-kl_coef * kl` alone.
    pub non_score: Vec<f32>,
}

impl TokenRewards {
    /// Pays each response's score as it is earned: the token that takes a prefix's potential from P to P' gets
    /// P' - P (potential-based shaping: Ng, Harada and Russell, 1999, which leaves the best policy the
    /// best). `potentials` has one value more than tokens per response, that of the prompt alone first; in
    /// the last one's place the score is used. A response's rewards then sum to its score minus its prompt's
    /// potential, which no token can change.
    ///
    /// # Errors
    /// [`crate::Error::Length`], [`crate::Error::NonFinite`] and those of [`check_starts`].
    pub fn spread(&mut self, scores: &[f32], potentials: &[f32], starts: &[usize]) -> Result<()> {
        check_starts(starts, self.rewards.len())?;
        let responses = starts.len() - 1;
        check_len("scores", scores.len(), responses, "one per response")?;
        check_len("potentials", potentials.len(), self.rewards.len() + responses, "one per prefix")?;
        check_finite("potentials", potentials)?;
        for (i, w) in starts.windows(2).enumerate() {
            let prefix = &potentials[w[0] + i..=w[1] + i];
            for (k, t) in (w[0]..w[1]).enumerate() {
                let last = t + 1 == w[1];
                let paid = if last { scores[i] } else { 0.0 };
                let next = if last { scores[i] } else { prefix[k + 1] };
                self.rewards[t] += next - prefix[k] - paid;
            }
        }
        Ok(())
    }
}

/// Charges the KL at every token and pays the score at the last.
///
/// # Errors
/// [`crate::Error::Length`] and those of [`check_starts`].
pub fn token_rewards(kl: &[f32], kl_coef: f64, scores: &[f32], starts: &[usize]) -> Result<TokenRewards> {
    check_starts(starts, kl.len())?;
    check_len("scores", scores.len(), starts.len() - 1, "one per response")?;
    let non_score: Vec<f32> = kl.iter().map(|&k| (-kl_coef * f64::from(k)) as f32).collect();
    let mut rewards = non_score.clone();
    for (&end, &score) in starts[1..].iter().zip(scores) {
        rewards[end - 1] += score;
    }
    Ok(TokenRewards { rewards, non_score })
}
