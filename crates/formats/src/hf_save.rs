//! Hugging Face model folders, written tensor by tensor.

use crate::{
    Error, ModelConfig, Tokenizer, atomic_write,
    int8::quantize,
    layout::{Module, canonical, export, parts, stored_shapes},
    stream::{Element, Entry, Writer},
};
use serde_json::{Value, json};
use std::{fs, path::Path};

/// How the weights of a folder are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// Single precision.
    F32,
    /// Half precision.
    F16,
    /// Brain floating point.
    BF16,
    /// The blocks' linear layers in int8 as bitsandbytes stores them, the rest in half precision.
    Int8,
}

impl Storage {
    fn dense(self) -> (Element, &'static str) {
        match self {
            Storage::F32 => (Element::F32, "float32"),
            Storage::F16 | Storage::Int8 => (Element::F16, "float16"),
            Storage::BF16 => (Element::BF16, "bfloat16"),
        }
    }

    /// A weight as it comes back from a folder of this storage.
    pub fn rounded(self, mut data: Vec<f32>) -> Vec<f32> {
        match self {
            Storage::F32 => {}
            Storage::F16 | Storage::Int8 => {
                data.iter_mut().for_each(|v| *v = half::f16::from_f32(*v).to_f32());
            }
            Storage::BF16 => data.iter_mut().for_each(|v| *v = half::bf16::from_f32(*v).to_f32()),
        }
        data
    }
}

/// A `score` head, which makes a folder one of a `*ForSequenceClassification` model.
#[derive(Debug, Clone, Copy)]
pub struct Score<'a> {
    /// Outputs.
    pub labels: usize,
    /// `[labels, hidden]`.
    pub weight: &'a [f32],
}

/// Gives a canonical tensor by name, rows and columns.
pub type Tensors<'a> = &'a mut dyn FnMut(&str, usize, usize) -> Result<Vec<f32>, Error>;

/// What is written.
#[derive(Clone, Copy)]
pub struct Contents<'a> {
    /// The model's shape.
    pub config: &'a ModelConfig,
    /// Its tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// How weights are stored.
    pub storage: Storage,
    /// A reward model's head; such a folder has no output layer.
    pub score: Option<Score<'a>>,
}

/// Writes a model folder in f32. `get` gives the canonical tensors by name.
///
/// # Errors
/// As [`write_folder`].
pub fn save_folder(
    dir: &Path,
    config: &ModelConfig,
    tokenizer: &Tokenizer,
    get: &mut dyn FnMut(&str) -> Vec<f32>,
) -> Result<(), Error> {
    let contents = Contents { config, tokenizer, storage: Storage::F32, score: None };
    write_folder(dir, contents, &mut |name, _, _| Ok(get(name)))
}

/// Writes a model folder: config.json, generation_config.json, model.safetensors, tokenizer.json. `get` gives the
/// canonical tensors by name, rows and columns; one at a time is in memory.
///
/// # Errors
/// With the file's name; each file is written atomically.
pub fn write_folder(dir: &Path, contents: Contents<'_>, get: Tensors<'_>) -> Result<(), Error> {
    let Contents { config, tokenizer, storage, score } = contents;
    fs::create_dir_all(dir).map_err(Error::io(dir))?;
    write_weights(&dir.join("model.safetensors"), contents, get)?;
    let tokens = tokenizer.tokens();
    let mut json = config.to_hf(storage.dense().1, tokens);
    if let Some(score) = score {
        config.as_classifier(&mut json, score.labels);
    }
    if storage == Storage::Int8 {
        json["quantization_config"] = quantization();
    }
    let mut generation = json!({ "eos_token_id": tokens.eos });
    if let Some(pad) = tokens.pad {
        generation["pad_token_id"] = json!(pad);
    }
    let pretty = |v: &Value| serde_json::to_vec_pretty(v).expect("JSON of JSON");
    atomic_write(&dir.join("generation_config.json"), &[&pretty(&generation)])?;
    tokenizer.save(&dir.join("tokenizer.json"))?;
    // Last: a folder with a config.json is complete.
    atomic_write(&dir.join("config.json"), &[&pretty(&json)])
}

/// bitsandbytes' settings as transformers writes them.
fn quantization() -> Value {
    json!({
        "quant_method": "bitsandbytes", "load_in_8bit": true, "load_in_4bit": false,
        "llm_int8_threshold": 6.0, "llm_int8_has_fp16_weight": false, "llm_int8_skip_modules": null,
        "llm_int8_enable_fp32_cpu_offload": false,
    })
}

/// Whether a canonical tensor is the weight of one of the blocks' linear layers.
fn is_linear(name: &str) -> bool {
    Module::ALL.iter().any(|m| name.strip_suffix(".weight").is_some_and(|n| n.ends_with(m.name())))
}

fn write_weights(path: &Path, contents: Contents<'_>, get: Tensors<'_>) -> Result<(), Error> {
    let Contents { config: c, storage, score, .. } = contents;
    let (element, _) = storage.dense();
    let int8 = |name: &str| storage == Storage::Int8 && is_linear(name);
    let wanted: Vec<_> =
        canonical(c).into_iter().filter(|(name, ..)| score.is_none() || name != "head").collect();
    let mut entries = Vec::new();
    for (name, rows, cols) in &wanted {
        if int8(name) {
            for part in parts(c, name, *rows) {
                let (module, n) = (part.name.strip_suffix(".weight").unwrap_or(&part.name), part.rows.len());
                let entry = |suffix: &str, element, shape| Entry {
                    name: format!("{module}.{suffix}"),
                    element,
                    shape,
                };
                entries.push(entry("weight", Element::I8, vec![n, *cols]));
                entries.push(entry("SCB", Element::F32, vec![n]));
                entries.push(entry("weight_format", Element::U8, vec![]));
            }
        } else {
            let stored = stored_shapes(c, name, *rows, *cols).into_iter();
            entries.extend(stored.map(|(name, shape)| Entry { name, element, shape }));
        }
    }
    if let Some(score) = score {
        entries.push(Entry { name: "score.weight".into(), element, shape: vec![score.labels, c.hidden] });
    }
    let metadata = [("format".to_string(), "pt".to_string())].into();
    let mut writer = Writer::create(path, entries, &metadata)?;
    for (name, rows, cols) in wanted {
        let data = get(&name, rows, cols)?;
        if data.len() != rows * cols {
            let problem = format!("`{name}` was given {} elements, not {rows} x {cols}", data.len());
            return Err(Error::bad(path, problem));
        }
        if int8(&name) {
            put_int8(&mut writer, c, &name, cols, &data)?;
        } else {
            for piece in export(c, &name, rows, cols, &data) {
                writer.put(&piece)?;
            }
        }
    }
    if let Some(score) = score {
        writer.put(score.weight)?;
    }
    writer.finish()
}

fn put_int8(
    writer: &mut Writer,
    c: &ModelConfig,
    name: &str,
    cols: usize,
    data: &[f32],
) -> Result<(), Error> {
    let (q, scb) = quantize(data, cols);
    for part in parts(c, name, scb.len()) {
        let rows = part.rows.clone();
        let q = part.stored_rows(c, &q[rows.start * cols..rows.end * cols], cols);
        writer.put_bytes(bytemuck::cast_slice(&q))?;
        writer.put(&part.stored_rows(c, &scb[rows], 1))?;
        writer.put_bytes(&[0])?;
    }
    Ok(())
}
