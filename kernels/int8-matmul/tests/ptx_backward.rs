//! The backward pass on the VM: against f64 and the CPU twin, strictly checked and under an adversary.

mod common;

use common::*;
use int8_matmul::*;
use kernel_abi::{Float, Kernel, bf16, f16, widen};
use kernel_test::{Counters, Gpu, compare::*, every_way};
use proptest::prelude::*;

/// dx on the GPU, by the twin, and in f64 without any rounding of dy.
struct Results {
    gpu: Vec<f32>,
    twin: Vec<f32>,
    exact: Vec<f64>,
    counters: Counters,
}

fn both<T: Float, K>(gpu: &mut Gpu, kernel: &K, shape: Int8LinearBackward, w: &Weight, skip: usize) -> Results
where
    K: for<'a> Kernel<Args<'a> = Int8LinearBackwardArgs<'a, T>>,
{
    let Int8LinearBackward { m, n, k, accumulate } = shape;
    let (dy, before) = (typed::<T>(&values(m * n + skip, 4)), typed::<T>(&values(m * k + skip, 5)));
    let (g_dy, mut g_dx) = (gpu.upload(&dy), gpu.upload(&before));
    let (packed, scb) = (w.on_gpu.arg(), w.scb_on_gpu.arg());
    let (d, x) = (g_dy.arg().skip(skip), g_dx.arg_mut().skip(skip));
    let counters = gpu.run(kernel, Int8LinearBackwardArgs { dy: d, packed, scb, dx: x });
    let mut twin = before[skip..].to_vec();
    kernel.cpu(Int8LinearBackwardArgs {
        dy: dy[skip..].into(),
        packed: (&w.packed).into(),
        scb: (&w.scb).into(),
        dx: (&mut twin).into(),
    });
    let (dy, before) = (widen(&dy[skip..]), widen(&before[skip..]));
    let exact = (0..m * k).map(|at| {
        let (i, t) = (at / k, at % k);
        let w = |j: usize| f64::from(w.q[j * k + t]) * f64::from(w.scb[j]) / 127.0;
        let sum: f64 = (0..n).map(|j| f64::from(dy[i * n + j]) * w(j)).sum();
        sum + if accumulate { f64::from(before[at]) } else { 0.0 }
    });
    let exact = exact.collect();
    let gpu = widen(&g_dx.to_vec())[skip..].to_vec();
    Results { gpu, twin: widen(&twin), exact, counters }
}

/// As near to f64 as the twin, and to the twin itself `limit`: the operands are rounded alike, so only the order of the sums
/// and the rounding of the result differ.
fn close(what: &str, r: &Results, limit: f64) {
    assert_twice(what, &r.gpu, &r.twin, &r.exact, 1e-6);
    assert_close(what, &r.gpu, &r.exact, 1e-2);
    assert_close(what, &r.gpu, &wide(&r.twin), limit);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(10) })]
    #[test]
    fn backward_is_as_near_as_the_twin(
        m in 1usize..150, n in 1usize..200, k in 1usize..150, skip in 0usize..5, accumulate: bool,
    ) {
        let mut gpu = Gpu::new();
        let w = weight(&mut gpu, &values(n * k, 9), n, k);
        let kernel = Int8LinearBackward { m, n, k, accumulate };
        close(&format!("{kernel:?}"), &both::<f32, _>(&mut gpu, &kernel, kernel, &w, skip), 1e-5);
    }
}

#[test]
fn in_16_bits_too() {
    let mut gpu = Gpu::new();
    for (m, n, k, skip, accumulate) in
        [(70, 72, 200, 0, true), (40, 61, 77, 3, true), (64, 8, 64, 0, false), (33, 130, 129, 1, false)]
    {
        let w = weight(&mut gpu, &values(n * k, 9), n, k);
        let shape = Int8LinearBackward { m, n, k, accumulate };
        close("f16", &both::<f16, _>(&mut gpu, &shape.of::<f16>(), shape, &w, skip), 2e-3);
        close("bf16", &both::<bf16, _>(&mut gpu, &shape.of::<bf16>(), shape, &w, skip), 1e-2);
    }
}

#[test]
fn without_outputs_the_gradient_is_zero() {
    let mut gpu = Gpu::new();
    let w = weight(&mut gpu, &[], 0, 20);
    for accumulate in [false, true] {
        let kernel = Int8LinearBackward { m: 3, n: 0, k: 20, accumulate };
        let r = both::<f32, _>(&mut gpu, &kernel, kernel, &w, 0);
        assert_eq!(r.gpu, r.twin);
        both::<f32, _>(
            &mut gpu,
            &Int8LinearBackward { m: 0, ..kernel },
            Int8LinearBackward { m: 0, ..kernel },
            &w,
            0,
        );
    }
}

#[test]
fn under_an_adversary() {
    // The adversary also draws the order of sums inside an mma, so bits may differ between seeds.
    every_way(|gpu| {
        let (m, n, k) = (70, 100, 80);
        let w = weight(gpu, &values(n * k, 9), n, k);
        let kernel = Int8LinearBackward { m, n, k, accumulate: true };
        close("adversary", &both::<f32, _>(gpu, &kernel, kernel, &w, 0), 1e-5);
    });
}

#[test]
fn the_tile_changes_no_bit() {
    let mut gpu = Gpu::new();
    let (n, k) = (72, 1300);
    let w = weight(&mut gpu, &values(n * k, 9), n, k);
    let mut dx = |m: usize| {
        let kernel = Int8LinearBackward { m, n, k, accumulate: false };
        let r = both::<f32, _>(&mut gpu, &kernel, kernel, &w, 0);
        close("tile", &r, 1e-5);
        (r.gpu, gpu.launches[0].entry.as_str().to_string())
    };
    let ((all, large), (some, small)) = (dx(1100), dx(5));
    assert!(large.ends_with("128_wide") && small.ends_with("64_wide"));
    assert!(all[..5 * k].iter().zip(&some).all(|(a, b)| a.to_bits() == b.to_bits()));
}

/// scb / 127 as the kernel divides: a product and two corrections.
#[test]
fn the_scale_is_the_quotient_for_every_fp16() {
    let inverse = f32::from_bits(0x3c01_0204);
    for bits in 1..0x7c00u16 {
        let scb = f16::from_bits(bits).to_f32();
        let near = scb * inverse;
        let rest = near.mul_add(-127.0, scb);
        assert_eq!(rest.mul_add(inverse, near), scb / 127.0, "{scb}");
    }
}

#[test]
fn the_main_loop_has_no_bank_conflict() {
    let mut gpu = Gpu::new();
    for (m, n, k) in [(1280, 256, 1280), (128, 256, 128)] {
        let w = weight(&mut gpu, &values(n * k, 9), n, k);
        let kernel = Int8LinearBackward { m, n, k, accumulate: false };
        let Counters {
            mma_loop_instructions,
            mma_loop_mma,
            shared_loads,
            shared_stores,
            global_loads,
            global_stores,
            ..
        } = both::<f32, _>(&mut gpu, &kernel, kernel, &w, 0).counters;
        let per_mma = mma_loop_instructions as f64 / mma_loop_mma as f64;
        println!(
            "{} {m}x{n}x{k}: {per_mma:.2} instructions/mma, read {}, written {}",
            gpu.launches[0].entry.as_str(),
            global_loads.bytes,
            global_stores.bytes
        );
        assert_eq!((shared_loads.conflicts, shared_stores.conflicts), (0, 0));
        assert_eq!((global_loads.efficiency(), global_stores.efficiency()), (1.0, 1.0));
        assert_eq!(global_stores.bytes, kernel.cost().bytes_written);
        assert!(per_mma < if m == 1280 { 4.0 } else { 5.5 });
    }
}
