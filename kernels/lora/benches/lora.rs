//! Adapter forward and backward, by rank, at a training and at a generation shape.
#![allow(missing_docs)] // of the function that `criterion_group!` makes

use criterion::{
    BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
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
    grouped_and_merged(&mut group);
    group.finish();
}

/// Four adapters in one batch; an adapter into an int8 weight.
fn grouped_and_merged(group: &mut BenchmarkGroup<'_, WallTime>) {
    let (m, n, rank, adapters) = (64, 1024, 8, 4);
    let values = |n: usize| (0..n).map(|i| ((i * 37) % 200) as f32 / 100.0 - 1.0).collect::<Vec<f32>>();
    let (x, a, b) = (values(m * n), values(adapters * rank * n), values(adapters * n * rank));
    let (scales, index) = (values(adapters), (0..m as u32).map(|i| i / 16).collect::<Vec<u32>>());
    let (mut u, mut y) = (values(m * rank), values(m * n));
    let kernel = GroupedLoraForward { m, n_in: n, n_out: n, rank, adapters, ldy: n, col_offset: 0 };
    group.throughput(Throughput::Elements(kernel.cost().flops));
    group.bench_function(format!("grouped {m}x{n}x{n}, rank {rank}, {adapters} adapters"), |bench| {
        bench.iter(|| {
            kernel.cpu(GroupedLoraForwardArgs {
                x: (&x).into(),
                a: (&a).into(),
                b: (&b).into(),
                scales: (&scales).into(),
                index: index[..].into(),
                u: (&mut u).into(),
                y: (&mut y).into(),
            });
        })
    });
    let (mut q, mut scb) = (vec![1i8; n * n], vec![1.0f32; n]);
    let (mut max, mut mean) = (vec![0.0f32; n], vec![0.0f32; n]);
    let kernel = LoraMergeInt8 { n_in: n, n_out: n, rank, scale: 1e-3 };
    group.throughput(Throughput::Elements(kernel.cost().flops));
    group.bench_function(format!("merge into int8 {n}x{n}, rank {rank}"), |bench| {
        bench.iter(|| {
            kernel.cpu(LoraMergeInt8Args {
                a: a[..rank * n].into(),
                b: b[..rank * n].into(),
                q: q[..].as_mut().into(),
                scb: (&mut scb).into(),
                max_error: (&mut max).into(),
                mean_error: (&mut mean).into(),
            });
        })
    });
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
