//! Draws per second over a large vocabulary, dropout, the table's gradient.

#![allow(missing_docs)] // criterion's macros

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use embedding::*;
use kernel_abi::Kernel;
use std::time::Duration;

fn hash(i: u32) -> u32 {
    philox4x32([i, 0, 0, 0], [0, 0])[0]
}

fn sampling(c: &mut Criterion) {
    let (rows, vocab) = (8usize, 50304usize);
    // Sums of four uniforms, scaled: bell-shaped logits with a standard deviation of about 3.
    let one = |i: u32| philox4x32([i, 1, 0, 0], [0, 0]).iter().map(|w| *w as f32 * 1.2e-9).sum::<f32>();
    let logits: Vec<f32> = (0..(rows * vocab) as u32).map(one).collect();
    let (stream, position): (Vec<u32>, Vec<u32>) = ((0..8).collect(), vec![5; rows]);
    let (mut token, mut logprob) = (vec![0u32; rows], vec![0.0f32; rows]);
    let mut group = c.benchmark_group("sample");
    group.throughput(Throughput::Elements(rows as u64));
    for (name, temperature, top_k, top_p) in
        [("all", 1.0, 0, 1.0), ("argmax", 0.0, 0, 1.0), ("top_k", 1.0, 50, 1.0), ("top_p", 0.7, 0, 0.9)]
    {
        let shape = Sample { rows, vocab, temperature, top_k, top_p, seed: 1 };
        group.bench_function(name, |b| {
            b.iter(|| {
                shape.cpu(SampleArgs {
                    logits: (&logits).into(),
                    stream: (&stream).into(),
                    position: (&position).into(),
                    token: (&mut token).into(),
                    logprob: (&mut logprob).into(),
                });
            })
        });
    }
    group.finish();
}

fn elements(c: &mut Criterion) {
    let mut group = c.benchmark_group("elements");
    let len = 1 << 20;
    let (x, mut y) = (vec![1.0f32; len], vec![0.0f32; len]);
    group.throughput(Throughput::Elements(len as u64));
    group.bench_function("dropout", |b| {
        b.iter(|| Dropout { len, p: 0.1, seed: 3 }.cpu(DropoutArgs { x: (&x).into(), y: (&mut y).into() }))
    });
    let (rows, cols, vocab) = (2048, 512, 8192);
    let ids: Vec<u32> = (0..rows as u32).map(|i| hash(i) % vocab as u32).collect();
    let mut table = vec![0.0f32; vocab * cols];
    group.bench_function("embedding_forward", |b| {
        b.iter(|| {
            EmbeddingForward { rows, cols, vocab, accumulate: false }.cpu(EmbeddingForwardArgs {
                table: (&table).into(),
                ids: (&ids).into(),
                y: (&mut y).into(),
            });
        })
    });
    group.bench_function("embedding_backward", |b| {
        b.iter(|| {
            EmbeddingBackward { rows, cols, vocab }.cpu(EmbeddingBackwardArgs {
                dy: (&x).into(),
                ids: (&ids).into(),
                dtable: (&mut table).into(),
            });
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
    targets = sampling, elements
}
criterion_main!(benches);
