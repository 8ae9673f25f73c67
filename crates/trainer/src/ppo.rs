//! Proximal policy optimisation (arXiv 1707.06347; for language models arXiv 1909.08593 and 2203.02155).
//!
//! One model serves as policy, value function (a head on its trunk) and, with its adapters off, as the frozen
//! reference. Rollouts record each token's log-probability and value as they are drawn; since generation
//! and training share one engine, those are bit for bit what the first minibatch computes, so its
//! probability ratio is exactly 1 and no second scoring pass over the policy is needed.
//!
//! With several ranks each generates and scores its share of the answers, and then knows all of them: whitening, the KL controller and
//! the statistics see the whole batch, on every rank alike. Of each minibatch a rank takes its share again.

use crate::{
    error::{Error, Result},
    lm::{Example, KEEP_LOGITS, by_tokens, predictions},
    optimizer::{AdamConfig, Optimizer},
    ranks,
};
use autograd::{Grads, Tape, Var};
use device::Buffer;
use loss::{FullKl, FullKlArgs, PpoPolicyLoss, PpoPolicyLossArgs, PpoValueLoss, PpoValueLossArgs};
use model::{Batch, Completion, Head, Model, Pass, Sampling};
use parallel::Mesh;
use rl::{KlController, KlMeasure, PpoConfig, PpoStats, ScoreShaper};
use serde::{Deserialize, Serialize};
use std::{ops::Range, rc::Rc, time::Instant};

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
    /// The ranks that share the work; one, unless it is set.
    pub mesh: Mesh,
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
        let mesh = Mesh::alone();
        Ok(Ppo {
            model,
            value_head,
            config,
            optimizer,
            state,
            lr_factor,
            sequences,
            dense_rewards,
            mesh,
            grads,
        })
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
        let mine = self.mesh.dp.share(prompts.len());
        let own = self.rollout(iteration, &prompts, mine.clone(), eos);
        let completions = ranks::gather_completions(&self.mesh.dp, own)?;
        let rollouts = Rollouts::new(&prompts, &completions);
        let t1 = Instant::now();
        let scored = self.score(&prompts, &completions, &rollouts, mine, reward);
        let Scores { kl, raw: raw_scores, prefixes } =
            ranks::agree(&self.mesh, scored)?.of_all(&self.mesh)?;
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

    /// Answers to the prompts `mine`. A prompt's draws depend on its number among all.
    fn rollout(
        &self,
        iteration: u64,
        prompts: &[Vec<u32>],
        mine: Range<usize>,
        eos: Option<u32>,
    ) -> Vec<Completion> {
        let sampling = Sampling {
            max_new_tokens: self.config.response_length,
            temperature: self.config.temperature,
            eos,
            slots: self.sequences,
            seed: self.config.seed ^ iteration.wrapping_mul(0x9e37_79b9_7f4a_7c15),
            ..Sampling::default()
        };
        let streams: Vec<u32> = mine.clone().map(|i| i as u32).collect();
        let (prompts, head) = (&prompts[mine], Some(&self.value_head));
        self.model.generate(prompts, &streams, &sampling, Pass::default(), head, &|_| {})
    }

    /// What the answers `mine` are worth.
    fn score(
        &self,
        prompts: &[Vec<u32>],
        completions: &[Completion],
        r: &Rollouts,
        mine: Range<usize>,
        reward: &dyn Reward,
    ) -> Result<Scores> {
        let kl = self.kl(r, mine.clone())?;
        let (prompts, completions) = (&prompts[mine.clone()], &completions[mine.clone()]);
        let prefixes = match self.dense_rewards {
            true => reward.prefix_scores(prompts, completions)?,
            false => None,
        };
        let raw = match &prefixes {
            Some(p) => {
                let (first, at) = (r.starts[mine.start], mine.start);
                mine.map(|i| p[r.starts[i + 1] - first + i - at]).collect()
            }
            None => reward.score(prompts, completions)?,
        };
        Ok(Scores { kl, raw, prefixes })
    }

    /// The configured KL quantity of every token of the responses `mine`.
    fn kl(&self, r: &Rollouts, mine: Range<usize>) -> Result<Vec<f32>> {
        let measure = self.config.kl_measure();
        let (mut reference, mut full) = (Vec::new(), Vec::new());
        for group in by_tokens(&r.examples[mine.clone()], SCORE_TOKENS) {
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
        let logprobs = &r.logprobs[r.starts[mine.start]..r.starts[mine.end]];
        rl::kl_per_token(measure, logprobs, &reference, full).map_err(maths)
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
                    ranks::sum_gradients(&self.mesh, &self.model.params, &mut self.grads)?;
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

    /// Adds this rank's part of one minibatch's gradients, unless the minibatch's ratio is beyond the guard. Also returns the
    /// ratio's mean and variance.
    fn minibatch(
        &mut self,
        r: &Rollouts,
        which: &[usize],
        adv: &rl::Advantages,
    ) -> Result<(rl::Minibatch, (f32, f32))> {
        let tokens: usize = which.iter().map(|i| r.starts[i + 1] - r.starts[*i]).sum();
        let mine = &which[self.mesh.dp.share(which.len())];
        let losses = (!mine.is_empty())
            .then(|| Losses::new(&self.model, &self.value_head, &self.config, r, mine, adv, tokens));
        let own = losses.as_ref().map_or([0.0; PARTS], |l| l.parts);
        let all = self.mesh.dp.gather(&own)?;
        let total = |i: usize| all.iter().skip(i).step_by(PARTS).sum::<f64>();
        let [policy_loss, clip_fraction, approx_kl, policy_kl] = [1, 2, 3, 4].map(total);
        let [value_loss, value_clip_fraction, value_error, entropy] = [7, 8, 9, 10].map(total);
        // Weighted means of means; the variance is that within the ranks' parts and that between them. Differences from 1, so that
        // ratios of exactly 1 stay so.
        let ranks = || all.chunks_exact(PARTS).map(|p| (p[0], p[5], p[6]));
        let excess: f64 = ranks().map(|(w, excess, _)| w * excess).sum();
        let variance: f64 = ranks().map(|(w, own, variance)| w * (variance + (own - excess).powi(2))).sum();
        let (ratio, variance) = ((1.0 + excess) as f32, variance as f32);
        let loss = policy_loss as f32 + self.config.vf_coef * value_loss as f32;
        if !loss.is_finite() {
            let whence = format!("policy loss {policy_loss}, value loss {value_loss}");
            return Err(Error::NotFinite { what: "the PPO loss".into(), whence });
        }
        let skipped = self.config.skips(ratio);
        if let (false, Some(losses)) = (skipped, losses) {
            losses.tape.backward(losses.seeds, &mut self.grads);
        }
        let minibatch = rl::Minibatch {
            policy_loss,
            value_loss,
            approx_kl,
            policy_kl,
            clip_fraction,
            value_clip_fraction,
            value_error,
            entropy,
            ratio: ratio.into(),
            skipped,
        };
        Ok((minibatch, (ratio, variance)))
    }
}

/// What all answers are worth; or, on its way there, what one rank's are.
struct Scores {
    /// KL quantity of every response token.
    kl: Vec<f32>,
    /// One score per answer.
    raw: Vec<f32>,
    /// See [`Reward::prefix_scores`].
    prefixes: Option<Vec<f32>>,
}

impl Scores {
    fn of_all(self, mesh: &Mesh) -> Result<Scores> {
        let prefixes = self.prefixes.map(|p| mesh.dp.gather(&p)).transpose()?;
        Ok(Scores { kl: mesh.dp.gather(&self.kl)?, raw: mesh.dp.gather(&self.raw)?, prefixes })
    }
}

/// A rank's numbers of a minibatch: its share of the tokens; the first four of [`PpoPolicyLossArgs::stats`]; the ratio's mean less 1, and
/// variance; the first three of [`PpoValueLossArgs::stats`]; entropy. All but the ratio's are parts of the whole minibatch's.
const PARTS: usize = 11;

/// The losses of a rank's part of a minibatch, ready for the way back.
struct Losses<'p> {
    tape: Tape<'p>,
    seeds: Vec<(Var, Buffer)>,
    parts: [f64; PARTS],
}

impl<'p> Losses<'p> {
    /// Of the responses `mine` in a minibatch of `tokens` response tokens.
    fn new(
        model: &'p Model,
        value_head: &Head,
        config: &PpoConfig,
        r: &Rollouts,
        mine: &[usize],
        adv: &rl::Advantages,
        tokens: usize,
    ) -> Losses<'p> {
        let device = model.device().clone();
        let examples: Vec<&Example> = mine.iter().map(|i| &r.examples[*i]).collect();
        let mut tape = Tape::new(&model.params);
        let (hidden, targets) = response_rows(&mut tape, model, &examples, Pass::default());
        let inv_t = 1.0 / config.temperature;
        let (lp, entropy) = tape.log_prob(hidden, model.head(), &targets, inv_t, true, KEEP_LOGITS);
        let entropy = entropy.expect("asked for");
        let value = value_head.apply(&mut tape, hidden);
        let n = targets.len();
        let upload = |v: &[f32]| device.upload(&r.pick(mine, v));
        let weight = device.upload(&vec![1.0 / tokens as f32; n]);
        let (mut dlp, mut dvalue) = (device.alloc(n), device.alloc(n));
        let (mut policy_stats, mut value_stats) = (device.zeros::<f32>(8), device.zeros::<f32>(4));
        device.run(
            &PpoPolicyLoss { n, cliprange: config.cliprange },
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
            &PpoValueLoss { n, cliprange_value: config.cliprange_value, vf_coef: config.vf_coef },
            PpoValueLossArgs {
                value: tape.value(value).arg(),
                old_value: upload(&r.values).arg(),
                returns: upload(&adv.returns).arg(),
                weight: weight.arg(),
                dvalue: dvalue.arg_mut(),
                stats: value_stats.arg_mut(),
            },
        );
        let share = n as f64 / tokens as f64;
        let [p0, p1, p2, p3, ratio, variance, ..] = policy_stats.to_vec()[..] else {
            unreachable!("eight numbers")
        };
        let [v0, v1, v2, ..] = value_stats.to_vec()[..] else { unreachable!("four numbers") };
        let mut parts = [0.0, p0, p1, p2, p3, 0.0, variance, v0, v1, v2, 0.0].map(f64::from);
        (parts[0], parts[5]) = (share, f64::from(ratio) - 1.0);
        parts[PARTS - 1] = share * rl::mean(&tape.value(entropy).to_vec());
        let mut seeds = vec![(lp, dlp), (value, dvalue)];
        if config.entropy_coef != 0.0 {
            seeds.push((entropy, device.upload(&vec![-config.entropy_coef / tokens as f32; n])));
        }
        Losses { tape, seeds, parts }
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
