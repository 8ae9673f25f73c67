//! Hugging Face folders made here, whole and damaged.

use formats::{Act, Arch, Folder, ModelConfig, Norm, Tokenizer, load_tensors, save_folder, save_tensors};
use std::{collections::BTreeMap, fs, path::Path};

fn config() -> ModelConfig {
    ModelConfig {
        arch: Arch::Llama,
        vocab: 280,
        hidden: 8,
        layers: 1,
        heads: 2,
        kv_heads: 1,
        head_dim: 4,
        intermediate: 6,
        max_positions: 16,
        norm: Norm::Rms,
        norm_eps: 1e-5,
        act: Act::SwiGlu,
        parallel_residual: false,
        rotary_dim: 4,
        rope_theta: 10_000.0,
        tie_embeddings: true,
        attention_bias: false,
        mlp_bias: false,
    }
}

/// Elements of a canonical tensor of [`config`].
fn elements(name: &str) -> usize {
    match name.rsplit_once('.').map_or(name, |(module, _)| module.rsplit('.').next().unwrap()) {
        "embed" => 280 * 8,
        "qkv" => 16 * 8,
        "attn_out" => 8 * 8,
        "mlp_up" => 12 * 8,
        "mlp_down" => 8 * 6,
        _ => 8,
    }
}

fn whole() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let tokenizer = Tokenizer::train(&["a b c".into()], 270).unwrap();
    save_folder(dir.path(), &config(), &tokenizer, &mut |name| vec![0.5; elements(name)]).unwrap();
    dir
}

/// Opens the folder after `damage` and reads everything; the error must hold all needles.
#[track_caller]
fn check(damage: impl Fn(&Path), needles: &[&str]) {
    let dir = whole();
    damage(dir.path());
    let read = || {
        let folder = Folder::open(dir.path())?;
        folder.tensor("embed", 280, 8)?;
        folder.tensor("layers.0.qkv.weight", 16, 8)?;
        folder.tensor("final_norm.weight", 1, 8)?;
        folder.tokenizer().map(drop)
    };
    let e = read().map_err(|e: formats::Error| e.to_string()).unwrap_err();
    assert!(needles.iter().all(|n| e.contains(n)), "{e}");
}

/// Writes the weights again, changed.
fn rewrite(dir: &Path, change: impl Fn(&str, &mut Vec<usize>, &mut Vec<f32>) -> bool) {
    let path = dir.join("model.safetensors");
    let mut tensors = load_tensors(&path).unwrap().tensors;
    tensors.retain_mut(|t| change(&t.name, &mut t.shape, &mut t.data));
    let views: Vec<(&str, &[usize], &[f32])> =
        tensors.iter().map(|t| (t.name.as_str(), t.shape.as_slice(), t.data.as_slice())).collect();
    save_tensors(&path, &views, &BTreeMap::new()).unwrap();
}

/// Replaces a piece of the weights' header by one of the same length.
fn patch(dir: &Path, from: &str, to: &str) {
    assert_eq!(from.len(), to.len());
    let path = dir.join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(from.len()).position(|w| w == from.as_bytes()).unwrap();
    bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
    fs::write(&path, bytes).unwrap();
}

#[test]
fn a_whole_folder_is_read() {
    let dir = whole();
    let folder = Folder::open(dir.path()).unwrap();
    assert_eq!(folder.config, config());
    assert_eq!(folder.tensor("layers.0.mlp_up.weight", 12, 8).unwrap(), vec![0.5; 96]);
    folder.tokenizer().unwrap();
}

#[test]
fn damage_names_file_and_tensor() {
    let weights = "model.safetensors";
    check(|d| fs::remove_file(d.join(weights)).unwrap(), &["holds neither model.safetensors"]);
    check(
        |d| {
            let path = d.join(weights);
            let bytes = fs::read(&path).unwrap();
            fs::write(&path, &bytes[..bytes.len() - 10]).unwrap();
        },
        &[weights, "tensor `model.norm.weight` lies at bytes", "truncated"],
    );
    check(
        |d| rewrite(d, |name, _, _| name != "model.layers.0.self_attn.k_proj.weight"),
        &["tensor `model.layers.0.self_attn.k_proj.weight`"],
    );
    check(
        |d| {
            rewrite(d, |_, shape, _| {
                shape.reverse();
                true
            })
        },
        &[weights, "tensor `model.embed_tokens.weight` has shape [8, 280]", "[280, 8]"],
    );
    check(|d| patch(d, "F32", "I32"), &[weights, "tensor `model.embed_tokens.weight` is I32", "BF16"]);
    check(|d| patch(d, "F32", "Q99"), &[weights, "tensor `model.embed_tokens.weight`", "dtype \"Q99\""]);
    check(|d| patch(d, "[280,8]", "[9e9,8]"), &[weights, "damaged"]);
    check(|d| fs::write(d.join("config.json"), "{").unwrap(), &["config.json", "not valid JSON"]);
    check(|d| fs::write(d.join("tokenizer.json"), "{}").unwrap(), &["tokenizer.json"]);
}

#[test]
fn a_foreign_tokenizer_is_refused() {
    let foreign = |d: &Path| {
        let texts: Vec<String> = (0..200).map(|i| format!("word{i} word{i} other{i} other{i}")).collect();
        Tokenizer::train(&texts, 400).unwrap().save(&d.join("tokenizer.json")).unwrap();
    };
    check(foreign, &["tokenizer.json", "tokens, the model's embedding 280", "different models"]);
}

#[test]
fn a_missing_shard_is_named() {
    let sharded = |d: &Path| {
        fs::rename(d.join("model.safetensors"), d.join("model-00001-of-00002.safetensors")).unwrap();
        let index = r#"{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}"#;
        fs::write(d.join("model.safetensors.index.json"), index).unwrap();
    };
    check(sharded, &["model-00002-of-00002.safetensors"]);
    let outside = |d: &Path| {
        fs::remove_file(d.join("model.safetensors")).unwrap();
        fs::write(d.join("model.safetensors.index.json"), r#"{"weight_map": {"a": "../x"}}"#).unwrap();
    };
    check(outside, &["model.safetensors.index.json", "outside the folder"]);
}
