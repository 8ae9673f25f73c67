//! Model configurations, and Hugging Face's config.json.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// The model families.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Arch {
    /// GPT-NeoX and Pythia.
    GptNeox,
    /// GPT-2.
    Gpt2,
    /// Llama and its many relatives.
    Llama,
}

/// Normalisation layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Norm {
    /// LayerNorm with bias.
    Layer,
    /// RMSNorm.
    Rms,
}

/// MLP activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Act {
    /// Exact GELU.
    Gelu,
    /// GELU's tanh approximation.
    GeluTanh,
    /// silu(gate) * up.
    SwiGlu,
}

/// Everything that fixes a model's shape and mathematics.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelConfig {
    /// Family.
    pub arch: Arch,
    /// Tokens.
    pub vocab: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Blocks.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Elements per head.
    pub head_dim: usize,
    /// Width of the MLP.
    pub intermediate: usize,
    /// Longest sequence.
    pub max_positions: usize,
    /// Normalisation.
    pub norm: Norm,
    /// Added to the variance.
    pub norm_eps: f32,
    /// Activation.
    pub act: Act,
    /// x + attn(x) + mlp(x) instead of one after the other.
    pub parallel_residual: bool,
    /// Rotating elements per head; 0 = learned positions.
    pub rotary_dim: usize,
    /// Rotary base.
    pub rope_theta: f32,
    /// The output layer is the embedding.
    pub tie_embeddings: bool,
    /// Biases on the attention projections.
    pub attention_bias: bool,
    /// Biases on the MLP projections.
    pub mlp_bias: bool,
}

/// Fields of a config.json with errors that name them.
struct Fields<'a>(&'a Map<String, Value>);

impl Fields<'_> {
    fn int(&self, name: &str) -> Result<usize, String> {
        match self.0.get(name) {
            Some(v) => {
                v.as_u64().map(|n| n as usize).ok_or(format!("`{name}` is {v}, expected a whole number"))
            }
            None => Err(format!("`{name}` is missing")),
        }
    }
    fn int_or(&self, name: &str, default: usize) -> Result<usize, String> {
        if self.0.get(name).is_none_or(Value::is_null) { Ok(default) } else { self.int(name) }
    }
    fn float_or(&self, name: &str, default: f64) -> Result<f32, String> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(default as f32),
            Some(v) => v.as_f64().map(|n| n as f32).ok_or(format!("`{name}` is {v}, expected a number")),
        }
    }
    fn flag_or(&self, name: &str, default: bool) -> Result<bool, String> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(default),
            Some(v) => v.as_bool().ok_or(format!("`{name}` is {v}, expected true or false")),
        }
    }
    fn act(&self, name: &str, default: &str) -> Result<Act, String> {
        match self.0.get(name).and_then(Value::as_str).unwrap_or(default) {
            "gelu" => Ok(Act::Gelu),
            "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" => Ok(Act::GeluTanh),
            "silu" => Ok(Act::SwiGlu),
            other => Err(format!("`{name}` is \"{other}\"; supported: gelu, gelu_new, gelu_fast, silu")),
        }
    }
    /// (rotary base, share of the head that rotates) in the old and the new spelling.
    fn rope(&self, old_base: &str, old_share: &str, share: f64) -> Result<(f32, f32), String> {
        match self.0.get("rope_parameters").and_then(Value::as_object) {
            Some(p) => {
                if let Some(kind) = p.get("rope_type").and_then(Value::as_str).filter(|k| *k != "default") {
                    return Err(format!(
                        "`rope_parameters.rope_type` is \"{kind}\"; only \"default\" is supported"
                    ));
                }
                let p = Fields(p);
                Ok((p.float_or("rope_theta", 10_000.0)?, p.float_or("partial_rotary_factor", share)?))
            }
            None => {
                let scaled =
                    |v: &Value| !v.is_null() && v["rope_type"] != "default" && v["type"] != "default";
                if self.0.get("rope_scaling").is_some_and(scaled) {
                    return Err("`rope_scaling` is set; scaled rotary embeddings are not supported".into());
                }
                Ok((self.float_or(old_base, 10_000.0)?, self.float_or(old_share, share)?))
            }
        }
    }
}

impl ModelConfig {
    /// Reads a config.json of a GPT-NeoX, GPT-2 or Llama model, in the form of transformers 4 or 5.
    ///
    /// # Errors
    /// Names the field that is missing, malformed or not supported.
    pub fn from_hf(json: &Value) -> Result<Self, String> {
        let map = json.as_object().ok_or("is not a JSON object")?;
        let f = Fields(map);
        let config = match map.get("model_type").and_then(Value::as_str) {
            Some("gpt_neox") => neox(&f)?,
            Some("gpt2") => gpt2(&f)?,
            Some("llama") => llama(&f)?,
            Some(other) => {
                return Err(format!("`model_type` is \"{other}\"; supported: gpt_neox, gpt2, llama"));
            }
            None => return Err("`model_type` is missing".into()),
        };
        config.validate()?;
        Ok(config)
    }

    /// Checks that the numbers fit together.
    ///
    /// # Errors
    /// Names the field.
    pub fn validate(&self) -> Result<(), String> {
        let sizes = [
            ("vocab", self.vocab),
            ("hidden", self.hidden),
            ("heads", self.heads),
            ("kv_heads", self.kv_heads),
            ("head_dim", self.head_dim),
            ("intermediate", self.intermediate),
            ("max_positions", self.max_positions),
        ];
        for (name, n) in sizes {
            if n == 0 || n > 1 << 24 {
                return Err(format!("`{name}` is {n}"));
            }
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(format!(
                "`heads` ({}) is not a multiple of `kv_heads` ({})",
                self.heads, self.kv_heads
            ));
        }
        if !self.rotary_dim.is_multiple_of(2) || self.rotary_dim > self.head_dim {
            return Err(format!("`rotary_dim` is {} of a head of {}", self.rotary_dim, self.head_dim));
        }
        Ok(())
    }

    /// config.json as transformers 5 writes it (transformers 4 reads the older fields beside them); `dtype` is the
    /// weights' type, `tokens` the special ones.
    pub fn to_hf(&self, dtype: &str, tokens: SpecialTokens) -> Value {
        let share = self.rotary_dim as f64 / self.head_dim as f64;
        let act = match self.act {
            Act::Gelu => "gelu",
            Act::GeluTanh => "gelu_new",
            Act::SwiGlu => "silu",
        };
        let rope =
            json!({ "rope_type": "default", "rope_theta": self.rope_theta, "partial_rotary_factor": share });
        let mut out = match self.arch {
            Arch::GptNeox => json!({
                "model_type": "gpt_neox", "architectures": ["GPTNeoXForCausalLM"],
                "hidden_size": self.hidden, "num_hidden_layers": self.layers, "num_attention_heads": self.heads,
                "intermediate_size": self.intermediate, "max_position_embeddings": self.max_positions,
                "layer_norm_eps": self.norm_eps, "hidden_act": act,
                "use_parallel_residual": self.parallel_residual, "rotary_pct": share,
                "rotary_emb_base": self.rope_theta, "rope_parameters": rope,
                "attention_bias": self.attention_bias,
            }),
            Arch::Gpt2 => json!({
                "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_embd": self.hidden,
                "n_layer": self.layers, "n_head": self.heads, "n_inner": self.intermediate,
                "n_positions": self.max_positions, "n_ctx": self.max_positions,
                "layer_norm_epsilon": self.norm_eps, "activation_function": act,
            }),
            Arch::Llama => json!({
                "model_type": "llama", "architectures": ["LlamaForCausalLM"],
                "hidden_size": self.hidden, "num_hidden_layers": self.layers, "num_attention_heads": self.heads,
                "num_key_value_heads": self.kv_heads, "head_dim": self.head_dim,
                "intermediate_size": self.intermediate, "max_position_embeddings": self.max_positions,
                "rms_norm_eps": self.norm_eps, "hidden_act": act, "rope_theta": self.rope_theta,
                "rope_parameters": { "rope_type": "default", "rope_theta": self.rope_theta },
                "attention_bias": self.attention_bias, "mlp_bias": self.mlp_bias,
            }),
        };
        out["vocab_size"] = json!(self.vocab);
        out["tie_word_embeddings"] = json!(self.tie_embeddings);
        out["torch_dtype"] = json!(dtype);
        out["dtype"] = json!(dtype);
        if let Some(eos) = tokens.eos {
            out["eos_token_id"] = json!(eos);
            out["bos_token_id"] = json!(eos);
        }
        if let Some(pad) = tokens.pad {
            out["pad_token_id"] = json!(pad);
        }
        out
    }

    /// Makes a config.json that of a `*ForSequenceClassification` model with `labels` outputs.
    pub(crate) fn as_classifier(&self, json: &mut Value, labels: usize) {
        let architecture = match self.arch {
            Arch::GptNeox => "GPTNeoXForSequenceClassification",
            Arch::Gpt2 => "GPT2ForSequenceClassification",
            Arch::Llama => "LlamaForSequenceClassification",
        };
        json["architectures"] = json!([architecture]);
        json["num_labels"] = json!(labels);
        let name = |i: usize| match labels {
            1 => "score".to_string(),
            2 => ["negative", "positive"][i].to_string(),
            _ => format!("LABEL_{i}"),
        };
        json["id2label"] = (0..labels).map(|i| (i.to_string(), json!(name(i)))).collect::<Map<_, _>>().into();
        json["label2id"] = (0..labels).map(|i| (name(i), json!(i))).collect::<Map<_, _>>().into();
    }
}

/// Token ids with a meaning of their own, as config.json and generation_config.json name them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Ends a text.
    pub eos: Option<u32>,
    /// Fills up a batch.
    pub pad: Option<u32>,
}

impl SpecialTokens {
    /// Of a config.json or generation_config.json: numbers, or lists whose first number counts.
    pub(crate) fn read(json: &Value, vocab: usize) -> Self {
        let token = |name: &str| {
            let v = &json[name];
            let id = v.as_u64().or_else(|| v.get(0)?.as_u64())?;
            u32::try_from(id).ok().filter(|id| (*id as usize) < vocab)
        };
        SpecialTokens { eos: token("eos_token_id"), pad: token("pad_token_id") }
    }

    /// These, or else those of `other`.
    pub(crate) fn or(self, other: Self) -> Self {
        SpecialTokens { eos: self.eos.or(other.eos), pad: self.pad.or(other.pad) }
    }
}

/// The outputs of a `*ForSequenceClassification` model; none of any other.
pub(crate) fn labels(json: &Value) -> Result<Option<usize>, String> {
    let architecture = json["architectures"][0].as_str().unwrap_or_default();
    if !architecture.ends_with("ForSequenceClassification") {
        return Ok(None);
    }
    let by_name = json["id2label"].as_object().map(|m| m.len() as u64);
    // transformers' default, which it does not write.
    let labels = json["num_labels"].as_u64().or(by_name).unwrap_or(2);
    if labels == 0 || labels > 1 << 16 {
        return Err(format!("`num_labels` is {labels}"));
    }
    Ok(Some(labels as usize))
}

fn neox(f: &Fields<'_>) -> Result<ModelConfig, String> {
    let (hidden, heads) = (f.int("hidden_size")?, f.int("num_attention_heads")?);
    let head_dim = hidden / heads.max(1);
    let (rope_theta, share) = f.rope("rotary_emb_base", "rotary_pct", 0.25)?;
    Ok(ModelConfig {
        arch: Arch::GptNeox,
        vocab: f.int("vocab_size")?,
        hidden,
        layers: f.int("num_hidden_layers")?,
        heads,
        kv_heads: heads,
        head_dim,
        intermediate: f.int("intermediate_size")?,
        max_positions: f.int("max_position_embeddings")?,
        norm: Norm::Layer,
        norm_eps: f.float_or("layer_norm_eps", 1e-5)?,
        act: f.act("hidden_act", "gelu")?,
        parallel_residual: f.flag_or("use_parallel_residual", true)?,
        rotary_dim: (head_dim as f32 * share) as usize,
        rope_theta,
        tie_embeddings: f.flag_or("tie_word_embeddings", false)?,
        attention_bias: f.flag_or("attention_bias", true)?,
        mlp_bias: true,
    })
}

fn gpt2(f: &Fields<'_>) -> Result<ModelConfig, String> {
    let (hidden, heads) = (f.int("n_embd")?, f.int("n_head")?);
    Ok(ModelConfig {
        arch: Arch::Gpt2,
        vocab: f.int("vocab_size")?,
        hidden,
        layers: f.int("n_layer")?,
        heads,
        kv_heads: heads,
        head_dim: hidden / heads.max(1),
        intermediate: f.int_or("n_inner", 4 * hidden)?,
        max_positions: f.int("n_positions")?,
        norm: Norm::Layer,
        norm_eps: f.float_or("layer_norm_epsilon", 1e-5)?,
        act: f.act("activation_function", "gelu_new")?,
        parallel_residual: false,
        rotary_dim: 0,
        rope_theta: 10_000.0,
        tie_embeddings: f.flag_or("tie_word_embeddings", true)?,
        attention_bias: true,
        mlp_bias: true,
    })
}

fn llama(f: &Fields<'_>) -> Result<ModelConfig, String> {
    let (hidden, heads) = (f.int("hidden_size")?, f.int("num_attention_heads")?);
    let head_dim = f.int_or("head_dim", hidden / heads.max(1))?;
    let (rope_theta, share) = f.rope("rope_theta", "partial_rotary_factor", 1.0)?;
    Ok(ModelConfig {
        arch: Arch::Llama,
        vocab: f.int("vocab_size")?,
        hidden,
        layers: f.int("num_hidden_layers")?,
        heads,
        kv_heads: f.int_or("num_key_value_heads", heads)?,
        head_dim,
        intermediate: f.int("intermediate_size")?,
        max_positions: f.int("max_position_embeddings")?,
        norm: Norm::Rms,
        norm_eps: f.float_or("rms_norm_eps", 1e-6)?,
        act: f.act("hidden_act", "silu")?,
        parallel_residual: false,
        rotary_dim: (head_dim as f32 * share) as usize,
        rope_theta,
        tie_embeddings: f.flag_or("tie_word_embeddings", false)?,
        attention_bias: f.flag_or("attention_bias", false)?,
        mlp_bias: f.flag_or("mlp_bias", false)?,
    })
}
