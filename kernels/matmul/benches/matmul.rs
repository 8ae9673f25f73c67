//! FLOP/s of the dense product.
#![allow(missing_docs)] // criterion's macros make public functions

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use kernel_abi::Kernel;
use matmul::*;
use std::time::Duration;

/// Independent chains of the peak.
const CHAINS: usize = 20;

/// Fused multiply-adds in chains that stay in registers: 2 * CHAINS * 16 operations a step.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn chains(steps: usize) -> std::arch::x86_64::__m512 {
    use std::arch::x86_64::*;
    let (factor, term) = (_mm512_set1_ps(0.999), _mm512_set1_ps(0.001));
    let mut acc = [factor; CHAINS];
    for _ in 0..steps {
        for a in &mut acc {
            *a = _mm512_fmadd_ps(*a, factor, term);
        }
    }
    acc.into_iter().fold(factor, |sum, a| _mm512_add_ps(sum, a))
}

/// What the machine can do at most, in this very minute: the products' share of it is what counts.
#[cfg(target_arch = "x86_64")]
fn peak(c: &mut Criterion) {
    if cpu::isa() < cpu::Isa::Avx512 {
        return;
    }
    let (steps, tasks) = (100_000, cpu::threads());
    let mut group = c.benchmark_group("peak");
    group.throughput(Throughput::Elements((2 * CHAINS * 16 * steps * tasks) as u64));
    group.bench_function("f32 multiply-adds in registers", |b| {
        // SAFETY: the features were detected.
        b.iter(|| cpu::par_for(tasks, 640 * steps, |_| _ = std::hint::black_box(unsafe { chains(steps) })));
    });
    group.finish();
}

#[cfg(not(target_arch = "x86_64"))]
fn peak(_: &mut Criterion) {}

fn bench(c: &mut Criterion) {
    let mut group = c.benchmark_group("linear");
    for (m, n, k) in [(1024, 1024, 1024), (320, 512, 128), (16, 1536, 512), (16, 50304, 512)] {
        let (x, w) = (vec![0.5f32; m * k], vec![0.25f32; n * k]);
        let mut packed = vec![0.0f32; packed_len(n, k)];
        PackWeight { n, k }.cpu(PackWeightArgs { w: (&w).into(), packed: (&mut packed).into() });
        let mut y = vec![0.0f32; m * n];
        group.throughput(Throughput::Elements(2 * (m * n * k) as u64));
        group.bench_function(format!("{m}x{n}x{k}"), |b| {
            b.iter(|| {
                let args = LinearArgs {
                    x: (&x).into(),
                    packed: (&packed).into(),
                    bias: None,
                    residual: None,
                    y: (&mut y).into(),
                };
                Linear { m, n, k }.cpu(args);
            })
        });
    }
    group.finish();
}

/// The same products with bf16 operands, and the gradient of their input.
fn bf16(c: &mut Criterion) {
    let mut group = c.benchmark_group("bf16 linear");
    for (m, n, k) in [(1024, 1024, 1024), (16, 50304, 512), (256, 50304, 512)] {
        let (x, w) = (vec![0.5f32; m * k], vec![0.25f32; n * k]);
        let mut packed = vec![0u32; bf16_packed_len(n, k)];
        PackBf16 { n, k }.cpu(PackBf16Args { w: (&w).into(), packed: packed[..].as_mut().into() });
        let (mut y, mut dx) = (vec![0.0f32; m * n], vec![0.0f32; m * k]);
        group.throughput(Throughput::Elements(2 * (m * n * k) as u64));
        group.bench_function(format!("forward {m}x{n}x{k}"), |b| {
            b.iter(|| {
                let (x, packed, y) = ((&x).into(), (&packed).into(), (&mut y).into());
                Bf16Linear { m, n, k }.cpu(Bf16LinearArgs { x, packed, bias: None, residual: None, y });
            })
        });
        group.bench_function(format!("backward {m}x{n}x{k}"), |b| {
            b.iter(|| {
                let (dy, packed, dx) = ((&y).into(), (&packed).into(), (&mut dx).into());
                let kernel = Bf16LinearBackward { m, n, k, accumulate: false };
                kernel.cpu(Bf16LinearBackwardArgs { dy, packed, dx });
            })
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    // A family in seconds rather than minutes.
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(20);
    targets = peak, bench, bf16
}
criterion_main!(benches);
