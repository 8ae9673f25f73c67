//! int8 linear layer, forward and backward, at the shape that peers are quoted for.
#![allow(missing_docs)] // criterion's macros make public functions

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use int8_matmul::*;
use kernel_abi::Kernel;
use std::time::Duration;

fn bench(c: &mut Criterion) {
    let mut group = c.benchmark_group("int8");
    for (m, n, k) in [(512, 2048, 2048), (16, 2048, 2048), (320, 512, 128)] {
        let mut x: Vec<f32> = (0..m * k).map(|i| ((i * 37) % 200) as f32 / 100.0 - 1.0).collect();
        for i in 0..m {
            (0..6).for_each(|c| x[i * k + (c * 311) % k] *= 20.0);
        }
        let packed: Vec<i8> = (0..packed_len(n, k)).map(|i| ((i * 31) % 255) as i8).collect();
        let (scb, mut y) = (vec![0.1f32; n], vec![0.0f32; m * n]);
        group.throughput(Throughput::Elements(2 * (m * n * k) as u64));
        group.bench_function(format!("forward, 6 outlier columns {m}x{n}x{k}"), |b| {
            b.iter(|| {
                Int8Linear { m, n, k, threshold: 6.0 }.cpu(Int8LinearArgs {
                    x: (&x).into(),
                    packed: (&packed).into(),
                    scb: (&scb).into(),
                    bias: None,
                    residual: None,
                    y: (&mut y).into(),
                });
            })
        });
        let mut dx = vec![0.0f32; m * k];
        group.bench_function(format!("backward {m}x{n}x{k}"), |b| {
            b.iter(|| {
                Int8LinearBackward { m, n, k, accumulate: false }.cpu(Int8LinearBackwardArgs {
                    dy: (&y).into(),
                    packed: (&packed).into(),
                    scb: (&scb).into(),
                    dx: (&mut dx).into(),
                });
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
    targets = bench
}
criterion_main!(benches);
