//! AdamW, gradient norm and clipping, learning-rate schedules.
mod adamw;
mod norm;
mod schedule;

pub use adamw::{AdamW, AdamWArgs};
pub use norm::{SquaredNorm, SquaredNormArgs, clip_scale};
pub use schedule::Schedule;
