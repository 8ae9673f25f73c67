//! The tape: nodes in the order they were computed.

use crate::{
    finite::NonFinite,
    forward::{AttentionShape, Linear, Rows},
    params::{ParamId, Params},
};
use device::{Buffer, Device};
use norm_gelu::{Act, Norm};
use std::rc::Rc;

/// A value on the tape: `[rows, cols]`, f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Var(pub(crate) usize);

/// What a checkpointed section computes, run again in the backward pass.
pub(crate) type Section<'p> = Rc<dyn Fn(&mut Tape<'p>, Var) -> Var + 'p>;

pub(crate) enum Op<'p> {
    Leaf,
    Add { x: Var, z: Var },
    Embedding { table: ParamId, ids: Rc<Buffer<u32>> },
    Norm { x: Var, weight: ParamId, bias: Option<ParamId>, kind: Norm, mean: Buffer, rstd: Buffer },
    Linear { x: Var, layer: Linear, residual: Option<Var>, lora: Vec<LoraSaved> },
    Attention { qkv: Var, shape: AttentionShape, rows: Rows, lse: Buffer },
    Act { x: Var, kind: Act },
    Gather { x: Var, index: Rc<Buffer<u32>> },
    LogProb(LogProbSaved),
    Entropy,
    Checkpoint { x: Var, section: Section<'p> },
}

/// What a LoRA segment keeps for its backward pass.
pub(crate) struct LoraSaved {
    /// x A^T `[rows, rank]`.
    pub u: Buffer,
    /// The dropped-out input, when dropout is on.
    pub x: Option<Buffer>,
}

pub(crate) struct LogProbSaved {
    pub x: Var,
    pub head: ParamId,
    pub inv_temperature: f32,
    pub targets: Rc<Buffer<u32>>,
    pub lse: Buffer,
    pub entropy: Option<Var>,
    pub logits: Option<Buffer>,
}

pub(crate) struct Node<'p> {
    pub op: Op<'p>,
    pub value: Option<Buffer>,
    pub rows: usize,
    pub cols: usize,
    /// Whether a gradient must reach this node.
    pub needs_grad: bool,
    /// Whether some backward step reads the value.
    pub saved: bool,
}

/// One forward pass, and the way back.
pub struct Tape<'p> {
    pub(crate) device: Device,
    pub(crate) params: &'p Params,
    pub(crate) grad: bool,
    pub(crate) nodes: Vec<Node<'p>>,
    pub(crate) scope: Option<usize>,
    pub(crate) trace: Option<Option<NonFinite>>,
    /// A checkpointed section's input, which outlives its release inside the section.
    pub(crate) keep_leaf: Option<Var>,
}

impl<'p> Tape<'p> {
    /// A tape that records for a backward pass.
    pub fn new(params: &'p Params) -> Self {
        Tape {
            device: params.device().clone(),
            params,
            grad: true,
            nodes: Vec::new(),
            scope: None,
            trace: None,
            keep_leaf: None,
        }
    }

    /// A tape for inference: nothing is kept for a backward pass.
    pub fn inference(params: &'p Params) -> Self {
        Tape { grad: false, ..Tape::new(params) }
    }

    /// The weights this tape runs over.
    pub fn params(&self) -> &'p Params {
        self.params
    }

    /// Whether the tape records for a backward pass.
    pub fn records(&self) -> bool {
        self.grad
    }

    /// The device of all values.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Names the layer that the following ops belong to, for reports.
    pub fn set_layer(&mut self, layer: Option<usize>) {
        self.scope = layer;
    }

    /// Rows of a value.
    pub fn rows(&self, v: Var) -> usize {
        self.nodes[v.0].rows
    }

    /// Columns of a value.
    pub fn cols(&self, v: Var) -> usize {
        self.nodes[v.0].cols
    }

    /// The elements of a value `[rows, cols]`.
    ///
    /// # Panics
    /// When the value was [released](Tape::release).
    pub fn value(&self, v: Var) -> &Buffer {
        self.nodes[v.0].value.as_ref().expect("the value was released")
    }

    /// Takes a value out of the tape.
    pub fn take(&mut self, v: Var) -> Buffer {
        self.nodes[v.0].value.take().expect("the value was released")
    }

    /// Says that no later op reads `v`: its memory is freed unless a backward step needs it.
    pub fn release(&mut self, v: Var) {
        let node = &mut self.nodes[v.0];
        if !(self.grad && node.saved) && self.keep_leaf != Some(v) {
            node.value = None;
        }
    }

    /// Puts a value `[rows, cols]` on the tape that did not come from an op.
    pub fn leaf(&mut self, value: Buffer, rows: usize, cols: usize, needs_grad: bool) -> Var {
        assert_eq!(value.len(), rows * cols, "leaf: length");
        self.push("leaf", Op::Leaf, value, rows, cols, needs_grad)
    }

    pub(crate) fn push(
        &mut self,
        name: &'static str,
        op: Op<'p>,
        value: Buffer,
        rows: usize,
        cols: usize,
        needs_grad: bool,
    ) -> Var {
        if let Some(None) = self.trace {
            self.trace = Some(NonFinite::find(self.scope, name, &value, cols));
        }
        let op = if self.grad { op } else { Op::Leaf };
        let needs_grad = needs_grad && self.grad;
        self.nodes.push(Node { op, value: Some(value), rows, cols, needs_grad, saved: false });
        Var(self.nodes.len() - 1)
    }

    pub(crate) fn needs_grad(&self, v: Var) -> bool {
        self.nodes[v.0].needs_grad
    }

    pub(crate) fn trains(&self, id: ParamId) -> bool {
        self.grad && self.params.get(id).trainable
    }

    pub(crate) fn save(&mut self, v: Var) {
        self.nodes[v.0].saved = true;
    }

    /// Watches every value from now on; see [`Tape::first_non_finite`].
    pub fn trace_non_finite(&mut self) {
        self.trace = Some(None);
    }

    /// The first NaN or infinity since [`Tape::trace_non_finite`].
    pub fn first_non_finite(&self) -> Option<&NonFinite> {
        self.trace.as_ref().and_then(Option::as_ref)
    }
}
