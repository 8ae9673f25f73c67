//! The forward pass, the same for training, scoring and generation.

use crate::{
    Batch,
    build::{Layer, Model, NormIds},
    generate::KvCache,
};
use autograd::{Linear, Rows, Tape, Var};
use formats::{Act, Norm};

/// What a forward pass runs with.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pass {
    /// Run without the adapters: the frozen reference model.
    pub adapter_off: bool,
    /// Seed of the adapters' dropout; none = dropout off.
    pub dropout: Option<u64>,
    /// Keep only each block's input and compute the block again in the backward pass.
    pub checkpoint: bool,
}

impl Pass {
    /// The frozen reference: adapters off.
    pub const REFERENCE: Pass = Pass { adapter_off: true, dropout: None, checkpoint: false };
}

impl Model {
    /// Final hidden states `[tokens, hidden]`, after the last norm.
    pub fn hidden<'p>(&'p self, tape: &mut Tape<'p>, batch: &Batch, pass: Pass) -> Var {
        let mut x = self.embedded(tape, batch);
        for (i, layer) in self.layers.iter().enumerate() {
            tape.set_layer(Some(i));
            x = if (pass.checkpoint || self.checkpointing) && tape.records() {
                let rows = batch.rows.clone();
                tape.checkpoint(x, move |tape, x| self.block(tape, x, layer, i, pass, &rows, None))
            } else {
                self.block(tape, x, layer, i, pass, &batch.rows, None)
            };
        }
        tape.set_layer(None);
        let y = self.norm(tape, x, self.final_norm);
        tape.release(x);
        y
    }

    /// As [`Model::hidden`], appending the rows to a key-value cache and attending over it.
    pub(crate) fn hidden_cached<'p>(
        &'p self,
        tape: &mut Tape<'p>,
        batch: &Batch,
        pass: Pass,
        cache: &mut KvCache,
    ) -> Var {
        let mut x = self.embedded(tape, batch);
        for (i, layer) in self.layers.iter().enumerate() {
            tape.set_layer(Some(i));
            x = self.block(tape, x, layer, i, pass, &batch.rows, Some(cache));
        }
        tape.set_layer(None);
        x
    }

    /// The last norm, on the rows that are needed.
    pub(crate) fn final_norm<'p>(&'p self, tape: &mut Tape<'p>, x: Var) -> Var {
        self.norm(tape, x, self.final_norm)
    }

    fn embedded<'p>(&'p self, tape: &mut Tape<'p>, batch: &Batch) -> Var {
        let x = tape.embedding(self.embed, &batch.ids);
        match self.positions {
            Some(table) => {
                let y = tape.add_embedding(x, table, &batch.rows.positions);
                tape.release(x);
                y
            }
            None => x,
        }
    }

    fn norm<'p>(&'p self, tape: &mut Tape<'p>, x: Var, ids: NormIds) -> Var {
        let kind = match self.config.norm {
            Norm::Layer => norm_gelu::Norm::Layer,
            Norm::Rms => norm_gelu::Norm::Rms,
        };
        tape.norm(x, kind, ids.weight, ids.bias, self.config.norm_eps)
    }

    /// One block. GPT-NeoX (parallel): x + attn(norm1 x) + mlp(norm2 x); else h = x + attn(norm1 x),
    /// h + mlp(norm2 h). The residual additions ride in the output projections' epilogues.
    fn block<'p>(
        &'p self,
        tape: &mut Tape<'p>,
        x: Var,
        layer: &'p Layer,
        index: usize,
        pass: Pass,
        rows: &Rows,
        cache: Option<&mut KvCache>,
    ) -> Var {
        let n1 = self.norm(tape, x, layer.norm1);
        let qkv = self.linear(tape, "qkv", n1, &layer.qkv, pass, index, None);
        tape.release(n1);
        let shape = self.attention_shape();
        let attended = match cache {
            Some(cache) => tape.attention_cached(qkv, shape, &rows.positions, cache.layer(index)),
            None => tape.attention(qkv, shape, rows),
        };
        tape.release(qkv);
        let h = self.linear(tape, "attn_out", attended, &layer.attn_out, pass, index, Some(x));
        tape.release(attended);
        let n2 = self.norm(tape, if self.config.parallel_residual { x } else { h }, layer.norm2);
        tape.release(x);
        let up = self.linear(tape, "mlp_up", n2, &layer.mlp_up, pass, index, None);
        tape.release(n2);
        let act = match self.config.act {
            Act::Gelu => norm_gelu::Act::Gelu,
            Act::GeluTanh => norm_gelu::Act::GeluTanh,
            Act::SwiGlu => norm_gelu::Act::SwiGlu,
        };
        let a = tape.act(up, act);
        tape.release(up);
        let y = self.linear(tape, "mlp_down", a, &layer.mlp_down, pass, index, Some(h));
        tape.release(a);
        tape.release(h);
        y
    }

    fn linear<'p>(
        &'p self,
        tape: &mut Tape<'p>,
        name: &'static str,
        x: Var,
        linear: &Linear,
        pass: Pass,
        layer: usize,
        residual: Option<Var>,
    ) -> Var {
        if linear.lora.is_empty() {
            return tape.linear(name, x, linear, residual);
        }
        let mut linear = linear.clone();
        if pass.adapter_off {
            linear.lora.clear();
        }
        let p = self.lora.as_ref().map_or(0.0, |l| l.config.dropout);
        for (i, segment) in linear.lora.iter_mut().enumerate() {
            // One mask per layer, module and segment of every pass.
            let salt = (layer as u64) << 16 | (name.len() as u64) << 8 | i as u64;
            segment.dropout = pass.dropout.filter(|_| p > 0.0).map(|seed| (p, seed ^ (salt << 32)));
        }
        tape.linear(name, x, &linear, residual)
    }
}
