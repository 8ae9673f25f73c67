//! Low-rank adapters (arXiv 2106.09685): forward, backward, several adapters in a batch, merging.
//!
//! y += s (x A^T) B^T on a column range of y. Only the rank-wide intermediate u = x A^T is kept; the backward
//! pass forms du = s dy B once and gets dA, dB and dx from it by three thin products. `docs/kernels/lora.md` describes the PTX.
mod backward;
mod forward;
mod grouped;
mod merge;
mod merge_int8;
mod rows;

pub use backward::{LoraBackward, LoraBackwardArgs, LoraBackwardOf};
pub use forward::{LoraForward, LoraForwardArgs, LoraForwardOf};
pub use grouped::{GroupedLoraForward, GroupedLoraForwardArgs, GroupedLoraForwardOf};
pub use merge::{LoraMerge, LoraMergeArgs, LoraMergeOf};
pub use merge_int8::{LoraMergeInt8, LoraMergeInt8Args};

/// The family's PTX.
pub mod ptx {
    include!(concat!(env!("OUT_DIR"), "/modules.rs"));
}
