//! The mathematics of RLHF on plain numbers: KL estimators and controllers, reward shaping, advantages,
//! statistics, alarms.
//!
//! Nothing here knows a model, a device or a tape. A batch of `R` responses with `T` tokens in all is a
//! flat slice of `T` numbers, one per generated token, and `starts: &[usize]` of `R + 1` offsets:
//! response `i` is `values[starts[i]..starts[i + 1]]`. There is no padding, hence no mask. A response
//! has at least one token (an immediate end-of-sequence token counts as one); an empty one is refused.
//!
//! Log-probabilities, KL and entropy are in nats. Inputs are `f32`; every sum runs in `f64`, in order.
//!
//! The order of one iteration: [`kl_per_token`] → [`ScoreShaper::shape`] → [`token_rewards`] →
//! [`advantages`] → minibatches by [`permutation`] → [`PpoStats`] → [`KlController::update`] →
//! [`Alarms::observe`].

mod advantage;
mod alarm;
mod config;
mod error;
mod kl;
mod moments;
mod permutation;
mod ragged;
mod reward;
mod stats;
mod text;
mod verdict;

pub use advantage::{AdvantageInput, Advantages, ESTIMATORS, Estimator, advantages};
pub use alarm::{Alarm, AlarmKind, AlarmThresholds, Alarms, Observation};
pub use config::PpoConfig;
pub use error::{Error, Result};
pub use kl::{KlController, KlEstimator, KlMeasure, KlPenalty, KlSummary, kl_per_token};
pub use moments::{RunningMoments, mean, variance, whiten, whiten_masked};
pub use permutation::permutation;
pub use ragged::{check_starts, per_token, responses, sequence_sums};
pub use reward::{ScoreShaper, TokenRewards, token_rewards};
pub use stats::{Minibatch, PpoStats, Rollout};
pub use text::{distinct_n, mean_distinct_n, perplexity};
pub use verdict::{CalibrationBin, MarginBin, RewardVerdict};
