//! The ops, backward: nodes in reverse, each hands its gradient to its inputs and its weights.

use crate::{
    forward::{AttentionShape, Linear, LoraSegment, Rows},
    params::{Grads, ParamId, Params, Value},
    tape::{LogProbSaved, LoraSaved, Op, Section, Tape, Var},
};
use attention::{AttentionBackward, AttentionBackwardArgs, RotaryArgs};
use device::{Buffer, Device};
use elementwise::{Add, AddArgs, ColumnSum, ColumnSumArgs, ScatterAddRows, ScatterAddRowsArgs};
use embedding::{Dropout, DropoutArgs, EmbeddingBackward, EmbeddingBackwardArgs};
use int8_matmul::{Int8LinearBackward, Int8LinearBackwardArgs};
use lora::{LoraBackward, LoraBackwardArgs};
use loss::{LmLogProbBackward, LmLogProbBackwardArgs};
use matmul::{Bf16LinearBackward, Bf16LinearBackwardArgs, Matmul, MatmulArgs};
use norm_gelu::{Act, ActBackward, ActBackwardArgs, Norm, NormBackward, NormBackwardArgs};

/// A pass over the tape from its end: the gradients of nodes not yet reached.
struct Pass<'t, 'p> {
    tape: &'t Tape<'p>,
    grads: Vec<Option<Buffer>>,
    out: &'t mut Grads,
}

impl<'p> Tape<'p> {
    /// Adds the gradients of all trainable weights to `grads`, given those of some values: each seed is a
    /// value on the tape and its gradient `[rows, cols]`.
    pub fn backward(self, seeds: Vec<(Var, Buffer)>, grads: &mut Grads) {
        self.backward_into(seeds, grads);
    }

    /// As [`Tape::backward`], and returns the gradient that reached `leaf`.
    fn backward_to(self, seeds: Vec<(Var, Buffer)>, leaf: Var, grads: &mut Grads) -> Option<Buffer> {
        self.backward_into(seeds, grads)[leaf.0].take()
    }

    fn backward_into(mut self, seeds: Vec<(Var, Buffer)>, grads: &mut Grads) -> Vec<Option<Buffer>> {
        assert!(self.grad, "an inference tape has no backward pass");
        let _label = device::label("gradients of activations", "");
        let mut pending: Vec<Option<Buffer>> = Vec::new();
        pending.resize_with(self.nodes.len(), || None);
        for (var, d) in seeds {
            assert_eq!(d.len(), self.rows(var) * self.cols(var), "seed: length");
            pending[var.0] = Some(d);
        }
        for i in (0..self.nodes.len()).rev() {
            let op = std::mem::replace(&mut self.nodes[i].op, Op::Leaf);
            // Nothing before this node reads its value, except that log-probabilities read their entropies.
            let done = !matches!(op, Op::Entropy);
            let mut pass = Pass { tape: &self, grads: pending, out: grads };
            pass.node(Var(i), op);
            pending = pass.grads;
            if done {
                self.nodes[i].value = None;
            }
        }
        pending
    }
}

impl<'p> Pass<'_, 'p> {
    fn device(&self) -> &Device {
        &self.tape.device
    }

    fn params(&self) -> &Params {
        self.tape.params
    }

    fn node(&mut self, v: Var, op: Op<'p>) {
        if !self.tape.needs_grad(v) || matches!(op, Op::Leaf | Op::Entropy) {
            return;
        }
        if let Op::LogProb(saved) = op {
            return self.log_prob(v, saved);
        }
        let Some(dy) = self.grads[v.0].take() else { return };
        match op {
            Op::Add { x, z } => {
                if self.tape.needs_grad(z) {
                    self.add(z, dy.clone());
                }
                self.add(x, dy);
            }
            Op::Embedding { table, ids } => {
                let p = self.params().get(table);
                let (rows, cols, vocab) = (ids.len(), p.cols, p.rows);
                let dtable = self.out.entry(self.tape.params, table).arg_mut();
                let args = EmbeddingBackwardArgs { dy: dy.arg(), ids: ids.arg(), dtable };
                self.tape.device.run(&EmbeddingBackward { rows, cols, vocab }, args);
            }
            Op::Norm { x, weight, bias, kind, mean, rstd } => {
                self.norm(x, weight, bias, kind, mean, rstd, dy)
            }
            Op::Linear { x, layer, residual, lora } => self.linear(x, layer, residual, lora, dy),
            Op::Attention { qkv, shape, rows, lse } => self.attention(v, qkv, shape, rows, lse, dy),
            Op::Act { x, kind } => self.act(v, x, kind, dy),
            Op::Gather { x, index } => {
                let (rows, cols) = (self.tape.rows(x), self.tape.cols(x));
                let mut dx = self.grads[x.0].take().unwrap_or_else(|| self.device().zeros(rows * cols));
                let args = ScatterAddRowsArgs { dy: dy.arg(), index: index.arg(), dx: dx.arg_mut() };
                self.device().run(&ScatterAddRows { rows, picked: index.len(), cols }, args);
                self.grads[x.0] = Some(dx);
            }
            Op::Checkpoint { x, section } => self.checkpoint(x, section, dy),
            Op::Leaf | Op::Entropy | Op::LogProb(_) => unreachable!("handled above"),
        }
    }

    /// Adds `d` to the gradient of `v`.
    fn add(&mut self, v: Var, d: Buffer) {
        if !self.tape.needs_grad(v) {
            return;
        }
        match &mut self.grads[v.0] {
            Some(have) => {
                let args = AddArgs { x: d.arg(), y: have.arg_mut() };
                self.tape.device.run(&Add { len: d.len() }, args);
            }
            empty => *empty = Some(d),
        }
    }

    /// The gradient buffer of `v` and whether it already holds a part (then kernels accumulate).
    fn slot(&mut self, v: Var) -> (Buffer, bool) {
        match self.grads[v.0].take() {
            Some(d) => (d, true),
            None => (self.device().alloc(self.tape.rows(v) * self.tape.cols(v)), false),
        }
    }

    fn norm(
        &mut self,
        x: Var,
        weight: ParamId,
        bias: Option<ParamId>,
        kind: Norm,
        mean: Buffer,
        rstd: Buffer,
        dy: Buffer,
    ) {
        let (rows, cols) = (self.tape.rows(x), self.tape.cols(x));
        let (mut dx, accumulate) = self.slot(x);
        // Both gradients live in `out`; the bias's buffer is taken out while the weight's is borrowed.
        let mut dbias =
            bias.filter(|b| self.tape.trains(*b)).map(|b| (b, self.out.take(self.tape.params, b)));
        let trains = self.tape.trains(weight);
        let dweight = trains.then(|| self.out.entry(self.tape.params, weight).arg_mut());
        let args = NormBackwardArgs {
            x: self.tape.value(x).arg(),
            weight: self.tape.params.data(weight).arg(),
            mean: mean.arg(),
            rstd: rstd.arg(),
            dy: dy.arg(),
            dx: dx.arg_mut(),
            dweight,
            dbias: dbias.as_mut().map(|(_, b)| b.arg_mut()),
        };
        self.tape.device.run(&NormBackward { rows, cols, kind, accumulate }, args);
        if let Some((id, buffer)) = dbias {
            self.out.put(id, buffer);
        }
        if self.tape.needs_grad(x) {
            self.grads[x.0] = Some(dx);
        }
    }

    fn linear(&mut self, x: Var, layer: Linear, residual: Option<Var>, lora: Vec<LoraSaved>, dy: Buffer) {
        for (segment, saved) in layer.lora.iter().zip(lora) {
            self.lora(x, segment, saved, &dy);
        }
        let (m, k) = (self.tape.rows(x), self.tape.cols(x));
        let n = self.params().get(layer.weight).rows;
        if self.tape.trains(layer.weight) {
            let dw = self.out.entry(self.tape.params, layer.weight).arg_mut();
            let args = MatmulArgs { a: dy.arg(), b: self.tape.value(x).arg(), c: dw };
            let shape = Matmul {
                m: n,
                n: k,
                k: m,
                ta: true,
                tb: false,
                lda: n,
                ldb: k,
                ldc: k,
                alpha: 1.0,
                accumulate: true,
            };
            self.tape.device.run(&shape, args);
        }
        if let Some(b) = layer.bias.filter(|b| self.tape.trains(*b)) {
            let args = ColumnSumArgs { x: dy.arg(), y: self.out.entry(self.tape.params, b).arg_mut() };
            self.tape.device.run(&ColumnSum { rows: m, cols: n }, args);
        }
        if self.tape.needs_grad(x) {
            let (mut dx, accumulate) = self.slot(x);
            self.input_gradient(&layer, m, k, &dy, &mut dx, accumulate);
            self.grads[x.0] = Some(dx);
        }
        if let Some(r) = residual {
            self.add(r, dy);
        }
    }

    fn input_gradient(
        &self,
        layer: &Linear,
        m: usize,
        k: usize,
        dy: &Buffer,
        dx: &mut Buffer,
        accumulate: bool,
    ) {
        let w = self.params().get(layer.weight);
        let n = w.rows;
        match &w.value {
            Value::Dense { data, .. } => {
                let args = MatmulArgs { a: dy.arg(), b: data.arg(), c: dx.arg_mut() };
                let shape = Matmul {
                    m,
                    n: k,
                    k: n,
                    ta: false,
                    tb: false,
                    lda: n,
                    ldb: k,
                    ldc: k,
                    alpha: 1.0,
                    accumulate,
                };
                self.device().run(&shape, args);
            }
            Value::Bf16 { packed, .. } => {
                let args = Bf16LinearBackwardArgs { dy: dy.arg(), packed: packed.arg(), dx: dx.arg_mut() };
                self.device().run(&Bf16LinearBackward { m, n, k, accumulate }, args);
            }
            Value::Int8 { packed, scb } => {
                let args = Int8LinearBackwardArgs {
                    dy: dy.arg(),
                    packed: packed.arg(),
                    scb: scb.arg(),
                    dx: dx.arg_mut(),
                };
                self.device().run(&Int8LinearBackward { m, n, k, accumulate }, args);
            }
        }
    }

    fn lora(&mut self, x: Var, s: &LoraSegment, saved: LoraSaved, dy: &Buffer) {
        let (m, n_in) = (self.tape.rows(x), self.tape.cols(x));
        let (a, b) = (self.params().get(s.a), self.params().get(s.b));
        let kernel = LoraBackward {
            m,
            n_in,
            n_out: b.rows,
            rank: a.rows,
            scale: s.scale,
            ldy: dy.len() / m.max(1),
            col_offset: s.col_offset,
        };
        // With dropout the adapter saw another input: its gradient goes through the mask first.
        let mut dx: Option<Buffer> =
            self.tape.needs_grad(x).then(|| match (&saved.x, self.grads[x.0].take()) {
                (None, Some(d)) => d,
                (_, have) => {
                    self.grads[x.0] = have;
                    self.device().zeros(m * n_in)
                }
            });
        let mut db = self.out.take(self.tape.params, s.b);
        let args = LoraBackwardArgs {
            x: saved.x.as_ref().unwrap_or_else(|| self.tape.value(x)).arg(),
            a: self.tape.params.data(s.a).arg(),
            b: self.tape.params.data(s.b).arg(),
            u: saved.u.arg(),
            dy: dy.arg(),
            da: self.out.entry(self.tape.params, s.a).arg_mut(),
            db: db.arg_mut(),
            dx: dx.as_mut().map(Buffer::arg_mut),
        };
        self.tape.device.run(&kernel, args);
        self.out.put(s.b, db);
        match (dx, &saved.x, s.dropout) {
            (Some(d), Some(_), Some((p, seed))) => {
                let mut masked = self.device().alloc(m * n_in);
                let args = DropoutArgs { x: d.arg(), y: masked.arg_mut() };
                self.device().run(&Dropout { len: m * n_in, p, seed }, args);
                self.add(x, masked);
            }
            (Some(d), ..) => self.grads[x.0] = Some(d),
            (None, ..) => {}
        }
    }

    fn attention(&mut self, v: Var, qkv: Var, shape: AttentionShape, rows: Rows, lse: Buffer, dy: Buffer) {
        let n = self.tape.rows(qkv);
        let AttentionShape { heads, kv_heads, head_dim, .. } = shape;
        let mut dqkv = self.device().alloc(n * shape.qkv_cols());
        let args = AttentionBackwardArgs {
            qkv: self.tape.value(qkv).arg(),
            starts: rows.starts.arg(),
            out: self.tape.value(v).arg(),
            lse: lse.arg(),
            dout: dy.arg(),
            dqkv: dqkv.arg_mut(),
        };
        self.device().run(&AttentionBackward { rows: n, heads, kv_heads, head_dim }, args);
        if shape.rotary_dim > 0 {
            let args = RotaryArgs { qkv: dqkv.arg_mut(), positions: rows.positions.arg() };
            self.device().run(&shape.rotary(n, true), args);
        }
        self.add(qkv, dqkv);
    }

    fn act(&mut self, v: Var, x: Var, kind: Act, dy: Buffer) {
        let (rows, cols) = (self.tape.rows(v), self.tape.cols(v));
        let mut dx = self.device().alloc(self.tape.rows(x) * self.tape.cols(x));
        let args = ActBackwardArgs { x: self.tape.value(x).arg(), dy: dy.arg(), dx: dx.arg_mut() };
        self.device().run(&ActBackward { rows, cols, kind }, args);
        self.add(x, dx);
    }

    fn log_prob(&mut self, v: Var, saved: LogProbSaved) {
        let LogProbSaved { x, head, inv_temperature, targets, lse, entropy, logits } = saved;
        let dentropy = entropy.and_then(|e| self.grads[e.0].take());
        let dlogprob = self.grads[v.0].take();
        if dlogprob.is_none() && dentropy.is_none() {
            return;
        }
        let (rows, hidden, vocab) = (self.tape.rows(x), self.tape.cols(x), self.params().get(head).rows);
        let dlogprob = dlogprob.unwrap_or_else(|| self.device().zeros(rows));
        let mut dx = self.device().alloc(rows * hidden);
        let dhead = self.tape.trains(head).then(|| self.out.entry(self.tape.params, head).arg_mut());
        let args = LmLogProbBackwardArgs {
            x: self.tape.value(x).arg(),
            head: self.tape.params.dense(head).map(Buffer::arg),
            head_packed: self.tape.params.packed(head),
            targets: targets.arg(),
            lse: lse.arg(),
            entropy: entropy.filter(|_| dentropy.is_some()).map(|e| self.tape.value(e).arg()),
            logits: logits.as_ref().map(Buffer::arg),
            dlogprob: dlogprob.arg(),
            dentropy: dentropy.as_ref().map(Buffer::arg),
            dx: dx.arg_mut(),
            dhead,
        };
        self.tape.device.run(&LmLogProbBackward { rows, hidden, vocab, inv_temperature }, args);
        self.add(x, dx);
    }

    fn checkpoint(&mut self, x: Var, section: Section<'p>, dy: Buffer) {
        let (rows, cols) = (self.tape.rows(x), self.tape.cols(x));
        let mut inner = Tape::new(self.tape.params);
        let leaf = inner.leaf(self.tape.value(x).clone(), rows, cols, self.tape.needs_grad(x));
        let y = section(&mut inner, leaf);
        if let Some(dx) = inner.backward_to(vec![(y, dy)], leaf, self.out) {
            self.add(x, dx);
        }
    }
}
