//! The ops, forward.

use crate::{
    params::{ParamId, Value},
    tape::{LogProbSaved, LoraSaved, Op, Tape, Var},
};
use attention::{
    AttentionExtend, AttentionExtendArgs, AttentionForward, AttentionForwardArgs, Rotary, RotaryArgs,
};
use device::Buffer;
use elementwise::{GatherRows, GatherRowsArgs};
use embedding::{Dropout, DropoutArgs, EmbeddingForward, EmbeddingForwardArgs};
use int8_matmul::{Int8Linear, Int8LinearArgs};
use lora::{LoraForward, LoraForwardArgs};
use loss::{LmLogProb, LmLogProbArgs};
use matmul::{Bf16Linear, Bf16LinearArgs, Packed};
use norm_gelu::{Act, ActForward, ActForwardArgs, Norm, NormForward, NormForwardArgs};
use std::rc::Rc;

/// Which sequence and position each row of a ragged batch belongs to.
#[derive(Clone)]
pub struct Rows {
    /// `[sequences + 1]` offsets of the sequences' first rows.
    pub starts: Rc<Buffer<u32>>,
    /// `[rows]` positions within the sequence, from 0.
    pub positions: Rc<Buffer<u32>>,
}

/// A linear layer: base weight (dense or int8), bias and adapter segments.
#[derive(Debug, Clone)]
pub struct Linear {
    /// `[out, in]`.
    pub weight: ParamId,
    /// `[out]`.
    pub bias: Option<ParamId>,
    /// Low-rank adapters on column ranges of the output; empty when switched off.
    pub lora: Vec<LoraSegment>,
    /// LLM.int8 outlier threshold, used when the weight is int8; 0 = no decomposition.
    pub threshold: f32,
}

/// A low-rank adapter on a range of a linear layer's outputs: y[range] += scale * (x A^T) B^T.
#[derive(Debug, Clone)]
pub struct LoraSegment {
    /// `[rank, in]`.
    pub a: ParamId,
    /// `[n_out, rank]`.
    pub b: ParamId,
    /// First output column.
    pub col_offset: usize,
    /// alpha / rank.
    pub scale: f32,
    /// Dropout probability and seed on the adapter's input; none in evaluation.
    pub dropout: Option<(f32, u64)>,
}

/// Heads and rotary embedding of an attention layer.
#[derive(Debug, Clone, Copy)]
pub struct AttentionShape {
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; divides `heads`.
    pub kv_heads: usize,
    /// Elements per head.
    pub head_dim: usize,
    /// Leading elements of each head that rotate; 0 = no rotary embedding.
    pub rotary_dim: usize,
    /// Rotary base.
    pub theta: f32,
}

impl AttentionShape {
    /// Columns of the fused query, key, value matrix.
    pub fn qkv_cols(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    pub(crate) fn rotary(&self, rows: usize, inverse: bool) -> Rotary {
        let AttentionShape { heads, kv_heads, head_dim, rotary_dim, theta } = *self;
        Rotary { rows, heads, kv_heads, head_dim, rotary_dim, theta, inverse }
    }
}

/// One layer's part of a key-value cache, for inference.
pub struct Cached<'a> {
    /// `[rows]` cache slot of each row.
    pub slot: &'a Buffer<u32>,
    /// Keys of all slots.
    pub keys: &'a mut Buffer,
    /// Values of all slots.
    pub values: &'a mut Buffer,
    /// Number of slots.
    pub slots: usize,
    /// Positions per slot.
    pub capacity: usize,
}

impl<'p> Tape<'p> {
    /// Token embeddings `[ids, hidden]`.
    pub fn embedding(&mut self, table: ParamId, ids: &Rc<Buffer<u32>>) -> Var {
        let _label = device::label("activations", "embedding");
        let (vocab, cols) = (self.params.get(table).rows, self.params.get(table).cols);
        let rows = ids.len();
        let mut y = self.device.alloc(rows * cols);
        let args =
            EmbeddingForwardArgs { table: self.params.data(table).arg(), ids: ids.arg(), y: y.arg_mut() };
        self.device.run(&EmbeddingForward { rows, cols, vocab, accumulate: false }, args);
        let needs = self.trains(table);
        self.push("embedding", Op::Embedding { table, ids: ids.clone() }, y, rows, cols, needs)
    }

    /// y = x + table[ids]: learned positions. `x` must have no other reader.
    pub fn add_embedding(&mut self, x: Var, table: ParamId, ids: &Rc<Buffer<u32>>) -> Var {
        let e = self.embedding(table, ids);
        self.add(x, e)
    }

    /// y = x + z.
    pub fn add(&mut self, x: Var, z: Var) -> Var {
        let _label = device::label("activations", "add");
        let (rows, cols) = (self.rows(x), self.cols(x));
        let mut y = self.value(x).clone();
        let args = elementwise::AddArgs { x: self.value(z).arg(), y: y.arg_mut() };
        self.device.run(&elementwise::Add { len: rows * cols }, args);
        let needs = self.needs_grad(x) || self.needs_grad(z);
        self.push("add", Op::Add { x, z }, y, rows, cols, needs)
    }

    /// LayerNorm or RMSNorm over the columns.
    pub fn norm(&mut self, x: Var, kind: Norm, weight: ParamId, bias: Option<ParamId>, eps: f32) -> Var {
        let _label = device::label("activations", "norm");
        let (rows, cols) = (self.rows(x), self.cols(x));
        let mut y = self.device.alloc(rows * cols);
        let (mut mean, mut rstd) = (self.device.alloc(rows), self.device.alloc(rows));
        let args = NormForwardArgs {
            x: self.value(x).arg(),
            weight: self.params.data(weight).arg(),
            bias: bias.map(|b| self.params.data(b).arg()),
            y: y.arg_mut(),
            mean: mean.arg_mut(),
            rstd: rstd.arg_mut(),
        };
        self.device.run(&NormForward { rows, cols, eps, kind }, args);
        let trains = self.trains(weight) || bias.is_some_and(|b| self.trains(b));
        let needs = self.needs_grad(x) || trains;
        if needs {
            self.save(x);
        }
        self.push("norm", Op::Norm { x, weight, bias, kind, mean, rstd }, y, rows, cols, needs)
    }

    /// y = x W^T + bias + adapters + residual; `name` appears in reports.
    pub fn linear(&mut self, name: &'static str, x: Var, layer: &Linear, residual: Option<Var>) -> Var {
        let _label = device::label("activations", name);
        let (m, k) = (self.rows(x), self.cols(x));
        let n = self.params.get(layer.weight).rows;
        let mut y = self.device.alloc(m * n);
        self.base_product(x, layer, residual, &mut y);
        let lora: Vec<_> = layer.lora.iter().map(|s| self.lora_forward(x, s, n, &mut y)).collect();
        let trains_base = self.trains(layer.weight);
        let trains_lora = layer.lora.iter().any(|s| self.trains(s.a) || self.trains(s.b));
        let trains_bias = layer.bias.is_some_and(|b| self.trains(b));
        let needs = trains_base
            || trains_lora
            || trains_bias
            || self.needs_grad(x)
            || residual.is_some_and(|r| self.needs_grad(r));
        if trains_base || (trains_lora && lora.iter().any(|s| s.x.is_none())) {
            self.save(x);
        }
        debug_assert_eq!(k, self.params.get(layer.weight).cols, "{name}");
        let op = Op::Linear { x, layer: layer.clone(), residual, lora };
        self.push(name, op, y, m, n, needs)
    }

    fn base_product(&self, x: Var, layer: &Linear, residual: Option<Var>, y: &mut Buffer) {
        let (m, k, w) = (self.rows(x), self.cols(x), self.params.get(layer.weight));
        let n = w.rows;
        let (xs, y) = (self.value(x).arg(), y.arg_mut());
        let bias = layer.bias.map(|b| self.params.data(b).arg());
        let residual = residual.map(|r| self.value(r).arg());
        if let Value::Int8 { packed, scb } = &w.value {
            let (packed, scb) = (packed.arg(), scb.arg());
            let args = Int8LinearArgs { x: xs, packed, scb, bias, residual, y };
            return self.device.run(&Int8Linear { m, n, k, threshold: layer.threshold }, args);
        }
        match self.params.packed(layer.weight) {
            Packed::F32(packed) => {
                let args = matmul::LinearArgs { x: xs, packed, bias, residual, y };
                self.device.run(&matmul::Linear { m, n, k }, args);
            }
            Packed::Bf16(packed) => {
                let args = Bf16LinearArgs { x: xs, packed, bias, residual, y };
                self.device.run(&Bf16Linear { m, n, k }, args);
            }
        }
    }

    fn lora_forward(&self, x: Var, s: &LoraSegment, ldy: usize, y: &mut Buffer) -> LoraSaved {
        let (m, n_in) = (self.rows(x), self.cols(x));
        let (a, b) = (self.params.get(s.a), self.params.get(s.b));
        let dropped = s.dropout.filter(|_| self.grad).map(|(p, seed)| {
            let mut d = self.device.alloc(m * n_in);
            let args = DropoutArgs { x: self.value(x).arg(), y: d.arg_mut() };
            self.device.run(&Dropout { len: m * n_in, p, seed }, args);
            d
        });
        let mut u = self.device.alloc(m * a.rows);
        let kernel = LoraForward {
            m,
            n_in,
            n_out: b.rows,
            rank: a.rows,
            scale: s.scale,
            ldy,
            col_offset: s.col_offset,
        };
        let args = LoraForwardArgs {
            x: dropped.as_ref().unwrap_or(self.value(x)).arg(),
            a: self.params.data(s.a).arg(),
            b: self.params.data(s.b).arg(),
            u: u.arg_mut(),
            y: y.arg_mut(),
        };
        self.device.run(&kernel, args);
        LoraSaved { u, x: dropped }
    }

    /// Rotary embedding and causal attention over a ragged batch. Consumes `qkv`: its value is rotated in
    /// place, so no other op may read it.
    pub fn attention(&mut self, qkv: Var, shape: AttentionShape, rows: &Rows) -> Var {
        let _label = device::label("activations", "attention");
        let n = self.rows(qkv);
        let AttentionShape { heads, kv_heads, head_dim, .. } = shape;
        self.rotate(qkv, shape, &rows.positions);
        let mut out = self.device.alloc(n * heads * head_dim);
        let mut lse = self.device.alloc(n * heads);
        let args = AttentionForwardArgs {
            qkv: self.value(qkv).arg(),
            starts: rows.starts.arg(),
            out: out.arg_mut(),
            lse: lse.arg_mut(),
        };
        self.device.run(&AttentionForward { rows: n, heads, kv_heads, head_dim }, args);
        let needs = self.needs_grad(qkv);
        if needs {
            self.save(qkv);
        }
        let op = Op::Attention { qkv, shape, rows: rows.clone(), lse };
        let out = self.push("attention", op, out, n, heads * head_dim, needs);
        if needs {
            self.save(out);
        }
        out
    }

    /// As [`Tape::attention`], over a key-value cache that the rows are appended to. Inference only.
    pub fn attention_cached(
        &mut self,
        qkv: Var,
        shape: AttentionShape,
        positions: &Buffer<u32>,
        cache: Cached<'_>,
    ) -> Var {
        assert!(!self.grad, "cached attention has no backward pass");
        let n = self.rows(qkv);
        let AttentionShape { heads, kv_heads, head_dim, .. } = shape;
        self.rotate(qkv, shape, positions);
        let mut out = self.device.alloc(n * heads * head_dim);
        let Cached { slot, keys, values, slots, capacity } = cache;
        let args = AttentionExtendArgs {
            qkv: self.value(qkv).arg(),
            slot: slot.arg(),
            position: positions.arg(),
            k_cache: keys.arg_mut(),
            v_cache: values.arg_mut(),
            out: out.arg_mut(),
        };
        self.device.run(&AttentionExtend { rows: n, heads, kv_heads, head_dim, slots, capacity }, args);
        self.push("attention", Op::Leaf, out, n, heads * head_dim, false)
    }

    fn rotate(&mut self, qkv: Var, shape: AttentionShape, positions: &Buffer<u32>) {
        let rows = self.rows(qkv);
        if shape.rotary_dim > 0 {
            let value = self.nodes[qkv.0].value.as_mut().expect("the value was released");
            let args = RotaryArgs { qkv: value.arg_mut(), positions: positions.arg() };
            self.device.run(&shape.rotary(rows, false), args);
        }
    }

    /// An activation; SwiGLU halves the columns.
    pub fn act(&mut self, x: Var, kind: Act) -> Var {
        let _label = device::label("activations", "activation");
        let (rows, in_cols) = (self.rows(x), self.cols(x));
        let cols = if matches!(kind, Act::SwiGlu) { in_cols / 2 } else { in_cols };
        let mut y = self.device.alloc(rows * cols);
        let args = ActForwardArgs { x: self.value(x).arg(), y: y.arg_mut() };
        self.device.run(&ActForward { rows, cols, kind }, args);
        let needs = self.needs_grad(x);
        if needs {
            self.save(x);
        }
        self.push("activation", Op::Act { x, kind }, y, rows, cols, needs)
    }

    /// Picks rows of `x`.
    pub fn gather(&mut self, x: Var, index: &Rc<Buffer<u32>>) -> Var {
        let _label = device::label("activations", "gather");
        let (rows, cols, picked) = (self.rows(x), self.cols(x), index.len());
        let mut y = self.device.alloc(picked * cols);
        let args = GatherRowsArgs { x: self.value(x).arg(), index: index.arg(), y: y.arg_mut() };
        self.device.run(&GatherRows { rows, picked, cols }, args);
        let needs = self.needs_grad(x);
        self.push("gather", Op::Gather { x, index: index.clone() }, y, picked, cols, needs)
    }

    /// Log-probabilities `[rows, 1]` of `targets` under softmax(x head^T * inv_temperature), and on request
    /// the entropies `[rows, 1]`, without keeping the `[rows, vocab]` matrix; it is kept when recording and
    /// it fits `keep_bytes`, which spares the backward pass its recomputation.
    pub fn log_prob(
        &mut self,
        x: Var,
        head: ParamId,
        targets: &Rc<Buffer<u32>>,
        inv_temperature: f32,
        entropy: bool,
        keep_bytes: usize,
    ) -> (Var, Option<Var>) {
        let (rows, hidden, vocab) = (self.rows(x), self.cols(x), self.params.get(head).rows);
        let mut logprob = self.device.alloc(rows);
        let mut lse = self.device.alloc(rows);
        let mut ent: Option<Buffer> = entropy.then(|| self.device.alloc(rows));
        let needs = self.needs_grad(x) || self.trains(head);
        let keep = needs && rows * vocab * size_of::<f32>() <= keep_bytes;
        let _label = device::label("logits", "log_prob");
        let mut logits: Option<Buffer> = keep.then(|| self.device.alloc(rows * vocab));
        let args = LmLogProbArgs {
            x: self.value(x).arg(),
            head_packed: self.params.packed(head),
            targets: targets.arg(),
            logprob: logprob.arg_mut(),
            lse: lse.arg_mut(),
            entropy: ent.as_mut().map(Buffer::arg_mut),
            logits: logits.as_mut().map(Buffer::arg_mut),
        };
        self.device.run(&LmLogProb { rows, hidden, vocab, inv_temperature }, args);
        if needs {
            self.save(x);
        }
        let after = Var(self.nodes.len() + 1);
        let saved = LogProbSaved {
            x,
            head,
            inv_temperature,
            targets: targets.clone(),
            lse,
            entropy: ent.as_ref().map(|_| after),
            logits,
        };
        let lp = self.push("log_prob", Op::LogProb(saved), logprob, rows, 1, needs);
        let ent = ent.map(|e| self.push("entropy", Op::Entropy, e, rows, 1, needs));
        if needs && let Some(e) = ent {
            self.save(e);
        }
        (lp, ent)
    }

    /// Computes `section(x)` keeping nothing but its input: the backward pass computes it again (gradient
    /// checkpointing, arXiv 1604.06174). In inference it is just `section(x)`.
    pub fn checkpoint(&mut self, x: Var, section: impl Fn(&mut Tape<'p>, Var) -> Var + 'p) -> Var {
        if !self.grad {
            return section(self, x);
        }
        let mut inner = Tape::inference(self.params);
        inner.trace = self.trace.take();
        let input = self.take(x);
        let (rows, cols) = (self.rows(x), self.cols(x));
        let inner_x = inner.leaf(input, rows, cols, false);
        inner.keep_leaf = Some(inner_x);
        let y = section(&mut inner, inner_x);
        let (y_rows, y_cols, value) = (inner.rows(y), inner.cols(y), inner.take(y));
        self.nodes[x.0].value = Some(inner.take(inner_x));
        self.trace = inner.trace;
        self.save(x);
        // Whether anything inside trains is not known from outside: assume so.
        self.push("checkpoint", Op::Checkpoint { x, section: Rc::new(section) }, value, y_rows, y_cols, true)
    }
}
