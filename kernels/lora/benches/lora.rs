//! Adapter forward and backward, by rank, at a training and at a generation shape.
#![allow(missing_docs)] // of the function that `criterion_group!` makes

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use kernel_abi::Kernel;
use lora::*;
use std::time::Duration;

fn bench(c: &mut Criterion) {
    let mut group = c.benchmark_group("lora");
    for (m, n_in, n_out, rank) in [(512, 2048, 2048, 8), (512, 2048, 2048, 64), (16, 512, 1536, 8)] {
        let values = |n: usize| (0..n).map(|i| ((i * 37) % 200) as f32 / 100.0 - 1.0).collect::<Vec<f32>>();
        let (x, a, b, dy) = (values(m * n_in), values(rank * n_in), values(n_out * rank), values(m * n_out));
        let (mut u, mut y) = (vec![0.0f32; m * rank], vec![0.0f32; m * n_out]);
        let forward = LoraForward { m, n_in, n_out, rank, scale: 0.5, ldy: n_out, col_offset: 0 };
        let name = format!("{m}x{n_in}x{n_out}, rank {rank}");
        group.throughput(Throughput::Elements(forward.cost().flops));
        group.bench_function(format!("forward {name}"), |bench| {
            bench.iter(|| {
                forward.cpu(LoraForwardArgs {
                    x: (&x).into(),
                    a: (&a).into(),
                    b: (&b).into(),
                    u: (&mut u).into(),
                    y: (&mut y).into(),
                });
            })
        });
        let backward = LoraBackward { m, n_in, n_out, rank, scale: 0.5, ldy: n_out, col_offset: 0 };
        let (mut da, mut db, mut dx) = (vec![0.0f32; a.len()], vec![0.0f32; b.len()], vec![0.0f32; x.len()]);
        group.throughput(Throughput::Elements(backward.cost().flops));
        group.bench_function(format!("backward {name}"), |bench| {
            bench.iter(|| {
                backward.cpu(LoraBackwardArgs {
                    x: (&x).into(),
                    a: (&a).into(),
                    b: (&b).into(),
                    u: (&u).into(),
                    dy: (&dy).into(),
                    da: (&mut da).into(),
                    db: (&mut db).into(),
                    dx: Some((&mut dx).into()),
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
