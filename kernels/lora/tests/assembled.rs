//! The static bar: registers and shared memory of every entry, and no spills.

#[test]
fn assembles_without_spills() {
    kernel_test::ptxas::check(lora::ptx::ALL);
}
