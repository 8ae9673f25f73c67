//! The PTX on the VM: against the CPU twin and f64, strict and adversarial; counted and static bars.

mod activations;
mod counted;
mod fused;
mod norms;
mod reference;

use kernel_abi::Float;
use kernel_test::{Gpu, compare::values};
use norm_gelu::ptx;
use std::cell::RefCell;

thread_local! {
    /// One GPU for all cases of a test, so that a module is compiled once.
    static GPU: RefCell<Gpu> = RefCell::new(Gpu::new());
}

/// `n` numbers, rounded to `T`.
fn rounded<T: Float>(n: usize, seed: u32) -> Vec<T> {
    values(n, seed).into_iter().map(T::from_f32).collect()
}

#[test]
fn assembles_without_spills() {
    kernel_test::ptxas::check(ptx::ALL);
}
