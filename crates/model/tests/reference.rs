//! Equality with transformers and peft: logits, loss and every gradient of tiny models, from the numbers that
//! `tests/references/models.py` wrote. The weights follow a formula and go through a Hugging Face folder, so
//! that names and layouts are compared too.

use autograd::{Grads, Linear, Tape};
use device::Device;
use formats::{Arch, Folder, Tokenizer, load_tensors, save_folder, save_tensors};
use model::{Batch, LoraConfig, Model, Pass, Precision, Target};
use serde_json::Value;
use std::{collections::BTreeMap, path::Path, rc::Rc};

fn fixture() -> Value {
    serde_json::from_str(include_str!("../../../tests/references/models.json")).unwrap()
}

fn floats(v: &Value) -> Vec<f32> {
    v.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
}

/// Element i of tensor k (names sorted), as the script sets it.
fn wave(k: usize, centre: f64, len: usize) -> Vec<f32> {
    let at = |i: usize| centre + 0.3 * (12.9898 * (i + 1) as f64 + 78.233 * (k + 1) as f64).sin();
    (0..len).map(|i| at(i) as f32).collect()
}

#[track_caller]
fn close(what: &str, got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len(), "{what}: length");
    let norm = want.iter().map(|w| f64::from(*w).powi(2)).sum::<f64>().sqrt();
    let off = got.iter().zip(want).map(|(g, w)| f64::from(g - w).powi(2)).sum::<f64>().sqrt();
    assert!(off < 1e-4 * norm, "{what}: off by {off:e} of {norm:e}");
}

/// The shapes of a folder's tensors, from a model of that configuration.
fn shapes(dir: &Path, config: &formats::ModelConfig) -> BTreeMap<String, Vec<usize>> {
    let model = Model::random(&Device::cpu(), config.clone(), 0);
    write_folder(dir, config, &mut |name| model.params.get(model.params.find(name).unwrap()).to_f32());
    let file = load_tensors(&dir.join("model.safetensors")).unwrap();
    file.tensors.into_iter().map(|t| (t.name, t.shape)).collect()
}

fn write_folder(dir: &Path, config: &formats::ModelConfig, get: &mut dyn FnMut(&str) -> Vec<f32>) {
    let tokenizer = Tokenizer::train(&["a b".to_string()], 260).unwrap();
    save_folder(dir, config, &tokenizer, get).unwrap();
}

/// The reference's model: its config.json, weights by the formula, read back as any folder is.
fn open(dir: &Path, want: &Value) -> Model {
    let config = formats::ModelConfig::from_hf(&want["config"]).unwrap();
    let shapes = shapes(dir, &config);
    let names: BTreeMap<String, Value> = serde_json::from_value(want["gradients"].clone()).unwrap();
    let stored: Vec<(String, Vec<usize>, Vec<f32>)> = names
        .into_keys()
        .enumerate()
        .map(|(k, name)| {
            let norm = (name.contains("norm") || name.contains("ln_")) && name.ends_with("weight");
            // GPT-NeoX's output layer has a name of its own here, as in the reference library before version 5.
            let shape = shapes.get(&name).unwrap_or_else(|| &shapes["embed_out.weight"]).clone();
            let data = wave(k, if norm { 1.0 } else { 0.0 }, shape.iter().product());
            (name, shape, data)
        })
        .collect();
    let views: Vec<(&str, &[usize], &[f32])> =
        stored.iter().map(|(n, s, d)| (n.as_str(), s.as_slice(), d.as_slice())).collect();
    save_tensors(&dir.join("model.safetensors"), &views, &BTreeMap::new()).unwrap();
    std::fs::write(dir.join("config.json"), want["config"].to_string()).unwrap();
    let folder = Folder::open(dir).unwrap();
    let mut source = |name: &str, rows: usize, cols: usize| folder.tensor(name, rows, cols);
    Model::from_source(&Device::cpu(), folder.config.clone(), Precision::F32, &mut source).unwrap()
}

/// Compares logits and loss, and gives the gradients.
fn run(m: &Model, f: &Value, want: &Value, what: &str) -> Grads {
    let sequences: Vec<Vec<u32>> = serde_json::from_value(f["sequences"].clone()).unwrap();
    let device = m.device().clone();
    let batch = Batch::new(&device, &sequences);
    let mut tape = Tape::new(&m.params);
    let hidden = m.hidden(&mut tape, &batch, Pass::default());
    let head = Linear { weight: m.head(), bias: None, lora: Vec::new(), threshold: 0.0 };
    let logits = tape.linear("logits", hidden, &head, None);
    close(&format!("{what} logits"), &tape.value(logits).to_vec(), &floats(&want["logits"]));
    let (rows, targets): (Vec<u32>, Vec<u32>) = sequences
        .iter()
        .enumerate()
        .flat_map(|(s, ids)| (1..ids.len()).map(move |t| (s, t)))
        .map(|(s, t)| ((batch.start(s) + t - 1) as u32, sequences[s][t]))
        .unzip();
    let n = rows.len();
    let picked = tape.gather(hidden, &Rc::new(device.upload(&rows)));
    let (lp, _) = tape.log_prob(picked, m.head(), &Rc::new(device.upload(&targets)), 1.0, false, 0);
    let loss = -tape.value(lp).to_vec().iter().sum::<f32>() / n as f32;
    close(&format!("{what} loss"), &[loss], &[want["loss"].as_f64().unwrap() as f32]);
    let mut grads = Grads::new();
    tape.backward(vec![(lp, device.upload(&vec![-1.0 / n as f32; n]))], &mut grads);
    grads
}

fn gradient(m: &Model, grads: &Grads, name: &str) -> Vec<f32> {
    let id = m.params.find(name).unwrap_or_else(|| panic!("no parameter {name}"));
    grads.get(id).unwrap_or_else(|| panic!("{name}: no gradient")).to_vec()
}

fn check_model(name: &str) {
    let (f, dir) = (fixture(), tempfile::tempdir().unwrap());
    let want = &f["models"][name];
    let mut m = open(dir.path(), want);
    m.train_all();
    let grads = run(&m, &f, want, name);
    // Written as a model, gradients get the names and layouts of the reference.
    write_folder(dir.path(), &m.config, &mut |canonical| gradient(&m, &grads, canonical));
    let stored = load_tensors(&dir.path().join("model.safetensors")).unwrap().tensors;
    let wanted = want["gradients"].as_object().unwrap();
    assert_eq!(stored.len(), wanted.len());
    for t in stored {
        let renamed = if wanted.contains_key(&t.name) { &t.name } else { "lm_head.weight" };
        close(&format!("{name} gradient of {}", t.name), &t.data, &floats(&wanted[renamed]));
    }
}

/// Where an adapter of the reference sits here: layer, target, and the canonical name of its factors.
fn place(module: &str) -> (Target, String) {
    let layer = module.split('.').find(|p| p.parse::<usize>().is_ok()).unwrap();
    let (target, at) = match module.rsplit('.').next().unwrap() {
        "q_proj" => (Target::Query, "qkv.lora.query"),
        "k_proj" => (Target::Key, "qkv.lora.key"),
        "v_proj" => (Target::Value, "qkv.lora.value"),
        "query_key_value" | "c_attn" => (Target::QueryKeyValue, "qkv.lora.all"),
        "o_proj" | "dense" => (Target::AttnOut, "attn_out.lora.all"),
        "c_proj" if module.contains("attn") => (Target::AttnOut, "attn_out.lora.all"),
        "dense_h_to_4h" | "c_fc" => (Target::MlpUp, "mlp_up.lora.all"),
        "down_proj" | "dense_4h_to_h" | "c_proj" => (Target::MlpDown, "mlp_down.lora.all"),
        other => panic!("{other}"),
    };
    (target, format!("layers.{layer}.{at}"))
}

/// Rows of GPT-NeoX's fused projection in the engine's order: query heads, key heads, value heads.
fn canonical_rows(m: &Model, module: &str, data: Vec<f32>) -> Vec<f32> {
    let c = &m.config;
    if c.arch != Arch::GptNeox || !module.contains("query_key_value") {
        return data;
    }
    let rows = 3 * c.heads * c.head_dim;
    let width = data.len() / rows;
    let source = |r: usize| {
        let (part, head, d) = (r / (c.heads * c.head_dim), r / c.head_dim % c.heads, r % c.head_dim);
        (head * 3 + part) * c.head_dim + d
    };
    (0..rows).flat_map(|r| data[source(r) * width..][..width].to_vec()).collect()
}

fn check_adapters(name: &str) {
    let (f, dir) = (fixture(), tempfile::tempdir().unwrap());
    let want = &f["models"][name];
    let mut m = open(dir.path(), want);
    // Names sorted as the formula numbers them.
    let wanted: BTreeMap<String, Value> = serde_json::from_value(want["lora"]["gradients"].clone()).unwrap();
    let modules: Vec<&str> = wanted.keys().filter_map(|n| n.strip_suffix(".lora_A")).collect();
    let mut targets = Vec::new();
    for module in &modules {
        let (target, _) = place(module);
        if !targets.contains(&target) {
            targets.push(target);
        }
    }
    let rank = f["rank"].as_u64().unwrap() as usize;
    let alpha = f["alpha"].as_f64().unwrap() as f32;
    m.attach_lora(&LoraConfig { rank, alpha, dropout: 0.0, targets, first_layer: 0 }, 1);
    m.train_adapters();
    assert_eq!(m.params.trainable().count(), wanted.len(), "{name}: adapters");
    let factor = |stored: &str| {
        let (module, side) = stored.rsplit_once('.').unwrap();
        let side = if side == "lora_A" { "a" } else { "b" };
        (module.to_string(), side, format!("{}.{side}", place(module).1))
    };
    for (k, stored) in wanted.keys().enumerate() {
        let (module, side, canonical) = factor(stored);
        let id = m.params.find(&canonical).unwrap();
        let data = wave(k, 0.0, m.params.get(id).len());
        let data = if side == "b" { canonical_rows(&m, &module, data) } else { data };
        m.params.data_mut(id).write(&data);
    }
    let grads = run(&m, &f, &want["lora"], &format!("{name} with adapters"));
    for (stored, want) in &wanted {
        let (module, side, canonical) = factor(stored);
        let want = if side == "b" { canonical_rows(&m, &module, floats(want)) } else { floats(want) };
        close(&format!("{name} gradient of {stored}"), &gradient(&m, &grads, &canonical), &want);
    }
}

#[test]
fn gpt_neox_equals_transformers() {
    check_model("gpt_neox");
}

#[test]
fn gpt2_equals_transformers() {
    check_model("gpt2");
}

#[test]
fn llama_with_grouped_queries_equals_transformers() {
    check_model("llama");
}

#[test]
fn adapters_equal_peft() {
    for name in ["gpt_neox", "gpt2", "llama"] {
        check_adapters(name);
    }
}
