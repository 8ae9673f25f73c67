//! CPU building blocks for the kernels' native twins: SIMD dispatch, parallel loops, vector mathematics.
//!
//! Two rules make every twin built on this crate reproducible:
//! - a result never depends on how many threads ran or where a tile began: sums run in an order fixed by
//!   the shape alone ([`sum`], [`dot`]), and no two tasks add into the same element;
//! - every path computes the same expression: scalar tails use `f32::mul_add` exactly where the wide code
//!   uses a fused multiply-add, so AVX-512, AVX2 and portable code agree bit for bit.
mod amx;
mod math;
mod par;
mod shared;
mod simd;
mod team;

pub use amx::amx_int8;
pub use math::{dot, erf, exp, ln, max, sigmoid, sum, tanh};
pub use par::{par_for, par_rows};
pub use shared::Shared;
pub use simd::{Isa, isa, prefetch_write};
pub use team::{set_threads, threads, with_threads};
