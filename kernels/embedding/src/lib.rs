//! Token embeddings, seeded sampling and dropout.
//!
//! All randomness is Philox4x32-10 keyed by what is being drawn (seed, sequence, position or element), never by
//! the order of drawing: a result does not depend on the batch it was drawn in.
mod dropout;
mod embed;
mod nucleus;
mod philox;
mod sample;

pub use dropout::{Dropout, DropoutArgs, DropoutOf};
pub use embed::{
    EmbeddingBackward, EmbeddingBackwardArgs, EmbeddingBackwardOf, EmbeddingForward, EmbeddingForwardArgs,
    EmbeddingForwardOf,
};
pub use philox::philox4x32;
pub use sample::{Sample, SampleArgs};

/// The family's PTX. Lookups and their gradients also launch entries of the elementwise family.
pub mod ptx {
    include!(concat!(env!("OUT_DIR"), "/modules.rs"));
}
