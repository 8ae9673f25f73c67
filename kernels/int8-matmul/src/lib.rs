//! LLM.int8 (arXiv 2208.07339): int8 linear layers with 16-/32-bit outliers, forward and backward.
//!
//! Weights are quantised once, row-wise by absmax, by bitsandbytes' rule. Activations are quantised per row
//! in the forward pass; elements at or above the outlier threshold are set aside and multiplied in f32 with
//! the dequantised weight column.
//!
//! One choice differs from the paper: outliers are found per row, not per column over the whole batch. The
//! paper's set depends on which other tokens share the batch, so the same token would get other bits in
//! generation than in training; per row it never does, and every element the paper would keep wide because
//! it is large is still kept wide.
mod activations;
#[cfg(target_arch = "x86_64")]
mod amx;
mod backward;
mod forward;
mod gpu;
mod micro;
mod pack;
mod quantize;

pub use backward::{Int8LinearBackward, Int8LinearBackwardArgs, Int8LinearBackwardOf};
pub use forward::{Int8Linear, Int8LinearArgs, Int8LinearOf};
pub use pack::{PackInt8, PackInt8Args, UnpackInt8, UnpackInt8Args, packed_len, unpack};
pub use quantize::{QuantizeWeight, QuantizeWeightArgs};

/// The family's PTX.
pub mod ptx {
    include!(concat!(env!("OUT_DIR"), "/modules.rs"));
}
