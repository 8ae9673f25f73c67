//! Hugging Face model folders.

use crate::{
    Error, ModelConfig, Tokenizer, atomic_write,
    layout::{canonical, export, import},
    tensors,
};
use memmap2::Mmap;
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

/// An opened model folder; weights are read tensor by tensor from the mapped files.
pub struct Folder {
    /// The configuration.
    pub config: ModelConfig,
    dir: PathBuf,
    files: Vec<(PathBuf, Mmap)>,
    /// Stored tensor name -> index into `files`.
    index: HashMap<String, usize>,
}

impl Folder {
    /// Opens `dir` with config.json and model.safetensors, single or sharded.
    ///
    /// # Errors
    /// Names the file that is missing, damaged or not supported.
    pub fn open(dir: &Path) -> Result<Folder, Error> {
        let config_path = dir.join("config.json");
        let config =
            ModelConfig::from_hf(&read_json(&config_path)?).map_err(|e| Error::bad(&config_path, e))?;
        let single = dir.join("model.safetensors");
        let names = if single.exists() { vec![single] } else { shards(dir)? };
        let (mut files, mut index) = (Vec::new(), HashMap::new());
        for path in names {
            let map = tensors::map(&path)?;
            for name in tensors::parse(&path, &map)?.names() {
                index.insert(name.to_string(), files.len());
            }
            files.push((path, map));
        }
        Ok(Folder { config, dir: dir.to_path_buf(), files, index })
    }

    /// A canonical tensor `[rows, cols]`.
    ///
    /// # Errors
    /// Names the file and the tensor that is missing or has the wrong shape.
    pub fn tensor(&self, name: &str, rows: usize, cols: usize) -> Result<Vec<f32>, Error> {
        import(&self.config, name, rows, cols, &mut |stored, shape| self.stored(stored, shape))
    }

    fn stored(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
        // Older files leave out the family's prefix; newer GPT-NeoX files call the head lm_head.
        let short = name.split_once('.').map_or(name, |(_, rest)| rest);
        let renamed = if name == "embed_out.weight" { "lm_head.weight" } else { short };
        let found = [name, renamed].into_iter().find_map(|n| self.index.get(n).map(|f| (n, *f)));
        let Some((name, file)) = found else {
            return Err(Error::bad(&self.dir, format!("tensor `{name}` is in none of the weight files")));
        };
        let (path, map) = &self.files[file];
        let tensor = tensors::read(path, &tensors::parse(path, map)?, name)?;
        if tensor.shape != shape {
            let problem =
                format!("tensor `{name}` has shape {:?}, config.json asks for {shape:?}", tensor.shape);
            return Err(Error::bad(path, problem));
        }
        Ok(tensor.data)
    }

    /// The folder's tokenizer.
    ///
    /// # Errors
    /// When tokenizer.json is missing or damaged, or has tokens beyond the embedding.
    pub fn tokenizer(&self) -> Result<Tokenizer, Error> {
        let path = self.dir.join("tokenizer.json");
        let tokenizer = Tokenizer::load(&path)?;
        tokenizer.fits(&self.config).map_err(|e| Error::bad(&path, e))?;
        Ok(tokenizer)
    }
}

fn read_json(path: &Path) -> Result<Value, Error> {
    let bytes = fs::read(path).map_err(Error::io(path))?;
    serde_json::from_slice(&bytes).map_err(|e| Error::bad(path, format!("is not valid JSON: {e}")))
}

fn shards(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let path = dir.join("model.safetensors.index.json");
    if !path.exists() {
        return Err(Error::bad(dir, "holds neither model.safetensors nor model.safetensors.index.json"));
    }
    let index = read_json(&path)?;
    let map = index["weight_map"].as_object().ok_or_else(|| Error::bad(&path, "`weight_map` is missing"))?;
    let mut names: Vec<&str> = map.values().filter_map(Value::as_str).collect();
    names.sort_unstable();
    names.dedup();
    if names.iter().any(|n| n.contains(['/', '\\'])) {
        return Err(Error::bad(&path, "`weight_map` names a file outside the folder"));
    }
    Ok(names.into_iter().map(|n| dir.join(n)).collect())
}

/// Writes a model folder: config.json, generation_config.json, model.safetensors (f32), tokenizer.json.
/// `get` gives the canonical tensors by name.
///
/// # Errors
/// With the file's name; each file is written atomically.
pub fn save_folder(
    dir: &Path,
    config: &ModelConfig,
    tokenizer: &Tokenizer,
    get: &mut dyn FnMut(&str) -> Vec<f32>,
) -> Result<(), Error> {
    fs::create_dir_all(dir).map_err(Error::io(dir))?;
    let mut stored = Vec::new();
    for (name, rows, cols) in canonical(config) {
        stored.extend(export(config, &name, rows, cols, get(&name)));
    }
    let views: Vec<(&str, &[usize], &[f32])> =
        stored.iter().map(|(n, s, d)| (n.as_str(), s.as_slice(), d.as_slice())).collect();
    let metadata = [("format".to_string(), "pt".to_string())].into();
    tensors::save_tensors(&dir.join("model.safetensors"), &views, &metadata)?;
    let pretty = |v: &Value| serde_json::to_vec_pretty(v).expect("JSON of JSON");
    let eos = tokenizer.eos();
    atomic_write(&dir.join("generation_config.json"), &[&pretty(&json!({ "eos_token_id": eos }))])?;
    tokenizer.save(&dir.join("tokenizer.json"))?;
    // Last: a folder with a config.json is complete.
    atomic_write(&dir.join("config.json"), &[&pretty(&config.to_hf(eos))])
}
