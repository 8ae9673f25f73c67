//! A tape of fused ops, nothing more.
//!
//! Three concepts: [`Params`] own the weights (dense or int8), a [`Tape`] records one forward pass over them,
//! and [`Grads`] receive what [`Tape::backward`] finds. Losses live outside: they compute the gradient of
//! the tape's outputs (log-probabilities, values, scores) and seed the backward pass with it.
//!
//! **Architecture Invariant:** this crate knows no model, no data and no training loop. Weights that are
//! frozen never get a gradient buffer, and activations that no backward step reads are released at once.
mod backward;
mod finite;
mod forward;
mod params;
mod tape;
mod token_loss;

pub use finite::NonFinite;
pub use forward::{AttentionShape, Cached, Linear, LoraSegment, Rows};
pub use params::{Grads, Param, ParamId, ParamKind, Params};
pub use tape::{Tape, Var};
