//! What a kernel can do wrong, how it is reported, and the shadows that catch it.
mod fault;
pub(crate) mod global_race;
pub(crate) mod race;
pub(crate) mod written;

pub use fault::{Fault, FaultKind, MemorySpace};
