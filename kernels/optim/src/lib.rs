//! AdamW, gradient norm and clipping, learning-rate schedules.
mod adamw;
mod adamw8;
mod codes;
mod multi;
mod norm;
mod schedule;
mod table;

pub use adamw::{AdamW, AdamWArgs};
pub use adamw8::{AdamW8bit, AdamW8bitArgs, AdamW8bitMulti, AdamW8bitMultiArgs};
pub use codes::{Codes, GROUP};
pub use multi::{
    AdamWMulti, AdamWMultiArgs, ScaleMulti, ScaleMultiArgs, SquaredNormMulti, SquaredNormMultiArgs, Weights,
};
pub use norm::{SquaredNorm, SquaredNormArgs, clip_scale};
pub use schedule::Schedule;

/// The family's PTX.
pub mod ptx {
    include!(concat!(env!("OUT_DIR"), "/modules.rs"));
}
