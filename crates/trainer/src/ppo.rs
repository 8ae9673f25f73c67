//! Proximal policy optimisation (arXiv 1707.06347; for language models arXiv 1909.08593 and 2203.02155).
//!
//! One model serves as policy, value function (a head on its trunk) and, with its adapters off, as the frozen
//! reference. Rollouts record each token's log-probability and value as they are drawn; since generation
//! and training share one engine, those are bit for bit what the first minibatch computes, so its
//! probability ratio is exactly 1 and no second scoring pass over the policy is needed.

use crate::{
    error::{Error, Result},
    lm::{Example, KEEP_LOGITS, by_tokens, predictions},
    optimizer::{AdamConfig, Optimizer},
};
use autograd::{Grads, Tape, Var};
use device::Buffer;
use loss::{FullKl, FullKlArgs, PpoPolicyLoss, PpoPolicyLossArgs, PpoValueLoss, PpoValueLossArgs};
use model::{Batch, Completion, Head, Model, Pass, Sampling};
use rl::{KlController, KlMeasure, PpoConfig, PpoStats, ScoreShaper};
use serde::{Deserialize, Serialize};
use std::{rc::Rc, time::Instant};

/// Gives answers their scores.
pub trait Reward {
    /// One score per (prompt, completion).
    ///
    /// # Errors
    /// When a score cannot be computed.
    fn score(&self, prompts: &[Vec<u32>], completions: &[Completion]) -> Result<Vec<f32>>;

    /// Scores of every prefix of every answer, that of the prompt alone first: `answer length + 1` numbers each,
    /// the last one the score. None when this reward judges whole answers only.
    ///
    /// # Errors
    /// As [`Reward::score`].
    fn prefix_scores(&self, _: &[Vec<u32>], _: &[Completion]) -> Result<Option<Vec<f32>>> {
        Ok(None)
    }
}

/// Policy, value head, optimiser and controllers.
pub struct Ppo {
    /// Policy and reference in one.
    pub model: Model,
    /// Value head.
    pub value_head: Head,
    /// Settings.
    pub config: PpoConfig,
    /// Optimiser over adapters and value head.
    pub optimizer: Optimizer,
    /// What changes besides weights.
    pub state: PpoState,
    /// Multiplies `config.learning_rate`: where a schedule stands.
    pub lr_factor: f32,
    /// Most answers generated at once.
    pub sequences: usize,
    /// Pay scores as they are earned, where the reward can tell ([`rl::TokenRewards::spread`]).
    pub dense_rewards: bool,
    grads: Grads,
}

/// The part of PPO's state that is not tensors.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PpoState {
    /// KL coefficient and its controller.
    pub kl: KlController,
    /// Running moments of the scores.
    pub shaper: ScoreShaper,
}

/// One iteration's results.
pub struct Iteration {
    /// Metrics by name, in order.
    pub metrics: Vec<(&'static str, f64)>,
    /// The answers.
    pub completions: Vec<Completion>,
    /// Raw scores of the answers.
    pub scores: Vec<f32>,
    /// Ratio of the first minibatch: 1 when generation and training agree.
    pub first_ratio: (f32, f32),
    /// Seconds generating, scoring (reference and reward) and training.
    pub seconds: [f64; 3],
    /// Tokens generated.
    pub tokens: usize,
}

impl Iteration {
    /// A metric by name.
    pub fn metric(&self, name: &str) -> f64 {
        self.metrics.iter().find(|(n, _)| *n == name).map_or(f64::NAN, |(_, v)| *v)
    }
}

/// A batch of rollouts, flat over response tokens.
struct Rollouts {
    examples: Vec<Example>,
    starts: Vec<usize>,
    logprobs: Vec<f32>,
    values: Vec<f32>,
    has_eos: Vec<bool>,
}

impl Rollouts {
    fn new(prompts: &[Vec<u32>], completions: &[Completion]) -> Self {
        let mut r = Rollouts {
            examples: Vec::new(),
            starts: vec![0],
            logprobs: Vec::new(),
            values: Vec::new(),
            has_eos: Vec::new(),
        };
        for (p, c) in prompts.iter().zip(completions) {
            r.examples.push(Example::completion(p, &c.tokens));
            r.logprobs.extend(&c.logprobs);
            r.values.extend(&c.values);
            r.has_eos.push(c.finished);
            r.starts.push(r.logprobs.len());
        }
        r
    }

    /// `values` of the responses in `which`, laid end to end.
    fn pick(&self, which: &[usize], values: &[f32]) -> Vec<f32> {
        which.iter().flat_map(|i| &values[self.starts[*i]..self.starts[*i + 1]]).copied().collect()
    }
}

impl Ppo {
    /// Wraps a model with adapters attached: adds the value head and makes adapters and head trainable.
    ///
    /// # Errors
    /// When a setting is refused.
    pub fn new(mut model: Model, config: PpoConfig) -> Result<Self> {
        config.validate().map_err(|e| Error::config("ppo", e.to_string()))?;
        let value_head = model.add_head("value", 1, 0.0, config.seed);
        model.train_adapters();
        let adam = AdamConfig {
            beta2: 0.999,
            weight_decay: 0.0,
            max_grad_norm: config.max_grad_norm,
            ..AdamConfig::default()
        };
        let optimizer = Optimizer::new(&model.params, adam);
        let state = PpoState { kl: KlController::new(&config), shaper: ScoreShaper::new(&config) };
        let sequences = Sampling::default().slots;
        let (lr_factor, dense_rewards, grads) = (1.0, false, Grads::new());
        Ok(Ppo { model, value_head, config, optimizer, state, lr_factor, sequences, dense_rewards, grads })
    }

    /// One iteration: generate answers to `prompts` (each used `num_generations` times), score them, take the
    /// optimiser steps. Everything random derives from the seed and `iteration`.
    ///
    /// # Errors
    /// When scoring fails, an answer cannot be used, or a number is not finite.
    pub fn iteration(
        &mut self,
        iteration: u64,
        prompts: &[Vec<u32>],
        reward: &dyn Reward,
        eos: Option<u32>,
    ) -> Result<Iteration> {
        let t0 = Instant::now();
        let prompts: Vec<Vec<u32>> = prompts
            .iter()
            .flat_map(|p| std::iter::repeat_n(p.clone(), self.config.num_generations))
            .collect();
        let completions = self.rollout(iteration, &prompts, eos);
        let rollouts = Rollouts::new(&prompts, &completions);
        let t1 = Instant::now();
        let kl = self.kl(&rollouts)?;
        let prefixes = match self.dense_rewards {
            true => reward.prefix_scores(&prompts, &completions)?,
            false => None,
        };
        let raw_scores = match &prefixes {
            Some(p) => (1..rollouts.starts.len()).map(|i| p[rollouts.starts[i] + i - 1]).collect(),
            None => reward.score(&prompts, &completions)?,
        };
        if let Some(i) = raw_scores.iter().position(|s| !s.is_finite()) {
            let whence = format!("answer {i} of iteration {iteration} scored {}", raw_scores[i]);
            return Err(Error::NotFinite { what: "the reward".into(), whence });
        }
        let t2 = Instant::now();
        let mut result = self.update(iteration, &rollouts, &kl, &raw_scores, prefixes)?;
        let t3 = Instant::now();
        result.seconds = [(t1 - t0).as_secs_f64(), (t2 - t1).as_secs_f64(), (t3 - t2).as_secs_f64()];
        result.tokens = rollouts.logprobs.len();
        result.completions = completions;
        result.scores = raw_scores;
        Ok(result)
    }

    fn rollout(&self, iteration: u64, prompts: &[Vec<u32>], eos: Option<u32>) -> Vec<Completion> {
        let sampling = Sampling {
            max_new_tokens: self.config.response_length,
            temperature: self.config.temperature,
            eos,
            slots: self.sequences,
            seed: self.config.seed ^ iteration.wrapping_mul(0x9e37_79b9_7f4a_7c15),
            ..Sampling::default()
        };
        let streams: Vec<u32> = (0..prompts.len() as u32).collect();
        self.model.generate(prompts, &streams, &sampling, Pass::default(), Some(&self.value_head), &|_| {})
    }

    /// The configured KL quantity of every response token.
    fn kl(&self, r: &Rollouts) -> Result<Vec<f32>> {
        let measure = self.config.kl_measure();
        let (mut reference, mut full) = (Vec::new(), Vec::new());
        for group in by_tokens(&r.examples, SCORE_TOKENS) {
            let mut tape = Tape::inference(&self.model.params);
            let (hidden, targets) = response_rows(&mut tape, &self.model, &group, Pass::REFERENCE);
            let inv_t = 1.0 / self.config.temperature;
            let (lp, _) = tape.log_prob(hidden, self.model.head(), &targets, inv_t, false, 0);
            reference.extend(tape.value(lp).to_vec());
            if measure == KlMeasure::Full {
                let (policy, _) = response_rows(&mut tape, &self.model, &group, Pass::default());
                full.extend(self.full_kl(tape.value(policy), tape.value(hidden)));
            }
        }
        let full = (measure == KlMeasure::Full).then_some(full.as_slice());
        rl::kl_per_token(measure, &r.logprobs, &reference, full).map_err(maths)
    }

    fn full_kl(&self, policy: &Buffer, reference: &Buffer) -> Vec<f32> {
        let device = self.model.device();
        let (hidden, vocab) = (self.model.config.hidden, self.model.config.vocab);
        let rows = policy.len() / hidden;
        let mut kl = device.alloc(rows);
        let args = FullKlArgs {
            x_policy: policy.arg(),
            x_ref: reference.arg(),
            head_packed: self.model.params.packed(self.model.head()),
            kl: kl.arg_mut(),
        };
        device.run(&FullKl { rows, hidden, vocab, inv_temperature: 1.0 / self.config.temperature }, args);
        kl.to_vec()
    }

    fn update(
        &mut self,
        iteration: u64,
        r: &Rollouts,
        kl: &[f32],
        raw_scores: &[f32],
        prefixes: Option<Vec<f32>>,
    ) -> Result<Iteration> {
        let scores = self.state.shaper.shape(raw_scores, &r.has_eos).map_err(maths)?;
        let kl_coef = self.state.kl.coef();
        let mut rewards = rl::token_rewards(kl, kl_coef, &scores, &r.starts).map_err(maths)?;
        if let Some(mut prefixes) = prefixes {
            self.state.shaper.scale_and_clip(&mut prefixes);
            rewards.spread(&scores, &prefixes, &r.starts).map_err(maths)?;
        }
        let adv =
            rl::advantages(&self.config, &rewards.rewards, Some(&r.values), &r.starts).map_err(maths)?;
        let mut stats = PpoStats::new(&rl::Rollout {
            starts: &r.starts,
            logprob: &r.logprobs,
            kl,
            non_score: &rewards.non_score,
            returns: &adv.returns,
            values: Some(&r.values),
            raw_scores,
            scores: &scores,
            has_eos: &r.has_eos,
            kl_coef,
        })
        .map_err(maths)?;
        let mut first_ratio = None;
        'epochs: for epoch in 0..self.config.ppo_epochs {
            let order = rl::permutation(r.examples.len(), self.config.seed, iteration, epoch as u64);
            let groups: Vec<&[usize]> = order.chunks(self.config.mini_batch_size).collect();
            for step in groups.chunks(self.config.gradient_accumulation_steps) {
                let mut used = 0;
                for which in step {
                    let (minibatch, ratio) = self.minibatch(r, which, &adv)?;
                    first_ratio.get_or_insert(ratio);
                    stats.minibatch(minibatch);
                    used += usize::from(!minibatch.skipped);
                    if self.config.stops_early(minibatch.policy_kl as f32) {
                        stats.early_stop();
                        self.grads.clear();
                        break 'epochs;
                    }
                }
                if used > 0 {
                    let lr = self.config.learning_rate * self.lr_factor;
                    self.optimizer.step(&mut self.model.params, &mut self.grads, lr, 1.0 / used as f32)?;
                }
            }
        }
        let mut metrics = stats.finish();
        let unmoved = self.optimizer.never_moved(&self.model.params).count();
        metrics.push(("lr", f64::from(self.config.learning_rate * self.lr_factor)));
        metrics.push(("ppo/weights_without_gradient", unmoved as f64));
        let mean_kl = rl::KlSummary::new(kl, &r.starts).map_err(maths)?.per_sequence;
        self.state.kl.update(mean_kl, r.examples.len()).map_err(maths)?;
        let first_ratio = first_ratio.unwrap_or((1.0, 0.0));
        Ok(Iteration {
            metrics,
            completions: vec![],
            scores: vec![],
            first_ratio,
            seconds: [0.0; 3],
            tokens: 0,
        })
    }

    /// Adds one minibatch's gradients, unless its ratio is beyond the guard. Also returns the ratio's mean
    /// and variance.
    fn minibatch(
        &mut self,
        r: &Rollouts,
        which: &[usize],
        adv: &rl::Advantages,
    ) -> Result<(rl::Minibatch, (f32, f32))> {
        let device = self.model.device().clone();
        let examples: Vec<&Example> = which.iter().map(|i| &r.examples[*i]).collect();
        let mut tape = Tape::new(&self.model.params);
        let (hidden, targets) = response_rows(&mut tape, &self.model, &examples, Pass::default());
        let inv_t = 1.0 / self.config.temperature;
        let (lp, entropy) = tape.log_prob(hidden, self.model.head(), &targets, inv_t, true, KEEP_LOGITS);
        let entropy = entropy.expect("asked for");
        let value = self.value_head.apply(&mut tape, hidden);
        let n = targets.len();
        let upload = |v: &[f32]| device.upload(&r.pick(which, v));
        let weight = device.upload(&vec![1.0 / n as f32; n]);
        let (mut dlp, mut dvalue) = (device.alloc(n), device.alloc(n));
        let (mut policy_stats, mut value_stats) = (device.zeros::<f32>(8), device.zeros::<f32>(4));
        device.run(
            &PpoPolicyLoss { n, cliprange: self.config.cliprange },
            PpoPolicyLossArgs {
                logprob: tape.value(lp).arg(),
                old_logprob: upload(&r.logprobs).arg(),
                advantage: upload(&adv.advantages).arg(),
                weight: weight.arg(),
                dlogprob: dlp.arg_mut(),
                stats: policy_stats.arg_mut(),
            },
        );
        device.run(
            &PpoValueLoss { n, cliprange_value: self.config.cliprange_value, vf_coef: self.config.vf_coef },
            PpoValueLossArgs {
                value: tape.value(value).arg(),
                old_value: upload(&r.values).arg(),
                returns: upload(&adv.returns).arg(),
                weight: weight.arg(),
                dvalue: dvalue.arg_mut(),
                stats: value_stats.arg_mut(),
            },
        );
        let (p, v) = (policy_stats.to_vec(), value_stats.to_vec());
        let entropies = tape.value(entropy).to_vec();
        let loss = p[0] + self.config.vf_coef * v[0];
        if !loss.is_finite() {
            let whence = format!("policy loss {}, value loss {}", p[0], v[0]);
            return Err(Error::NotFinite { what: "the PPO loss".into(), whence });
        }
        let skipped = self.config.skips(p[4]);
        if !skipped {
            let mut seeds = vec![(lp, dlp), (value, dvalue)];
            if self.config.entropy_coef != 0.0 {
                seeds.push((entropy, device.upload(&vec![-self.config.entropy_coef / n as f32; n])));
            }
            tape.backward(seeds, &mut self.grads);
        }
        let minibatch = rl::Minibatch {
            policy_loss: p[0].into(),
            value_loss: v[0].into(),
            approx_kl: p[2].into(),
            policy_kl: p[3].into(),
            clip_fraction: p[1].into(),
            value_clip_fraction: v[1].into(),
            value_error: v[2].into(),
            entropy: rl::mean(&entropies),
            ratio: p[4].into(),
            skipped,
        };
        Ok((minibatch, (p[4], p[5])))
    }
}

/// Tokens per forward pass when scoring.
pub(crate) const SCORE_TOKENS: usize = 1024;

/// Hidden states of the rows that predict the responses' tokens, and those tokens.
fn response_rows<'p>(
    tape: &mut Tape<'p>,
    model: &'p Model,
    examples: &[&Example],
    pass: Pass,
) -> (Var, Rc<Buffer<u32>>) {
    let device = model.device();
    let sequences: Vec<&[u32]> = examples.iter().map(|e| e.tokens.as_slice()).collect();
    let batch = Batch::new(device, &sequences);
    let (rows, targets) = predictions(&batch, examples);
    let hidden = model.hidden(tape, &batch, pass);
    let picked = tape.gather(hidden, &Rc::new(device.upload(&rows)));
    tape.release(hidden);
    (picked, Rc::new(device.upload(&targets)))
}

fn maths(e: rl::Error) -> Error {
    Error::config("ppo", e.to_string())
}
