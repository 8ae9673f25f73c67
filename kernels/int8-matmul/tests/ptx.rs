//! The PTX on the VM: the weights' kernels and the forward pass equal the CPU twin bit by bit, strictly checked and under an
//! adversary; static bars.

mod common;

use common::*;
use int8_matmul::*;
use kernel_abi::{bf16, f16};
use kernel_test::{Gpu, compare::values, every_way, ptxas};
use proptest::prelude::*;

const THRESHOLDS: [f32; 3] = [0.0, 6.0, 1.5];

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(10) })]
    #[test]
    fn forward_has_the_twin_s_bits(
        m in 0usize..100, n in 1usize..150, k in 0usize..300, threshold in 0usize..3, skip in 0usize..5, extras: bool,
    ) {
        let mut gpu = Gpu::new();
        let w = weight(&mut gpu, &values(n * k, 9), n, k);
        let layer = Layer::<f32>::new(m, n, k, THRESHOLDS[threshold], 1, extras);
        let (got, want, _) = both(&mut gpu, &layer.kernel, &layer, &w, skip);
        same(&format!("{:?}", layer.kernel), n, &got, &want);
    }
}

#[test]
fn assembles_without_spills() {
    ptxas::check(ptx::ALL);
}

#[test]
fn decoding_has_the_twin_s_bits() {
    let mut gpu = Gpu::new();
    for (n, k) in [(50, 80), (37, 2600)] {
        let w = weight(&mut gpu, &values(n * k, 9), n, k);
        for m in [1, 8, 9, 16, 17, 32] {
            let layer = Layer::<f32>::new(m, n, k, 3.0, 1, m != 8);
            let (got, want, _) = both(&mut gpu, &layer.kernel, &layer, &w, 0);
            assert!(gpu.launches[1].entry.as_str().starts_with("int8_decode"));
            same(&format!("{:?}", layer.kernel), n, &got, &want);
        }
    }
    let (n, k) = (8200, 96);
    let w = weight(&mut gpu, &values(n * k, 9), n, k);
    for m in [3, 11] {
        let layer = Layer::<bf16>::new(m, n, k, 6.0, 1, true);
        let (got, want, _) = both(&mut gpu, &layer.kernel.of::<bf16>(), &layer, &w, 0);
        same(&format!("{:?}", layer.kernel), n, &got, &want);
    }
}

#[test]
fn every_bit_is_that_of_the_twin_in_16_bits_too() {
    let mut gpu = Gpu::new();
    for (m, n, k, skip) in [(67, 72, 200, 0), (40, 61, 77, 3), (64, 8, 64, 0), (33, 130, 2100, 1)] {
        let w = weight(&mut gpu, &values(n * k, 9), n, k);
        let layer = Layer::<f16>::new(m, n, k, 6.0, 1, true);
        let (got, want, _) = both(&mut gpu, &layer.kernel.of::<f16>(), &layer, &w, skip);
        same("f16", n, &got, &want);
        let layer = Layer::<bf16>::new(m, n, k, 6.0, 1, true);
        let (got, want, _) = both(&mut gpu, &layer.kernel.of::<bf16>(), &layer, &w, skip);
        same("bf16", n, &got, &want);
    }
}

#[test]
fn forward_under_an_adversary() {
    every_way(|gpu| {
        for (m, n, k, threshold) in [(65, 40, 130, 1.9), (70, 65, 1100, 6.0), (5, 40, 1100, 1.9)] {
            let w = weight(gpu, &values(n * k, 9), n, k);
            let layer = Layer::<f32>::new(m, n, k, threshold, 5, true);
            let (got, want, _) = both(gpu, &layer.kernel, &layer, &w, 0);
            same(&format!("{:?}", layer.kernel), n, &got, &want);
        }
    });
}

#[test]
fn the_large_tile_gives_the_same_bits() {
    let mut gpu = Gpu::new();
    for (m, n, k) in [(1180, 1237, 70), (1281, 1164, 100)] {
        let w = weight(&mut gpu, &values(n * k, 9), n, k);
        let layer = Layer::<f32>::new(m, n, k, 6.0, 1, true);
        let (got, want, _) = both(&mut gpu, &layer.kernel, &layer, &w, 0);
        assert!(gpu.launches[1].entry.as_str().ends_with("_128"));
        same("f32", n, &got, &want);
        if n % 8 == 0 {
            continue;
        }
        let layer = Layer::<f16>::new(m, n, k, 6.0, 1, true);
        let (got, want, _) = both(&mut gpu, &layer.kernel.of::<f16>(), &layer, &w, 0);
        same("f16", n, &got, &want);
    }
}
