//! The reward: a scalar head trained on rankings, or a sentiment classifier.

use crate::{
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
use device::Buffer;
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
            let scores = forward(&mut tape, &self.model, &self.head, &rest[..n], &from[..n]);
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

/// The head's outputs at the tokens `from[i]..` of each sequence.
fn forward<'p>(
    tape: &mut Tape<'p>,
    model: &'p Model,
    head: &Head,
    sequences: &[Vec<u32>],
    from: &[usize],
) -> Var {
    let batch = Batch::new(model.device(), sequences);
    let hidden = model.hidden(tape, &batch, Pass::default());
    let rows = |i: usize| batch.start(i) + from[i]..batch.start(i) + sequences[i].len();
    let rows: Vec<u32> = (0..sequences.len()).flat_map(rows).map(|r| r as u32).collect();
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
    chosen: Vec<u32>,
    rejected: Vec<u32>,
}

fn whole(text: &Text, prompt: &str, completion: &str) -> Result<Vec<u32>> {
    let mut ids = if prompt.is_empty() { Vec::new() } else { text.encode(prompt)? };
    ids.extend(text.completion(completion)?);
    // The end is where the verdict falls: keep it when the text is too long.
    Ok(ids.split_off(ids.len().saturating_sub(text.context)))
}

fn pairs(text: &Text, ranked: &[Ranked]) -> Result<Vec<Pair>> {
    let pair = |r: &Ranked| {
        let (chosen, rejected) = (whole(text, &r.prompt, &r.chosen)?, whole(text, &r.prompt, &r.rejected)?);
        Ok(Pair { chosen, rejected })
    };
    ranked.iter().map(pair).collect()
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
        let side =
            |f: fn(&Pair) -> &Vec<u32>| reward.scores(&held.iter().map(|p| f(p).clone()).collect::<Vec<_>>());
        let (chosen, rejected) = (side(|p| &p.chosen), side(|p| &p.rejected));
        let verdict =
            rl::RewardVerdict::new(&chosen, &rejected).map_err(|e| Error::config("reward", e.to_string()))?;
        result["verdict"] = serde_json::to_value(&verdict).expect("numbers");
        result["pair_accuracy"] = json!(verdict.accuracy);
        result["derived_rankings"] = json!(corpus.derived_rankings);
    }
    if !corpus.labelled_held_out.is_empty() {
        let sequences: Result<Vec<_>> =
            corpus.labelled_held_out.iter().map(|l| whole(&text, "", &l.text)).collect();
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

fn train_ranking(
    run: &mut Run,
    model: &mut Model,
    head: &Head,
    text: &Text,
    corpus: &Corpus,
) -> Result<f64> {
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
        ranking_step(model, head, &picked.iter().map(|i| &pairs[*i]).collect::<Vec<_>>(), grads)
    })
}

fn ranking_step(model: &Model, head: &Head, pairs: &[&Pair], grads: &mut Grads) -> Result<StepReport> {
    let (device, n) = (model.device(), pairs.len());
    let chosen = pairs.iter().map(|p| p.chosen.clone());
    let sequences: Vec<Vec<u32>> = chosen.chain(pairs.iter().map(|p| p.rejected.clone())).collect();
    let mut tape = Tape::new(&model.params);
    let scores = forward(&mut tape, model, head, &sequences, &last_tokens(&sequences));
    let mut loss = device.alloc::<f32>(n);
    // Chosen and rejected scores lie side by side in one buffer, and so do their gradients.
    let mut d = device.alloc::<f32>(2 * n);
    let values = tape.value(scores).to_vec();
    let mut rejected = device.alloc::<f32>(n);
    device.run(
        &BradleyTerry { pairs: n },
        BradleyTerryArgs {
            chosen: tape.value(scores).range(0..n),
            rejected: tape.value(scores).range(n..2 * n),
            margin: None,
            loss: loss.arg_mut(),
            dchosen: d.range_mut(0..n),
            drejected: rejected.arg_mut(),
        },
    );
    copy_tail(&mut d, &rejected, n);
    tape.backward(vec![(scores, d)], grads);
    let mean = loss.to_vec().iter().map(|l| f64::from(*l)).sum::<f64>() / n as f64;
    let right = (0..n).filter(|i| values[*i] > values[n + i]).count() as f64 / n as f64;
    let tokens = sequences.iter().map(Vec::len).sum();
    Ok(StepReport { tokens, loss: mean, metrics: vec![("accuracy", right)] })
}

fn copy_tail(d: &mut Buffer, tail: &Buffer, n: usize) {
    let mut all = d.to_vec();
    all[n..].copy_from_slice(&tail.to_vec());
    d.write(&all);
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
    let examples: Result<Vec<(Vec<u32>, u32)>> =
        set.iter().map(|l| Ok((whole(text, "", &l.text)?, l.label.index() as u32))).collect();
    let examples = examples?;
    steps::train(run, "reward", model, &c.reward.train, |model, i, grads| {
        let picked = pick(examples.len(), c.reward.train.batch_size, c.run.seed ^ 3, i);
        let (device, rows) = (model.device(), picked.len());
        let sequences: Vec<Vec<u32>> = picked.iter().map(|i| examples[*i].0.clone()).collect();
        let targets = device.upload(&picked.iter().map(|i| examples[*i].1).collect::<Vec<_>>());
        let mut tape = Tape::new(&model.params);
        let logits = forward(&mut tape, model, head, &sequences, &last_tokens(&sequences));
        let (mut loss, mut probs, mut d) =
            (device.alloc(rows), device.alloc(2 * rows), device.alloc(2 * rows));
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
        tape.backward(vec![(logits, d)], grads);
        let mean = loss.to_vec().iter().map(|l: &f32| f64::from(*l)).sum::<f64>() / rows as f64;
        let probs: Vec<f32> = probs.to_vec();
        let right = picked
            .iter()
            .zip(probs.chunks(2))
            .filter(|(i, p)| (p[1] > p[0]) == (examples[**i].1 == 1))
            .count();
        let tokens = sequences.iter().map(Vec::len).sum();
        Ok(StepReport { tokens, loss: mean, metrics: vec![("accuracy", right as f64 / rows as f64)] })
    })
}
