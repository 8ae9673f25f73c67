//! LayerNorm, RMSNorm and the gated and ungated activations, forward and backward.
mod act;
mod act_launch;
mod bias_act;
mod fold;
mod fused_norm;
mod layout;
mod norm_backward;
mod norm_backward_launch;
mod norm_forward;

pub use act::{Act, ActBackward, ActBackwardArgs, ActBackwardOf, ActForward, ActForwardArgs, ActForwardOf};
pub use bias_act::{
    BiasActBackward, BiasActBackwardArgs, BiasActBackwardOf, BiasActForward, BiasActForwardArgs,
    BiasActForwardOf,
};
pub use fused_norm::{FusedNormForward, FusedNormForwardArgs, FusedNormForwardOf, SecondNorm};
pub use norm_backward::{NormBackward, NormBackwardArgs, NormBackwardOf};
pub use norm_forward::{Norm, NormForward, NormForwardArgs, NormForwardOf};

/// The family's PTX.
pub mod ptx {
    include!(concat!(env!("OUT_DIR"), "/modules.rs"));
}
