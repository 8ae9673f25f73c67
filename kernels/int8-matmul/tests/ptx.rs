//! The PTX on the VM: the weights' kernels and the forward pass equal the CPU twin bit by bit, strictly checked and under an
//! adversary; static bars.

mod common;

use common::*;
use int8_matmul::*;
use kernel_abi::{In, Kernel, bf16, f16};
use kernel_test::{
    Gpu,
    compare::{assert_close, values},
    every_way, ptxas,
};
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
        if m * k > 0 {
            assert_close("forward", &got, &longhand(&layer, &w), 1e-5);
        }
    }
}

/// The layer in f64, from the same 8-bit numbers.
fn longhand(layer: &Layer<f32>, w: &Weight) -> Vec<f64> {
    let Int8Linear { m, n, k, threshold } = layer.kernel;
    let limit = if threshold > 0.0 { threshold } else { f32::INFINITY };
    let mut y = Vec::new();
    for (i, x) in layer.x.chunks_exact(k).enumerate() {
        let absmax = x.iter().map(|x| x.abs()).filter(|a| *a < limit).fold(0.0, f32::max);
        let inverse = if absmax > 0.0 { f64::from(127.0 / absmax) } else { 0.0 };
        for j in 0..n {
            let (mut sum, mut wide) = (0.0, 0.0);
            for (x, q) in x.iter().zip(&w.q[j * k..]) {
                let q = f64::from(*q);
                match x.abs() < limit {
                    true => sum += (f64::from(*x) * inverse).round_ties_even() * q,
                    false => wide += f64::from(*x) * q,
                }
            }
            let scaled = (sum * f64::from(absmax) / 127.0 + wide) * f64::from(w.scb[j]) / 127.0;
            let bias = layer.bias.as_ref().map_or(0.0, |b| b[j]);
            let residual = layer.residual.as_ref().map_or(0.0, |r| r[i * n + j]);
            y.push(scaled + f64::from(bias) + f64::from(residual));
        }
    }
    assert_eq!(y.len(), m * n);
    y
}

#[test]
fn outliers_of_every_number_and_place() {
    let mut gpu = Gpu::new();
    // All elements, more than 4,096 columns (a second round of the union), and rows longer than a team holds.
    for (m, n, k, threshold) in
        [(35, 20, 70, 1e-3), (3, 20, 4200, 0.5), (40, 9, 9000, 3.0), (2, 3, 17_000, 3.0), (2, 3, 16_500, 3.0)]
    {
        let w = weight(&mut gpu, &values(n * k, 9), n, k);
        let layer = Layer::<f32>::new(m, n, k, threshold, 1, true);
        let (got, want, _) = both(&mut gpu, &layer.kernel, &layer, &w, 0);
        same(&format!("{:?}", layer.kernel), n, &got, &want);
    }
}

#[test]
fn what_is_not_a_number_comes_through() {
    let mut gpu = Gpu::new();
    let (n, k) = (17, 40);
    let w = weight(&mut gpu, &values(n * k, 9), n, k);
    for (m, threshold) in [(5, 0.0), (5, 6.0), (40, 0.0), (40, 6.0)] {
        let mut layer = Layer::<f32>::new(m, n, k, threshold, 1, false);
        layer.x[..k].fill(0.0);
        layer.x[k..2 * k].fill(0.0);
        layer.x[k + 3] = 1e-42; // 127 / absmax overflows
        layer.x[2 * k + 5] = f32::NAN;
        layer.x[3 * k + 5] = f32::INFINITY;
        layer.x[4 * k + 39] = f32::NEG_INFINITY;
        let (got, want, _) = both(&mut gpu, &layer.kernel, &layer, &w, 0);
        same(&format!("{m} rows, {threshold}"), n, &got, &want);
        assert!(got[..2 * n].iter().all(|v| *v == 0.0) && got[2 * n..3 * n].iter().all(|v| v.is_nan()));
        assert!(got[3 * n..5 * n].iter().all(|v| !v.is_finite()));
    }
}

#[test]
fn a_row_keeps_its_bits_in_any_batch() {
    let mut gpu = Gpu::new();
    let (m, n, k) = (70, 40, 300);
    let w = weight(&mut gpu, &values(n * k, 9), n, k);
    let layer = Layer::<f32>::new(m, n, k, 3.0, 1, false);
    let (all, ..) = both(&mut gpu, &layer.kernel, &layer, &w, 0);
    for rows in [1, 9, 30] {
        let part = Layer::<f32> {
            kernel: Int8Linear { m: rows, ..layer.kernel },
            x: layer.x[3 * k..][..rows * k].to_vec(),
            bias: None,
            residual: None,
        };
        let (got, ..) = both(&mut gpu, &part.kernel, &part, &w, 0);
        same(&format!("{rows} rows"), n, &got, &all[3 * n..][..rows * n]);
    }
}

#[test]
fn weights_by_the_rule_of_bitsandbytes() {
    let mut gpu = Gpu::new();
    for (n, k) in [(1, 1), (3, 16), (17, 33), (2, 9000)] {
        let mut dense = values(n * k, 3);
        if k == 33 {
            dense[..k].fill(0.0);
            dense[k + 1] = f32::NAN;
            dense[2 * k] = 1e6; // infinite in fp16
            dense[3 * k..4 * k].iter_mut().for_each(|w| *w *= 1e-7); // subnormal in fp16
        }
        let w = weight(&mut gpu, &dense, n, k);
        // the longhand rule: to fp16, SCB the row's absmax, q = round(w 127 / SCB)
        for j in 0..n {
            let row: Vec<f32> = dense[j * k..][..k].iter().map(|w| f16::from_f32(*w).to_f32()).collect();
            let scb = row.iter().fold(0.0f32, |m, w| m.max(w.abs()));
            assert_eq!(w.scb[j], scb);
            for (q, v) in w.q[j * k..][..k].iter().zip(&row) {
                let exact = f64::from(*v) * 127.0 / f64::from(scb);
                assert!(!exact.is_finite() || (exact - f64::from(*q)).abs() < 0.5 + 1e-5, "{q} for {exact}");
            }
        }
        let mut q = gpu.alloc::<i8>(n * k + 1);
        let kernel = UnpackInt8 { n, k };
        for skip in [0, 1] {
            let to = if skip == 0 {
                kernel_abi::Out::Device(q.arg().device(), n * k)
            } else {
                q.arg_mut().skip(1)
            };
            gpu.run(&kernel, UnpackInt8Args { packed: w.on_gpu.arg(), q: to });
            assert_eq!(q.to_vec()[skip..][..n * k], w.q, "{n}x{k}");
        }
        assert_eq!(unpack(&w.packed, n, k), w.q);
        let packed = w.on_gpu.arg();
        let shifted = In::Device(packed.device().offset(1), packed.len());
        let error = kernel.check(&UnpackInt8Args { packed: shifted, q: q.arg_mut().skip(1) }).unwrap_err();
        assert!(error.to_string().contains("a multiple of 16"), "{error}");
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
fn the_larger_tiles_give_the_same_bits() {
    let mut gpu = Gpu::new();
    let (m, n, k) = (1150, 1301, 70);
    let w = weight(&mut gpu, &values(n * k, 9), n, k);
    let layer = Layer::<f32>::new(m, n, k, 6.0, 1, true);
    let (got, want, _) = both(&mut gpu, &layer.kernel, &layer, &w, 0);
    assert!(gpu.launches[1].entry.as_str().ends_with("_128_128"));
    same("f32", n, &got, &want);

    let (m, n, k) = (650, 1160, 100);
    let w = weight(&mut gpu, &values(n * k, 9), n, k);
    let layer = Layer::<f16>::new(m, n, k, 6.0, 1, true);
    let (got, want, _) = both(&mut gpu, &layer.kernel.of::<f16>(), &layer, &w, 0);
    assert!(gpu.launches[1].entry.as_str().ends_with("_64_128"));
    same("f16", n, &got, &want);
}
