//! Watches a run for the known ways in which it goes wrong.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// What is looked at after each iteration.
#[derive(Debug, Clone, Copy, Default)]
pub struct Observation<'a> {
    /// The iteration's number, for the message.
    pub iteration: u64,
    /// `objective/kl`, nats per response.
    pub kl: f64,
    /// Mean entropy of the policy, nats per token.
    pub entropy: f64,
    /// Distinct-2 of the rollouts ([`crate::distinct_n`] or [`crate::mean_distinct_n`]).
    pub distinct_2: Option<f64>,
    /// The same measure on as many texts of the reference model.
    pub reference_distinct_2: Option<f64>,
    /// Everything else that must be finite, by name.
    pub finite: &'a [(&'static str, f64)],
}

/// The kinds of alarm, the gravest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlarmKind {
    /// A number is NaN or infinite.
    NonFinite,
    /// KL runs away: above its ceiling, or rising ever faster beyond the target.
    KlAcceleration,
    /// The KL estimate drifts below zero.
    NegativeKl,
    /// The policy has become nearly deterministic.
    EntropyCollapse,
    /// Rollouts repeat themselves.
    Repetition,
}

/// Something a person should look at.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Alarm {
    /// What.
    pub kind: AlarmKind,
    /// The numbers, and what to do.
    pub message: String,
}

/// When the alarms ring.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AlarmThresholds {
    /// KL above this many times the target rings at once. Default 5.
    pub kl_ceiling: f64,
    /// Beyond the target, KL that rose over the last two iterations by more than this many times its rise
    /// over the two before rings, if that rise is at least half the target. Default 2.
    pub kl_acceleration: f64,
    /// One KL below minus this, nats per response, rings. Default 1.
    pub negative_kl: f64,
    /// So does a run of three negative ones whose mean is below minus this fraction of the target.
    /// Default 0.02.
    pub negative_kl_drift: f64,
    /// Entropy below this fraction of the first iteration's rings. Default 0.25.
    pub entropy_fraction: f64,
    /// Distinct-2 below this fraction of the reference's rings. Default 0.5.
    pub distinct_fraction: f64,
}

impl Default for AlarmThresholds {
    fn default() -> AlarmThresholds {
        AlarmThresholds {
            kl_ceiling: 5.0,
            kl_acceleration: 2.0,
            negative_kl: 1.0,
            negative_kl_drift: 0.02,
            entropy_fraction: 0.25,
            distinct_fraction: 0.5,
        }
    }
}

/// Iterations of KL looked at: two rises of two iterations each.
const HISTORY: usize = 5;

/// The watch over one run. Its serialised form is its whole state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Alarms {
    target: f64,
    thresholds: AlarmThresholds,
    kl: VecDeque<f64>,
    initial_entropy: Option<f64>,
}

impl Alarms {
    /// A watch that has seen nothing. `target` is the KL aimed at, nats per response (`target` in the
    /// configuration, with a fixed coefficient too).
    pub fn new(target: f64, thresholds: AlarmThresholds) -> Alarms {
        Alarms { target, thresholds, kl: VecDeque::with_capacity(HISTORY), initial_entropy: None }
    }

    /// Takes in an iteration; gives the gravest alarm it raises, if any. Non-finite values ring and are
    /// not remembered.
    pub fn observe(&mut self, o: &Observation) -> Option<Alarm> {
        if o.kl.is_finite() {
            if self.kl.len() == HISTORY {
                self.kl.pop_front();
            }
            self.kl.push_back(o.kl);
        }
        if o.entropy.is_finite() {
            self.initial_entropy.get_or_insert(o.entropy);
        }
        let (kind, what) = non_finite(o)
            .or_else(|| self.kl_runaway())
            .or_else(|| self.negative_kl())
            .or_else(|| self.entropy_collapse(o))
            .or_else(|| self.repetition(o))?;
        Some(Alarm { kind, message: format!("iteration {}: {what}", o.iteration) })
    }

    fn kl_runaway(&self) -> Option<(AlarmKind, String)> {
        let (limits, target, now) = (&self.thresholds, self.target, *self.kl.back()?);
        let remedy = "the policy leaves the reference faster than the penalty holds it; lower learning_rate or \
                      ppo_epochs, raise init_kl_coef, or go back to an earlier checkpoint";
        if now > limits.kl_ceiling * target {
            let times = now / target;
            let text = format!(
                "KL {now:.3} is {times:.1} times the target of {target:.3} nats per response; {remedy}"
            );
            return Some((AlarmKind::KlAcceleration, text));
        }
        if self.kl.len() < HISTORY || now <= target {
            return None;
        }
        let (before, recent) = (self.kl[2] - self.kl[0], now - self.kl[2]);
        (recent > limits.kl_acceleration * before.max(0.0) && recent >= 0.5 * target).then(|| {
            let text = format!(
                "KL {now:.3} is beyond the target of {target:.3} nats per response and speeds up: \
                 {recent:+.3} over the last two iterations, {before:+.3} over the two before; {remedy}"
            );
            (AlarmKind::KlAcceleration, text)
        })
    }

    fn negative_kl(&self) -> Option<(AlarmKind, String)> {
        let (limits, now) = (&self.thresholds, *self.kl.back()?);
        let run: Vec<f64> = self.kl.iter().rev().take(3).copied().collect();
        let run_mean = run.iter().sum::<f64>() / run.len() as f64;
        let drifts = run.len() == 3
            && run.iter().all(|k| *k < 0.0)
            && run_mean < -limits.negative_kl_drift * self.target;
        (now < -limits.negative_kl || drifts).then(|| {
            let text = format!(
                "KL {now:.3} nats per response is negative (mean of the last {}: {run_mean:.3}), which no KL is; \
                 rollouts are not sampled from the distribution that is scored: check temperature, top_k, top_p and \
                 min_length, and that sampling and scoring use the same weights; kl_estimator = \"k3\" cannot go \
                 negative but would only hide a mismatch",
                run.len()
            );
            (AlarmKind::NegativeKl, text)
        })
    }

    fn entropy_collapse(&self, o: &Observation) -> Option<(AlarmKind, String)> {
        let first = self.initial_entropy?;
        (o.entropy < self.thresholds.entropy_fraction * first).then(|| {
            let text = format!(
                "entropy {:.4} nats per token is {:.0}% of the first iteration's {first:.4}; the policy hardly \
                 explores any more: raise entropy_coef or the KL penalty, or lower learning_rate",
                o.entropy,
                100.0 * o.entropy / first
            );
            (AlarmKind::EntropyCollapse, text)
        })
    }

    fn repetition(&self, o: &Observation) -> Option<(AlarmKind, String)> {
        let (now, reference) = (o.distinct_2?, o.reference_distinct_2?);
        (now < self.thresholds.distinct_fraction * reference).then(|| {
            let text = format!(
                "distinct-2 of the rollouts is {now:.3} against the reference's {reference:.3}; they repeat \
                 themselves, which usually means that the reward is being exploited: read the samples, raise the KL \
                 penalty, or mend the reward"
            );
            (AlarmKind::Repetition, text)
        })
    }
}

fn non_finite(o: &Observation) -> Option<(AlarmKind, String)> {
    let own = [("objective/kl", Some(o.kl)), ("policy/entropy_avg", Some(o.entropy))];
    let distinct = [("distinct_2", o.distinct_2), ("reference_distinct_2", o.reference_distinct_2)];
    let own = own.into_iter().chain(distinct).filter_map(|(name, v)| Some((name, v?)));
    let (name, value) = own.chain(o.finite.iter().copied()).find(|(_, v)| !v.is_finite())?;
    let text = format!(
        "{name} is {value}; nothing after this point can be trusted: resume from the last checkpoint with a lower \
         learning_rate, a smaller max_grad_norm or score_clip set"
    );
    Some((AlarmKind::NonFinite, text))
}
