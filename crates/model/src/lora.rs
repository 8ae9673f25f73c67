//! Low-rank adapters (arXiv 2106.09685) on any of the blocks' linear layers.

use crate::{build::Model, init::Rng};
use autograd::{LoraSegment, ParamId, ParamKind};
use device::Device;
use formats::Module;
use serde::{Deserialize, Serialize};

/// Which outputs an adapter sits on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// The query rows of the attention input.
    Query,
    /// The key rows.
    Key,
    /// The value rows.
    Value,
    /// The fused query, key and value projection, under one adapter.
    QueryKeyValue,
    /// The attention output projection.
    AttnOut,
    /// The first MLP projection.
    MlpUp,
    /// The second MLP projection.
    MlpDown,
}

/// Size and place of the adapters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoraConfig {
    /// Rank r of each adapter.
    pub rank: usize,
    /// Scale numerator: the adapter's output is multiplied by alpha / rank.
    pub alpha: f32,
    /// Dropout on the adapter's input (off in PPO, where it would bias the ratio).
    pub dropout: f32,
    /// Where adapters sit.
    pub targets: Vec<Target>,
    /// The first block that has adapters; below it nothing is trained, so the backward pass ends there.
    pub first_layer: usize,
}

impl Default for LoraConfig {
    fn default() -> Self {
        LoraConfig {
            rank: 16,
            alpha: 32.0,
            dropout: 0.0,
            targets: vec![Target::Query, Target::Value],
            first_layer: 0,
        }
    }
}

/// The adapters attached to a model.
pub struct Lora {
    /// Their configuration.
    pub config: LoraConfig,
    /// Each adapter.
    pub segments: Vec<Adapter>,
}

/// One adapter: where it sits and its two factors.
#[derive(Debug, Clone, Copy)]
pub struct Adapter {
    /// Layer number.
    pub layer: usize,
    /// Where in the layer.
    pub target: Target,
    /// `[rank, in]`.
    pub a: ParamId,
    /// `[out, rank]`.
    pub b: ParamId,
}

impl Model {
    /// Attaches fresh adapters: A uniform in +-1/sqrt(in) (as PEFT's Kaiming init), B zero, so that the model
    /// is unchanged until the first step.
    ///
    /// # Panics
    /// When adapters are attached already.
    pub fn attach_lora(&mut self, config: &LoraConfig, seed: u64) {
        assert!(self.lora.is_none(), "adapters are attached already");
        let c = &self.config;
        let (q, kv) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
        let scale = config.alpha / config.rank.max(1) as f32;
        let mut segments = Vec::new();
        for layer in config.first_layer..self.layers.len() {
            for target in &config.targets {
                let block = &mut self.layers[layer];
                let (linear, module, part, offset, n_out) = match target {
                    Target::Query => (&mut block.qkv, "qkv", "query", 0, Some(q)),
                    Target::Key => (&mut block.qkv, "qkv", "key", q, Some(kv)),
                    Target::Value => (&mut block.qkv, "qkv", "value", q + kv, Some(kv)),
                    Target::QueryKeyValue => (&mut block.qkv, "qkv", "all", 0, None),
                    Target::AttnOut => (&mut block.attn_out, "attn_out", "all", 0, None),
                    Target::MlpUp => (&mut block.mlp_up, "mlp_up", "all", 0, None),
                    Target::MlpDown => (&mut block.mlp_down, "mlp_down", "all", 0, None),
                };
                let w = self.params.get(linear.weight);
                let (n_in, n_out) = (w.cols, n_out.unwrap_or(w.rows));
                let name = format!("layers.{layer}.{module}.lora.{part}");
                let a = format!("{name}.a");
                let init = Rng::new(seed, &a).uniforms(config.rank * n_in, 1.0 / (n_in as f32).sqrt());
                let a = self.params.add(&a, config.rank, n_in, ParamKind::Plain, &init);
                let zeros = vec![0.0; n_out * config.rank];
                let b = self.params.add(&format!("{name}.b"), n_out, config.rank, ParamKind::Plain, &zeros);
                linear.lora.push(LoraSegment { a, b, col_offset: offset, scale, dropout: None });
                segments.push(Adapter { layer, target: *target, a, b });
            }
        }
        self.lora = Some(Lora { config: config.clone(), segments });
    }

    /// Attaches adapters that come with their own ranks, scales and places, as files hold them.
    ///
    /// # Panics
    /// When adapters are attached already, or do not fit the model (what `formats::peft` reads does).
    pub fn attach_adapters(&mut self, adapters: &[formats::peft::Adapter]) {
        assert!(self.lora.is_none(), "adapters are attached already");
        let first = adapters.first();
        let config = LoraConfig {
            rank: first.map_or(0, |f| f.rank),
            alpha: first.map_or(0.0, |f| f.scale * f.rank as f32),
            dropout: 0.0,
            targets: Vec::new(),
            first_layer: adapters.iter().map(|f| f.layer).min().unwrap_or(0),
        };
        let mut lora = Lora { config, segments: Vec::new() };
        for f in adapters {
            let (q, kv) =
                (self.config.heads * self.config.head_dim, self.config.kv_heads * self.config.head_dim);
            let block = &mut self.layers[f.layer];
            let (linear, whole) = match f.module {
                Module::Qkv => (&mut block.qkv, Target::QueryKeyValue),
                Module::AttnOut => (&mut block.attn_out, Target::AttnOut),
                Module::MlpUp => (&mut block.mlp_up, Target::MlpUp),
                Module::MlpDown => (&mut block.mlp_down, Target::MlpDown),
            };
            let target = match (f.module, f.offset, f.outputs()) {
                (Module::Qkv, 0, n) if n == q => Target::Query,
                (Module::Qkv, at, n) if (at, n) == (q, kv) => Target::Key,
                (Module::Qkv, at, n) if (at, n) == (q + kv, kv) => Target::Value,
                _ => whole,
            };
            let n_in = self.params.get(linear.weight).cols;
            let name = format!("layers.{}.{}.lora.rows{}", f.layer, f.module.name(), f.offset);
            let a = self.params.add(&format!("{name}.a"), f.rank, n_in, ParamKind::Plain, &f.a);
            let b = self.params.add(&format!("{name}.b"), f.outputs(), f.rank, ParamKind::Plain, &f.b);
            linear.lora.push(LoraSegment { a, b, col_offset: f.offset, scale: f.scale, dropout: None });
            lora.segments.push(Adapter { layer: f.layer, target, a, b });
        }
        self.lora = Some(lora);
    }

    /// The attached adapters with their factors, as files hold them.
    pub fn adapters(&self) -> Vec<formats::peft::Adapter> {
        let mut out = Vec::new();
        for (layer, block) in self.layers.iter().enumerate() {
            let linears = [&block.qkv, &block.attn_out, &block.mlp_up, &block.mlp_down];
            for (module, linear) in Module::ALL.into_iter().zip(linears) {
                out.extend(linear.lora.iter().map(|s| formats::peft::Adapter {
                    layer,
                    module,
                    offset: s.col_offset,
                    rank: self.params.get(s.a).rows,
                    scale: s.scale,
                    a: self.params.data(s.a).to_vec(),
                    b: self.params.data(s.b).to_vec(),
                }));
            }
        }
        out
    }

    /// The attached adapters.
    pub fn lora(&self) -> Option<&Lora> {
        self.lora.as_ref()
    }

    /// Trains the adapters and heads only.
    pub fn train_adapters(&mut self) {
        self.params.set_trainable(|name| !crate::build::is_base(name));
    }

    /// Trains every dense weight.
    pub fn train_all(&mut self) {
        self.params.set_trainable(|_| true);
    }

    /// The base weight `name` in f32 with the adapters' product added: W + alpha/rank B A.
    pub fn merged(&self, name: &str) -> Option<Vec<f32>> {
        let id = self.params.find(name)?;
        let mut w = self.params.get(id).to_f32();
        let linears = self.layers.iter().flat_map(|l| [&l.qkv, &l.attn_out, &l.mlp_up, &l.mlp_down]);
        for s in linears.filter(|l| l.weight == id).flat_map(|l| &l.lora) {
            let (a, b) = (self.params.get(s.a), self.params.get(s.b));
            let kernel = lora::LoraMerge { n_in: a.cols, n_out: b.rows, rank: a.rows, scale: s.scale };
            let rows = s.col_offset * a.cols..(s.col_offset + b.rows) * a.cols;
            let (a, b) = (self.params.data(s.a).to_vec(), self.params.data(s.b).to_vec());
            // On the host, where the merged weight goes next.
            let args = lora::LoraMergeArgs { a: (&a).into(), b: (&b).into(), w: (&mut w[rows]).into() };
            Device::cpu().run(&kernel, args);
        }
        Some(w)
    }
}
