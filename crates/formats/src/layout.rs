//! Canonical tensors and how each family stores them.
//!
//! Canonical: weights `[out, in]`; `qkv` rows are query heads, key heads, value heads; `mlp_up` of a gated MLP
//! is gate over up.

use crate::config::{Act, Arch, ModelConfig, Norm};

/// Reads one tensor of a file: name and expected elements in, elements out.
pub(crate) type Get<'a, E> = &'a mut dyn FnMut(&str, &[usize]) -> Result<Vec<f32>, E>;

/// The canonical names and shapes of a model, in order.
pub(crate) fn canonical(c: &ModelConfig) -> Vec<(String, usize, usize)> {
    let mut out = vec![("embed".to_string(), c.vocab, c.hidden)];
    if c.rotary_dim == 0 {
        out.push(("positions".into(), c.max_positions, c.hidden));
    }
    let (attn, qkv) = (c.heads * c.head_dim, (c.heads + 2 * c.kv_heads) * c.head_dim);
    let up = if c.act == Act::SwiGlu { 2 * c.intermediate } else { c.intermediate };
    for i in 0..c.layers {
        for norm in ["norm1", "norm2"] {
            push_norm(&mut out, &format!("layers.{i}.{norm}"), c);
        }
        for (name, n, k, bias) in [
            ("qkv", qkv, c.hidden, c.attention_bias),
            ("attn_out", c.hidden, attn, c.attention_bias),
            ("mlp_up", up, c.hidden, c.mlp_bias),
            ("mlp_down", c.hidden, c.intermediate, c.mlp_bias),
        ] {
            out.push((format!("layers.{i}.{name}.weight"), n, k));
            if bias {
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

/// How stored tensors make up a canonical one.
enum Stored {
    /// One tensor as it is.
    Same(String),
    /// One tensor stored `[in, out]`.
    Transposed(String),
    /// GPT-NeoX's query_key_value: rows `[heads, 3, head_dim]`.
    Interleaved(String),
    /// Several tensors one above the other, each with so many rows.
    Stacked(Vec<(String, usize)>),
}

fn stored(c: &ModelConfig, canonical: &str) -> Stored {
    let mut parts = canonical.splitn(3, '.');
    let (layer, rest) = match (parts.next(), parts.next(), parts.next()) {
        (Some("layers"), Some(i), Some(rest)) => (i, rest),
        _ => return Stored::Same(outer(c.arch, canonical).to_string()),
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
            let name = format!("gpt_neox.layers.{layer}.{name}.{kind}");
            if module == "qkv" { Stored::Interleaved(name) } else { Stored::Same(name) }
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
            let name = format!("transformer.h.{layer}.{name}.{kind}");
            let linear = kind == "weight" && !module.starts_with("norm");
            if linear { Stored::Transposed(name) } else { Stored::Same(name) }
        }
        Arch::Llama => {
            let at = |name: &str| format!("model.layers.{layer}.{name}.{kind}");
            let (q, kv) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
            match module {
                "norm1" => Stored::Same(at("input_layernorm")),
                "norm2" => Stored::Same(at("post_attention_layernorm")),
                "qkv" => Stored::Stacked(vec![
                    (at("self_attn.q_proj"), q),
                    (at("self_attn.k_proj"), kv),
                    (at("self_attn.v_proj"), kv),
                ]),
                "attn_out" => Stored::Same(at("self_attn.o_proj")),
                "mlp_up" => Stored::Stacked(vec![
                    (at("mlp.gate_proj"), c.intermediate),
                    (at("mlp.up_proj"), c.intermediate),
                ]),
                _ => Stored::Same(at("mlp.down_proj")),
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

fn shape_of(rows: usize, cols: usize, canonical: &str) -> Vec<usize> {
    let vector = canonical.ends_with(".bias") || canonical.contains("norm");
    if vector { vec![rows * cols] } else { vec![rows, cols] }
}

/// A canonical tensor from the stored ones.
pub(crate) fn import<E>(
    c: &ModelConfig,
    canonical: &str,
    rows: usize,
    cols: usize,
    get: Get<'_, E>,
) -> Result<Vec<f32>, E> {
    let shape = shape_of(rows, cols, canonical);
    match stored(c, canonical) {
        Stored::Same(name) => get(&name, &shape),
        Stored::Transposed(name) => Ok(transpose(&get(&name, &[cols, rows])?, cols, rows)),
        Stored::Interleaved(name) => {
            let data = get(&name, &shape)?;
            let (n, k) = if shape.len() == 1 { (cols, 1) } else { (rows, cols) };
            Ok((0..n).flat_map(|r| data[interleaved_row(c, r) * k..][..k].iter().copied()).collect())
        }
        Stored::Stacked(parts) => {
            let mut out = Vec::with_capacity(rows * cols);
            for (name, n) in parts {
                out.extend(get(&name, &if shape.len() == 1 { vec![n] } else { vec![n, cols] })?);
            }
            Ok(out)
        }
    }
}

/// The stored tensors `(name, shape, elements)` of a canonical one.
pub(crate) fn export(
    c: &ModelConfig,
    canonical: &str,
    rows: usize,
    cols: usize,
    data: Vec<f32>,
) -> Vec<(String, Vec<usize>, Vec<f32>)> {
    let shape = shape_of(rows, cols, canonical);
    match stored(c, canonical) {
        Stored::Same(name) => vec![(name, shape, data)],
        Stored::Transposed(name) => vec![(name, vec![cols, rows], transpose(&data, rows, cols))],
        Stored::Interleaved(name) => {
            let (n, k) = if shape.len() == 1 { (cols, 1) } else { (rows, cols) };
            let mut out = vec![0.0; data.len()];
            for r in 0..n {
                out[interleaved_row(c, r) * k..][..k].copy_from_slice(&data[r * k..(r + 1) * k]);
            }
            vec![(name, shape, out)]
        }
        Stored::Stacked(parts) => {
            let k = if shape.len() == 1 { 1 } else { cols };
            let mut at = 0;
            let part = |(name, n): (String, usize)| {
                let piece = data[at * k..(at + n) * k].to_vec();
                at += n;
                (name, if shape.len() == 1 { vec![n] } else { vec![n, cols] }, piece)
            };
            parts.into_iter().map(part).collect()
        }
    }
}

fn transpose(x: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    (0..cols).flat_map(|j| (0..rows).map(move |i| x[i * cols + j])).collect()
}
