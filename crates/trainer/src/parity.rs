//! Small random models exchanged with the reference libraries: what is written here for them to load, and what they
//! wrote, loaded here. `tests/references/parity.py` is the other side.
//!
//! ```text
//! ROOT/CASE/ours/    base, merged, adapter-N, int8, reward; expected.safetensors: logits and scores of this engine
//! ROOT/CASE/theirs/  hf, hf4, peft-N, reward, int8; expected.safetensors: logits and scores of the libraries
//! ```

use crate::{
    error::{Error, Result},
    merge::{self, logits},
    models, reward,
};
use autograd::Tape;
use device::Device;
use formats::{Act, Arch, ModelConfig, Norm, Storage, Tokenizer, load_tensors, peft, save_tensors};
use model::{Head, LoraConfig, Model, Precision, Rng, Target};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// Greatest difference of a logit or score, of their root mean square.
pub const LIMIT: f64 = 1e-4;

/// One comparison.
#[derive(Debug, Clone)]
pub struct Check {
    /// Case and what was compared.
    pub what: String,
    /// Greatest difference over the root mean square.
    pub error: f64,
}

/// A named configuration.
pub struct Case {
    /// Folder name.
    pub name: &'static str,
    /// The model's shape.
    pub config: ModelConfig,
}

/// A small model of a family.
pub fn tiny(arch: Arch, vocab: usize) -> ModelConfig {
    let llama = arch == Arch::Llama;
    ModelConfig {
        arch,
        vocab,
        hidden: 16,
        layers: 2,
        heads: 4,
        kv_heads: if llama { 2 } else { 4 },
        head_dim: 4,
        intermediate: 24,
        max_positions: 64,
        norm: if llama { Norm::Rms } else { Norm::Layer },
        norm_eps: 1e-5,
        act: match arch {
            Arch::GptNeox => Act::Gelu,
            Arch::Gpt2 => Act::GeluTanh,
            Arch::Llama => Act::SwiGlu,
        },
        parallel_residual: arch == Arch::GptNeox,
        rotary_dim: match arch {
            Arch::GptNeox => 2,
            Arch::Gpt2 => 0,
            Arch::Llama => 4,
        },
        rope_theta: 10_000.0,
        tie_embeddings: arch == Arch::Gpt2,
        attention_bias: !llama,
        mlp_bias: !llama,
    }
}

/// Every family, and the settings that its configurations vary.
pub fn cases(vocab: usize) -> Vec<Case> {
    let of = |arch| tiny(arch, vocab);
    let serial = ModelConfig {
        parallel_residual: false,
        rotary_dim: 4,
        rope_theta: 5000.0,
        act: Act::GeluTanh,
        attention_bias: false,
        ..of(Arch::GptNeox)
    };
    // Heads of another width than hidden / heads; everything has a bias; one matrix in and out.
    let wide = ModelConfig {
        head_dim: 8,
        rotary_dim: 8,
        rope_theta: 500_000.0,
        tie_embeddings: true,
        attention_bias: true,
        mlp_bias: true,
        ..of(Arch::Llama)
    };
    vec![
        Case { name: "gpt_neox", config: of(Arch::GptNeox) },
        Case { name: "gpt_neox_serial", config: serial },
        Case { name: "gpt2", config: of(Arch::Gpt2) },
        Case { name: "llama", config: of(Arch::Llama) },
        Case { name: "llama_wide", config: wide },
    ]
}

/// Sets of targets that adapters are tried on: parts of a fused layer, the layer as one, everything, upper layers.
pub fn adapters() -> Vec<LoraConfig> {
    let all = [Target::Query, Target::Key, Target::Value, Target::AttnOut, Target::MlpUp, Target::MlpDown];
    let of = |targets: &[Target], first_layer| LoraConfig {
        rank: 3,
        alpha: 7.0,
        dropout: 0.0,
        targets: targets.to_vec(),
        first_layer,
    };
    vec![
        of(&[Target::Query, Target::Value], 0),
        of(&[Target::QueryKeyValue, Target::AttnOut], 1),
        of(&all, 0),
        of(&[Target::Key], 0),
    ]
}

/// A model whose every weight is random, norms and biases too, so that each of them matters.
pub fn random(config: &ModelConfig, seed: u64) -> Model {
    let mut source = |name: &str, rows: usize, cols: usize| {
        let mut w = Rng::new(seed, name).normals(rows * cols, 0.2);
        if name.contains("norm") && name.ends_with("weight") {
            w.iter_mut().for_each(|v| *v += 1.0);
        }
        Ok::<_, std::convert::Infallible>(w)
    };
    match Model::from_source(&Device::cpu(), config.clone(), Precision::F32, &mut source) {
        Ok(model) => model,
        Err(never) => match never {},
    }
}

/// Attaches adapters that change something: both factors are random.
pub fn adapt(model: &mut Model, lora: &LoraConfig, seed: u64) {
    model.attach_lora(lora, seed);
    let names: Vec<(_, String, usize)> = model
        .params
        .iter()
        .filter(|(_, p)| p.name.contains(".lora."))
        .map(|(id, p)| (id, p.name.clone(), p.len()))
        .collect();
    for (id, name, n) in names {
        model.params.data_mut(id).write(&Rng::new(seed, &name).normals(n, 0.2));
    }
}

/// What both sides feed their models.
fn sequences(vocab: usize) -> Vec<Vec<u32>> {
    [12, 7, 1].iter().map(|n| (0..*n).map(|i| (31 * i + 17 * n) % vocab as u32).collect()).collect()
}

fn all_logits(model: &Model) -> Vec<f32> {
    let sequences = sequences(model.config.vocab);
    sequences.into_iter().flat_map(|s| logits(model, &[crate::lm::Example::whole(s)])).collect()
}

fn all_scores(model: &Model, head: &Head) -> Vec<f32> {
    let sequences = sequences(model.config.vocab);
    let at: Vec<Vec<usize>> = sequences.iter().map(|s| vec![s.len() - 1]).collect();
    let mut tape = Tape::inference(&model.params);
    let scores = reward::forward(&mut tape, model, head, &sequences, &at);
    tape.value(scores).to_vec()
}

/// Writes every case for the reference libraries to load.
///
/// # Errors
/// With the file's name.
pub fn write(root: &Path) -> Result<()> {
    let text: Vec<String> = (0..40).map(|i| format!("the film number {i} was a quiet joy .")).collect();
    let tokenizer = Tokenizer::train(&text, 280).map_err(|e| Error::config("parity", e))?;
    for case in cases(tokenizer.vocab()) {
        write_case(&root.join(case.name).join("ours"), &case.config, &tokenizer)?;
    }
    Ok(())
}

fn write_case(dir: &Path, config: &ModelConfig, tokenizer: &Tokenizer) -> Result<()> {
    let base = dir.join("base");
    let mut expected: Vec<(String, Vec<f32>)> = Vec::new();
    let model = random(config, 1);
    models::save(&base, &model, tokenizer)?;
    expected.push(("base".into(), all_logits(&model)));
    for (i, lora) in adapters().iter().enumerate() {
        let mut model = random(config, 1);
        adapt(&mut model, lora, 10 + i as u64);
        let (adapter, merged) = (dir.join(format!("adapter-{i}")), dir.join(format!("merged-{i}")));
        peft::save(&adapter, config, &base.to_string_lossy(), &model.adapters())?;
        merge::write(&base, Some(&adapter), &merged, Storage::F32)?;
        expected.push((format!("adapter-{i}"), all_logits(&model)));
    }
    merge::write(&base, None, &dir.join("int8"), Storage::Int8)?;
    let (int8, _) = models::load(&Device::cpu(), &dir.join("int8"), Precision::F32)?;
    expected.push(("int8".into(), all_logits(&int8)));
    for labels in [1, 2] {
        let mut model = random(config, 2);
        let head = model.add_head("score", labels, 0.5, labels as u64);
        let name = format!("reward-{labels}");
        models::save_reward(&dir.join(&name), &model, tokenizer)?;
        expected.push((name, all_scores(&model, &head)));
    }
    let shapes: Vec<[usize; 1]> = expected.iter().map(|(_, v)| [v.len()]).collect();
    let views: Vec<(&str, &[usize], &[f32])> =
        expected.iter().zip(&shapes).map(|((n, v), s)| (n.as_str(), s.as_slice(), v.as_slice())).collect();
    Ok(save_tensors(&dir.join("expected.safetensors"), &views, &BTreeMap::new())?)
}

/// Loads what the reference libraries wrote and compares.
///
/// # Errors
/// Names the file and tensor that could not be loaded.
pub fn read(root: &Path) -> Result<Vec<Check>> {
    let mut out = Vec::new();
    // The names alone: vocabularies come from the folders.
    for case in cases(1) {
        read_case(case.name, &root.join(case.name).join("theirs"), &mut out)?;
    }
    Ok(out)
}

fn read_case(case: &str, dir: &Path, out: &mut Vec<Check>) -> Result<()> {
    let expected: BTreeMap<String, Vec<f32>> = load_tensors(&dir.join("expected.safetensors"))?
        .tensors
        .into_iter()
        .map(|t| (t.name, t.data))
        .collect();
    let cpu = Device::cpu();
    for (name, want) in &expected {
        let path = dir.join(name);
        let mut check = |how: &str, got: &[f32]| {
            out.push(Check { what: format!("{case}: {name} {how}"), error: difference(got, want) });
        };
        if name.starts_with("peft") {
            let base = dir.join("hf");
            let (mut model, _) = models::load(&cpu, &base, Precision::F32)?;
            model.attach_adapters(&peft::load(&path, &model.config)?);
            check("beside the base", &all_logits(&model));
            let merged = PathBuf::from(format!("{}-merged", path.display()));
            merge::write(&base, Some(&path), &merged, Storage::F32)?;
            check("merged", &all_logits(&models::load(&cpu, &merged, Precision::F32)?.0));
        } else if name.starts_with("reward") {
            let (model, head, _) = models::load_reward(&cpu, &path, Precision::F32)?;
            check("scores", &all_scores(&model, &head));
        } else {
            check("logits", &all_logits(&models::load(&cpu, &path, Precision::F32)?.0));
        }
    }
    Ok(())
}

/// Greatest difference over the root mean square of what is expected; infinite where lengths or numbers fail.
fn difference(got: &[f32], want: &[f32]) -> f64 {
    if got.len() != want.len() || got.iter().any(|v| !v.is_finite()) {
        return f64::INFINITY;
    }
    let square: f64 = want.iter().map(|w| f64::from(*w).powi(2)).sum();
    let size = (square / want.len().max(1) as f64).sqrt();
    got.iter().zip(want).fold(0.0f64, |m, (g, w)| m.max(f64::from(g - w).abs())) / size
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the libraries are to read, read back here: every case, adapter and folder.
    #[test]
    fn what_is_written_is_read_back_equal() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path()).unwrap();
        let cpu = Device::cpu();
        for case in cases(1) {
            let ours = dir.path().join(case.name).join("ours");
            let file = load_tensors(&ours.join("expected.safetensors")).unwrap();
            let want = |name: &str| file.tensors.iter().find(|t| t.name == name).unwrap().data.clone();
            for i in 0..adapters().len() {
                let name = format!("adapter-{i}");
                let (mut model, _) = models::load(&cpu, &ours.join("base"), Precision::F32).unwrap();
                assert!(
                    difference(&all_logits(&model), &want(&name)) > 0.01,
                    "the adapter changes something"
                );
                model.attach_adapters(&peft::load(&ours.join(&name), &model.config).unwrap());
                let off = difference(&all_logits(&model), &want(&name));
                assert!(off < 1e-5, "{} {name}: {off}", case.name);
                let merged = ours.join(format!("merged-{i}"));
                let (merged, _) = models::load(&cpu, &merged, Precision::F32).unwrap();
                let off = difference(&all_logits(&merged), &want(&name));
                assert!(off < 1e-4, "{} {name} merged: {off}", case.name);
            }
            for labels in [1, 2] {
                let name = format!("reward-{labels}");
                let (model, head, _) = models::load_reward(&cpu, &ours.join(&name), Precision::F32).unwrap();
                assert_eq!((head.outputs, all_scores(&model, &head)), (labels, want(&name)));
            }
            let e = models::load_reward(&cpu, &ours.join("base"), Precision::F32).err().unwrap().to_string();
            assert!(e.contains("config.json") && e.contains("ForSequenceClassification"), "{e}");
        }
    }
}
