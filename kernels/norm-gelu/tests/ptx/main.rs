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

/// One test a module: the assembler takes seconds.
macro_rules! assembles_without_spills {
    ($($test:ident: $($module:ident),*;)*) => { $(
        #[test]
        fn $test() {
            kernel_test::ptxas::check(&[$(&ptx::$module),*]);
        }
    )* };
}
assembles_without_spills! {
    forward_assembles_without_spills: NORM_FORWARD, ACT_FORWARD, FOLD;
    backward_assembles_without_spills: NORM_BACKWARD, NORM_BACKWARD_WIDE, ACT_BACKWARD;
    fused_assembles_without_spills: NORM_FUSED;
}

#[test]
fn every_module_is_assembled() {
    assert_eq!(ptx::ALL.len(), 7, "name it above");
}
