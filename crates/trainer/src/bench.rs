//! The peers' workloads on this engine: same shapes, batches, rollout lengths, epochs and ranks.

use crate::{
    error::{Error, Result},
    lm::{self, Example},
    optimizer::{AdamConfig, Optimizer},
    ppo::{Ppo, Reward},
};
use autograd::{Grads, Linear, ParamKind, Params, Tape};
use device::Device;
use formats::{Act, Arch, ModelConfig, Norm};
use model::{Batch, Completion, LoraConfig, Model, Pass, Precision, Rng, Sampling, Target};
use serde_json::{Value, json};
use std::time::Instant;

/// A GPT-NeoX of the peers' sizes: "tiny" (0.92 M weights) or "small" (70.4 M, Pythia-70m's shape).
pub fn shape(name: &str) -> Option<ModelConfig> {
    let (hidden, layers, heads, vocab, max_positions) = match name {
        "tiny" => (128, 4, 4, 512, 512),
        "small" => (512, 6, 8, 50304, 2048),
        _ => return None,
    };
    Some(neox(hidden, layers, heads, 4 * hidden, vocab, max_positions))
}

/// A GPT-NeoX configuration with the family's usual settings.
pub fn neox(
    hidden: usize,
    layers: usize,
    heads: usize,
    intermediate: usize,
    vocab: usize,
    max_positions: usize,
) -> ModelConfig {
    let head_dim = hidden / heads;
    ModelConfig {
        arch: Arch::GptNeox,
        vocab,
        hidden,
        layers,
        heads,
        kv_heads: heads,
        head_dim,
        intermediate,
        max_positions,
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

/// Median, least and most seconds of `runs` calls, and how many.
fn time(runs: usize, mut f: impl FnMut() -> Result<()>) -> Result<Value> {
    f()?;
    let mut seconds = Vec::new();
    for _ in 0..runs {
        let t = Instant::now();
        f()?;
        seconds.push(t.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    Ok(json!({
        "median_s": seconds[runs / 2], "min_s": seconds[0], "max_s": seconds[runs - 1], "n": runs,
    }))
}

fn with(mut v: Value, key: &str, number: f64) -> Value {
    v[key] = json!(number);
    v
}

fn random_ids(rows: usize, len: usize, vocab: usize, seed: u64) -> Vec<Vec<u32>> {
    let mut rng = Rng::new(seed, "ids");
    (0..rows).map(|_| (0..len).map(|_| 1 + (rng.next_u64() % (vocab as u64 - 1)) as u32).collect()).collect()
}

fn lora_config() -> LoraConfig {
    LoraConfig { rank: 16, alpha: 32.0, dropout: 0.0, targets: vec![Target::QueryKeyValue], first_layer: 0 }
}

/// Forward, full step and LoRA step on 8 x 128 tokens.
///
/// # Errors
/// When a loss is not finite.
pub fn step_times(config: &ModelConfig, precision: Precision, runs: usize) -> Result<Value> {
    let device = Device::cpu();
    let ids = random_ids(8, 128, config.vocab, 1);
    let examples: Vec<Example> = ids.iter().cloned().map(Example::whole).collect();
    let refs: Vec<&Example> = examples.iter().collect();
    let tokens = 1024.0;
    let rate = |v: Value| {
        let t = v["median_s"].as_f64().unwrap_or(f64::NAN);
        with(v, "tok_s", tokens / t)
    };
    let full_step = |out: &mut Value| -> Result<()> {
        let mut model = Model::random(&device, config.clone(), 0);
        model.train_all();
        let mut optimizer = Optimizer::new(&model.params, AdamConfig::default());
        let mut grads = Grads::new();
        out["full_step_adamw_fused"] = rate(time(runs, || {
            lm::loss(&model, &refs, Pass::default(), Some((&mut grads, 1.0 / 1016.0)))?;
            optimizer.step(&mut model.params, &mut grads, 1e-5, 1.0).map(|_| ())
        })?);
        Ok(())
    };
    let mut out = json!({});
    if precision == Precision::F32 {
        full_step(&mut out)?;
    }
    let mut model = Model::random_in(&device, config.clone(), precision, 0);
    out["forward_logits_nograd"] = rate(time(runs, || {
        let mut tape = Tape::inference(&model.params);
        let hidden = model.hidden(&mut tape, &Batch::new(&device, &ids), Pass::default());
        let head = Linear { weight: model.head(), bias: None, lora: Vec::new(), threshold: 0.0 };
        tape.linear("logits", hidden, &head, None);
        Ok(())
    })?);
    out["forward_loss_nograd"] =
        rate(time(runs, || lm::loss(&model, &refs, Pass::default(), None).map(|_| ()))?);
    model.attach_lora(&lora_config(), 0);
    model.train_adapters();
    let mut optimizer = Optimizer::new(&model.params, AdamConfig::default());
    let mut grads = Grads::new();
    out["lora_step_adamw_fused"] = rate(time(runs, || {
        lm::loss(&model, &refs, Pass::default(), Some((&mut grads, 1.0 / 1016.0)))?;
        optimizer.step(&mut model.params, &mut grads, 1e-4, 1.0).map(|_| ())
    })?);
    Ok(out)
}

/// Generation: batch 16, prompt 8, 48 new tokens, plain sampling; without and with adapters.
///
/// # Errors
/// None today.
pub fn generate_times(config: &ModelConfig, precision: Precision, runs: usize) -> Result<Value> {
    let device = Device::cpu();
    let prompts = random_ids(16, 8, config.vocab, 2);
    let streams: Vec<u32> = (0..16).collect();
    let sampling = Sampling { max_new_tokens: 48, ..Sampling::default() };
    let mut model = Model::random_in(&device, config.clone(), precision, 0);
    let mut out = json!({});
    for name in ["generate", "generate_lora_unmerged"] {
        if name.ends_with("unmerged") {
            model.attach_lora(&lora_config(), 0);
        }
        let t = time(runs, || {
            model.generate(&prompts, &streams, &sampling, Pass::default(), None, &|_| {});
            Ok(())
        })?;
        let s = t["median_s"].as_f64().unwrap_or(f64::NAN);
        out[name] = with(with(t, "new_tok_s", 768.0 / s), "ms_per_step", s / 48.0 * 1e3);
    }
    Ok(out)
}

/// One LLM.int8 linear layer, f32 in and out: 512 x 2048 by 2048 x 2048, without outliers and with six columns of
/// them.
///
/// # Errors
/// None today.
pub fn int8_times(runs: usize) -> Result<Value> {
    let (device, m, n, k) = (Device::cpu(), 512, 2048, 2048);
    let mut params = Params::new(&device);
    let weight = params.add_int8("w", n, k, &Rng::new(0, "w").normals(n * k, 0.02));
    let bias = params.add("b", 1, n, ParamKind::Plain, &vec![0.0; n]);
    let layer = Linear { weight, bias: Some(bias), lora: Vec::new(), threshold: 6.0 };
    let mut x = Rng::new(0, "x").normals(m * k, 1.0);
    let mut out = json!({ "shape": [m, k, n] });
    for name in ["int8_t6_nooutlier", "int8_t6_6outliercols"] {
        if name.ends_with("cols") {
            let columns = (0..m).flat_map(|i| (0..6).map(move |c| i * k + 331 * c + 7));
            columns.for_each(|at| x[at] *= 20.0);
        }
        let mut tape = Tape::inference(&params);
        let rows = tape.leaf(device.upload(&x), m, k, false);
        let t = time(runs, || {
            let y = tape.linear("int8", rows, &layer, None);
            tape.release(y);
            Ok(())
        })?;
        let ms = |key: &str| t[key].as_f64().unwrap_or(f64::NAN) * 1e3;
        let gops = 2e-6 * (m * n * k) as f64 / ms("median_s");
        out[name] = json!({ "ms": ms("median_s"), "min_ms": ms("min_s"), "gops": gops, "n": runs });
    }
    Ok(out)
}

/// The share of an answer's tokens in the lower half of the vocabulary.
struct LowerHalf(u32);

impl Reward for LowerHalf {
    fn score(&self, _: &[Vec<u32>], completions: &[Completion]) -> Result<Vec<f32>> {
        let share = |c: &Completion| {
            c.tokens.iter().filter(|t| **t < self.0 / 2).count() as f32 / c.tokens.len().max(1) as f32
        };
        Ok(completions.iter().map(share).collect())
    }
}

/// A PPO iteration: 32 rollouts of 8 + 32, 4 epochs of minibatches of 8, LoRA rank 16.
///
/// # Errors
/// When the first minibatch's probability ratio is not exactly 1.
pub fn ppo_times(config: &ModelConfig, precision: Precision, iterations: usize) -> Result<Value> {
    let device = Device::cpu();
    let mut model = Model::random_in(&device, config.clone(), precision, 0);
    model.attach_lora(&lora_config(), 0);
    let settings = rl::PpoConfig {
        learning_rate: 1e-4,
        batch_size: 32,
        mini_batch_size: 8,
        ppo_epochs: 4,
        response_length: 32,
        adap_kl_ctrl: false,
        init_kl_coef: 0.05,
        max_grad_norm: 0.0,
        ..rl::PpoConfig::default()
    };
    let mut ppo = Ppo::new(model, settings)?;
    let reward = LowerHalf(config.vocab as u32);
    let mut rows: Vec<[f64; 4]> = Vec::new();
    let mut last = None;
    for i in 0..iterations as u64 + 1 {
        let prompts = random_ids(32, 8, config.vocab, 100 + i);
        let it = ppo.iteration(i, &prompts, &reward, None)?;
        if it.first_ratio != (1.0, 0.0) {
            return Err(Error::NotFinite {
                what: "the first minibatch's ratio".into(),
                whence: format!(
                    "mean {}, variance {}: generation and training disagree",
                    it.first_ratio.0, it.first_ratio.1
                ),
            });
        }
        let [r, s, t] = it.seconds;
        rows.push([r, s, t, r + s + t]);
        last = Some(it);
    }
    rows.remove(0);
    let column = |c: usize| {
        let mut v: Vec<f64> = rows.iter().map(|r| r[c]).collect();
        v.sort_by(f64::total_cmp);
        json!({ "median_s": v[v.len() / 2], "min_s": v[0], "max_s": v[v.len() - 1] })
    };
    let last = last.expect("at least one iteration");
    Ok(json!({
        "rollouts": 32, "prompt": 8, "new": 32, "ppo_epochs": 4, "minibatch": 8, "optimizer_steps": 16,
        "seconds": {
            "rollout": column(0), "score": column(1), "train": column(2), "total": column(3), "n": rows.len(),
        },
        "kl": last.metric("objective/kl"),
        "approxkl": last.metric("policy/approxkl_avg"),
        "entropy": last.metric("policy/entropy_avg"),
        "peak_device_bytes": device.peak_bytes(),
    }))
}
