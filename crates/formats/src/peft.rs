//! LoRA adapters in PEFT's format: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! Adapters sit on rows of the canonical linear layers; PEFT's sit on whole stored modules. A module that several
//! of ours share gets one adapter: their A's one above the other, their B's side by side with zeros where a row is
//! another's, so that B A is the sum of theirs. The rows of B are then ordered as the weight's rows are stored. The
//! rank grows and alpha with it: alpha / r stays.

use crate::{
    Error, ModelConfig, Module, atomic_write,
    hf::read_json,
    layout::{Part, parts},
    load_tensors,
    stream::{Element, Entry, Writer},
    tensors::Tensor,
};
use serde_json::{Map, Value, json};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    path::Path,
};

/// The file of the factors.
pub const WEIGHTS: &str = "adapter_model.safetensors";
/// The file of the settings.
pub const CONFIG: &str = "adapter_config.json";

/// One adapter: `W[offset..offset + out] += scale B A` on a canonical weight.
#[derive(Debug, Clone, PartialEq)]
pub struct Adapter {
    /// Layer number.
    pub layer: usize,
    /// Which of the layer's linear layers.
    pub module: Module,
    /// Its first canonical row.
    pub offset: usize,
    /// Rank r.
    pub rank: usize,
    /// alpha / r.
    pub scale: f32,
    /// `[rank, in]`.
    pub a: Vec<f32>,
    /// `[out, rank]`.
    pub b: Vec<f32>,
}

impl Adapter {
    /// The canonical name of the weight under it.
    pub fn weight(&self) -> String {
        format!("layers.{}.{}.weight", self.layer, self.module.name())
    }

    /// Rows of the weight that it changes.
    pub fn outputs(&self) -> usize {
        self.b.len() / self.rank.max(1)
    }

    /// Adds `scale B A` to the canonical weight `[rows, cols]` under it.
    pub fn add_to(&self, w: &mut [f32], cols: usize) {
        let rows = w[self.offset * cols..].chunks_exact_mut(cols.max(1));
        for (row, b) in rows.zip(self.b.chunks_exact(self.rank.max(1))) {
            for (b, a) in b.iter().zip(self.a.chunks_exact(cols.max(1))) {
                let factor = self.scale * b;
                row.iter_mut().zip(a).for_each(|(w, a)| *w = a.mul_add(factor, *w));
            }
        }
    }
}

/// The adapter of one stored module.
struct Stored {
    /// As PEFT names it, such as `gpt_neox.layers.0.attention.query_key_value`.
    module: String,
    rank: usize,
    inputs: usize,
    alpha: f64,
    a: Vec<f32>,
    b: Vec<f32>,
}

/// Writes adapters for the base model `config`, which PEFT finds at `base`.
///
/// # Errors
/// With the file's name.
pub fn save(dir: &Path, config: &ModelConfig, base: &str, adapters: &[Adapter]) -> Result<(), Error> {
    fs::create_dir_all(dir).map_err(Error::io(dir))?;
    let stored = stored(config, adapters);
    let Some(first) = stored.first() else { return Err(Error::bad(dir, "there are no adapters to write")) };
    let name = |s: &Stored, side: &str| format!("base_model.model.{}.lora_{side}.weight", s.module);
    let entry = |name, shape: [usize; 2]| Entry { name, element: Element::F32, shape: shape.to_vec() };
    let entries = stored.iter().flat_map(|s| {
        let outputs = s.b.len() / s.rank.max(1);
        [entry(name(s, "A"), [s.rank, s.inputs]), entry(name(s, "B"), [outputs, s.rank])]
    });
    let metadata = [("format".to_string(), "pt".to_string())].into();
    let mut writer = Writer::create(&dir.join(WEIGHTS), entries.collect(), &metadata)?;
    for s in &stored {
        writer.put(&s.a)?;
        writer.put(&s.b)?;
    }
    writer.finish()?;
    let (targets, layers) = targets(&stored, adapters, config.layers);
    let (ranks, alphas) = patterns(&stored);
    let json = json!({
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base, "revision": null,
        "inference_mode": true, "r": first.rank, "lora_alpha": number(first.alpha), "lora_dropout": 0.0,
        "target_modules": targets, "layers_to_transform": layers, "layers_pattern": null,
        "rank_pattern": ranks, "alpha_pattern": alphas, "bias": "none", "modules_to_save": null,
        "fan_in_fan_out": config.arch == crate::Arch::Gpt2, "init_lora_weights": true,
        "use_rslora": false, "use_dora": false,
    });
    let text = serde_json::to_vec_pretty(&json).expect("JSON of JSON");
    // Last: a folder with settings is complete.
    atomic_write(&dir.join(CONFIG), &[&text])
}

/// A whole number as one.
fn number(x: f64) -> Value {
    if x.fract() == 0.0 && x.abs() < 1e15 { json!(x as i64) } else { json!(x) }
}

fn stored(c: &ModelConfig, adapters: &[Adapter]) -> Vec<Stored> {
    let places: BTreeSet<(usize, Module)> = adapters.iter().map(|a| (a.layer, a.module)).collect();
    let mut out = Vec::new();
    for (layer, module) in places {
        let here: Vec<&Adapter> =
            adapters.iter().filter(|a| (a.layer, a.module) == (layer, module)).collect();
        let (n, inputs) = module.shape(c);
        for part in parts(c, &format!("layers.{layer}.{}.weight", module.name()), n) {
            out.extend(combined(c, &part, inputs, &here));
        }
    }
    out
}

/// One adapter on a stored module from those that touch its rows.
fn combined(c: &ModelConfig, part: &Part, inputs: usize, adapters: &[&Adapter]) -> Option<Stored> {
    let rows = |a: &Adapter| {
        let start = a.offset.max(part.rows.start);
        start..(a.offset + a.outputs()).min(part.rows.end).max(start)
    };
    let touching: Vec<&&Adapter> = adapters.iter().filter(|a| !rows(a).is_empty()).collect();
    let rank: usize = touching.iter().map(|a| a.rank).sum();
    let scale = touching.first()?.scale;
    let mut b = vec![0.0; part.rows.len() * rank];
    let mut column = 0;
    for adapter in &touching {
        // 1 unless adapters of different scales meet.
        let ratio = adapter.scale / scale;
        for row in rows(adapter) {
            let from = &adapter.b[(row - adapter.offset) * adapter.rank..][..adapter.rank];
            let to = &mut b[(row - part.rows.start) * rank + column..][..adapter.rank];
            to.iter_mut().zip(from).for_each(|(to, from)| *to = from * ratio);
        }
        column += adapter.rank;
    }
    Some(Stored {
        module: part.name.strip_suffix(".weight").unwrap_or(&part.name).to_string(),
        rank,
        inputs,
        alpha: f64::from(scale) * rank as f64,
        a: touching.iter().flat_map(|a| a.a.iter().copied()).collect(),
        b: part.stored_rows(c, &b, rank),
    })
}

/// The module's name inside its layer as PEFT matches it: the last word, and the one before it where GPT-2 has two
/// of the same.
fn short(module: &str) -> &str {
    let dots: Vec<usize> = module.rmatch_indices('.').map(|(at, _)| at).collect();
    let keep = usize::from(module.ends_with(".c_proj"));
    dots.get(keep).map_or(module, |at| &module[at + 1..])
}

/// `target_modules` and `layers_to_transform`.
fn targets(stored: &[Stored], adapters: &[Adapter], layers: usize) -> (Vec<String>, Value) {
    let shorts: BTreeSet<&str> = stored.iter().map(|s| short(&s.module)).collect();
    let adapted: BTreeSet<usize> = adapters.iter().map(|a| a.layer).collect();
    if stored.len() != shorts.len() * adapted.len() {
        // Not the same in every layer: each by its whole name.
        return (stored.iter().map(|s| s.module.clone()).collect(), Value::Null);
    }
    let some = if adapted.len() == layers { Value::Null } else { json!(adapted) };
    (shorts.into_iter().map(String::from).collect(), some)
}

/// `rank_pattern` and `alpha_pattern`: what differs from the first module.
fn patterns(stored: &[Stored]) -> (Map<String, Value>, Map<String, Value>) {
    let (mut ranks, mut alphas) = (Map::new(), Map::new());
    let mut by_name: BTreeMap<&str, Vec<&Stored>> = BTreeMap::new();
    stored.iter().for_each(|s| by_name.entry(short(&s.module)).or_default().push(s));
    for (name, all) in by_name {
        let uniform = all.iter().all(|s| (s.rank, s.alpha) == (all[0].rank, all[0].alpha));
        for s in if uniform { &all[..1] } else { &all[..] } {
            let key = if uniform { name } else { &s.module };
            if s.rank != stored[0].rank {
                ranks.insert(key.into(), json!(s.rank));
            }
            if s.alpha != stored[0].alpha {
                alphas.insert(key.into(), number(s.alpha));
            }
        }
    }
    (ranks, alphas)
}

/// What an adapter_config.json says of scales.
struct Settings {
    rank: usize,
    alpha: f64,
    rslora: bool,
    ranks: Vec<(String, f64)>,
    alphas: Vec<(String, f64)>,
    base: String,
}

/// Settings that change what an adapter computes, and the value at which they do not.
const MUST_BE_OFF: [&str; 8] = [
    "use_dora",
    "lora_bias",
    "modules_to_save",
    "trainable_token_indices",
    "target_parameters",
    "layer_replication",
    "megatron_config",
    "alora_invocation_tokens",
];

impl Settings {
    fn read(json: &Value) -> Result<Settings, String> {
        if json["peft_type"] != "LORA" {
            return Err(format!("`peft_type` is {}; only \"LORA\" is supported", json["peft_type"]));
        }
        let off = |v: &Value| match v {
            Value::Null | Value::Bool(false) => true,
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
            _ => false,
        };
        if let Some(name) = MUST_BE_OFF.iter().find(|n| !off(&json[**n])) {
            return Err(format!("`{name}` is {}, which is not supported; merge it with peft", json[*name]));
        }
        if !matches!(json["bias"].as_str(), None | Some("none")) {
            return Err(format!("`bias` is {}; only \"none\" is supported", json["bias"]));
        }
        let number = |name: &str| json[name].as_f64().ok_or(format!("`{name}` is {}", json[name]));
        Ok(Settings {
            rank: number("r")? as usize,
            alpha: number("lora_alpha")?,
            rslora: json["use_rslora"] == true,
            ranks: pattern(json, "rank_pattern")?,
            alphas: pattern(json, "alpha_pattern")?,
            base: json["base_model_name_or_path"].as_str().unwrap_or("unknown").to_string(),
        })
    }

    /// alpha / r (or alpha / sqrt(r), arXiv 2312.03732) of a module whose factors have rank `rank`.
    fn scale(&self, module: &str, rank: usize) -> Result<f32, String> {
        let of = |list: &[(String, f64)]| {
            let found = list.iter().find(|(key, _)| module == key || module.ends_with(&format!(".{key}")));
            found.map(|(_, v)| *v)
        };
        let said = of(&self.ranks).map_or(self.rank, |r| r as usize);
        if said != rank {
            return Err(format!("has rank {rank}, {CONFIG} says {said}"));
        }
        let r = if self.rslora { (rank as f64).sqrt() } else { rank as f64 };
        Ok((of(&self.alphas).unwrap_or(self.alpha) / r) as f32)
    }
}

/// A `rank_pattern` or `alpha_pattern`: names or their ends. PEFT takes regular expressions; those that are more
/// than a name are refused.
fn pattern(json: &Value, field: &str) -> Result<Vec<(String, f64)>, String> {
    let entry = |(key, v): (&String, &Value)| {
        let name = key.trim_start_matches('^').trim_end_matches('$').replace("\\.", ".");
        let v = v.as_f64().ok_or(format!("`{field}` of `{key}` is {v}"))?;
        match name.chars().all(|c| c.is_alphanumeric() || "._-".contains(c)) {
            true => Ok((name, v)),
            false => Err(format!("`{field}` has the regular expression `{key}`; only names are supported")),
        }
    };
    json[field].as_object().into_iter().flatten().map(entry).collect()
}

/// Where a stored module belongs.
struct Place {
    layer: usize,
    module: Module,
    part: Part,
}

fn places(c: &ModelConfig) -> HashMap<String, Place> {
    let mut out = HashMap::new();
    for layer in 0..c.layers {
        for module in Module::ALL {
            for part in parts(c, &format!("layers.{layer}.{}.weight", module.name()), module.shape(c).0) {
                let name = part.name.strip_suffix(".weight").unwrap_or(&part.name).to_string();
                out.insert(name, Place { layer, module, part });
            }
        }
    }
    out
}

/// Reads the adapters of `dir` for the base model `config`.
///
/// # Errors
/// Names the file and the setting or tensor that is damaged, not supported or made for another base.
pub fn load(dir: &Path, config: &ModelConfig) -> Result<Vec<Adapter>, Error> {
    let path = dir.join(CONFIG);
    if !path.exists() {
        return Err(Error::bad(dir, format!("holds no {CONFIG}; is it a PEFT adapter?")));
    }
    let settings = Settings::read(&read_json(&path)?).map_err(|e| Error::bad(&path, e))?;
    let path = dir.join(WEIGHTS);
    if !path.exists() && dir.join("adapter_model.bin").exists() {
        let hint = "holds adapter_model.bin only; save it with safe_serialization=True";
        return Err(Error::bad(dir, hint));
    }
    let bad = |problem: String| Error::bad(&path, problem);
    let mut factors: BTreeMap<String, [Option<Tensor>; 2]> = BTreeMap::new();
    for t in load_tensors(&path)?.tensors {
        let (module, side) = split(&t.name).ok_or_else(|| {
            let kinds = "embedding adapters, biases and saved modules are not supported";
            bad(format!("tensor `{}` is no lora_A or lora_B of a linear layer; {kinds}", t.name))
        })?;
        factors.entry(module).or_default()[side] = Some(t);
    }
    let places = places(config);
    let mut out = Vec::new();
    for (module, sides) in factors {
        let [Some(a), Some(b)] = sides else {
            let present = sides.into_iter().flatten().next().map_or(String::new(), |t| t.name);
            return Err(bad(format!("tensor `{present}` has no partner")));
        };
        let place = places.get(&module).or_else(|| {
            let ends = format!(".{module}");
            places.iter().find(|(name, _)| name.ends_with(&ends)).map(|(_, p)| p)
        });
        let place = place.ok_or_else(|| bad(unknown(config, &settings, &a.name, &module)))?;
        out.push(adapter(config, &settings, place, &module, a, b).map_err(bad)?);
    }
    out.sort_by_key(|a| (a.layer, a.module, a.offset));
    Ok(out)
}

/// The module of a factor, and 0 for A, 1 for B.
fn split(name: &str) -> Option<(String, usize)> {
    let name = name.strip_prefix("base_model.model.").unwrap_or(name).strip_suffix(".weight")?;
    let name = name.strip_suffix(".default").unwrap_or(name);
    let side = |suffix: &str, side| name.strip_suffix(suffix).map(|m| (m.to_string(), side));
    side(".lora_A", 0).or_else(|| side(".lora_B", 1))
}

fn unknown(c: &ModelConfig, s: &Settings, tensor: &str, module: &str) -> String {
    let known: BTreeSet<String> = places(c).keys().map(|m| short(m).to_string()).collect();
    let known: Vec<String> = known.into_iter().collect();
    format!(
        "tensor `{tensor}` sits on `{module}`, which the base ({:?}, {} layers) does not have or which takes no \
         adapter; supported: {}; the adapter was made for `{}`",
        c.arch,
        c.layers,
        known.join(", "),
        s.base
    )
}

fn adapter(
    c: &ModelConfig,
    settings: &Settings,
    place: &Place,
    module: &str,
    a: Tensor,
    b: Tensor,
) -> Result<Adapter, String> {
    let rank = a.shape.first().copied().unwrap_or(0);
    let (n, k) = (place.part.rows.len(), place.module.shape(c).1);
    for (t, want) in [(&a, [rank, k]), (&b, [n, rank])] {
        if t.shape != want || rank == 0 {
            return Err(format!(
                "tensor `{}` has shape {:?}, this base needs {want:?}; the adapter was made for `{}`",
                t.name, t.shape, settings.base
            ));
        }
    }
    let scale = settings.scale(module, rank).map_err(|e| format!("tensor `{}` {e}", a.name))?;
    Ok(Adapter {
        layer: place.layer,
        module: place.module,
        offset: place.part.rows.start,
        rank,
        scale,
        a: a.data,
        b: place.part.canonical_rows(c, &b.data, rank),
    })
}
