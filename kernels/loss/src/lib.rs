//! Losses fused with what comes before them: log-probabilities from hidden states, PPO's clipped losses,
//! Bradley-Terry, softmax cross-entropy.
//!
//! [`log_sum_exp`] is the one place where a row of logits is normalised on the CPU, [`RowTiles::merge`] on the GPU: scoring
//! and sampling both go through it, so a sampled token's log-probability has the same bits when it is scored later.
mod check;
mod cross_entropy;
mod dlogits;
mod full_kl;
mod head;
mod log_prob;
mod log_prob_backward;
mod log_prob_half;
mod pairs;
mod ppo_policy;
mod ppo_value;
mod softmax;
mod tiles;

pub use cross_entropy::{SoftmaxCrossEntropy, SoftmaxCrossEntropyArgs};
pub use full_kl::{FullKl, FullKlArgs};
pub use log_prob::{LmLogProb, LmLogProbArgs};
pub use log_prob_backward::{LmLogProbBackward, LmLogProbBackwardArgs};
pub use log_prob_half::{LmLogProbHalfArgs, LmLogProbOf};
pub use pairs::{BradleyTerry, BradleyTerryArgs};
pub use ppo_policy::{PpoPolicyLoss, PpoPolicyLossArgs};
pub use ppo_value::{PpoValueLoss, PpoValueLossArgs};
pub use softmax::{CHUNK, RowSoftmax, log_sum_exp, row_softmax};
pub use tiles::{RowResults, RowTiles, TILE};

/// The family's PTX.
pub mod ptx {
    include!(concat!(env!("OUT_DIR"), "/modules.rs"));
}
