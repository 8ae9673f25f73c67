//! The settings of PPO, under TRL's names.

use std::fmt::Display;

use serde::{Deserialize, Serialize};

use crate::advantage::Estimator;
use crate::error::{Error, Result};
use crate::kl::{KlEstimator, KlMeasure, KlPenalty};

/// The settings of PPO, under TRL's names (0.11.4, then 1.12 where that is newer). A field left out keeps
/// its default; an unknown one is an error.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PpoConfig {
    /// Peak learning rate of AdamW. Default 1.41e-5.
    pub learning_rate: f32,
    /// Responses per iteration. Default 128.
    pub batch_size: usize,
    /// Responses per forward and backward pass. Default 128.
    pub mini_batch_size: usize,
    /// Minibatches per optimiser step; `batch_size` is a multiple of
    /// `mini_batch_size * gradient_accumulation_steps`. Default 1.
    pub gradient_accumulation_steps: usize,
    /// Passes over the batch per iteration (TRL 1.12: `num_ppo_epochs`). Default 4.
    #[serde(alias = "num_ppo_epochs")]
    pub ppo_epochs: usize,
    /// Gradients are scaled down to this norm; 0 leaves them alone. Default 1.
    pub max_grad_norm: f32,
    /// Coefficient of the KL penalty, at the start when `adap_kl_ctrl`, throughout otherwise
    /// (TRL 1.12: `kl_coef`). Default 0.2.
    #[serde(alias = "kl_coef")]
    pub init_kl_coef: f64,
    /// Whether the coefficient is steered towards `target`. Default true.
    pub adap_kl_ctrl: bool,
    /// KL aimed at by the adaptive controller, nats per response; also the yardstick of the KL alarms.
    /// Default 6.
    pub target: f64,
    /// Responses over which the adaptive controller acts: larger is slower. Default 10000.
    pub horizon: f64,
    /// What is charged per token: "kl" (an estimate, see `kl_estimator`), "abs" `|d|`, "mse" `d^2/2`,
    /// "full" (the exact KL over the vocabulary, which costs a pass over it). Default "kl".
    pub kl_penalty: KlPenalty,
    /// The estimate behind `kl_penalty = "kl"`, with `d = logp - ref`: "k1" `d`, "k2" `d^2/2`,
    /// "k3" `exp(-d)-1+d`. Default "k1".
    pub kl_estimator: KlEstimator,
    /// Discount per token, 0..=1. Default 1.
    pub gamma: f64,
    /// GAE's lambda, 0..=1. Default 0.95.
    pub lam: f64,
    /// The probability ratio is clipped to `1 ± cliprange`. Default 0.2.
    pub cliprange: f32,
    /// The new value is clipped to the old `± cliprange_value`. Default 0.2.
    pub cliprange_value: f32,
    /// Weight of the value loss. Default 0.1.
    pub vf_coef: f32,
    /// Scale the token rewards to unit variance, keeping their mean. Default false.
    pub whiten_rewards: bool,
    /// Bring the advantages to mean 0 and variance 1 over the batch's tokens. An estimator that normalises
    /// by itself (`grpo`) is left alone. Default true.
    pub whiten_advantages: bool,
    /// Divide scores by their running standard deviation. Default false.
    pub use_score_scaling: bool,
    /// Subtract the scores' running mean as well; needs `use_score_scaling`. Default false.
    pub use_score_norm: bool,
    /// Clamp scores to `± score_clip` after scaling. Default none.
    pub score_clip: Option<f32>,
    /// Subtracted from the raw score of a response that did not end by itself. Default none.
    pub missing_eos_penalty: Option<f32>,
    /// End an iteration's epochs once the policy has moved further than `1.5 * target_kl`. Default false.
    pub early_stopping: bool,
    /// The measure of `early_stopping`: mean `old - new` log-probability, nats per token. Default 1.
    pub target_kl: f32,
    /// Skip a minibatch whose mean probability ratio exceeds this. Default 10.
    pub ratio_threshold: f32,
    /// Most tokens generated per response. Default 53.
    pub response_length: usize,
    /// Fewest tokens generated per response. Only 0 keeps the KL estimate unbiased. Default 0.
    pub min_length: usize,
    /// Logits are divided by this, in rollouts and in every log-probability. Default 1.
    pub temperature: f32,
    /// Sample from the `top_k` likeliest tokens; 0 is off. Only 0 keeps the KL estimate unbiased. Default 0.
    pub top_k: usize,
    /// Sample from the likeliest tokens of this total probability; 1 is off. Only 1 keeps the KL estimate
    /// unbiased. Default 1.
    pub top_p: f32,
    /// Weight of an entropy bonus in the loss. Default 0.
    pub entropy_coef: f32,
    /// Advantages by "gae", "reinforce", "rloo" or "grpo" (see [`crate::ESTIMATORS`]). Default "gae".
    pub advantage_estimator: String,
    /// Responses per prompt, adjacent in the batch (RLOO's k, GRPO's group). Default 1.
    pub num_generations: usize,
    /// Everything random derives from it. Default 0.
    pub seed: u64,
}

impl Default for PpoConfig {
    fn default() -> PpoConfig {
        PpoConfig {
            learning_rate: 1.41e-5,
            batch_size: 128,
            mini_batch_size: 128,
            gradient_accumulation_steps: 1,
            ppo_epochs: 4,
            max_grad_norm: 1.0,
            init_kl_coef: 0.2,
            adap_kl_ctrl: true,
            target: 6.0,
            horizon: 10_000.0,
            kl_penalty: KlPenalty::Kl,
            kl_estimator: KlEstimator::K1,
            gamma: 1.0,
            lam: 0.95,
            cliprange: 0.2,
            cliprange_value: 0.2,
            vf_coef: 0.1,
            whiten_rewards: false,
            whiten_advantages: true,
            use_score_scaling: false,
            use_score_norm: false,
            score_clip: None,
            missing_eos_penalty: None,
            early_stopping: false,
            target_kl: 1.0,
            ratio_threshold: 10.0,
            response_length: 53,
            min_length: 0,
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            entropy_coef: 0.0,
            advantage_estimator: "gae".into(),
            num_generations: 1,
            seed: 0,
        }
    }
}

fn refuse(field: &'static str, value: impl Display, advice: impl Into<String>) -> Error {
    Error::Config { field, value: value.to_string(), advice: advice.into() }
}

/// Refuses `value` unless it is a finite number for which `good` holds. (NaN fails every comparison.)
fn number(field: &'static str, value: f64, good: bool, advice: &str) -> Result<()> {
    if value.is_finite() && good { Ok(()) } else { Err(refuse(field, value, advice)) }
}

fn f32_number(field: &'static str, value: f32, good: bool, advice: &str) -> Result<()> {
    if value.is_finite() && good { Ok(()) } else { Err(refuse(field, value, advice)) }
}

const BIASED: &str = "rollouts would come from another distribution than the one the log-probabilities are \
                      taken from, so the KL to the reference would be mis-estimated (it can even turn negative)";

impl PpoConfig {
    /// Checks every field.
    ///
    /// # Errors
    /// [`Error::Config`] for the first value that cannot be used, with the reason and the remedy.
    pub fn validate(&self) -> Result<()> {
        self.validate_batch()?;
        self.validate_optimisation()?;
        self.validate_kl()?;
        self.validate_scores()?;
        self.validate_rollouts()?;
        self.validate_estimator()
    }

    /// The row of [`crate::ESTIMATORS`] that `advantage_estimator` names.
    ///
    /// # Errors
    /// [`Error::Config`] for a name that is not in the table.
    pub fn estimator(&self) -> Result<&'static Estimator> {
        Estimator::by_name(&self.advantage_estimator)
    }

    /// The per-token KL quantity that `kl_penalty` and `kl_estimator` name together.
    pub fn kl_measure(&self) -> KlMeasure {
        KlMeasure::from_config(self.kl_penalty, self.kl_estimator)
    }

    /// Whether `early_stopping` ends the epochs after a minibatch with this mean `old - new`
    /// log-probability.
    pub fn stops_early(&self, policy_kl: f32) -> bool {
        self.early_stopping && policy_kl > 1.5 * self.target_kl
    }

    /// Whether a minibatch with this mean probability ratio is to be skipped. A NaN ratio is.
    pub fn skips(&self, mean_ratio: f32) -> bool {
        mean_ratio.is_nan() || mean_ratio > self.ratio_threshold
    }

    fn validate_batch(&self) -> Result<()> {
        for (field, value) in [
            ("batch_size", self.batch_size),
            ("mini_batch_size", self.mini_batch_size),
            ("gradient_accumulation_steps", self.gradient_accumulation_steps),
            ("ppo_epochs", self.ppo_epochs),
            ("num_generations", self.num_generations),
            ("response_length", self.response_length),
        ] {
            if value == 0 {
                return Err(refuse(field, value, "set it to at least 1"));
            }
        }
        if i64::try_from(self.seed).is_err() {
            return Err(refuse("seed", self.seed, "must fit TOML's integers: at most 9223372036854775807"));
        }
        let step = self.mini_batch_size.saturating_mul(self.gradient_accumulation_steps);
        if !self.batch_size.is_multiple_of(step) {
            return Err(refuse(
                "batch_size",
                self.batch_size,
                format!(
                    "must be a multiple of mini_batch_size * gradient_accumulation_steps = {} * {} = {step}",
                    self.mini_batch_size, self.gradient_accumulation_steps
                ),
            ));
        }
        if !self.batch_size.is_multiple_of(self.num_generations) {
            let advice = format!("must be a multiple of num_generations = {}", self.num_generations);
            return Err(refuse("batch_size", self.batch_size, advice));
        }
        Ok(())
    }

    fn validate_optimisation(&self) -> Result<()> {
        let positive = "must be a positive number";
        let not_negative = "must be 0 or more";
        f32_number("learning_rate", self.learning_rate, self.learning_rate > 0.0, positive)?;
        let off = "must be 0 (no clipping) or more";
        f32_number("max_grad_norm", self.max_grad_norm, self.max_grad_norm >= 0.0, off)?;
        number("gamma", self.gamma, (0.0..=1.0).contains(&self.gamma), "must lie in 0..=1")?;
        number("lam", self.lam, (0.0..=1.0).contains(&self.lam), "must lie in 0..=1")?;
        let open = "must lie strictly between 0 and 1";
        f32_number("cliprange", self.cliprange, self.cliprange > 0.0 && self.cliprange < 1.0, open)?;
        f32_number("cliprange_value", self.cliprange_value, self.cliprange_value > 0.0, positive)?;
        f32_number("vf_coef", self.vf_coef, self.vf_coef >= 0.0, not_negative)?;
        f32_number("entropy_coef", self.entropy_coef, self.entropy_coef >= 0.0, not_negative)?;
        f32_number("target_kl", self.target_kl, self.target_kl > 0.0, positive)?;
        let ratio = "must be more than 1, the ratio of an unchanged policy";
        f32_number("ratio_threshold", self.ratio_threshold, self.ratio_threshold > 1.0, ratio)
    }

    fn validate_kl(&self) -> Result<()> {
        number("init_kl_coef", self.init_kl_coef, self.init_kl_coef >= 0.0, "must be 0 or more")?;
        if self.adap_kl_ctrl && self.init_kl_coef == 0.0 {
            let advice = "the adaptive controller multiplies the coefficient and cannot leave 0; \
                          start above 0, or set adap_kl_ctrl = false to train without a KL penalty";
            return Err(refuse("init_kl_coef", self.init_kl_coef, advice));
        }
        number("target", self.target, self.target > 0.0, "must be positive (nats per response)")?;
        if self.adap_kl_ctrl {
            let slow =
                "must be at least a fifth of batch_size, or one update could turn the coefficient negative";
            number("horizon", self.horizon, self.horizon >= 0.2 * self.batch_size as f64, slow)?;
        }
        if self.kl_penalty != KlPenalty::Kl && self.kl_estimator != KlEstimator::K1 {
            let advice = "it only applies to kl_penalty = \"kl\"; leave it out, or set kl_penalty = \"kl\"";
            return Err(refuse("kl_estimator", format!("{:?}", self.kl_estimator).to_lowercase(), advice));
        }
        Ok(())
    }

    fn validate_scores(&self) -> Result<()> {
        if self.use_score_norm && !self.use_score_scaling {
            return Err(refuse(
                "use_score_norm",
                true,
                "it only acts together with use_score_scaling = true; set that too, or leave this out",
            ));
        }
        if let Some(clip) = self.score_clip {
            f32_number("score_clip", clip, clip > 0.0, "must be positive; leave it out for no clipping")?;
        }
        if let Some(penalty) = self.missing_eos_penalty {
            let advice = "is subtracted from the score and must be 0 or more; leave it out for none";
            f32_number("missing_eos_penalty", penalty, penalty >= 0.0, advice)?;
        }
        Ok(())
    }

    fn validate_rollouts(&self) -> Result<()> {
        let warm = "must be positive: greedy rollouts (0) explore nothing and have no log-probabilities";
        f32_number("temperature", self.temperature, self.temperature > 0.0, warm)?;
        if self.top_k > 0 {
            return Err(refuse("top_k", self.top_k, format!("{BIASED}; set top_k = 0")));
        }
        f32_number("top_p", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0, "must be 1")?;
        if self.top_p < 1.0 {
            return Err(refuse("top_p", self.top_p, format!("{BIASED}; set top_p = 1.0")));
        }
        if self.min_length > 0 {
            let advice = format!("{BIASED}; set min_length = 0, and missing_eos_penalty to shape the ending");
            return Err(refuse("min_length", self.min_length, advice));
        }
        Ok(())
    }

    fn validate_estimator(&self) -> Result<()> {
        let estimator = self.estimator()?;
        if self.num_generations < estimator.min_group {
            let advice = format!(
                "{} compares responses to the same prompt; set at least {}",
                estimator.name, estimator.min_group
            );
            return Err(refuse("num_generations", self.num_generations, advice));
        }
        if !estimator.uses_gamma && self.gamma != 1.0 {
            let advice =
                format!("{} weighs whole responses and discounts nothing; set gamma = 1.0", estimator.name);
            return Err(refuse("gamma", self.gamma, advice));
        }
        Ok(())
    }
}
