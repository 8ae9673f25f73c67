//! AdamW, gradient norm and clipping, learning-rate schedules.
mod adamw;
mod multi;
mod norm;
mod schedule;
mod table;

pub use adamw::{AdamW, AdamWArgs};
pub use multi::{
    AdamWMulti, AdamWMultiArgs, ScaleMulti, ScaleMultiArgs, SquaredNormMulti, SquaredNormMultiArgs, Weights,
};
pub use norm::{SquaredNorm, SquaredNormArgs, clip_scale};
pub use schedule::Schedule;

/// The family's PTX.
pub mod ptx {
    include!(concat!(env!("OUT_DIR"), "/modules.rs"));
}
