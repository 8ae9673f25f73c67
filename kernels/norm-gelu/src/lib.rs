//! LayerNorm, RMSNorm and the gated and ungated activations, forward and backward.
mod act;
mod layout;
mod norm_backward;
mod norm_forward;

pub use act::{Act, ActBackward, ActBackwardArgs, ActForward, ActForwardArgs};
pub use norm_backward::{NormBackward, NormBackwardArgs};
pub use norm_forward::{Norm, NormForward, NormForwardArgs, NormForwardOf};

/// The family's PTX.
pub mod ptx {
    include!(concat!(env!("OUT_DIR"), "/modules.rs"));
}
