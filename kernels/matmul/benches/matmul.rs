//! FLOP/s of the dense product.
#![allow(missing_docs)] // criterion's macros make public functions

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use kernel_abi::Kernel;
use matmul::*;

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

criterion_group!(benches, bench);
criterion_main!(benches);
