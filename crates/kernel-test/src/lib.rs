//! What the tests of the kernel families share.
//!
//! [`Gpu`] takes launches and runs them on the PTX VM in this process, strictly checked and counted; [`compare`] measures
//! errors against f64; [`ptxas`] asks NVIDIA's assembler, where it is installed, for registers and spills.
pub mod compare;
mod gpu;
pub mod ptxas;

pub use gpu::{Gpu, Vram, every_way};
pub use ptx_vm::{Checks, Counters, FaultKind, Options, counters::Class};
