//! Advantage estimators, one row each in [`ESTIMATORS`].

use crate::config::PpoConfig;
use crate::error::{Error, Result, check_len};
use crate::moments::{mean, whiten};
use crate::ragged::{check_starts, per_token, responses, sequence_sums};

/// One way to credit tokens with the reward.
#[derive(Debug)]
pub struct Estimator {
    /// Its name in `advantage_estimator`.
    pub name: &'static str,
    /// What it does, in a line.
    pub summary: &'static str,
    /// Whether it needs values per token, that is, a value head.
    pub needs_value_head: bool,
    /// Fewest responses per prompt (`num_generations`): 1, or 2 where they are compared.
    pub min_group: usize,
    /// Whether `gamma` matters to it; otherwise it must be 1.
    pub uses_gamma: bool,
    /// Whether its advantages come out normalised, so that whitening them again would only disturb them.
    pub normalised: bool,
    run: fn(&AdvantageInput) -> Result<Advantages>,
}

/// What the estimators read.
#[derive(Debug, Clone, Copy)]
pub struct AdvantageInput<'a> {
    /// Per-token rewards, `[T]`, the KL penalty included.
    pub rewards: &'a [f32],
    /// Old values per token, `[T]`, for estimators with a value head; ignored by the others.
    pub values: Option<&'a [f32]>,
    /// Offsets of the responses, `[R + 1]`.
    pub starts: &'a [usize],
    /// Discount per token.
    pub gamma: f64,
    /// GAE's lambda.
    pub lam: f64,
    /// Responses per prompt: responses `g * group .. (g + 1) * group` answer prompt `g`.
    pub group: usize,
}

/// What the estimators give, `[T]` each.
#[derive(Debug, Clone, PartialEq)]
pub struct Advantages {
    /// The advantage of each token.
    pub advantages: Vec<f32>,
    /// What the value head is to learn: advantage plus old value with GAE, the return from this token on
    /// with the others.
    pub returns: Vec<f32>,
}

/// Every estimator there is.
pub static ESTIMATORS: &[Estimator] = &[
    Estimator {
        name: "gae",
        summary: "generalised advantage estimation over a value head (arXiv 1506.02438, eq. 16)",
        needs_value_head: true,
        min_group: 1,
        uses_gamma: true,
        normalised: false,
        run: gae,
    },
    Estimator {
        name: "reinforce",
        summary: "discounted reward from this token on, minus its mean over the batch's tokens",
        needs_value_head: false,
        min_group: 1,
        uses_gamma: true,
        normalised: false,
        run: reinforce,
    },
    Estimator {
        name: "rloo",
        summary: "a response's reward minus the mean of its prompt's other responses (arXiv 2402.14740)",
        needs_value_head: false,
        min_group: 2,
        uses_gamma: false,
        normalised: false,
        run: rloo,
    },
    Estimator {
        name: "grpo",
        summary: "a response's reward, normalised over its prompt's responses (arXiv 2402.03300, §4.1.2)",
        needs_value_head: false,
        min_group: 2,
        uses_gamma: false,
        normalised: true,
        run: grpo,
    },
];

impl Estimator {
    /// The row of that name.
    ///
    /// # Errors
    /// [`Error::Config`] naming those there are.
    pub fn by_name(name: &str) -> Result<&'static Estimator> {
        ESTIMATORS.iter().find(|e| e.name == name).ok_or_else(|| Error::Config {
            field: "advantage_estimator",
            value: format!("{name:?}"),
            advice: format!(
                "there is no such estimator; choose one of {}",
                ESTIMATORS.iter().map(|e| e.name).collect::<Vec<_>>().join(", ")
            ),
        })
    }

    /// Advantages and returns, not yet whitened.
    ///
    /// # Errors
    /// [`Error::Length`], [`Error::Starts`], [`Error::EmptyResponse`]; [`Error::Missing`] without the
    /// values it needs; [`Error::Groups`] when the batch does not split into groups of at least
    /// `min_group`.
    pub fn run(&self, input: &AdvantageInput) -> Result<Advantages> {
        check_starts(input.starts, input.rewards.len())?;
        if let Some(values) = input.values {
            check_len("values", values.len(), input.rewards.len(), "one per token")?;
        } else if self.needs_value_head {
            let why = format!("{} needs a value per token; give the model a value head", self.name);
            return Err(Error::Missing { name: "values", why });
        }
        let (responses, group) = (input.starts.len() - 1, input.group);
        let error = |advice| Error::Groups { estimator: self.name, responses, group, advice };
        if group < self.min_group.max(1) {
            return Err(error("raise num_generations"));
        }
        if self.min_group > 1 && !responses.is_multiple_of(group) {
            return Err(error("make the batch a multiple of num_generations"));
        }
        (self.run)(input)
    }
}

/// Advantages as a configuration asks for them: rewards whitened (scale only) with `whiten_rewards`, then
/// the estimator, then its advantages whitened with `whiten_advantages` unless they come out normalised.
///
/// # Errors
/// Those of [`Estimator::by_name`] and [`Estimator::run`].
pub fn advantages(
    config: &PpoConfig,
    rewards: &[f32],
    values: Option<&[f32]>,
    starts: &[usize],
) -> Result<Advantages> {
    let estimator = config.estimator()?;
    let mut rewards = rewards.to_vec();
    if config.whiten_rewards {
        whiten(&mut rewards, false);
    }
    let (gamma, lam, group) = (config.gamma, config.lam, config.num_generations);
    let mut out = estimator.run(&AdvantageInput { rewards: &rewards, values, starts, gamma, lam, group })?;
    if config.whiten_advantages && !estimator.normalised {
        whiten(&mut out.advantages, true);
    }
    Ok(out)
}

/// Backwards within each response, with `delta = r + gamma * V(next) - V` and nothing after the end:
/// `A = delta + gamma * lam * A(next)`.
fn gae(input: &AdvantageInput) -> Result<Advantages> {
    let values = input.values.unwrap_or_default();
    let mut advantages = vec![0.0f32; values.len()];
    let mut returns = vec![0.0f32; values.len()];
    for w in input.starts.windows(2) {
        let (mut next_value, mut next_advantage) = (0.0f64, 0.0f64);
        for t in (w[0]..w[1]).rev() {
            let value = f64::from(values[t]);
            let delta = f64::from(input.rewards[t]) + input.gamma * next_value - value;
            next_advantage = delta + input.gamma * input.lam * next_advantage;
            next_value = value;
            advantages[t] = next_advantage as f32;
            returns[t] = (next_advantage + value) as f32;
        }
    }
    Ok(Advantages { advantages, returns })
}

/// Discounted sums from each token to the end of its response.
fn returns_to_go(rewards: &[f32], starts: &[usize], gamma: f64) -> Vec<f32> {
    let mut out = vec![0.0f32; rewards.len()];
    for w in starts.windows(2) {
        let mut sum = 0.0f64;
        for t in (w[0]..w[1]).rev() {
            sum = f64::from(rewards[t]) + gamma * sum;
            out[t] = sum as f32;
        }
    }
    out
}

fn reinforce(input: &AdvantageInput) -> Result<Advantages> {
    let returns = returns_to_go(input.rewards, input.starts, input.gamma);
    let baseline = mean(&returns);
    let advantages = returns.iter().map(|&r| (f64::from(r) - baseline) as f32).collect();
    Ok(Advantages { advantages, returns })
}

fn rloo(input: &AdvantageInput) -> Result<Advantages> {
    whole_responses(input, |group| {
        let total: f64 = group.iter().sum();
        let others = (group.len() - 1) as f64;
        group.iter().map(|r| r - (total - r) / others).collect()
    })
}

/// As in TRL, the deviation is the unbiased one and gets 1e-4 added, so that a group of equal rewards
/// gives advantages of 0.
fn grpo(input: &AdvantageInput) -> Result<Advantages> {
    whole_responses(input, |group| {
        let n = group.len() as f64;
        let m = group.iter().sum::<f64>() / n;
        let std = (group.iter().map(|r| (r - m).powi(2)).sum::<f64>() / (n - 1.0)).sqrt();
        group.iter().map(|r| (r - m) / (std + 1e-4)).collect()
    })
}

/// One advantage per response, from the undiscounted rewards of its group, spread over its tokens.
fn whole_responses(input: &AdvantageInput, rule: fn(&[f64]) -> Vec<f64>) -> Result<Advantages> {
    let totals = sequence_sums(input.rewards, input.starts)?;
    let each: Vec<f32> = totals.chunks(input.group).flat_map(rule).map(|a| a as f32).collect();
    debug_assert_eq!(each.len(), responses(input.rewards, input.starts).len());
    Ok(Advantages {
        advantages: per_token(&each, input.starts)?,
        returns: returns_to_go(input.rewards, input.starts, 1.0),
    })
}
