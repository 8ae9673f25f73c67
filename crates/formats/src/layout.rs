//! Canonical tensors and how each family stores them.
//!
//! Canonical: weights `[out, in]`; `qkv` rows are query heads, key heads, value heads; `mlp_up` of a gated MLP
//! is gate over up.

use crate::config::{Act, Arch, ModelConfig, Norm};
use std::ops::Range;

/// Reads one tensor of a file: name and expected elements in, elements out.
pub(crate) type Get<'a, E> = &'a mut dyn FnMut(&str, &[usize]) -> Result<Vec<f32>, E>;

/// The canonical names, rows and columns of a model, in order.
pub fn canonical(c: &ModelConfig) -> Vec<(String, usize, usize)> {
    let mut out = vec![("embed".to_string(), c.vocab, c.hidden)];
    if c.rotary_dim == 0 {
        out.push(("positions".into(), c.max_positions, c.hidden));
    }
    for i in 0..c.layers {
        for norm in ["norm1", "norm2"] {
            push_norm(&mut out, &format!("layers.{i}.{norm}"), c);
        }
        for module in Module::ALL {
            let ((n, k), name) = (module.shape(c), module.name());
            out.push((format!("layers.{i}.{name}.weight"), n, k));
            let attention = matches!(module, Module::Qkv | Module::AttnOut);
            if if attention { c.attention_bias } else { c.mlp_bias } {
                out.push((format!("layers.{i}.{name}.bias"), 1, n));
            }
        }
    }
    push_norm(&mut out, "final_norm", c);
    if !c.tie_embeddings {
        out.push(("head".into(), c.vocab, c.hidden));
    }
    out
}

fn push_norm(out: &mut Vec<(String, usize, usize)>, name: &str, c: &ModelConfig) {
    out.push((format!("{name}.weight"), 1, c.hidden));
    if c.norm == Norm::Layer {
        out.push((format!("{name}.bias"), 1, c.hidden));
    }
}

/// The blocks' linear layers, which carry adapters and int8 weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Module {
    /// Query, key and value rows.
    Qkv,
    /// The attention's output.
    AttnOut,
    /// The MLP's input; gate over up when it is gated.
    MlpUp,
    /// The MLP's output.
    MlpDown,
}

impl Module {
    /// All four, in the order of a block.
    pub const ALL: [Module; 4] = [Module::Qkv, Module::AttnOut, Module::MlpUp, Module::MlpDown];

    /// The canonical name, as in `layers.3.qkv.weight`.
    pub fn name(self) -> &'static str {
        match self {
            Module::Qkv => "qkv",
            Module::AttnOut => "attn_out",
            Module::MlpUp => "mlp_up",
            Module::MlpDown => "mlp_down",
        }
    }

    /// Rows and columns of the weight `[out, in]`.
    pub fn shape(self, c: &ModelConfig) -> (usize, usize) {
        let up = if c.act == Act::SwiGlu { 2 * c.intermediate } else { c.intermediate };
        match self {
            Module::Qkv => ((c.heads + 2 * c.kv_heads) * c.head_dim, c.hidden),
            Module::AttnOut => (c.hidden, c.heads * c.head_dim),
            Module::MlpUp => (up, c.hidden),
            Module::MlpDown => (c.hidden, c.intermediate),
        }
    }
}

/// How a stored tensor holds its canonical rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// As they are.
    Same,
    /// GPT-2's `Conv1D`: `[in, out]`.
    Transposed,
    /// GPT-NeoX's query_key_value: rows `[heads, 3, head_dim]`.
    Interleaved,
}

/// One stored tensor of a canonical one.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    /// Name in the file.
    pub name: String,
    /// Its canonical rows (elements, of a vector).
    pub rows: Range<usize>,
    /// How they lie.
    pub order: Order,
}

impl Part {
    fn shape(&self, cols: Option<usize>) -> Vec<usize> {
        match (cols, self.order) {
            (None, _) => vec![self.rows.len()],
            (Some(k), Order::Transposed) => vec![k, self.rows.len()],
            (Some(k), _) => vec![self.rows.len(), k],
        }
    }

    /// Stored rows of `k` elements, in the canonical order.
    pub fn canonical_rows<T: Copy>(&self, c: &ModelConfig, stored: &[T], k: usize) -> Vec<T> {
        match self.order {
            Order::Interleaved => {
                let row = |r| &stored[interleaved_row(c, r) * k..][..k];
                (0..self.rows.len()).flat_map(row).copied().collect()
            }
            Order::Same | Order::Transposed => stored.to_vec(),
        }
    }

    /// This part's canonical rows of `k` elements, in the stored order.
    pub fn stored_rows<T: Copy>(&self, c: &ModelConfig, canonical: &[T], k: usize) -> Vec<T> {
        let mut out = canonical.to_vec();
        if self.order == Order::Interleaved {
            for (r, row) in canonical.chunks_exact(k.max(1)).enumerate() {
                out[interleaved_row(c, r) * k..][..k].copy_from_slice(row);
            }
        }
        out
    }
}

/// The stored tensors that make up a canonical one of `n` rows (elements, of a vector), from top to bottom.
pub(crate) fn parts(c: &ModelConfig, canonical: &str, n: usize) -> Vec<Part> {
    let whole = |name: String, order| vec![Part { name, rows: 0..n, order }];
    let mut pieces = canonical.splitn(3, '.');
    let (layer, rest) = match (pieces.next(), pieces.next(), pieces.next()) {
        (Some("layers"), Some(i), Some(rest)) => (i, rest),
        _ => return whole(outer(c.arch, canonical).to_string(), Order::Same),
    };
    let (module, kind) = rest.split_once('.').unwrap_or((rest, ""));
    match c.arch {
        Arch::GptNeox => {
            let name = match module {
                "norm1" => "input_layernorm",
                "norm2" => "post_attention_layernorm",
                "qkv" => "attention.query_key_value",
                "attn_out" => "attention.dense",
                "mlp_up" => "mlp.dense_h_to_4h",
                _ => "mlp.dense_4h_to_h",
            };
            let order = if module == "qkv" { Order::Interleaved } else { Order::Same };
            whole(format!("gpt_neox.layers.{layer}.{name}.{kind}"), order)
        }
        Arch::Gpt2 => {
            let name = match module {
                "norm1" => "ln_1",
                "norm2" => "ln_2",
                "qkv" => "attn.c_attn",
                "attn_out" => "attn.c_proj",
                "mlp_up" => "mlp.c_fc",
                _ => "mlp.c_proj",
            };
            let linear = kind == "weight" && !module.starts_with("norm");
            let order = if linear { Order::Transposed } else { Order::Same };
            whole(format!("transformer.h.{layer}.{name}.{kind}"), order)
        }
        Arch::Llama => {
            let at = |name: &str| format!("model.layers.{layer}.{name}.{kind}");
            let (q, kv, f) = (c.heads * c.head_dim, c.kv_heads * c.head_dim, c.intermediate);
            let stacked = |names: &[(&str, usize)]| {
                let mut end = 0;
                let part = |(name, n): &(&str, usize)| {
                    end += n;
                    Part { name: at(name), rows: end - n..end, order: Order::Same }
                };
                names.iter().map(part).collect()
            };
            match module {
                "norm1" => whole(at("input_layernorm"), Order::Same),
                "norm2" => whole(at("post_attention_layernorm"), Order::Same),
                "qkv" => {
                    stacked(&[("self_attn.q_proj", q), ("self_attn.k_proj", kv), ("self_attn.v_proj", kv)])
                }
                "attn_out" => whole(at("self_attn.o_proj"), Order::Same),
                "mlp_up" => stacked(&[("mlp.gate_proj", f), ("mlp.up_proj", f)]),
                _ => whole(at("mlp.down_proj"), Order::Same),
            }
        }
    }
}

fn outer(arch: Arch, canonical: &str) -> &'static str {
    match (arch, canonical) {
        (Arch::GptNeox, "embed") => "gpt_neox.embed_in.weight",
        (Arch::GptNeox, "final_norm.weight") => "gpt_neox.final_layer_norm.weight",
        (Arch::GptNeox, "final_norm.bias") => "gpt_neox.final_layer_norm.bias",
        (Arch::GptNeox, "head") => "embed_out.weight",
        (Arch::Gpt2, "embed") => "transformer.wte.weight",
        (Arch::Gpt2, "positions") => "transformer.wpe.weight",
        (Arch::Gpt2, "final_norm.weight") => "transformer.ln_f.weight",
        (Arch::Gpt2, "final_norm.bias") => "transformer.ln_f.bias",
        (Arch::Llama, "embed") => "model.embed_tokens.weight",
        (Arch::Llama, "final_norm.weight") => "model.norm.weight",
        (_, "head") => "lm_head.weight",
        _ => "unknown",
    }
}

/// Where row `r` of a canonical qkv (or element of its bias) lies in GPT-NeoX's interleaved order.
fn interleaved_row(c: &ModelConfig, r: usize) -> usize {
    let (part, rest) = (r / (c.heads * c.head_dim), r % (c.heads * c.head_dim));
    let (head, d) = (rest / c.head_dim, rest % c.head_dim);
    (head * 3 + part) * c.head_dim + d
}

/// Rows, and columns where it is a matrix.
fn dims(rows: usize, cols: usize, canonical: &str) -> (usize, Option<usize>) {
    let vector = canonical.ends_with(".bias") || canonical.contains("norm");
    if vector { (rows * cols, None) } else { (rows, Some(cols)) }
}

/// A canonical tensor from the stored ones.
pub(crate) fn import<E>(
    c: &ModelConfig,
    canonical: &str,
    rows: usize,
    cols: usize,
    get: Get<'_, E>,
) -> Result<Vec<f32>, E> {
    let (n, cols) = dims(rows, cols, canonical);
    let k = cols.unwrap_or(1);
    let mut out = Vec::with_capacity(n * k);
    for part in parts(c, canonical, n) {
        let data = get(&part.name, &part.shape(cols))?;
        match part.order {
            Order::Transposed => out.extend(transpose(&data, k, part.rows.len())),
            _ => out.extend(part.canonical_rows(c, &data, k)),
        }
    }
    Ok(out)
}

/// Names and shapes of the stored tensors of a canonical one.
pub(crate) fn stored_shapes(
    c: &ModelConfig,
    canonical: &str,
    rows: usize,
    cols: usize,
) -> Vec<(String, Vec<usize>)> {
    let (n, cols) = dims(rows, cols, canonical);
    parts(c, canonical, n).into_iter().map(|p| (p.name.clone(), p.shape(cols))).collect()
}

/// The elements of the stored tensors of a canonical one, in the order of [`stored_shapes`].
pub(crate) fn export(
    c: &ModelConfig,
    canonical: &str,
    rows: usize,
    cols: usize,
    data: &[f32],
) -> Vec<Vec<f32>> {
    let (n, cols) = dims(rows, cols, canonical);
    let k = cols.unwrap_or(1);
    let stored = |p: Part| {
        let rows = &data[p.rows.start * k..p.rows.end * k];
        match p.order {
            Order::Transposed => transpose(rows, p.rows.len(), k),
            _ => p.stored_rows(c, rows, k),
        }
    };
    parts(c, canonical, n).into_iter().map(stored).collect()
}

fn transpose(x: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    (0..cols).flat_map(|j| (0..rows).map(move |i| x[i * cols + j])).collect()
}
