//! Bytes per second of the norms and activations: they read and write each element once.
#![allow(missing_docs)] // criterion's macros make public functions

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use kernel_abi::Kernel;
use norm_gelu::*;
use std::time::Duration;

const ROWS: usize = 4096;
const COLS: usize = 1024;

fn values(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 37) % 200) as f32 / 100.0 - 1.0).collect()
}

fn norms(c: &mut Criterion) {
    let mut group = c.benchmark_group("norm");
    let (x, dy, weight) = (values(ROWS * COLS), values(ROWS * COLS), values(COLS));
    let (mut y, mut mean, mut rstd) = (vec![0.0f32; ROWS * COLS], vec![0.0f32; ROWS], vec![0.0f32; ROWS]);
    let mut dweight = vec![0.0f32; COLS];
    let (rows, cols) = (ROWS, COLS);
    for (name, kind) in [("layer", Norm::Layer), ("rms", Norm::Rms)] {
        group.throughput(Throughput::Bytes(8 * (ROWS * COLS) as u64));
        group.bench_function(format!("{name} forward {ROWS}x{COLS}"), |b| {
            b.iter(|| {
                NormForward { rows, cols, eps: 1e-5, kind }.cpu(NormForwardArgs {
                    x: (&x).into(),
                    weight: (&weight).into(),
                    bias: None,
                    y: (&mut y).into(),
                    mean: (&mut mean).into(),
                    rstd: (&mut rstd).into(),
                });
            })
        });
        group.throughput(Throughput::Bytes(12 * (ROWS * COLS) as u64));
        group.bench_function(format!("{name} backward {ROWS}x{COLS}"), |b| {
            b.iter(|| {
                NormBackward { rows, cols, kind, accumulate: false }.cpu(NormBackwardArgs {
                    x: (&x).into(),
                    weight: (&weight).into(),
                    mean: (&mean).into(),
                    rstd: (&rstd).into(),
                    dy: (&dy).into(),
                    dx: (&mut y).into(),
                    dweight: Some((&mut dweight).into()),
                    dbias: None,
                });
            })
        });
    }
    group.finish();
}

fn activations(c: &mut Criterion) {
    let mut group = c.benchmark_group("activation");
    let (x, dy) = (values(ROWS * COLS), values(ROWS * COLS));
    let mut y = vec![0.0f32; ROWS * COLS];
    for (name, kind) in [("gelu", Act::Gelu), ("gelu tanh", Act::GeluTanh)] {
        group.throughput(Throughput::Bytes(8 * (ROWS * COLS) as u64));
        group.bench_function(format!("{name} forward {ROWS}x{COLS}"), |b| {
            b.iter(|| {
                let args = ActForwardArgs { x: (&x).into(), y: (&mut y).into() };
                ActForward { rows: ROWS, cols: COLS, kind }.cpu(args);
            })
        });
        group.throughput(Throughput::Bytes(12 * (ROWS * COLS) as u64));
        group.bench_function(format!("{name} backward {ROWS}x{COLS}"), |b| {
            b.iter(|| {
                let args = ActBackwardArgs { x: (&x).into(), dy: (&dy).into(), dx: (&mut y).into() };
                ActBackward { rows: ROWS, cols: COLS, kind }.cpu(args);
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
    targets = norms, activations
}
criterion_main!(benches);
