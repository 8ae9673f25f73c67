//! Hugging Face model folders, read.

use crate::{
    Error, ModelConfig, Tokenizer, Weight,
    config::{SpecialTokens, labels},
    layout::{import, parts},
    tensors,
};
use memmap2::Mmap;
use serde_json::Value;
use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

/// An opened model folder; weights are read tensor by tensor from the mapped files.
pub struct Folder {
    /// The configuration. A classifier has no output layer: there it counts as tied to the embedding.
    pub config: ModelConfig,
    /// Special tokens as generation_config.json and config.json name them.
    pub tokens: SpecialTokens,
    /// Outputs of the `score` head of a `*ForSequenceClassification` folder.
    pub labels: Option<usize>,
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
        let path = dir.join("config.json");
        let json = read_json(&path)?;
        let mut config = ModelConfig::from_hf(&json).map_err(|e| Error::bad(&path, e))?;
        let labels = labels(&json).map_err(|e| Error::bad(&path, e))?;
        config.tie_embeddings |= labels.is_some();
        let generation = dir.join("generation_config.json");
        let mut tokens = SpecialTokens::read(&json, config.vocab);
        if generation.exists() {
            tokens = SpecialTokens::read(&read_json(&generation)?, config.vocab).or(tokens);
        }
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
        Ok(Folder { config, tokens, labels, dir: dir.to_path_buf(), files, index })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A canonical tensor `[rows, cols]` in f32; int8 weights are dequantised.
    ///
    /// # Errors
    /// Names the file and the tensor that is missing or has the wrong shape.
    pub fn tensor(&self, name: &str, rows: usize, cols: usize) -> Result<Vec<f32>, Error> {
        Ok(self.weight(name, rows, cols)?.into_dense())
    }

    /// A canonical tensor `[rows, cols]`, int8 where the folder holds it so.
    ///
    /// # Errors
    /// As [`Folder::tensor`].
    pub fn weight(&self, name: &str, rows: usize, cols: usize) -> Result<Weight, Error> {
        if name.ends_with(".weight") && !name.contains("norm") {
            let stored = parts(&self.config, name, rows);
            if stored.iter().all(|p| self.find(&scale_of(&p.name)).is_some()) {
                return self.int8(name, rows, cols);
            }
        }
        import(&self.config, name, rows, cols, &mut |n, shape| self.stored(n, shape)).map(Weight::Dense)
    }

    fn int8(&self, canonical: &str, rows: usize, cols: usize) -> Result<Weight, Error> {
        let (mut q, mut scb) = (Vec::with_capacity(rows * cols), Vec::with_capacity(rows));
        for part in parts(&self.config, canonical, rows) {
            let n = part.rows.len();
            let (name, file) = self.find(&part.name).ok_or_else(|| self.missing(&part.name))?;
            let (path, map) = &self.files[file];
            let parsed = tensors::parse(path, map)?;
            let (bytes, shape) = tensors::read_bytes(path, &parsed, &name)?;
            // Always `[out, in]`, also where GPT-2 stores the dense weight the other way.
            self.check_shape(path, &name, &shape, &[n, cols])?;
            self.check_format(&part.name)?;
            let scales = self.stored(&scale_of(&part.name), &[n])?;
            q.extend(part.canonical_rows(&self.config, bytemuck::cast_slice::<u8, i8>(bytes), cols));
            scb.extend(part.canonical_rows(&self.config, &scales, 1));
        }
        Ok(Weight::Int8 { q, scb })
    }

    /// Rows one after another are format 0; older files may hold the tiles of one GPU generation.
    fn check_format(&self, weight: &str) -> Result<(), Error> {
        let Some((name, file)) = self.find(&format!("{weight}_format")) else { return Ok(()) };
        let (path, map) = &self.files[file];
        let (bytes, _) = tensors::read_bytes(path, &tensors::parse(path, map)?, &name)?;
        match bytes {
            [0] => Ok(()),
            other => {
                let problem = format!("tensor `{name}` is {other:?}; only 0, row-major int8, is supported");
                Err(Error::bad(path, problem))
            }
        }
    }

    /// The stored name and the file of a tensor. Older files leave out the family's prefix; newer GPT-NeoX files
    /// call the head lm_head.
    fn find(&self, name: &str) -> Option<(String, usize)> {
        let short = name.split_once('.').map_or(name, |(_, rest)| rest);
        let renamed = if name == "embed_out.weight" { "lm_head.weight" } else { short };
        [name, renamed].into_iter().find_map(|n| self.index.get(n).map(|f| (n.to_string(), *f)))
    }

    fn missing(&self, name: &str) -> Error {
        Error::bad(&self.dir, format!("tensor `{name}` is in none of the weight files"))
    }

    fn check_shape(&self, path: &Path, name: &str, shape: &[usize], want: &[usize]) -> Result<(), Error> {
        if shape == want {
            return Ok(());
        }
        Err(Error::bad(path, format!("tensor `{name}` has shape {shape:?}, config.json asks for {want:?}")))
    }

    fn stored(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
        let (name, file) = self.find(name).ok_or_else(|| self.missing(name))?;
        let (path, map) = &self.files[file];
        let tensor = tensors::read(path, &tensors::parse(path, map)?, &name)?;
        self.check_shape(path, &name, &tensor.shape, shape)?;
        Ok(tensor.data)
    }

    /// The `score` head's weight `[labels, hidden]` of a `*ForSequenceClassification` folder.
    ///
    /// # Errors
    /// Names the file and the tensor; also when the folder holds another kind of model.
    pub fn score(&self) -> Result<Vec<f32>, Error> {
        let path = self.dir.join("config.json");
        let labels = self
            .labels
            .ok_or_else(|| Error::bad(&path, "`architectures` names no *ForSequenceClassification model"))?;
        self.stored("score.weight", &[labels, self.config.hidden])
    }

    /// The folder's tokenizer; the end-of-text token is the one that generation_config.json or config.json names.
    ///
    /// # Errors
    /// When tokenizer.json is missing or damaged, or has tokens beyond the embedding.
    pub fn tokenizer(&self) -> Result<Tokenizer, Error> {
        let path = self.dir.join("tokenizer.json");
        let tokenizer = Tokenizer::load(&path)?.with_tokens(self.tokens);
        tokenizer.fits(&self.config).map_err(|e| Error::bad(&path, e))?;
        Ok(tokenizer)
    }
}

fn scale_of(weight: &str) -> String {
    format!("{}.SCB", weight.strip_suffix(".weight").unwrap_or(weight))
}

pub(crate) fn read_json(path: &Path) -> Result<Value, Error> {
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
