//! Rotary embedding, causal attention over ragged batches, forward and backward, and KV-cache decode.
//!
//! Generation and training share every inner function and its order of operations: a score is one fused
//! chain over the head's elements, the softmax runs over the keys 0..=i of one query, and the values are
//! added in ascending key order. So a token's output has the same bits whether its keys come from the batch
//! or from the cache, and whatever else is in the batch.
mod backward;
mod decode;
mod forward;
mod inner;
mod launch;
mod rotary;

pub use backward::{AttentionBackward, AttentionBackwardArgs, AttentionBackwardOf};
pub use decode::{AttentionExtend, AttentionExtendArgs, AttentionExtendOf, cache_len};
pub use forward::{AttentionForward, AttentionForwardArgs, AttentionForwardOf};
pub use rotary::{Rotary, RotaryArgs, RotaryOf};

/// The family's PTX.
pub mod ptx {
    include!(concat!(env!("OUT_DIR"), "/modules.rs"));
}
