//! Adapters through PEFT's format and back, for every family and set of targets; and what is refused.

use formats::{
    Act, Arch, ModelConfig, Module, Norm, load_tensors,
    peft::{self, Adapter},
    save_tensors,
};
use proptest::prelude::*;
use serde_json::Value;
use std::{collections::BTreeMap, fs, path::Path};

fn config(arch: Arch, heads: usize, kv_heads: usize, head_dim: usize, layers: usize) -> ModelConfig {
    ModelConfig {
        arch,
        vocab: 20,
        hidden: 8,
        layers,
        heads,
        kv_heads,
        head_dim,
        intermediate: 10,
        max_positions: 16,
        norm: if arch == Arch::Llama { Norm::Rms } else { Norm::Layer },
        norm_eps: 1e-5,
        act: if arch == Arch::Llama { Act::SwiGlu } else { Act::Gelu },
        parallel_residual: true,
        rotary_dim: if arch == Arch::Gpt2 { 0 } else { 2 },
        rope_theta: 10_000.0,
        tie_embeddings: false,
        attention_bias: true,
        mlp_bias: true,
    }
}

fn wave(n: usize, seed: usize) -> Vec<f32> {
    (0..n).map(|i| (12.9898 * (i + 1) as f32 + 78.233 * seed as f32).sin()).collect()
}

/// An adapter on rows of a module.
fn adapter(
    c: &ModelConfig,
    layer: usize,
    module: Module,
    rows: std::ops::Range<usize>,
    rank: usize,
    scale: f32,
) -> Adapter {
    let seed = layer * 100 + rows.start + rows.len();
    let (a, b) = (wave(rank * module.shape(c).1, seed), wave(rows.len() * rank, seed + 7));
    Adapter { layer, module, offset: rows.start, rank, scale, a, b }
}

/// Adapters of one layer: `qkv` are bits for query, key, value and the whole; `others` for the three other modules.
fn of_layer(c: &ModelConfig, layer: usize, qkv: u8, others: u8, rank: usize, scale: f32) -> Vec<Adapter> {
    let (q, kv) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
    let mut out = Vec::new();
    for (bit, rows) in [(1, 0..q), (2, q..q + kv), (4, q + kv..q + 2 * kv), (8, 0..q + 2 * kv)] {
        if qkv & bit != 0 {
            out.push(adapter(c, layer, Module::Qkv, rows, rank + usize::from(bit == 8), scale));
        }
    }
    for (i, module) in Module::ALL.into_iter().skip(1).enumerate() {
        if others >> i & 1 != 0 {
            out.push(adapter(c, layer, module, 0..module.shape(c).0, rank + i, scale * (i + 1) as f32));
        }
    }
    out
}

/// What the adapters add to every weight of the model.
fn change(c: &ModelConfig, adapters: &[Adapter]) -> Vec<Vec<f32>> {
    let places = (0..c.layers).flat_map(|l| Module::ALL.map(|m| (l, m)));
    let one = |(layer, module): (usize, Module)| {
        let (n, k) = module.shape(c);
        let mut w = vec![0.0; n * k];
        let here = adapters.iter().filter(|a| (a.layer, a.module) == (layer, module));
        here.for_each(|a| a.add_to(&mut w, k));
        w
    };
    places.map(one).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn what_is_exported_is_imported_with_the_same_change_of_every_weight(
        arch in prop_oneof![Just(Arch::GptNeox), Just(Arch::Gpt2), Just(Arch::Llama)],
        heads in 1usize..4,
        head_dim in prop_oneof![Just(2usize), Just(4)],
        layers in 1usize..4,
        from in 0usize..2,
        qkv in 0u8..16,
        others in 0u8..8,
        rank in 1usize..5,
        alpha in prop_oneof![Just(1.0f32), Just(7.0), Just(32.0)],
        ragged in any::<bool>(),
    ) {
        let kv_heads = if arch == Arch::Llama && heads % 2 == 0 { heads / 2 } else { heads };
        let c = config(arch, heads, kv_heads, head_dim, layers);
        let mut adapters: Vec<Adapter> = (from.min(layers - 1)..layers)
            .flat_map(|l| of_layer(&c, l, qkv, others, rank + usize::from(ragged) * l, alpha / rank as f32))
            .collect();
        if ragged && adapters.len() > 1 {
            adapters.pop();
        }
        let dir = tempfile::tempdir().unwrap();
        if adapters.is_empty() {
            prop_assert!(peft::save(dir.path(), &c, "base", &adapters).is_err());
            return Ok(());
        }
        peft::save(dir.path(), &c, "base", &adapters).unwrap();
        let back = peft::load(dir.path(), &c).unwrap();
        for (want, got) in change(&c, &adapters).into_iter().zip(change(&c, &back)) {
            let size = want.iter().fold(1.0f32, |m, v| m.max(v.abs()));
            let off = want.iter().zip(&got).fold(0.0f32, |m, (w, g)| m.max((w - g).abs()));
            prop_assert!(off <= 1e-6 * size, "{off:e} of {size}");
        }
    }
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// GPT-NeoX with query and value adapters, saved.
fn saved() -> (ModelConfig, tempfile::TempDir) {
    let c = config(Arch::GptNeox, 2, 2, 4, 2);
    let dir = tempfile::tempdir().unwrap();
    let adapters: Vec<Adapter> = (0..2).flat_map(|l| of_layer(&c, l, 1 | 4, 1, 2, 1.5)).collect();
    peft::save(dir.path(), &c, "the/base", &adapters).unwrap();
    (c, dir)
}

#[test]
fn names_shapes_and_settings_are_pefts() {
    let (c, dir) = saved();
    let file = load_tensors(&dir.path().join(peft::WEIGHTS)).unwrap();
    assert_eq!(file.metadata, BTreeMap::from([("format".into(), "pt".into())]));
    let name = |rest: &str| format!("base_model.model.gpt_neox.layers.1.attention.{rest}.weight");
    let of = |rest: &str| file.tensors.iter().find(|t| t.name == name(rest)).unwrap();
    let (a, b) = (of("query_key_value.lora_A"), of("query_key_value.lora_B"));
    assert_eq!((a.shape.as_slice(), b.shape.as_slice()), (&[4, 8][..], &[24, 4][..]));
    // Rows of the first head's keys, which no adapter changes, stand between its queries and values.
    assert!(b.data[4 * 4..8 * 4].iter().all(|v| *v == 0.0));
    assert!(b.data[..4 * 4].chunks(4).all(|row| row[0] != 0.0 && row[2..] == [0.0, 0.0]));
    assert!(b.data[8 * 4..12 * 4].chunks(4).all(|row| row[..2] == [0.0, 0.0] && row[2] != 0.0));
    assert_eq!(of("dense.lora_A").shape, [2, 8]);
    assert_eq!(file.tensors.len(), 8);
    let json = read(&dir.path().join(peft::CONFIG));
    assert_eq!((&json["r"], &json["lora_alpha"]), (&4.into(), &6.into()));
    assert_eq!((&json["rank_pattern"]["dense"], &json["alpha_pattern"]["dense"]), (&2.into(), &3.into()));
    assert_eq!(json["target_modules"], serde_json::json!(["dense", "query_key_value"]));
    assert_eq!(
        (&json["base_model_name_or_path"], &json["fan_in_fan_out"]),
        (&"the/base".into(), &false.into())
    );
    assert_eq!(peft::load(dir.path(), &c).unwrap().len(), 4);
}

/// Loads after `damage`; the error must hold all needles.
#[track_caller]
fn check(damage: impl Fn(&Path), c: Option<ModelConfig>, needles: &[&str]) {
    let (config, dir) = saved();
    damage(dir.path());
    let e = peft::load(dir.path(), &c.unwrap_or(config)).unwrap_err().to_string();
    assert!(needles.iter().all(|n| e.contains(n)), "{e}");
}

fn set(dir: &Path, field: &str, value: Value) {
    let path = dir.join(peft::CONFIG);
    let mut json = read(&path);
    json[field] = value;
    fs::write(&path, json.to_string()).unwrap();
}

/// Writes the factors again with one renamed; an empty name leaves it out.
fn rename(dir: &Path, from: &str, to: &str) {
    let path = dir.join(peft::WEIGHTS);
    let mut tensors = load_tensors(&path).unwrap().tensors;
    tensors.retain(|t| !to.is_empty() || t.name != from);
    let name = |n: &str| if n == from { to.to_string() } else { n.to_string() };
    let named: Vec<_> = tensors.iter().map(|t| (name(&t.name), t)).collect();
    let views: Vec<(&str, &[usize], &[f32])> =
        named.iter().map(|(n, t)| (n.as_str(), t.shape.as_slice(), t.data.as_slice())).collect();
    save_tensors(&path, &views, &BTreeMap::new()).unwrap();
}

const A: &str = "base_model.model.gpt_neox.layers.1.attention.dense.lora_A.weight";

#[test]
fn what_is_not_supported_is_named() {
    let config = peft::CONFIG;
    check(|d| fs::remove_file(d.join(config)).unwrap(), None, &["holds no adapter_config.json"]);
    check(|d| fs::remove_file(d.join(peft::WEIGHTS)).unwrap(), None, &[peft::WEIGHTS]);
    check(
        |d| fs::rename(d.join(peft::WEIGHTS), d.join("adapter_model.bin")).unwrap(),
        None,
        &["adapter_model.bin only", "safe_serialization=True"],
    );
    check(|d| set(d, "peft_type", "IA3".into()), None, &[config, "`peft_type` is \"IA3\""]);
    check(|d| set(d, "use_dora", true.into()), None, &[config, "`use_dora`"]);
    check(|d| set(d, "bias", "all".into()), None, &[config, "`bias`"]);
    let head = serde_json::json!(["score"]);
    check(|d| set(d, "modules_to_save", head.clone()), None, &[config, "`modules_to_save`"]);
    let pattern = serde_json::json!({ "layers.(0|1).*": 4 });
    check(|d| set(d, "alpha_pattern", pattern.clone()), None, &["regular expression `layers.(0|1).*`"]);
    check(|d| set(d, "r", 9.into()), None, &[peft::WEIGHTS, "query_key_value", "has rank 4", "says 9"]);
}

#[test]
fn damage_and_another_base_name_the_tensor() {
    let weights = peft::WEIGHTS;
    check(
        |d| {
            let bytes = fs::read(d.join(weights)).unwrap();
            fs::write(d.join(weights), &bytes[..bytes.len() - 3]).unwrap();
        },
        None,
        &[weights, "truncated", "dense.lora_B.weight` lies at bytes"],
    );
    check(|d| rename(d, A, ""), None, &[weights, "attention.dense.lora_B.weight` has no partner"]);
    let embedding = "base_model.model.gpt_neox.embed_in.lora_embedding_A";
    check(|d| rename(d, A, embedding), None, &[weights, embedding, "embedding adapters"]);
    let elsewhere = "base_model.model.gpt_neox.layers.1.attention.rotary.lora_A.weight";
    let partner = "base_model.model.gpt_neox.layers.1.attention.rotary.lora_B.weight";
    check(
        |d| {
            rename(d, A, elsewhere);
            rename(d, &A.replace("lora_A", "lora_B"), partner);
        },
        None,
        &[weights, elsewhere, "query_key_value", "made for `the/base`"],
    );
    let other = |arch, layers| Some(config(arch, 2, 2, 4, layers));
    check(
        |_| {},
        other(Arch::GptNeox, 1),
        &[weights, "layers.1.attention", "1 layers", "made for `the/base`"],
    );
    check(|_| {}, other(Arch::Llama, 2), &[weights, "Llama", "q_proj", "made for `the/base`"]);
    let wider = ModelConfig { hidden: 16, ..config(Arch::GptNeox, 4, 4, 4, 2) };
    check(|_| {}, Some(wider), &[weights, "lora_A.weight` has shape [2, 8], this base needs [2, 16]"]);
}

#[test]
fn rslora_divides_by_the_root_of_the_rank() {
    let (c, dir) = saved();
    let plain = peft::load(dir.path(), &c).unwrap();
    set(dir.path(), "use_rslora", true.into());
    for (a, b) in plain.iter().zip(peft::load(dir.path(), &c).unwrap()) {
        assert!((b.scale / a.scale - (a.rank as f32).sqrt()).abs() < 1e-6);
    }
}
