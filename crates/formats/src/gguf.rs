//! GGUF files (versions 2 and 3) of Llama models: metadata, tensors, tokenizer.
//!
//! Every length and offset comes from the file and is checked against it before use.

use crate::{Act, Arch, Error, ModelConfig, Norm, Tokenizer, dequantize, tensors};
use memmap2::Mmap;
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

/// An opened GGUF file; weights are dequantised tensor by tensor.
pub struct Gguf {
    /// The configuration.
    pub config: ModelConfig,
    path: PathBuf,
    map: Mmap,
    metadata: HashMap<String, Meta>,
    tensors: HashMap<String, Info>,
    data: usize,
}

/// A metadata value.
#[derive(Debug, Clone, PartialEq)]
enum Meta {
    Int(i64),
    Float(f64),
    Text(String),
    List(Vec<Meta>),
}

/// Where a tensor lies.
struct Info {
    /// Row length first, as in the file.
    dims: Vec<usize>,
    kind: u32,
    offset: usize,
}

/// A cursor over the header.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

type Parsed<T> = Result<T, String>;

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Parsed<&'a [u8]> {
        let end = self.at.checked_add(n).filter(|e| *e <= self.bytes.len());
        let end = end.ok_or_else(|| format!("ends inside the header, at byte {}", self.at))?;
        let out = &self.bytes[self.at..end];
        self.at = end;
        Ok(out)
    }
    fn array<const N: usize>(&mut self) -> Parsed<[u8; N]> {
        Ok(self.take(N)?.try_into().expect("N bytes"))
    }
    fn u32(&mut self) -> Parsed<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }
    fn u64(&mut self) -> Parsed<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }
    /// A count of things that take at least `least` bytes each: cannot exceed what is left.
    fn count(&mut self, what: &str, least: usize) -> Parsed<usize> {
        let n = self.u64()?;
        let left = (self.bytes.len() - self.at) / least;
        if n > left as u64 {
            return Err(format!("declares {n} {what}, more than the file can hold"));
        }
        Ok(n as usize)
    }
    fn text(&mut self) -> Parsed<String> {
        let n = self.count("characters", 1)?;
        Ok(String::from_utf8_lossy(self.take(n)?).into_owned())
    }
    fn value(&mut self, kind: u32, depth: usize) -> Parsed<Meta> {
        Ok(match kind {
            0 => Meta::Int(self.array::<1>()?[0].into()),
            1 => Meta::Int((self.array::<1>()?[0] as i8).into()),
            2 => Meta::Int(u16::from_le_bytes(self.array()?).into()),
            3 => Meta::Int(i16::from_le_bytes(self.array()?).into()),
            4 => Meta::Int(self.u32()?.into()),
            5 => Meta::Int(i32::from_le_bytes(self.array()?).into()),
            6 => Meta::Float(f32::from_le_bytes(self.array()?).into()),
            7 => Meta::Int(self.array::<1>()?[0].into()),
            8 => Meta::Text(self.text()?),
            9 if depth < 4 => {
                let of = self.u32()?;
                let n = self.count("array elements", 1)?;
                Meta::List((0..n).map(|_| self.value(of, depth + 1)).collect::<Parsed<_>>()?)
            }
            10 => Meta::Int(self.u64()? as i64),
            11 => Meta::Int(i64::from_le_bytes(self.array()?)),
            12 => Meta::Float(f64::from_le_bytes(self.array()?)),
            other => return Err(format!("has metadata of unknown type {other}")),
        })
    }
}

impl Gguf {
    /// Opens a GGUF file of a Llama model.
    ///
    /// # Errors
    /// Names the file and what is damaged or not supported.
    pub fn open(path: &Path) -> Result<Gguf, Error> {
        let map = tensors::map(path)?;
        Self::parse(path, map).map_err(|e| Error::bad(path, e))
    }

    fn parse(path: &Path, map: Mmap) -> Parsed<Gguf> {
        let mut r = Reader { bytes: &map, at: 0 };
        if r.take(4).ok() != Some(b"GGUF") {
            return Err("is not a GGUF file".into());
        }
        let version = r.u32()?;
        if !(2..=3).contains(&version) {
            return Err(format!("is GGUF version {version}; versions 2 and 3 are supported"));
        }
        let n_tensors = r.count("tensors", 24)?;
        let n_metadata = r.count("metadata entries", 13)?;
        let mut metadata = HashMap::new();
        for _ in 0..n_metadata {
            let key = r.text()?;
            let kind = r.u32()?;
            metadata.insert(key, r.value(kind, 0)?);
        }
        let mut tensors = HashMap::new();
        for _ in 0..n_tensors {
            let name = r.text()?;
            let n = r.u32()?;
            if n > 4 {
                return Err(format!("tensor `{name}` has {n} dimensions"));
            }
            let dims = (0..n).map(|_| Ok(r.u64()? as usize)).collect::<Parsed<Vec<_>>>()?;
            let kind = r.u32()?;
            let offset = r.u64()? as usize;
            tensors.insert(name, Info { dims, kind, offset });
        }
        let align = match metadata.get("general.alignment") {
            Some(Meta::Int(n)) if *n > 0 && *n <= 1 << 20 => *n as usize,
            None => 32,
            other => return Err(format!("`general.alignment` is {other:?}")),
        };
        let data = r.at.next_multiple_of(align);
        let config = config(&metadata, &tensors)?;
        Ok(Gguf { config, path: path.to_path_buf(), metadata, tensors, data, map })
    }

    /// A canonical tensor `[rows, cols]`.
    ///
    /// # Errors
    /// Names the file and the tensor that is missing, misplaced or of an unknown type.
    pub fn tensor(&self, name: &str, rows: usize, cols: usize) -> Result<Vec<f32>, Error> {
        self.canonical(name, rows, cols).map_err(|e| Error::bad(&self.path, e))
    }

    fn canonical(&self, name: &str, rows: usize, cols: usize) -> Parsed<Vec<f32>> {
        let c = &self.config;
        let mut parts = name.splitn(3, '.');
        let (layer, module) = match (parts.next(), parts.next(), parts.next()) {
            (Some("layers"), Some(i), Some(rest)) => (i, rest),
            _ => {
                let stored = match name {
                    "embed" => "token_embd.weight",
                    "final_norm.weight" => "output_norm.weight",
                    "head" => "output.weight",
                    other => return Err(format!("tensor `{other}` has no GGUF name")),
                };
                return self.read(stored, rows, cols);
            }
        };
        let at = |stored: &str| format!("blk.{layer}.{stored}.weight");
        match module {
            "norm1.weight" => self.read(&at("attn_norm"), rows, cols),
            "norm2.weight" => self.read(&at("ffn_norm"), rows, cols),
            "qkv.weight" => {
                let kv = c.kv_heads * c.head_dim;
                let mut out = self.rotary_rows(&at("attn_q"), c.heads)?;
                out.extend(self.rotary_rows(&at("attn_k"), c.kv_heads)?);
                out.extend(self.read(&at("attn_v"), kv, cols)?);
                Ok(out)
            }
            "attn_out.weight" => self.read(&at("attn_output"), rows, cols),
            "mlp_up.weight" => {
                let mut out = self.read(&at("ffn_gate"), c.intermediate, cols)?;
                out.extend(self.read(&at("ffn_up"), c.intermediate, cols)?);
                Ok(out)
            }
            "mlp_down.weight" => self.read(&at("ffn_down"), rows, cols),
            other => Err(format!("tensor `{other}` has no GGUF name")),
        }
    }

    /// Query or key rows: the file interleaves the two halves of each head, the engine keeps them apart.
    fn rotary_rows(&self, name: &str, heads: usize) -> Parsed<Vec<f32>> {
        let (d, cols) = (self.config.head_dim, self.config.hidden);
        let stored = self.read(name, heads * d, cols)?;
        let source = |r: usize| {
            let (h, i) = (r / d, r % d);
            let (half, i) = (i / (d / 2), i % (d / 2));
            h * d + 2 * i + half
        };
        Ok((0..heads * d).flat_map(|r| stored[source(r) * cols..][..cols].iter().copied()).collect())
    }

    fn read(&self, name: &str, rows: usize, cols: usize) -> Parsed<Vec<f32>> {
        let info = self.tensors.get(name).ok_or_else(|| format!("tensor `{name}` is missing"))?;
        let want = if rows == 1 { vec![cols] } else { vec![cols, rows] };
        if info.dims != want {
            return Err(format!("tensor `{name}` has dimensions {:?}, expected {want:?}", info.dims));
        }
        let kind = dequantize::kind(info.kind).ok_or_else(|| {
            format!("tensor `{name}` has type {}; supported: {}", info.kind, dequantize::NAMES)
        })?;
        let n = rows * cols;
        if !cols.is_multiple_of(kind.block) {
            return Err(format!("tensor `{name}`: rows of {cols} are not whole blocks of {}", kind.block));
        }
        let bytes = n / kind.block * kind.bytes;
        let start = self.data.checked_add(info.offset);
        let range = start.and_then(|s| Some(s..s.checked_add(bytes)?)).filter(|r| r.end <= self.map.len());
        let range =
            range.ok_or_else(|| format!("tensor `{name}` lies past the end; the file is truncated"))?;
        let mut out = Vec::with_capacity(n);
        for block in self.map[range].chunks_exact(kind.bytes) {
            (kind.read)(block, &mut out);
        }
        Ok(out)
    }

    /// The file's byte-level BPE tokenizer.
    ///
    /// # Errors
    /// When it is missing, its kind is not supported, or it has tokens beyond the embedding.
    pub fn tokenizer(&self) -> Result<Tokenizer, Error> {
        let bad = |e: String| Error::bad(&self.path, e);
        let json = self.tokenizer_json().map_err(bad)?;
        let tokenizer = Tokenizer::from_json(&json).map_err(|e| bad(format!("tokenizer: {e}")))?;
        tokenizer.fits(&self.config).map_err(bad)?;
        Ok(tokenizer)
    }

    fn tokenizer_json(&self) -> Parsed<Value> {
        let text = |key: &str| match self.metadata.get(key) {
            Some(Meta::Text(t)) => Ok(t.as_str()),
            _ => Err(format!("`{key}` is missing")),
        };
        let texts = |key: &str| match self.metadata.get(key) {
            Some(Meta::List(l)) => {
                Ok(l.iter().filter_map(|m| if let Meta::Text(t) = m { Some(t) } else { None }))
            }
            _ => Err(format!("`{key}` is missing")),
        };
        let kind = text("tokenizer.ggml.model")?;
        if kind != "gpt2" {
            return Err(format!(
                "`tokenizer.ggml.model` is \"{kind}\"; only byte-level BPE (\"gpt2\") is supported"
            ));
        }
        let level = |regex: bool| json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex });
        let split = |pattern: &str| json!({ "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false });
        let sequence = |a: Value, b: Value| json!({ "type": "Sequence", "pretokenizers": [a, b] });
        let pre = match text("tokenizer.ggml.pre").unwrap_or("default") {
            "smollm" => sequence(json!({ "type": "Digits", "individual_digits": true }), level(true)),
            "gpt-2" | "default" => level(true),
            "llama-bpe" => sequence(split(LLAMA_SPLIT), level(false)),
            other => {
                return Err(format!(
                    "`tokenizer.ggml.pre` is \"{other}\"; supported: smollm, gpt-2, llama-bpe"
                ));
            }
        };
        let vocab: HashMap<&String, usize> =
            texts("tokenizer.ggml.tokens")?.enumerate().map(|(i, t)| (t, i)).collect();
        let merges: Vec<&String> = texts("tokenizer.ggml.merges")?.collect();
        let types = match self.metadata.get("tokenizer.ggml.token_type") {
            Some(Meta::List(l)) => l.as_slice(),
            _ => &[],
        };
        let special = |i: usize| matches!(types.get(i), Some(Meta::Int(3)));
        let mut added: Vec<(usize, &String)> =
            texts("tokenizer.ggml.tokens")?.enumerate().filter(|(i, _)| special(*i)).collect();
        added.sort_unstable();
        let added: Vec<Value> = added
            .iter()
            .map(|(id, t)| {
                json!({ "id": id, "content": t, "single_word": false, "lstrip": false, "rstrip": false,
                        "normalized": false, "special": true })
            })
            .collect();
        Ok(json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
            "pre_tokenizer": pre, "post_processor": null, "decoder": level(true),
            "model": { "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                       "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                       "vocab": vocab, "merges": merges },
        }))
    }
}

/// How Llama 3's tokenizer splits text before merging.
const LLAMA_SPLIT: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

fn config(metadata: &HashMap<String, Meta>, tensors: &HashMap<String, Info>) -> Parsed<ModelConfig> {
    let arch = match metadata.get("general.architecture") {
        Some(Meta::Text(a)) => a.as_str(),
        _ => return Err("`general.architecture` is missing".into()),
    };
    if arch != "llama" {
        return Err(format!("`general.architecture` is \"{arch}\"; only \"llama\" is supported"));
    }
    let int = |key: &str| match metadata.get(&format!("llama.{key}")) {
        Some(Meta::Int(n)) if *n >= 0 => Ok(*n as usize),
        Some(other) => Err(format!("`llama.{key}` is {other:?}")),
        None => Err(format!("`llama.{key}` is missing")),
    };
    let float = |key: &str, default: f64| match metadata.get(&format!("llama.{key}")) {
        Some(Meta::Float(v)) => *v as f32,
        _ => default as f32,
    };
    if let Some(Meta::Text(kind)) = metadata.get("llama.rope.scaling.type")
        && kind != "none"
    {
        return Err(format!(
            "`llama.rope.scaling.type` is \"{kind}\"; scaled rotary embeddings are not supported"
        ));
    }
    let (hidden, heads) = (int("embedding_length")?, int("attention.head_count")?);
    let head_dim = int("attention.key_length").unwrap_or(hidden / heads.max(1));
    let rotary_dim = int("rope.dimension_count").unwrap_or(head_dim);
    if rotary_dim != head_dim {
        return Err(format!(
            "`llama.rope.dimension_count` is {rotary_dim} of heads {head_dim} wide; only whole heads rotate"
        ));
    }
    let embed = tensors.get("token_embd.weight").ok_or("tensor `token_embd.weight` is missing")?;
    let config = ModelConfig {
        arch: Arch::Llama,
        vocab: embed.dims.get(1).copied().unwrap_or(0),
        hidden,
        layers: int("block_count")?,
        heads,
        kv_heads: int("attention.head_count_kv").unwrap_or(heads),
        head_dim,
        intermediate: int("feed_forward_length")?,
        max_positions: int("context_length")?,
        norm: Norm::Rms,
        norm_eps: float("attention.layer_norm_rms_epsilon", 1e-5),
        act: Act::SwiGlu,
        parallel_residual: false,
        rotary_dim,
        rope_theta: float("rope.freq_base", 10_000.0),
        tie_embeddings: !tensors.contains_key("output.weight"),
        attention_bias: false,
        mlp_bias: false,
    };
    config.validate()?;
    Ok(config)
}
