//! The reward: a scalar head trained on rankings, or a sentiment classifier.

use crate::{
    classifier,
    config::RewardSection,
    corpus::Corpus,
    error::{Error, Result},
    models,
    ppo::{Reward, SCORE_TOKENS},
    run::Run,
    steps::{self, StepReport},
    supervised::pick,
    text::Text,
};
use autograd::{Grads, Tape, Var};
use data::{Baseline, BaselineOptions, Dataset, Label, Labelled, Ranked};
use loss::{BradleyTerry, BradleyTerryArgs};
use model::{Batch, Completion, Head, Model, Pass, Precision};
use parallel::Mesh;
use serde_json::{Value, json};
use std::rc::Rc;

/// A trunk with a head that scores whole texts.
pub struct RewardModel {
    model: Model,
    head: Head,
    question: Question,
}

/// What follows a text before it is scored, such as "Sentiment:". A language model gathers what it knows of the
/// text where the answer is about to come: the head reads it there. Without a question it reads the last token.
pub(crate) struct Question {
    tokens: Vec<u32>,
    eos: Option<u32>,
}

impl Question {
    fn new(run: &Run, text: &Text) -> Result<Self> {
        let tokens = text.encode(&run.config.reward.question)?;
        if tokens.len() >= text.context {
            let problem = format!("has {} tokens and fills the context of {}", tokens.len(), text.context);
            return Err(Error::config("reward.question", problem));
        }
        Ok(Question { tokens, eos: text.tokenizer.eos() })
    }

    /// A text's tokens, asked about: its end token gives way to the question.
    fn after(&self, text: &[u32]) -> Vec<u32> {
        let ended = !self.tokens.is_empty() && text.len() > 1 && text.last().copied() == self.eos;
        [&text[..text.len() - usize::from(ended)], &self.tokens].concat()
    }
}

/// Stays zero: the `score` head of a sequence-classification model has no bias.
const HEAD_BIAS: &str = "heads.score.bias";

/// Outputs of the head by kind.
fn outputs(kind: &str) -> usize {
    if kind == "classifier" { 2 } else { 1 }
}

impl RewardModel {
    /// Loads the reward model that a run trained.
    ///
    /// # Errors
    /// Names the file and tensor.
    pub fn load(run: &Run) -> Result<Self> {
        let dir = run.dir.path("reward");
        let (model, head, text) = models::load_reward(&run.device, &dir, precision(run))?;
        let (kind, want) = (&run.config.reward.kind, outputs(&run.config.reward.kind));
        if head.outputs != want {
            let problem = format!("has {} outputs, reward.kind = \"{kind}\" needs {want}", head.outputs);
            return Err(Error::RunDir { dir, problem });
        }
        Ok(RewardModel { model, head, question: Question::new(run, &text)? })
    }

    /// A trunk and a scalar head, judging whole texts.
    pub(crate) fn bare(model: Model, head: Head) -> Self {
        RewardModel { model, head, question: Question { tokens: Vec::new(), eos: None } }
    }

    /// One number per token sequence, the question included: the score, or the positive class's log-odds.
    fn scores(&self, sequences: &[Vec<u32>]) -> Vec<f32> {
        self.scores_from(sequences, &last_tokens(sequences))
    }

    /// As [`RewardModel::scores`], the sequences shared out among the ranks.
    fn scores_of_all(&self, mesh: &Mesh, sequences: &[Vec<u32>]) -> Result<Vec<f32>> {
        Ok(mesh.dp.gather(&self.scores(&sequences[mesh.dp.share(sequences.len())]))?)
    }

    /// The same of every prefix of sequence i that ends at token `from[i]` or later.
    fn scores_from(&self, sequences: &[Vec<u32>], from: &[usize]) -> Vec<f32> {
        let mut out = Vec::with_capacity(sequences.len());
        let (mut rest, mut from) = (sequences, from);
        while !rest.is_empty() {
            let mut tokens = 0;
            let fits = |s: &&Vec<u32>| {
                tokens += s.len();
                tokens <= SCORE_TOKENS
            };
            let n = rest.iter().take_while(fits).count().max(1);
            let mut tape = Tape::inference(&self.model.params);
            let at: Vec<Vec<usize>> =
                rest[..n].iter().zip(from).map(|(s, from)| (*from..s.len()).collect()).collect();
            let scores = forward(&mut tape, &self.model, &self.head, &rest[..n], &at);
            let values = tape.value(scores).to_vec();
            match self.head.outputs {
                1 => out.extend(values),
                _ => out.extend(values.chunks_exact(2).map(|c| c[1] - c[0])),
            }
            (rest, from) = (&rest[n..], &from[n..]);
        }
        out
    }
}

impl Reward for RewardModel {
    fn score(&self, prompts: &[Vec<u32>], completions: &[Completion]) -> Result<Vec<f32>> {
        let asked: Vec<Vec<u32>> =
            answered(prompts, completions).iter().map(|s| self.question.after(s)).collect();
        Ok(self.scores(&asked))
    }

    fn prefix_scores(&self, prompts: &[Vec<u32>], completions: &[Completion]) -> Result<Option<Vec<f32>>> {
        let whole = answered(prompts, completions);
        let from: Vec<usize> = prompts.iter().map(|p| p.len() - 1).collect();
        if self.question.tokens.is_empty() {
            return Ok(Some(self.scores_from(&whole, &from)));
        }
        // Each prefix is asked about on its own.
        let prefixes = |(s, from): (&Vec<u32>, &usize)| {
            (*from..s.len()).map(|t| self.question.after(&s[..=t])).collect::<Vec<_>>()
        };
        Ok(Some(self.scores(&whole.iter().zip(&from).flat_map(prefixes).collect::<Vec<_>>())))
    }
}

/// Prompts with their answers.
fn answered(prompts: &[Vec<u32>], completions: &[Completion]) -> Vec<Vec<u32>> {
    prompts.iter().zip(completions).map(|(p, c)| [&p[..], &c.tokens].concat()).collect()
}

/// How a reward model is held: adapters sit on frozen weights, which may be int8; weights that are trained may not.
pub(crate) fn precision(run: &Run) -> Precision {
    if run.config.reward.method == "lora" { models::policy_precision(run) } else { Precision::F32 }
}

/// Trains all weights, or the adapters, and the head.
pub(crate) fn train_what(model: &mut Model, full: bool) {
    match full {
        // The output layer has no part in scoring.
        true => model.params.set_trainable(|name| name != "head" && name != HEAD_BIAS),
        false => model.params.set_trainable(|name| !model::is_base(name) && name != HEAD_BIAS),
    }
}

/// The head's outputs at the tokens `at[i]` of each sequence i.
pub(crate) fn forward<'p>(
    tape: &mut Tape<'p>,
    model: &'p Model,
    head: &Head,
    sequences: &[Vec<u32>],
    at: &[Vec<usize>],
) -> Var {
    let batch = Batch::new(model.device(), sequences);
    let hidden = model.hidden(tape, &batch, Pass::default());
    let rows = at.iter().enumerate().flat_map(|(i, at)| at.iter().map(move |t| (i, *t)));
    let rows: Vec<u32> = rows.map(|(i, t)| (batch.start(i) + t) as u32).collect();
    let picked = tape.gather(hidden, &Rc::new(model.device().upload(&rows)));
    tape.release(hidden);
    head.apply(tape, picked)
}

/// The last token of each sequence.
fn last_tokens(sequences: &[Vec<u32>]) -> Vec<usize> {
    sequences.iter().map(|s| s.len().saturating_sub(1)).collect()
}

/// A ranked pair as token ids.
struct Pair {
    chosen: Tokens,
    rejected: Tokens,
}

/// A text to judge.
pub(crate) struct Tokens {
    pub ids: Vec<u32>,
    /// Where the answer starts: what stands before says nothing of its worth.
    answer: usize,
}

/// A text as it is judged: with its end token, or asked about.
pub(crate) fn whole(text: &Text, question: &Question, prompt: &str, completion: &str) -> Result<Tokens> {
    let mut ids = if prompt.is_empty() { Vec::new() } else { text.encode(prompt)? };
    let prompt = ids.len();
    ids.extend(text.completion(completion)?);
    let mut ids = question.after(&ids);
    // The end is where the verdict falls: keep it when the text is too long.
    let cut = ids.len().saturating_sub(text.context);
    Ok(Tokens { ids: ids.split_off(cut), answer: prompt.saturating_sub(cut) })
}

fn pairs(text: &Text, question: &Question, ranked: &[Ranked]) -> Result<Vec<Pair>> {
    let pair = |r: &Ranked| {
        let side = |answer| whole(text, question, &r.prompt, answer);
        Ok(Pair { chosen: side(&r.chosen)?, rejected: side(&r.rejected)? })
    };
    ranked.iter().map(pair).collect()
}

/// Where a step judges its texts: at the end, and at the same random fractions of all answers.
///
/// Judged in the middle, too, a reward model learns what the rest is likely to bring: its score of a prefix is
/// then the log-odds of what is known so far, which is what PPO's dense rewards pay by. Where a question is asked,
/// nothing stands before it that could be judged: the end alone is.
pub(crate) struct Judged {
    fractions: Vec<f64>,
    prefix_weight: f32,
}

impl Judged {
    pub fn new(c: &RewardSection, seed: u64, step: usize) -> Self {
        let mut rng = data::Rng::new(seed ^ 0x7072_6566 ^ (step as u64) << 20);
        let n = if c.prefix_weight > 0.0 && c.question.is_empty() { c.prefixes } else { 0 };
        Judged { fractions: (0..n).map(|_| rng.unit()).collect(), prefix_weight: c.prefix_weight }
    }

    /// Positions judged per text.
    pub fn each(&self) -> usize {
        1 + self.fractions.len()
    }

    pub fn positions(&self, t: &Tokens) -> Vec<usize> {
        let (start, last) = (t.answer, t.ids.len().saturating_sub(1));
        let inner = self.fractions.iter().map(|f| start + (f * (last - start.min(last)) as f64) as usize);
        std::iter::once(last).chain(inner.map(|at| at.min(last))).collect()
    }

    /// Weighs the gradients `d` of a mean over all positions (`outputs` numbers each): the end counts
    /// `1 / (1 + w)`, the prefixes together `w / (1 + w)`. All is multiplied by `share`, this rank's part of the batch.
    pub fn weigh(&self, d: &mut [f32], outputs: usize, share: f32) {
        let (n, w) = (self.each() as f32, self.prefix_weight);
        let (end, prefix) = match self.fractions.is_empty() {
            true => (1.0, 1.0),
            false => (n / (1.0 + w), n * w / ((1.0 + w) * (n - 1.0))),
        };
        for (i, g) in d.chunks_mut(outputs).enumerate() {
            let weight = if i % self.each() == 0 { end } else { prefix };
            g.iter_mut().for_each(|x| *x *= weight * share);
        }
    }

    /// Of the values at all positions, those at the ends.
    pub fn ends<'a>(&self, values: &'a [f32]) -> impl Iterator<Item = f32> + 'a {
        values.iter().copied().step_by(self.each())
    }
}

/// Trains the reward and writes it to `DIR/reward`.
///
/// # Errors
/// With the stage and step.
pub fn train(run: &mut Run, corpus: &Corpus) -> Result<Value> {
    let c = run.config.clone();
    let (mut model, text) = models::load(&run.device, &run.dir.path("sft"), precision(run))?;
    model.checkpointing = c.memory.gradient_checkpointing;
    let question = Question::new(run, &text)?;
    let head = model.add_head("score", outputs(&c.reward.kind), 0.02, c.run.seed);
    // Texts set aside from the training part: what settings are chosen by.
    let validation = (corpus.labelled.len() as f64 * c.reward.validation) as usize;
    let (labelled, validation) = corpus.labelled.split_at(corpus.labelled.len() - validation);
    if c.reward.method == "lora" {
        model.attach_lora(&c.reward.adapters(&c.lora), c.run.seed ^ 2);
    }
    train_what(&mut model, c.reward.method == "full");
    let speed = match c.reward.kind.as_str() {
        "classifier" => classifier::train(run, &mut model, &head, &text, &question, labelled)?,
        _ => train_ranking(run, &mut model, &head, &text, &question, corpus)?,
    };
    let dir = run.dir.path("reward");
    run.write(|| models::save_reward(&dir, &model, &text.tokenizer))?;
    drop(model);
    let reward = RewardModel::load(run)?;
    let mut result = json!({ "tokens_per_second": speed, "kind": c.reward.kind });
    if !corpus.rankings_held_out.is_empty() {
        let held = pairs(&text, &question, &corpus.rankings_held_out)?;
        let side = |f: fn(&Pair) -> &Tokens| {
            let ids: Vec<_> = held.iter().map(|p| f(p).ids.clone()).collect();
            reward.scores_of_all(&run.mesh, &ids)
        };
        let (chosen, rejected) = (side(|p| &p.chosen)?, side(|p| &p.rejected)?);
        let verdict =
            rl::RewardVerdict::new(&chosen, &rejected).map_err(|e| Error::config("reward", e.to_string()))?;
        result["verdict"] = serde_json::to_value(&verdict).expect("numbers");
        result["pair_accuracy"] = json!(verdict.accuracy);
        result["derived_rankings"] = json!(corpus.derived_rankings);
    }
    let classifier = c.reward.kind == "classifier";
    if !validation.is_empty() {
        result["validation_accuracy"] =
            json!(sign_accuracy(&run.mesh, &reward, &text, validation, classifier)?);
    }
    let held = &corpus.labelled_held_out;
    if !held.is_empty() {
        result["sign_accuracy"] = json!(sign_accuracy(&run.mesh, &reward, &text, held, classifier)?);
        if run.mesh.leads() {
            let set = |items: &[Labelled]| Dataset::new(items.to_vec());
            let words = Baseline::train(&set(&corpus.labelled), BaselineOptions::default());
            result["baseline_sign_accuracy"] = json!(words.accuracy(&set(held)));
        }
    }
    Ok(result)
}

/// Share of the texts whose class the score's sign tells.
fn sign_accuracy(
    mesh: &Mesh,
    reward: &RewardModel,
    text: &Text,
    set: &[Labelled],
    classifier: bool,
) -> Result<f64> {
    let ids = |l: &Labelled| Ok(whole(text, &reward.question, "", &l.text)?.ids);
    let scores = reward.scores_of_all(mesh, &set.iter().map(ids).collect::<Result<Vec<_>>>()?)?;
    // A ranking score has no zero of its own: its median is taken as the border.
    let border = if classifier { 0.0 } else { median(&scores) };
    let right = |(s, l): (&f32, &Labelled)| (*s > border) == (l.label == Label::Positive);
    Ok(scores.iter().zip(set).filter(|x| right(*x)).count() as f64 / scores.len() as f64)
}

fn median(v: &[f32]) -> f32 {
    let mut v = v.to_vec();
    v.sort_by(f32::total_cmp);
    v.get(v.len() / 2).copied().unwrap_or(0.0)
}

fn train_ranking(
    run: &mut Run,
    model: &mut Model,
    head: &Head,
    text: &Text,
    question: &Question,
    corpus: &Corpus,
) -> Result<f64> {
    let (c, pairs) = (run.config.clone(), pairs(text, question, &corpus.rankings)?);
    if pairs.is_empty() {
        let why = corpus.no_rankings.as_ref().map_or(String::new(), |why| format!(": {why}"));
        let problem = format!(
            "the data gives no rankings{why}; give data.rankings, ratings, or use reward.kind = \"classifier\""
        );
        return Err(Error::config("reward.kind", problem));
    }
    let mesh = run.mesh.clone();
    steps::train(run, "reward", model, &c.reward.train, |model, i, grads| {
        let picked = pick(pairs.len(), c.reward.train.batch_size, c.run.seed ^ 3, i);
        let mine: Vec<&Pair> = picked[mesh.dp.share(picked.len())].iter().map(|i| &pairs[*i]).collect();
        ranking_step(model, head, &mine, picked.len(), &Judged::new(&c.reward, c.run.seed, i), grads)
    })
}

/// A step on `pairs` of texts of `length` tokens, for plans.
pub(crate) fn blank_step(
    model: &Model,
    head: &Head,
    pairs: usize,
    length: usize,
    grads: &mut Grads,
) -> Result<StepReport> {
    let text = || Tokens { ids: vec![0; length], answer: 0 };
    let pairs: Vec<Pair> = (0..pairs).map(|_| Pair { chosen: text(), rejected: text() }).collect();
    let judged = Judged::new(&RewardSection::default(), 0, 0);
    ranking_step(model, head, &pairs.iter().collect::<Vec<_>>(), pairs.len(), &judged, grads)
}

/// Gradients of the mean loss over a batch of `all` pairs: the part that `pairs` have in it.
fn ranking_step(
    model: &Model,
    head: &Head,
    pairs: &[&Pair],
    all: usize,
    judged: &Judged,
    grads: &mut Grads,
) -> Result<StepReport> {
    if pairs.is_empty() {
        return Ok(StepReport { tokens: 0, loss: 0.0, metrics: vec![("accuracy", 0.0)] });
    }
    let share = pairs.len() as f64 / all as f64;
    let (device, n) = (model.device(), pairs.len() * judged.each());
    let texts: Vec<&Tokens> =
        pairs.iter().map(|p| &p.chosen).chain(pairs.iter().map(|p| &p.rejected)).collect();
    let sequences: Vec<Vec<u32>> = texts.iter().map(|t| t.ids.clone()).collect();
    let at: Vec<Vec<usize>> = texts.iter().map(|t| judged.positions(t)).collect();
    let mut tape = Tape::new(&model.params);
    let scores = forward(&mut tape, model, head, &sequences, &at);
    let mut loss = device.alloc::<f32>(n);
    let (mut dchosen, mut drejected) = (device.alloc::<f32>(n), device.alloc::<f32>(n));
    device.run(
        &BradleyTerry { pairs: n },
        BradleyTerryArgs {
            chosen: tape.value(scores).range(0..n),
            rejected: tape.value(scores).range(n..2 * n),
            margin: None,
            loss: loss.arg_mut(),
            dchosen: dchosen.arg_mut(),
            drejected: drejected.arg_mut(),
        },
    );
    let values = tape.value(scores).to_vec();
    let right = judged.ends(&values[..n]).zip(judged.ends(&values[n..])).filter(|(c, r)| c > r).count();
    let mut d = [dchosen.to_vec(), drejected.to_vec()].concat();
    judged.weigh(&mut d, 1, share as f32);
    tape.backward(vec![(scores, device.upload(&d))], grads);
    let mean = rl::mean(&judged.ends(&loss.to_vec()).collect::<Vec<_>>());
    let tokens = sequences.iter().map(Vec::len).sum();
    let accuracy = right as f64 / all as f64;
    Ok(StepReport { tokens, loss: share * mean, metrics: vec![("accuracy", accuracy)] })
}
