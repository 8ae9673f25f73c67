//! GPT-NeoX, GPT-2 and Llama on one transformer: weights, adapters, heads, generation.
//!
//! The three architectures differ in a handful of settings (norm, activation, positions, residual form), so
//! there is one [`Model`] and one forward pass, used by training, scoring and generation alike; that is why
//! a sampled token's log-probability equals, bit for bit, the one computed when it is trained on.
//!
//! **Architecture Invariant:** this crate knows no file format (weights come through a closure by canonical
//! name), no data set and no training loop.
mod batch;
mod build;
mod decode;
mod forward;
mod generate;
mod heads;
mod init;
mod lora;

pub use batch::Batch;
pub use build::{Model, Precision, Source, Weights, is_base};
pub use forward::Pass;
pub use generate::{Completion, Sampling};
pub use heads::Head;
pub use init::Rng;
pub use lora::{Lora, LoraConfig, Target};
