//! The PTX on the VM: against the CPU twin and f64, strict and adversarial; counted and static bars.

use elementwise::*;
use kernel_abi::{Half, Kernel, bf16, f16, narrow, widen};
use kernel_test::{Gpu, compare::*, every_way, ptxas};
use proptest::prelude::*;

fn add<T: Half>(gpu: &mut Gpu, len: usize, skip: usize) {
    let (mut x, mut y) = (vec![T::from_f32(0.0); len + skip], vec![T::from_f32(0.0); len + skip]);
    narrow(&values(len + skip, 1), &mut x);
    narrow(&values(len + skip, 2), &mut y);
    let kernel = Add { len }.of::<T>();
    let (gx, mut gy) = (gpu.upload(&x), gpu.upload(&y));
    gpu.run(&kernel, AddArgs { x: gx.arg().skip(skip), y: gy.arg_mut().skip(skip) });
    kernel.cpu(AddArgs { x: x[skip..].into(), y: (&mut y[skip..]).into() });
    assert_eq!(widen(&gy.to_vec()), widen(&y), "{} elements of {}", len, T::NAME);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn sums_equal_the_twin_s_bits(len in 0usize..5000, skip in 0usize..9) {
        let mut gpu = Gpu::new();
        add::<f16>(&mut gpu, len, skip);
        add::<bf16>(&mut gpu, len, skip);
    }
}

#[test]
fn sums_under_an_adversary() {
    every_way(|gpu| {
        let (x, y) = (values(1003, 1), values(1003, 2));
        let (gx, mut gy) = (gpu.upload(&x), gpu.upload(&y));
        gpu.run(&Add { len: 1003 }, AddArgs { x: gx.arg(), y: gy.arg_mut() });
        let want: Vec<f32> = x.iter().zip(&y).map(|(x, y)| y + x).collect();
        assert_eq!(gy.to_vec(), want);
    });
}

#[test]
fn moves_no_byte_twice() {
    let mut gpu = Gpu::new();
    let len = 1 << 15;
    let (x, mut y) = (gpu.upload(&values(len, 1)), gpu.upload(&values(len, 2)));
    let counted = gpu.run(&Add { len }, AddArgs { x: x.arg(), y: y.arg_mut() });
    let least = Add { len }.cost();
    assert_eq!(counted.global_loads.bytes, least.bytes_read);
    assert_eq!(counted.global_stores.bytes, least.bytes_written);
    assert_eq!((counted.global_loads.efficiency(), counted.global_stores.efficiency()), (1.0, 1.0));
}

#[test]
fn assembles_without_spills() {
    ptxas::check(ptx::ALL);
}
