//! Bytes per second of additions, column sums and row gathers.
#![allow(missing_docs)] // criterion's macros make public functions

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use elementwise::*;
use kernel_abi::Kernel;
use std::time::Duration;

fn bench(c: &mut Criterion) {
    let (rows, cols) = (4096, 1024);
    let (x, mut y) = (vec![0.5f32; rows * cols], vec![0.25f32; rows * cols]);
    let mut group = c.benchmark_group("elementwise");
    group.throughput(Throughput::Bytes(12 * (rows * cols) as u64));
    group.bench_function("add 4096x1024", |b| {
        b.iter(|| Add { len: rows * cols }.cpu(AddArgs { x: (&x).into(), y: (&mut y).into() }))
    });
    let mut sums = vec![0.0f32; cols];
    group.throughput(Throughput::Bytes(4 * (rows * cols) as u64));
    group.bench_function("column sum 4096x1024", |b| {
        b.iter(|| ColumnSum { rows, cols }.cpu(ColumnSumArgs { x: (&x).into(), y: (&mut sums).into() }))
    });
    let index: Vec<u32> = (0..rows as u32 / 2).map(|i| 2 * i).collect();
    let picked = index.len();
    group.throughput(Throughput::Bytes(8 * (picked * cols) as u64));
    group.bench_function("gather 2048 of 4096x1024", |b| {
        b.iter(|| {
            GatherRows { rows, picked, cols }.cpu(GatherRowsArgs {
                x: (&x).into(),
                index: (&index).into(),
                y: (&mut y[..picked * cols]).into(),
            })
        })
    });
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
