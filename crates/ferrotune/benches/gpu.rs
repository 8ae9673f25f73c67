//! The kernels on a CUDA device, where there is one: time, and the share of what the roofline allows.
//!
//! `cargo bench -p ferrotune --bench gpu`; with no GPU it says so and stops. (`cargo xtask vm -- cargo bench -p ferrotune
//! --bench gpu -- --test` runs each kernel once on the PTX VM: whether it works, not how fast.)
#![allow(missing_docs)] // criterion's macros make public functions

use attention::{AttentionBackward, AttentionBackwardArgs, AttentionForward, AttentionForwardArgs};
use criterion::{
    BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
use device::{Buffer, Cost, Device, Kernel};
use elementwise::{Add, AddArgs};
use int8_matmul::*;
use lora::{LoraBackward, LoraBackwardArgs, LoraForward, LoraForwardArgs};
use matmul::{Matmul, MatmulArgs};
use norm_gelu::*;
use optim::{AdamW, AdamWArgs};
use ptx_vm::gpu::{GPUS, Gpu};
use std::time::{Duration, Instant};

/// A GPT-NeoX-20B-like block on a GPU; small enough for the VM when only asked whether it works.
struct Sizes {
    rows: usize,
    hidden: usize,
    heads: usize,
}

struct Bench<'c> {
    group: BenchmarkGroup<'c, WallTime>,
    device: Device,
    gpu: Option<&'static Gpu>,
    lines: Vec<String>,
}

impl Bench<'_> {
    fn buffer(&self, n: usize) -> Buffer {
        let values: Vec<f32> = (0..n).map(|i| ((i * 37) % 201) as f32 / 100.0 - 1.0).collect();
        self.device.upload(&values)
    }

    /// Times launches of `kernel`, whose arguments `run` passes to the device, many to one wait.
    fn time<K: Kernel>(&mut self, kernel: &K, mut run: impl FnMut(&Device)) {
        let cost = kernel.cost();
        let device = self.device.clone();
        self.group.throughput(Throughput::Bytes(cost.bytes_read + cost.bytes_written));
        let mut each = Duration::ZERO;
        self.group.bench_function(K::NAME, |b| {
            b.iter_custom(|n| {
                device.wait();
                let start = Instant::now();
                (0..n).for_each(|_| run(&device));
                device.wait();
                let took = start.elapsed();
                each = took / n.max(1) as u32;
                took
            })
        });
        self.lines.push(line(K::NAME, cost, each, self.gpu));
    }
}

/// Achieved rates and the share of the roofline's time that was needed.
fn line(name: &str, cost: Cost, each: Duration, gpu: Option<&Gpu>) -> String {
    let (seconds, bytes) = (each.as_secs_f64(), (cost.bytes_read + cost.bytes_written) as f64);
    let share = gpu.map_or("no data sheet".to_string(), |g| {
        let halves = cost.half_flops as f64 / g.peak.mma_f16;
        let compute = cost.flops as f64 / g.peak.f32 + halves + cost.int8_ops as f64 / g.peak.mma_i8;
        format!("{:5.1} % of the roofline", 100.0 * (bytes / g.bandwidth).max(compute) / seconds)
    });
    let (flops, ops) =
        ((cost.flops + cost.half_flops) as f64 / seconds / 1e12, cost.int8_ops as f64 / seconds / 1e12);
    let micros = seconds * 1e6;
    let rate = bytes / seconds / 1e9;
    format!(
        "{name:<24}{micros:>12.1} us {rate:>9.1} GB/s {flops:>8.2} TFLOP/s {ops:>8.2} int8 TOP/s  {share}"
    )
}

fn memory_bound(b: &mut Bench<'_>, s: &Sizes) {
    let (rows, cols, n) = (s.rows, s.hidden, s.rows * s.hidden);
    let (x, weight) = (b.buffer(n), b.buffer(cols));
    let (mut y, mut mean, mut rstd) = (b.buffer(n), b.buffer(rows), b.buffer(rows));
    let norm = NormForward { rows, cols, eps: 1e-5, kind: Norm::Layer };
    b.time(&norm, |d| {
        let (mean, rstd) = (mean.arg_mut(), rstd.arg_mut());
        d.run(
            &norm,
            NormForwardArgs { x: x.arg(), weight: weight.arg(), bias: None, y: y.arg_mut(), mean, rstd },
        );
    });
    let (dy, mut dx, mut dweight) = (b.buffer(n), b.buffer(n), b.buffer(cols));
    let back = NormBackward { rows, cols, kind: Norm::Layer, accumulate: false };
    b.time(&back, |d| {
        let args = NormBackwardArgs {
            x: x.arg(),
            weight: weight.arg(),
            mean: mean.arg(),
            rstd: rstd.arg(),
            dy: dy.arg(),
            dx: dx.arg_mut(),
            dweight: Some(dweight.arg_mut()),
            dbias: None,
        };
        d.run(&back, args);
    });
    let act = ActForward { rows, cols, kind: Act::Gelu };
    b.time(&act, |d| d.run(&act, ActForwardArgs { x: x.arg(), y: y.arg_mut() }));
    let add = Add { len: n };
    b.time(&add, |d| d.run(&add, AddArgs { x: x.arg(), y: y.arg_mut() }));
    let (mut p, mut m, mut v) = (b.buffer(n), b.device.zeros(n), b.device.zeros(n));
    let adam = AdamW {
        len: n,
        lr: 1e-4,
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        weight_decay: 0.0,
        step: 1,
        grad_scale: 1.0,
    };
    b.time(&adam, |d| {
        let args = AdamWArgs { param: p.arg_mut(), grad: x.arg(), m: m.arg_mut(), v: v.arg_mut() };
        d.run(&adam, args);
    });
}

fn products(b: &mut Bench<'_>, s: &Sizes) {
    let (m, n, k) = (s.rows, s.hidden, s.hidden);
    let (x, w) = (b.buffer(m * k), b.buffer(n * k));
    let mut y = b.buffer(m * n);
    let (ta, tb, lda, ldb, ldc, alpha) = (false, true, k, k, n, 1.0);
    let dense = Matmul { m, n, k, ta, tb, lda, ldb, ldc, alpha, accumulate: false };
    b.time(&dense, |d| d.run(&dense, MatmulArgs { a: x.arg(), b: w.arg(), c: y.arg_mut() }));

    let (mut q, mut scb) = (b.device.alloc::<i8>(n * k), b.device.alloc(n));
    let mut packed = b.device.alloc::<i8>(packed_len(n, k));
    let args = QuantizeWeightArgs { w: w.arg(), q: q.arg_mut(), scb: scb.arg_mut() };
    b.device.run(&QuantizeWeight { n, k }, args);
    b.device.run(&PackInt8 { n, k }, PackInt8Args { q: q.arg(), packed: packed.arg_mut() });
    let int8 = Int8Linear { m, n, k, threshold: 6.0 };
    b.time(&int8, |d| {
        let (packed, scb) = (packed.arg(), scb.arg());
        let (bias, residual) = (None, None);
        d.run(&int8, Int8LinearArgs { x: x.arg(), packed, scb, bias, residual, y: y.arg_mut() });
    });
    let mut dx = b.buffer(m * k);
    let back = Int8LinearBackward { m, n, k, accumulate: false };
    b.time(&back, |d| {
        let (packed, scb) = (packed.arg(), scb.arg());
        d.run(&back, Int8LinearBackwardArgs { dy: y.arg(), packed, scb, dx: dx.arg_mut() });
    });

    let rank = 16;
    let (a, up, mut u) = (b.buffer(rank * k), b.buffer(n * rank), b.buffer(m * rank));
    let forward = LoraForward { m, n_in: k, n_out: n, rank, scale: 2.0, ldy: n, col_offset: 0 };
    b.time(&forward, |d| {
        let args = LoraForwardArgs { x: x.arg(), a: a.arg(), b: up.arg(), u: u.arg_mut(), y: y.arg_mut() };
        d.run(&forward, args);
    });
    let (mut da, mut db) = (b.buffer(rank * k), b.buffer(n * rank));
    let back = LoraBackward { m, n_in: k, n_out: n, rank, scale: 2.0, ldy: n, col_offset: 0 };
    b.time(&back, |d| {
        let args = LoraBackwardArgs {
            x: x.arg(),
            a: a.arg(),
            b: up.arg(),
            u: u.arg(),
            dy: y.arg(),
            da: da.arg_mut(),
            db: db.arg_mut(),
            dx: Some(dx.arg_mut()),
        };
        d.run(&back, args);
    });
}

fn attention(b: &mut Bench<'_>, s: &Sizes) {
    let (rows, heads, head_dim) = (s.rows, s.heads, s.hidden / s.heads);
    let qkv = b.buffer(rows * 3 * s.hidden);
    // Four sequences end to end.
    let starts = b.device.upload(&[0, rows as u32 / 4, rows as u32 / 2, 3 * rows as u32 / 4, rows as u32]);
    let (mut out, mut lse) = (b.buffer(rows * s.hidden), b.buffer(rows * heads));
    let forward = AttentionForward { rows, heads, kv_heads: heads, head_dim };
    b.time(&forward, |d| {
        let (out, lse) = (out.arg_mut(), lse.arg_mut());
        d.run(&forward, AttentionForwardArgs { qkv: qkv.arg(), starts: starts.arg(), out, lse });
    });
    let (dout, mut dqkv) = (b.buffer(rows * s.hidden), b.buffer(rows * 3 * s.hidden));
    let back = AttentionBackward { rows, heads, kv_heads: heads, head_dim };
    b.time(&back, |d| {
        let args = AttentionBackwardArgs {
            qkv: qkv.arg(),
            starts: starts.arg(),
            out: out.arg(),
            lse: lse.arg(),
            dout: dout.arg(),
            dqkv: dqkv.arg_mut(),
        };
        d.run(&back, args);
    });
}

fn kernels(c: &mut Criterion) {
    let device = match Device::cuda(0) {
        Ok(device) => device,
        Err(e) => return eprintln!("skipped: no GPU ({e})"),
    };
    let name = device.description();
    let on_vm = name.contains("PTX VM");
    let gpu = GPUS.iter().find(|g| !on_vm && name.contains(g.name.trim_start_matches("NVIDIA ")));
    let sizes = match on_vm {
        true => Sizes { rows: 32, hidden: 64, heads: 2 },
        false => Sizes { rows: 4096, hidden: 6144, heads: 64 },
    };
    let mut group = c.benchmark_group(name.clone());
    group.sample_size(10).measurement_time(Duration::from_secs(2));
    let mut b = Bench { group, device, gpu, lines: Vec::new() };
    memory_bound(&mut b, &sizes);
    products(&mut b, &sizes);
    attention(&mut b, &sizes);
    b.group.finish();
    if on_vm {
        return eprintln!("{name}: every kernel runs; times on the VM say nothing of a GPU");
    }
    eprintln!("\n{name}, {} rows of {}:", sizes.rows, sizes.hidden);
    b.lines.iter().for_each(|l| eprintln!("{l}"));
}

criterion_group!(benches, kernels);
criterion_main!(benches);
