//! Scalar meaning of every PTX arithmetic instruction, on raw bits.
//!
//! A lane of a register is a `u32` or a `u64`; every function here maps bits to bits, so that what a kernel
//! computes never depends on how the host treats floats. The ideas:
//!
//! 1. [`soft`] computes exactly in integers and rounds once, for any format and any rounding mode. It is the
//!    definition, used wherever the host has no such operation (directed rounding, conversions).
//! 2. [`float`] and [`half`] are the fast twins for round-to-nearest: host arithmetic plus the PTX rules the host
//!    does not have (canonical NaN, `.ftz`, `.sat`), branch-free so that loops over lanes vectorise.
//! 3. [`approx`] evaluates `.approx` functions in `f64` and settles the result to the nearest value, or, under a
//!    seed, to some other value within the documented error.
//!
//! **Architecture Invariant**: nothing in this module knows of registers, lanes or memory.

pub mod approx;
pub mod convert;
pub mod float;
pub mod half;
pub mod int;
pub mod soft;

pub use soft::{Format, Round};
