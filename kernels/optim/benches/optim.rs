//! Bytes per second of the optimiser's passes.

#![allow(missing_docs)] // criterion's macros

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use kernel_abi::Kernel;
use optim::*;
use std::time::Duration;

fn bench(c: &mut Criterion) {
    for len in [4096usize, 1 << 22] {
        let mut p = vec![0.5f32; len];
        // Of all sizes, so that no code is likelier than others.
        let g: Vec<f32> =
            (0..len).map(|i| ((i * 7919 % 1009) as f32 - 504.0) * 1e-4 / (1 + i % 7) as f32).collect();
        let (mut m, mut v) = (vec![0.0f32; len], vec![0.0f32; len]);
        let adamw = AdamW {
            len,
            lr: 1e-4,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            weight_decay: 0.1,
            step: 10,
            grad_scale: 1.0,
        };
        let mut group = c.benchmark_group("optim");
        group.throughput(Throughput::Bytes(28 * len as u64));
        group.bench_function(format!("adamw/{len}"), |b| {
            b.iter(|| {
                adamw.cpu(AdamWArgs {
                    param: (&mut p).into(),
                    grad: (&g).into(),
                    m: (&mut m).into(),
                    v: (&mut v).into(),
                });
            })
        });
        let (mut mc, mut vc, groups) = (vec![0u8; len], vec![0u8; len], len / GROUP);
        let (mut ml, mut vl) = (vec![0.0f32; groups], vec![0.0f32; groups]);
        group.throughput(Throughput::Bytes(16 * len as u64));
        group.bench_function(format!("adamw_8bit/{len}"), |b| {
            b.iter(|| {
                AdamW8bit(adamw).cpu(AdamW8bitArgs {
                    param: (&mut p).into(),
                    grad: (&g).into(),
                    m: (&mut mc).into(),
                    v: (&mut vc).into(),
                    m_largest: (&mut ml).into(),
                    v_largest: (&mut vl).into(),
                });
            })
        });
        let mut out = [0.0f64];
        group.throughput(Throughput::Bytes(4 * len as u64));
        group.bench_function(format!("squared_norm/{len}"), |b| {
            b.iter(|| {
                SquaredNorm { len }.cpu(SquaredNormArgs { x: (&g).into(), out: out[..].as_mut().into() });
            })
        });
        group.finish();
    }
}

criterion_group! {
    name = benches;
    // A family in seconds rather than minutes.
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(20);
    targets = bench
}
criterion_main!(benches);
