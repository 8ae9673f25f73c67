//! The reward: a scalar head trained on rankings, or a sentiment classifier.

use crate::{
    config::RewardSection,
    corpus::Corpus,
    error::{Error, Result},
    models,
    ppo::{Reward, SCORE_TOKENS},
    run::Run,
    steps::{self, StepReport},
    supervised::{every_layer, pick},
    text::Text,
};
use autograd::{Grads, Tape, Var};
use data::{Label, Labelled, Ranked};
use loss::{BradleyTerry, BradleyTerryArgs, SoftmaxCrossEntropy, SoftmaxCrossEntropyArgs};
use model::{Batch, Completion, Head, Model, Pass, Precision};
use serde_json::{Value, json};
use std::{collections::BTreeMap, path::Path, rc::Rc};

/// A trunk with a head that scores whole texts.
pub struct RewardModel {
    model: Model,
    head: Head,
}

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
        let (mut model, _) = models::load(&run.device, &dir, Precision::F32)?;
        let head = model.add_head("score", outputs(&run.config.reward.kind), 0.0, 0);
        let path = dir.join("head.safetensors");
        for t in formats::load_tensors(&path)?.tensors {
            let id = model.params.find(&t.name).filter(|id| model.params.get(*id).len() == t.data.len());
            let Some(id) = id else {
                let problem = format!("tensor `{}` does not belong to this reward model", t.name);
                return Err(Error::RunDir { dir: path, problem });
            };
            model.params.data_mut(id).write(&t.data);
        }
        model.params.pack();
        Ok(RewardModel { model, head })
    }

    /// One number per token sequence: the score, or the positive class's log-odds.
    pub fn scores(&self, sequences: &[Vec<u32>]) -> Vec<f32> {
        self.scores_from(sequences, &last_tokens(sequences))
    }

    /// The same of every prefix of sequence i that ends at token `from[i]` or later.
    pub fn scores_from(&self, sequences: &[Vec<u32>], from: &[usize]) -> Vec<f32> {
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
        let whole: Vec<Vec<u32>> =
            prompts.iter().zip(completions).map(|(p, c)| [&p[..], &c.tokens].concat()).collect();
        Ok(self.scores(&whole))
    }

    fn prefix_scores(&self, prompts: &[Vec<u32>], completions: &[Completion]) -> Result<Option<Vec<f32>>> {
        let whole: Vec<Vec<u32>> =
            prompts.iter().zip(completions).map(|(p, c)| [&p[..], &c.tokens].concat()).collect();
        let from: Vec<usize> = prompts.iter().map(|p| p.len() - 1).collect();
        Ok(Some(self.scores_from(&whole, &from)))
    }
}

/// The head's outputs at the tokens `at[i]` of each sequence i.
fn forward<'p>(
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
struct Tokens {
    ids: Vec<u32>,
    /// Where the answer starts: what stands before says nothing of its worth.
    answer: usize,
}

fn whole(text: &Text, prompt: &str, completion: &str) -> Result<Tokens> {
    let mut ids = if prompt.is_empty() { Vec::new() } else { text.encode(prompt)? };
    let prompt = ids.len();
    ids.extend(text.completion(completion)?);
    // The end is where the verdict falls: keep it when the text is too long.
    let cut = ids.len().saturating_sub(text.context);
    Ok(Tokens { ids: ids.split_off(cut), answer: prompt.saturating_sub(cut) })
}

fn pairs(text: &Text, ranked: &[Ranked]) -> Result<Vec<Pair>> {
    let pair = |r: &Ranked| {
        let (chosen, rejected) = (whole(text, &r.prompt, &r.chosen)?, whole(text, &r.prompt, &r.rejected)?);
        Ok(Pair { chosen, rejected })
    };
    ranked.iter().map(pair).collect()
}

/// Where a step judges its texts: at the end, and at the same random fractions of all answers.
///
/// Judged in the middle, too, a reward model learns what the rest is likely to bring: its score of a prefix is
/// then the log-odds of what is known so far, which is what PPO's dense rewards pay by.
struct Judged {
    fractions: Vec<f64>,
    prefix_weight: f32,
}

impl Judged {
    fn new(c: &RewardSection, seed: u64, step: usize) -> Self {
        let mut rng = data::Rng::new(seed ^ 0x7072_6566 ^ (step as u64) << 20);
        let n = if c.prefix_weight > 0.0 { c.prefixes } else { 0 };
        Judged { fractions: (0..n).map(|_| rng.unit()).collect(), prefix_weight: c.prefix_weight }
    }

    /// Positions judged per text.
    fn each(&self) -> usize {
        1 + self.fractions.len()
    }

    fn positions(&self, t: &Tokens) -> Vec<usize> {
        let (start, last) = (t.answer, t.ids.len().saturating_sub(1));
        let inner = self.fractions.iter().map(|f| start + (f * (last - start.min(last)) as f64) as usize);
        std::iter::once(last).chain(inner.map(|at| at.min(last))).collect()
    }

    /// Weighs the gradients `d` of a mean over all positions (`outputs` numbers each): the end counts
    /// `1 / (1 + w)`, the prefixes together `w / (1 + w)`.
    fn weigh(&self, d: &mut [f32], outputs: usize) {
        if self.fractions.is_empty() {
            return;
        }
        let (n, w) = (self.each() as f32, self.prefix_weight);
        let (end, prefix) = (n / (1.0 + w), n * w / ((1.0 + w) * (n - 1.0)));
        for (i, g) in d.chunks_mut(outputs).enumerate() {
            let weight = if i % self.each() == 0 { end } else { prefix };
            g.iter_mut().for_each(|x| *x *= weight);
        }
    }

    /// Of the values at all positions, those at the ends.
    fn ends<'a>(&self, values: &'a [f32]) -> impl Iterator<Item = f32> + 'a {
        values.iter().copied().step_by(self.each())
    }
}

/// Trains the reward and writes it to `DIR/reward`.
///
/// # Errors
/// With the stage and step.
pub fn train(run: &mut Run, corpus: &Corpus) -> Result<Value> {
    let c = run.config.clone();
    let (mut model, text) = models::load(&run.device, &run.dir.path("sft"), Precision::F32)?;
    let head = model.add_head("score", outputs(&c.reward.kind), 0.02, c.run.seed);
    if c.reward.method == "lora" {
        model.attach_lora(&every_layer(&c.lora), c.run.seed ^ 2);
        model.train_adapters();
    } else {
        // The output layer has no part in scoring.
        model.params.set_trainable(|name| name != "head");
    }
    let speed = match c.reward.kind.as_str() {
        "classifier" => train_classifier(run, &mut model, &head, &text, &corpus.labelled)?,
        _ => train_ranking(run, &mut model, &head, &text, corpus)?,
    };
    let dir = run.dir.path("reward");
    models::save(&dir, &model, &text.tokenizer)?;
    save_head(&dir, &model)?;
    drop(model);
    let reward = RewardModel::load(run)?;
    let mut result = json!({ "tokens_per_second": speed, "kind": c.reward.kind });
    if !corpus.rankings_held_out.is_empty() {
        let held = pairs(&text, &corpus.rankings_held_out)?;
        let side = |f: fn(&Pair) -> &Tokens| {
            reward.scores(&held.iter().map(|p| f(p).ids.clone()).collect::<Vec<_>>())
        };
        let (chosen, rejected) = (side(|p| &p.chosen), side(|p| &p.rejected));
        let verdict =
            rl::RewardVerdict::new(&chosen, &rejected).map_err(|e| Error::config("reward", e.to_string()))?;
        result["verdict"] = serde_json::to_value(&verdict).expect("numbers");
        result["pair_accuracy"] = json!(verdict.accuracy);
        result["derived_rankings"] = json!(corpus.derived_rankings);
    }
    if !corpus.labelled_held_out.is_empty() {
        let sequences: Result<Vec<_>> =
            corpus.labelled_held_out.iter().map(|l| Ok(whole(&text, "", &l.text)?.ids)).collect();
        let scores = reward.scores(&sequences?);
        // A ranking score has no zero of its own: its median is taken as the border.
        let border = if c.reward.kind == "classifier" { 0.0 } else { median(&scores) };
        let right = |(s, l): (&f32, &Labelled)| (*s > border) == (l.label == Label::Positive);
        let hits = scores.iter().zip(&corpus.labelled_held_out).filter(|x| right(*x)).count();
        result["sign_accuracy"] = json!(hits as f64 / scores.len() as f64);
    }
    Ok(result)
}

fn median(v: &[f32]) -> f32 {
    let mut v = v.to_vec();
    v.sort_by(f32::total_cmp);
    v.get(v.len() / 2).copied().unwrap_or(0.0)
}

fn save_head(dir: &Path, model: &Model) -> Result<()> {
    let heads: Vec<(String, Vec<usize>, Vec<f32>)> = model
        .params
        .iter()
        .filter(|(_, p)| p.name.starts_with("heads."))
        .map(|(_, p)| (p.name.clone(), vec![p.rows, p.cols], p.to_f32()))
        .collect();
    let views: Vec<(&str, &[usize], &[f32])> =
        heads.iter().map(|(n, s, d)| (n.as_str(), s.as_slice(), d.as_slice())).collect();
    Ok(formats::save_tensors(&dir.join("head.safetensors"), &views, &BTreeMap::new())?)
}

fn train_ranking(run: &mut Run, model: &mut Model, head: &Head, text: &Text, corpus: &Corpus) -> Result<f64> {
    let (c, pairs) = (run.config.clone(), pairs(text, &corpus.rankings)?);
    if pairs.is_empty() {
        let why = corpus.no_rankings.as_ref().map_or(String::new(), |why| format!(": {why}"));
        let problem = format!(
            "the data gives no rankings{why}; give data.rankings, ratings, or use reward.kind = \"classifier\""
        );
        return Err(Error::config("reward.kind", problem));
    }
    steps::train(run, "reward", model, &c.reward.train, |model, i, grads| {
        let picked = pick(pairs.len(), c.reward.train.batch_size, c.run.seed ^ 3, i);
        let picked: Vec<&Pair> = picked.iter().map(|i| &pairs[*i]).collect();
        ranking_step(model, head, &picked, &Judged::new(&c.reward, c.run.seed, i), grads)
    })
}

fn ranking_step(
    model: &Model,
    head: &Head,
    pairs: &[&Pair],
    judged: &Judged,
    grads: &mut Grads,
) -> Result<StepReport> {
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
    judged.weigh(&mut d, 1);
    tape.backward(vec![(scores, device.upload(&d))], grads);
    let mean = rl::mean(&judged.ends(&loss.to_vec()).collect::<Vec<_>>());
    let tokens = sequences.iter().map(Vec::len).sum();
    let accuracy = right as f64 / pairs.len() as f64;
    Ok(StepReport { tokens, loss: mean, metrics: vec![("accuracy", accuracy)] })
}

fn train_classifier(
    run: &mut Run,
    model: &mut Model,
    head: &Head,
    text: &Text,
    set: &[Labelled],
) -> Result<f64> {
    let c = run.config.clone();
    let classes = set.iter().map(|l| l.label.index()).collect::<std::collections::BTreeSet<_>>().len();
    if classes < 2 {
        let problem = format!("a classifier needs labelled texts of both classes, the data has {classes}");
        return Err(Error::config("reward.kind", problem));
    }
    let examples: Result<Vec<(Tokens, u32)>> =
        set.iter().map(|l| Ok((whole(text, "", &l.text)?, l.label.index() as u32))).collect();
    let examples = examples?;
    steps::train(run, "reward", model, &c.reward.train, |model, i, grads| {
        let picked = pick(examples.len(), c.reward.train.batch_size, c.run.seed ^ 3, i);
        let picked: Vec<&(Tokens, u32)> = picked.iter().map(|i| &examples[*i]).collect();
        classifier_step(model, head, &picked, &Judged::new(&c.reward, c.run.seed, i), grads)
    })
}

fn classifier_step(
    model: &Model,
    head: &Head,
    examples: &[&(Tokens, u32)],
    judged: &Judged,
    grads: &mut Grads,
) -> Result<StepReport> {
    let (device, rows) = (model.device(), examples.len() * judged.each());
    let sequences: Vec<Vec<u32>> = examples.iter().map(|(t, _)| t.ids.clone()).collect();
    let at: Vec<Vec<usize>> = examples.iter().map(|(t, _)| judged.positions(t)).collect();
    let labels = examples.iter().flat_map(|(_, label)| std::iter::repeat_n(*label, judged.each()));
    let targets = device.upload(&labels.collect::<Vec<_>>());
    let mut tape = Tape::new(&model.params);
    let logits = forward(&mut tape, model, head, &sequences, &at);
    let mut loss = device.alloc::<f32>(rows);
    let (mut probs, mut d) = (device.alloc::<f32>(2 * rows), device.alloc::<f32>(2 * rows));
    device.run(
        &SoftmaxCrossEntropy { rows, classes: 2 },
        SoftmaxCrossEntropyArgs {
            logits: tape.value(logits).arg(),
            targets: targets.arg(),
            loss: loss.arg_mut(),
            probs: probs.arg_mut(),
            dlogits: d.arg_mut(),
        },
    );
    let mut d = d.to_vec();
    judged.weigh(&mut d, 2);
    tape.backward(vec![(logits, device.upload(&d))], grads);
    let mean = rl::mean(&judged.ends(&loss.to_vec()).collect::<Vec<_>>());
    let positive: Vec<f32> = probs.to_vec().chunks(2).map(|p| p[1] - p[0]).collect();
    let right = judged.ends(&positive).zip(examples).filter(|(p, (_, l))| (*p > 0.0) == (*l == 1)).count();
    let tokens = sequences.iter().map(Vec::len).sum();
    let accuracy = right as f64 / examples.len() as f64;
    Ok(StepReport { tokens, loss: mean, metrics: vec![("accuracy", accuracy)] })
}
