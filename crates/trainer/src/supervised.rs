//! The language-model stages: pre-training and supervised fine-tuning.

use crate::{
    config::Config,
    corpus::Corpus,
    error::{Error, Result},
    lm::{self, Example, by_tokens},
    models, ranks,
    run::Run,
    steps::{self, StepReport},
    text::Text,
};
use autograd::Grads;
use device::Device;
use formats::{Act, Arch, ModelConfig, Norm, Tokenizer};
use model::{Model, Pass, Precision};
use serde_json::{Value, json};
use std::ops::Range;

/// Pre-trains a small GPT-NeoX on the corpus and writes it to `DIR/base`.
///
/// # Errors
/// With the stage and step.
pub fn pretrain(run: &mut Run, corpus: &Corpus) -> Result<Value> {
    let c = run.config.clone();
    let tokenizer =
        Tokenizer::train(&corpus.pretrain, c.model.vocab).map_err(|e| Error::config("model.vocab", e))?;
    let text = Text::new(tokenizer, c.model.context);
    let device = run.device.clone();
    let mut model = Model::random(&device, small_neox(&c, text.tokenizer.vocab()), c.run.seed);
    model.checkpointing = c.memory.gradient_checkpointing;
    model.train_all();
    let chunks = chunks(&text, &corpus.pretrain, c.pretrain.sequence_length)?;
    let mesh = run.mesh.clone();
    let speed = steps::train(run, "pretrain", &mut model, &c.pretrain.train, |model, i, grads| {
        let picked = pick(chunks.len(), c.pretrain.train.batch_size, c.run.seed, i);
        let batch: Vec<&Example> = picked.iter().map(|i| &chunks[*i]).collect();
        lm_step(model, &batch, mesh.dp.share(batch.len()), grads, c.memory.micro_tokens)
    })?;
    run.write(|| models::save(&run.dir.path("base"), &model, &text.tokenizer))?;
    Ok(json!({ "tokens_per_second": speed, "parameters": model.base_len(), "vocab": text.tokenizer.vocab() }))
}

pub(crate) fn small_neox(c: &Config, vocab: usize) -> ModelConfig {
    let m = &c.model;
    let head_dim = m.hidden / m.heads;
    ModelConfig {
        arch: Arch::GptNeox,
        vocab,
        hidden: m.hidden,
        layers: m.layers,
        heads: m.heads,
        kv_heads: m.heads,
        head_dim,
        intermediate: m.intermediate,
        max_positions: m.context,
        norm: Norm::Layer,
        norm_eps: 1e-5,
        act: Act::Gelu,
        parallel_residual: true,
        rotary_dim: head_dim / 4,
        rope_theta: 10_000.0,
        tie_embeddings: false,
        attention_bias: true,
        mlp_bias: true,
    }
}

/// All texts, each ended, laid end to end and cut into sequences.
fn chunks(text: &Text, texts: &[String], length: usize) -> Result<Vec<Example>> {
    let mut stream = Vec::new();
    for t in texts {
        stream.extend(text.encode(t)?);
        stream.extend(text.tokenizer.eos());
    }
    let length = length.min(text.context).max(2);
    let chunks: Vec<_> =
        stream.chunks(length).filter(|c| c.len() > 1).map(|c| Example::whole(c.to_vec())).collect();
    if chunks.is_empty() {
        return Err(Error::config("data", "the texts to pre-train on are empty"));
    }
    Ok(chunks)
}

/// The items of step `i`: consecutive parts of one permutation per pass over the data.
pub(crate) fn pick(n: usize, batch: usize, seed: u64, i: usize) -> Vec<usize> {
    (i * batch..(i + 1) * batch)
        .map(|at| (at / n, at % n))
        .map(|(pass, at)| rl::permutation(n, seed, pass as u64, 0)[at])
        .collect()
}

/// Gradients of the mean loss over the batch's counted tokens: the part that the examples `mine` have in it.
pub(crate) fn lm_step(
    model: &Model,
    batch: &[&Example],
    mine: Range<usize>,
    grads: &mut Grads,
    micro_tokens: usize,
) -> Result<StepReport> {
    let predicted: usize = batch.iter().map(|e| e.predicted()).sum();
    let owned: Vec<Example> = batch[mine].iter().map(|e| (*e).clone()).collect();
    let mut nll = 0.0;
    for group in by_tokens(&owned, micro_tokens) {
        nll += lm::loss(model, &group, Pass::default(), Some((grads, 1.0 / predicted.max(1) as f32)))?.0;
    }
    let tokens = owned.iter().map(|e| e.tokens.len()).sum();
    Ok(StepReport { tokens, loss: nll / predicted.max(1) as f64, metrics: Vec::new() })
}

/// Fine-tunes the base model on the demonstrations and writes it to `DIR/sft`.
///
/// # Errors
/// With the stage and step.
pub fn sft(run: &mut Run, corpus: &Corpus) -> Result<Value> {
    let c = run.config.clone();
    let (mut model, text) = models::base(run, precision(run))?;
    let lora = c.sft.method == "lora";
    if lora {
        model.attach_lora(&c.sft.adapters(&c.lora), c.run.seed);
        model.train_adapters();
    } else {
        model.train_all();
    }
    let mut examples = Vec::new();
    for d in &corpus.demonstrations {
        let (prompt, completion) = (text.prompt(&d.prompt)?, text.completion(&d.completion)?);
        let mut e = Example::completion(&prompt, &completion);
        e.tokens.truncate(text.context);
        if e.predicted() > 0 {
            examples.push(e);
        }
    }
    if examples.is_empty() {
        let problem = "no demonstration is left: every prompt fills the whole context";
        return Err(Error::config("data.path", problem));
    }
    let mesh = run.mesh.clone();
    let speed = steps::train(run, "sft", &mut model, &c.sft.train, |model, i, grads| {
        let picked = pick(examples.len(), c.sft.train.batch_size, c.run.seed ^ 1, i);
        let batch: Vec<&Example> = picked.iter().map(|i| &examples[*i]).collect();
        lm_step(model, &batch, mesh.dp.share(batch.len()), grads, c.memory.micro_tokens)
    })?;
    let held: Vec<Example> = text.held_out(&corpus.plain_held_out)?;
    let perplexity = ranks::perplexity(&run.mesh, &model, &held, c.memory.micro_tokens, Pass::default())?;
    run.write(|| models::save(&run.dir.path("sft"), &model, &text.tokenizer))?;
    Ok(json!({ "tokens_per_second": speed, "held_out_perplexity": perplexity }))
}

/// How the base is held while it is fine-tuned.
pub(crate) fn precision(run: &Run) -> Precision {
    match run.config.memory.sft_precision.as_str() {
        "int8" => models::policy_precision(run),
        _ => Precision::F32,
    }
}

/// A device-independent helper for examples and tests: a random small model.
pub fn tiny_model(device: &Device, vocab: usize, seed: u64) -> Model {
    let c = Config::default();
    Model::random(device, small_neox(&c, vocab), seed)
}
