//! Causal attention forward and backward at a training shape, and one decode step over a filled cache.
#![allow(missing_docs)] // criterion's macros make public functions

use attention::*;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use kernel_abi::Kernel;
use std::time::Duration;

fn values(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 37) % 200) as f32 / 100.0 - 1.0).collect()
}

/// `sequences` of `len` tokens.
fn training(c: &mut Criterion) {
    let mut group = c.benchmark_group("attention");
    for (sequences, len, heads, head_dim) in [(8, 128, 8, 64), (8, 128, 4, 32)] {
        let rows = sequences * len;
        let qkv = values(rows * 3 * heads * head_dim);
        let starts: Vec<u32> = (0..=sequences).map(|s| (s * len) as u32).collect();
        let (mut out, mut lse) = (vec![0.0f32; rows * heads * head_dim], vec![0.0f32; rows * heads]);
        let name = format!("{sequences}x{len}, {heads} heads of {head_dim}");
        let pairs = (sequences * len * (len + 1) / 2 * heads * head_dim) as u64;
        group.throughput(Throughput::Elements(4 * pairs));
        group.bench_function(format!("forward {name}"), |b| {
            b.iter(|| {
                AttentionForward { rows, heads, kv_heads: heads, head_dim }.cpu(AttentionForwardArgs {
                    qkv: (&qkv).into(),
                    starts: (&starts).into(),
                    out: (&mut out).into(),
                    lse: (&mut lse).into(),
                });
            })
        });
        let (dout, mut dqkv) = (values(out.len()), vec![0.0f32; qkv.len()]);
        group.throughput(Throughput::Elements(10 * pairs));
        group.bench_function(format!("backward {name}"), |b| {
            b.iter(|| {
                AttentionBackward { rows, heads, kv_heads: heads, head_dim }.cpu(AttentionBackwardArgs {
                    qkv: (&qkv).into(),
                    starts: (&starts).into(),
                    out: (&out).into(),
                    lse: (&lse).into(),
                    dout: (&dout).into(),
                    dqkv: (&mut dqkv).into(),
                });
            })
        });
    }
    group.finish();
}

/// The newest token of 16 sequences of 256.
fn decode(c: &mut Criterion) {
    let (rows, heads, head_dim, capacity) = (16, 8, 64, 256);
    let kernel = AttentionExtend { rows, heads, kv_heads: heads, head_dim, slots: rows, capacity };
    let qkv = values(rows * 3 * heads * head_dim);
    let slot: Vec<u32> = (0..rows as u32).collect();
    let position = vec![capacity as u32 - 1; rows];
    let mut keys = values(cache_len(rows, capacity, heads, head_dim));
    let mut cache = keys.clone();
    let mut out = vec![0.0f32; rows * heads * head_dim];
    c.bench_function("attention/decode 16 x 256, 8 heads of 64", |b| {
        b.iter(|| {
            kernel.cpu(AttentionExtendArgs {
                qkv: (&qkv).into(),
                slot: (&slot).into(),
                position: (&position).into(),
                k_cache: (&mut keys).into(),
                v_cache: (&mut cache).into(),
                out: (&mut out).into(),
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
    targets = training, decode
}
criterion_main!(benches);
