//! Rows per second through the output head, and bytes per second of the row statistics.

#![allow(missing_docs)] // criterion's macros

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use kernel_abi::Kernel;
use loss::*;
use matmul::packed_len;
use std::time::Duration;

fn statistics(c: &mut Criterion) {
    let mut group = c.benchmark_group("log_sum_exp");
    let row: Vec<f32> = (0..50304u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 * 1e-6).collect();
    group.throughput(Throughput::Bytes(4 * row.len() as u64));
    group.bench_function("50304", |b| b.iter(|| log_sum_exp(&row, 0.7)));
    group.finish();
}

fn head(c: &mut Criterion) {
    let mut group = c.benchmark_group("lm_log_prob");
    group.sample_size(10);
    for (rows, hidden, vocab) in [(512, 128, 512), (128, 512, 50304)] {
        let inv_temperature = 1.0;
        let (x, w) = (vec![0.01f32; rows * hidden], vec![0.02f32; vocab * hidden]);
        let (packed, targets) = (vec![0.02f32; packed_len(vocab, hidden)], vec![3u32; rows]);
        let (mut lp, mut lse, mut h) = (vec![0.0f32; rows], vec![0.0f32; rows], vec![0.0f32; rows]);
        let (mut dx, mut dw) = (vec![0.0f32; x.len()], vec![0.0f32; w.len()]);
        let flops = 2 * (rows * hidden * vocab) as u64;
        group.throughput(Throughput::Elements(flops));
        group.bench_function(format!("forward/{rows}x{hidden}x{vocab}"), |b| {
            b.iter(|| {
                LmLogProb { rows, hidden, vocab, inv_temperature }.cpu(LmLogProbArgs {
                    x: (&x).into(),
                    head_packed: (&packed).into(),
                    targets: (&targets).into(),
                    logprob: (&mut lp).into(),
                    lse: (&mut lse).into(),
                    entropy: Some((&mut h).into()),
                    logits: None,
                });
            })
        });
        for train_head in [false, true] {
            let products = if train_head { 3 } else { 2 };
            group.throughput(Throughput::Elements(products * flops));
            group.bench_function(format!("backward/head={train_head}/{rows}x{hidden}x{vocab}"), |b| {
                b.iter(|| {
                    LmLogProbBackward { rows, hidden, vocab, inv_temperature }.cpu(LmLogProbBackwardArgs {
                        x: (&x).into(),
                        head: Some((&w).into()),
                        head_packed: (&packed).into(),
                        targets: (&targets).into(),
                        lse: (&lse).into(),
                        entropy: None,
                        logits: None,
                        dlogprob: (&lp).into(),
                        dentropy: None,
                        dx: (&mut dx).into(),
                        dhead: train_head.then(|| (&mut dw).into()),
                    });
                })
            });
        }
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
    targets = statistics, head
}
criterion_main!(benches);
