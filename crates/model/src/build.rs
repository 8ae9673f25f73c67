//! A model's weights: random, or from a source of canonical tensors.

use crate::{init::Rng, lora::Lora};
use autograd::{AttentionShape, Linear, ParamId, ParamKind, Params};
use device::Device;
use formats::{Act, ModelConfig, Norm, Weight};

/// How the linear layers inside the blocks are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// Dense f32: trainable.
    F32,
    /// LLM.int8 with the given outlier threshold x 1000 (6000 = 6.0), the output layer in bf16; frozen, train
    /// adapters on top.
    Int8 {
        /// Outlier threshold in thousandths.
        threshold_milli: u32,
    },
}

impl Precision {
    /// LLM.int8 with the paper's threshold of 6.0.
    pub const INT8: Precision = Precision::Int8 { threshold_milli: 6000 };

    pub(crate) fn threshold(self) -> f32 {
        match self {
            Precision::F32 => 0.0,
            Precision::Int8 { threshold_milli } => threshold_milli as f32 / 1000.0,
        }
    }
}

/// Weight and bias of a norm.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NormIds {
    pub weight: ParamId,
    pub bias: Option<ParamId>,
}

/// One transformer block's weights.
pub(crate) struct Layer {
    pub norm1: NormIds,
    pub norm2: NormIds,
    pub qkv: Linear,
    pub attn_out: Linear,
    pub mlp_up: Linear,
    pub mlp_down: Linear,
}

/// A causal language model: configuration, weights and, when attached, adapters.
pub struct Model {
    /// The architecture.
    pub config: ModelConfig,
    /// All weights, adapters and heads included.
    pub params: Params,
    /// How the blocks' linear layers are held.
    pub precision: Precision,
    /// Compute blocks again in the backward pass instead of keeping their activations.
    pub checkpointing: bool,
    pub(crate) embed: ParamId,
    pub(crate) positions: Option<ParamId>,
    pub(crate) layers: Vec<Layer>,
    pub(crate) final_norm: NormIds,
    pub(crate) head: ParamId,
    pub(crate) lora: Option<Lora>,
}

/// Where weights come from: canonical `(name, rows, cols)` to row-major f32 elements.
pub type Source<'a, E> = &'a mut dyn FnMut(&str, usize, usize) -> Result<Vec<f32>, E>;

/// As [`Source`], but blocks' linear layers may come in int8.
pub type Weights<'a, E> = &'a mut dyn FnMut(&str, usize, usize) -> Result<Weight, E>;

/// A canonical tensor wanted from a source: name, rows, columns.
struct Wanted<'a, E> {
    params: Params,
    precision: Precision,
    source: Weights<'a, E>,
}

impl<E> Wanted<'_, E> {
    fn dense(&mut self, name: &str, rows: usize, cols: usize) -> Result<Vec<f32>, E> {
        Ok((self.source)(name, rows, cols)?.into_dense())
    }

    fn plain(&mut self, name: &str, rows: usize, cols: usize) -> Result<ParamId, E> {
        let data = self.dense(name, rows, cols)?;
        Ok(self.params.add(name, rows, cols, ParamKind::Plain, &data))
    }

    fn matrix(&mut self, name: &str, rows: usize, cols: usize) -> Result<ParamId, E> {
        let data = self.dense(name, rows, cols)?;
        Ok(self.params.add(name, rows, cols, ParamKind::Linear, &data))
    }

    fn norm(&mut self, name: &str, config: &ModelConfig) -> Result<NormIds, E> {
        let weight = self.plain(&format!("{name}.weight"), 1, config.hidden)?;
        let bias = match config.norm {
            Norm::Layer => Some(self.plain(&format!("{name}.bias"), 1, config.hidden)?),
            Norm::Rms => None,
        };
        Ok(NormIds { weight, bias })
    }

    fn linear(&mut self, name: &str, rows: usize, cols: usize, bias: bool) -> Result<Linear, E> {
        let weight_name = format!("{name}.weight");
        let weight = match self.precision {
            Precision::F32 => self.matrix(&weight_name, rows, cols)?,
            Precision::Int8 { .. } => match (self.source)(&weight_name, rows, cols)? {
                Weight::Dense(data) => self.params.add_int8(&weight_name, rows, cols, &data),
                Weight::Int8 { q, scb } => self.params.add_quantized(&weight_name, rows, cols, &q, &scb),
            },
        };
        let bias = if bias { Some(self.plain(&format!("{name}.bias"), 1, rows)?) } else { None };
        Ok(Linear { weight, bias, lora: Vec::new(), threshold: self.precision.threshold() })
    }
}

impl Model {
    /// Builds a model from a source of canonical tensors `(name, rows, cols) -> row-major f32`, one at a
    /// time: with int8 precision no more than one dense layer is in memory at once.
    pub fn from_source<E>(
        device: &Device,
        config: ModelConfig,
        precision: Precision,
        source: Source<'_, E>,
    ) -> Result<Model, E> {
        Model::from_weights(device, config, precision, &mut |name, rows, cols| {
            source(name, rows, cols).map(Weight::Dense)
        })
    }

    /// As [`Model::from_source`]; what comes in int8 stays int8 in that precision, bit for bit.
    pub fn from_weights<E>(
        device: &Device,
        config: ModelConfig,
        precision: Precision,
        source: Weights<'_, E>,
    ) -> Result<Model, E> {
        let c = &config;
        let mut w = Wanted { params: Params::new(device), precision, source };
        let embed = if c.tie_embeddings { Wanted::matrix } else { Wanted::plain };
        let embed = embed(&mut w, "embed", c.vocab, c.hidden)?;
        let positions = match c.rotary_dim {
            0 => Some(w.plain("positions", c.max_positions, c.hidden)?),
            _ => None,
        };
        let mut layers = Vec::with_capacity(c.layers);
        let (attn, up) = (c.heads * c.head_dim, if c.act == Act::SwiGlu { 2 } else { 1 } * c.intermediate);
        let qkv = (c.heads + 2 * c.kv_heads) * c.head_dim;
        for i in 0..c.layers {
            let at = |name: &str| format!("layers.{i}.{name}");
            layers.push(Layer {
                norm1: w.norm(&at("norm1"), c)?,
                norm2: w.norm(&at("norm2"), c)?,
                qkv: w.linear(&at("qkv"), qkv, c.hidden, c.attention_bias)?,
                attn_out: w.linear(&at("attn_out"), c.hidden, attn, c.attention_bias)?,
                mlp_up: w.linear(&at("mlp_up"), up, c.hidden, c.mlp_bias)?,
                mlp_down: w.linear(&at("mlp_down"), c.hidden, c.intermediate, c.mlp_bias)?,
            });
        }
        let final_norm = w.norm("final_norm", c)?;
        let head = if c.tie_embeddings { embed } else { w.matrix("head", c.vocab, c.hidden)? };
        let mut params = w.params;
        if let Precision::Int8 { .. } = precision {
            params.to_bf16(head, c.tie_embeddings);
        }
        params.pack();
        Ok(Model {
            config,
            params,
            precision,
            checkpointing: false,
            embed,
            positions,
            layers,
            final_norm,
            head,
            lora: None,
        })
    }

    /// A model with random weights: normal with deviation 0.02, residual outputs scaled by 1/sqrt(2 layers)
    /// (Radford et al. 2019, section 2.3).
    pub fn random(device: &Device, config: ModelConfig, seed: u64) -> Model {
        Model::random_in(device, config, Precision::F32, seed)
    }

    /// As [`Model::random`] in another precision: no more than one dense layer is in memory at once.
    pub fn random_in(device: &Device, config: ModelConfig, precision: Precision, seed: u64) -> Model {
        let residual_std = 0.02 / (2.0 * config.layers.max(1) as f32).sqrt();
        let mut source = |name: &str, rows: usize, cols: usize| {
            let n = rows * cols;
            Ok::<_, std::convert::Infallible>(if name.ends_with(".bias") {
                vec![0.0; n]
            } else if name.contains("norm") {
                vec![1.0; n]
            } else if name.contains("attn_out") || name.contains("mlp_down") {
                Rng::new(seed, name).normals(n, residual_std)
            } else {
                Rng::new(seed, name).normals(n, 0.02)
            })
        };
        match Model::from_source(device, config, precision, &mut source) {
            Ok(model) => model,
            Err(never) => match never {},
        }
    }

    /// Holds the blocks' linear layers as int8 and the output layer as bf16 from now on (frozen).
    pub fn quantize(&mut self, precision: Precision) {
        let Precision::Int8 { .. } = precision else { return };
        self.precision = precision;
        for layer in &mut self.layers {
            for linear in [&mut layer.qkv, &mut layer.attn_out, &mut layer.mlp_up, &mut layer.mlp_down] {
                linear.threshold = precision.threshold();
                self.params.quantize(linear.weight);
            }
        }
        self.params.to_bf16(self.head, self.config.tie_embeddings);
    }

    /// The device of the weights.
    pub fn device(&self) -> &Device {
        self.params.device()
    }

    /// Number of weights of the base model (without adapters and heads).
    pub fn base_len(&self) -> usize {
        self.params.iter().filter(|(_, p)| is_base(&p.name)).map(|(_, p)| p.len()).sum()
    }

    /// The base weights by canonical name, for saving.
    pub fn base_params(&self) -> impl Iterator<Item = &autograd::Param> {
        self.params.iter().map(|(_, p)| p).filter(|p| is_base(&p.name))
    }

    pub(crate) fn attention_shape(&self) -> AttentionShape {
        let c = &self.config;
        AttentionShape {
            heads: c.heads,
            kv_heads: c.kv_heads,
            head_dim: c.head_dim,
            rotary_dim: c.rotary_dim,
            theta: c.rope_theta,
        }
    }

    /// The output layer's weight `[vocab, hidden]`.
    pub fn head(&self) -> ParamId {
        self.head
    }
}

/// Whether a parameter belongs to the base model.
pub fn is_base(name: &str) -> bool {
    !name.contains(".lora.") && !name.starts_with("heads.")
}
