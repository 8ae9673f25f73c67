//! KL divergence between the policy and the reference: estimates from sampled tokens, and the controllers
//! of its coefficient.

use serde::{Deserialize, Serialize};

use crate::config::PpoConfig;
use crate::error::{Error, Result, check_len};
use crate::ragged::sequence_sums;

/// What is charged per token (`kl_penalty`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KlPenalty {
    /// An estimate of the KL from the sampled token, chosen by `kl_estimator`.
    #[default]
    Kl,
    /// `|logp - ref|`.
    Abs,
    /// `(logp - ref)^2 / 2`.
    Mse,
    /// The exact KL of the two distributions at each position.
    Full,
}

/// How `kl_penalty = "kl"` is estimated from the sampled token (`kl_estimator`), with
/// `d = logp - ref` (Schulman, "Approximating KL Divergence", 2020).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KlEstimator {
    /// `d`: unbiased, can be negative.
    #[default]
    K1,
    /// `d^2 / 2`: biased, never negative.
    K2,
    /// `exp(-d) - 1 + d`: unbiased, never negative.
    K3,
}

/// The per-token quantity that [`kl_per_token`] computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KlMeasure {
    /// `d = logp - ref`.
    K1,
    /// `d^2 / 2` (also `kl_penalty = "mse"`).
    K2,
    /// `exp(-d) - 1 + d`.
    K3,
    /// `|d|`.
    Abs,
    /// Exact values handed in.
    Full,
}

impl KlMeasure {
    /// The measure that a configuration's `kl_penalty` and `kl_estimator` name together.
    pub fn from_config(penalty: KlPenalty, estimator: KlEstimator) -> KlMeasure {
        match (penalty, estimator) {
            (KlPenalty::Kl, KlEstimator::K1) => KlMeasure::K1,
            (KlPenalty::Kl, KlEstimator::K2) | (KlPenalty::Mse, _) => KlMeasure::K2,
            (KlPenalty::Kl, KlEstimator::K3) => KlMeasure::K3,
            (KlPenalty::Abs, _) => KlMeasure::Abs,
            (KlPenalty::Full, _) => KlMeasure::Full,
        }
    }

    /// The value for one token with `d = logp - ref`. [`KlMeasure::Full`] has no value from `d` alone and
    /// gives NaN.
    pub fn of(self, d: f32) -> f32 {
        let d = f64::from(d);
        let kl = match self {
            KlMeasure::K1 => d,
            KlMeasure::K2 => 0.5 * d * d,
            // exp_m1 keeps the small difference that exp(-d) - 1 would cancel; the rest is rounding.
            KlMeasure::K3 => ((-d).exp_m1() + d).max(0.0),
            KlMeasure::Abs => d.abs(),
            KlMeasure::Full => f64::NAN,
        };
        kl as f32
    }
}

/// The KL quantity of every token, `[T]`. `logprob` and `reference` are the log-probabilities of the
/// generated tokens under policy and reference; `full` the exact KL per position, needed by
/// [`KlMeasure::Full`] only.
///
/// # Errors
/// [`Error::Length`], or [`Error::Missing`] when `full` is needed and absent.
pub fn kl_per_token(
    measure: KlMeasure,
    logprob: &[f32],
    reference: &[f32],
    full: Option<&[f32]>,
) -> Result<Vec<f32>> {
    check_len("reference", reference.len(), logprob.len(), "one per token")?;
    if measure == KlMeasure::Full {
        let full = full.ok_or_else(|| Error::Missing {
            name: "full",
            why: "kl_penalty = \"full\" charges the exact KL of each position".into(),
        })?;
        check_len("full", full.len(), logprob.len(), "one per token")?;
        return Ok(full.to_vec());
    }
    Ok(logprob.iter().zip(reference).map(|(&p, &q)| measure.of(p - q)).collect())
}

/// The two means of a batch's KL.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KlSummary {
    /// Nats per response: the mean of the responses' sums. What `target` is compared with.
    pub per_sequence: f64,
    /// Nats per token: the mean over all tokens.
    pub per_token: f64,
}

impl KlSummary {
    /// Averages the per-token values of a batch.
    ///
    /// # Errors
    /// Those of [`crate::check_starts`].
    pub fn new(kl: &[f32], starts: &[usize]) -> Result<KlSummary> {
        let sums = sequence_sums(kl, starts)?;
        let total: f64 = sums.iter().sum();
        Ok(KlSummary { per_sequence: total / sums.len() as f64, per_token: total / kl.len() as f64 })
    }
}

/// The coefficient of the KL penalty and how it moves. Its serialised form is its whole state.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub enum KlController {
    /// Proportional control on a log scale (Ziegler et al., arXiv 1909.08593, §2.2).
    Adaptive {
        /// The coefficient now.
        coef: f64,
        /// The KL aimed at, nats per response.
        target: f64,
        /// Responses over which a clipped error of 1 would double the coefficient.
        horizon: f64,
    },
    /// A constant.
    Fixed {
        /// The coefficient.
        coef: f64,
    },
}

impl KlController {
    /// The controller that `adap_kl_ctrl`, `init_kl_coef`, `target` and `horizon` describe.
    pub fn new(config: &PpoConfig) -> KlController {
        if config.adap_kl_ctrl {
            KlController::Adaptive {
                coef: config.init_kl_coef,
                target: config.target,
                horizon: config.horizon,
            }
        } else {
            KlController::Fixed { coef: config.init_kl_coef }
        }
    }

    /// The coefficient for the next rewards.
    pub fn coef(&self) -> f64 {
        match *self {
            KlController::Adaptive { coef, .. } | KlController::Fixed { coef } => coef,
        }
    }

    /// Moves the coefficient after a batch of `responses` whose mean KL was `kl` nats per response:
    /// `coef *= 1 + clip(kl / target - 1, -0.2, 0.2) * responses / horizon`, never below 0.
    ///
    /// # Errors
    /// [`Error::NonFinite`] when `kl` is NaN or infinite; the coefficient stays as it was.
    pub fn update(&mut self, kl: f64, responses: usize) -> Result<()> {
        if !kl.is_finite() {
            return Err(Error::NonFinite { name: "kl", index: 0, value: kl.to_string() });
        }
        if let KlController::Adaptive { coef, target, horizon } = self {
            let error = (kl / *target - 1.0).clamp(-0.2, 0.2);
            *coef *= (1.0 + error * responses as f64 / *horizon).max(0.0);
        }
        Ok(())
    }
}
