//! Token embeddings, seeded sampling and dropout.
//!
//! All randomness is Philox4x32-10 keyed by what is being drawn (seed, sequence, position or element), never by
//! the order of drawing: a result does not depend on the batch it was drawn in.
mod dropout;
mod embed;
mod nucleus;
mod philox;
mod sample;

pub use dropout::{Dropout, DropoutArgs};
pub use embed::{EmbeddingBackward, EmbeddingBackwardArgs, EmbeddingForward, EmbeddingForwardArgs};
pub use philox::philox4x32;
pub use sample::{Sample, SampleArgs};
