//! The 16-bit PTX on the VM: errors against f64 at most twice those of a reference of the same precision; the cache
//! against the full pass, bit for bit.

mod common;

use attention::*;
use common::*;
use kernel_abi::{Half, Kernel, bf16, f16, narrow, widen};
use kernel_test::{Gpu, compare::*, every_way};
use proptest::prelude::*;

/// Values that `T` holds exactly.
fn halves<T: Half>(n: usize, seed: u32) -> Vec<T> {
    let mut to = vec![T::from_f32(0.0); n];
    narrow(&values(n, seed), &mut to);
    to
}

fn gpu_forward<T: Half>(
    gpu: &mut Gpu,
    s: Shape,
    qkv: &[T],
    starts: &[u32],
    skip: usize,
) -> (Vec<T>, Vec<f32>) {
    let rows = (qkv.len() - skip) / s.width();
    let (qkv, starts) = (gpu.upload(qkv), gpu.upload(starts));
    let (mut out, mut lse) =
        (gpu.upload(&vec![T::from_f32(7.0); rows * s.heads * s.d + skip]), gpu.alloc::<f32>(rows * s.heads));
    let args = AttentionForwardArgs {
        qkv: qkv.arg().skip(skip),
        starts: starts.arg(),
        out: out.arg_mut().skip(skip),
        lse: lse.arg_mut(),
    };
    gpu.run(&s.forward(rows).of::<T>(), args);
    (out.to_vec()[skip..].to_vec(), lse.to_vec())
}

/// Attention as a plain program in this precision would do it: f32 sums, probabilities and results rounded to `T`.
fn same_precision<T: Half>(s: Shape, qkv: &[T], starts: &[u32]) -> Vec<f32> {
    let (x, w) = (widen(qkv), s.width());
    let mut out = vec![0.0f32; x.len() / w * s.heads * s.d];
    each(s, starts, |i, h, first, kv| {
        let q = &x[i * w + h * s.d..][..s.d];
        let k = |j: usize| &x[j * w + (s.heads + kv) * s.d..][..s.d];
        let v = |j: usize| &x[j * w + (s.heads + s.kv + kv) * s.d..][..s.d];
        let scale = 1.0 / (s.d as f32).sqrt();
        let dot = |j: usize| q.iter().zip(k(j)).map(|(a, b)| a * b).sum::<f32>() * scale;
        let scores: Vec<f32> = (first..i + 1).map(dot).collect();
        let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let p: Vec<f32> = scores.iter().map(|s| (s - max).exp()).collect();
        let total: f32 = p.iter().sum();
        let o = &mut out[(i * s.heads + h) * s.d..][..s.d];
        for (j, p) in (first..).zip(&p) {
            let p = T::from_f32(*p).to_f32();
            o.iter_mut().zip(v(j)).for_each(|(o, v)| *o += p * v);
        }
        o.iter_mut().for_each(|o| *o = T::from_f32(*o / total).to_f32());
    });
    out
}

/// Where the reference happens to be exact (one row: p = 1), what remains is the f32 rounding of the log-sum-exp.
const FLOOR: f64 = 1e-6;

fn limit<T: Half>() -> f64 {
    if T::NAME == "f16" { 2e-3 } else { 1e-2 }
}

fn check_forward<T: Half>(gpu: &mut Gpu, s: Shape, lengths: &[usize], skip: usize) {
    let starts = starts_of(lengths);
    let rows = lengths.iter().sum::<usize>();
    let qkv = halves::<T>(rows * s.width() + skip, 1);
    let (out, lse) = gpu_forward(gpu, s, &qkv, &starts, skip);
    let (x, out) = (widen(&qkv[skip..]), widen(&out));
    let want = reference(s, &wide(&x), &starts);
    let what = format!("{s:?} {lengths:?} in {}", T::NAME);
    assert_close(&what, &out, &want.out, limit::<T>());
    assert_close(&format!("lse of {what}"), &lse, &want.lse, 1e-5);
    assert_twice(&what, &out, &same_precision(s, &qkv[skip..], &starts), &want.out, FLOOR);
    let mut twin = vec![T::from_f32(0.0); out.len()];
    let mut twin_lse = vec![0.0; lse.len()];
    s.forward(rows).of::<T>().cpu(AttentionForwardArgs {
        qkv: qkv[skip..].into(),
        starts: (&starts).into(),
        out: (&mut twin).into(),
        lse: (&mut twin_lse).into(),
    });
    assert_close(&format!("twin of {what}"), &out, &wide(&widen(&twin)), limit::<T>());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]
    #[test]
    fn forward_is_near_f64(
        s in shape(129), lengths in prop::collection::vec(0usize..90, 0..3), skip in prop::sample::select(vec![0usize, 1, 8]),
    ) {
        let mut gpu = Gpu::new();
        check_forward::<f16>(&mut gpu, s, &lengths, skip);
        check_forward::<bf16>(&mut gpu, s, &lengths, skip);
    }
}

#[test]
fn forward_at_the_sizes_of_models() {
    let mut gpu = Gpu::new();
    for d in [64, 80, 96, 128] {
        check_forward::<f16>(&mut gpu, Shape { heads: 2, kv: 1, d }, &[65, 1, 133], 0);
        check_forward::<bf16>(&mut gpu, Shape { heads: 2, kv: 1, d }, &[65, 1, 133], 0);
    }
}

/// Tiles find their sequence among many, empty ones too, across the bounds of 64 rows.
#[test]
fn many_short_sequences() {
    let lengths: Vec<usize> = (0..60).map(|i| [0, 5, 1, 0, 0, 33, 2][i % 7]).collect();
    check_forward::<f16>(&mut Gpu::new(), Shape { heads: 1, kv: 1, d: 8 }, &lengths, 0);
    check_backward::<bf16>(&mut Gpu::new(), Shape { heads: 1, kv: 1, d: 8 }, &lengths, 0);
}

#[test]
fn forward_over_several_spans() {
    check_forward::<f16>(&mut Gpu::new(), Shape { heads: 1, kv: 1, d: 16 }, &[1100], 0);
}

#[test]
fn forward_under_an_adversary() {
    every_way(|gpu| check_forward::<bf16>(gpu, Shape { heads: 2, kv: 1, d: 72 }, &[70, 3], 0));
}

/// Feeds sequences through the cache in steps: chunk sizes per step and sequence. Rows must have the full pass's bits.
fn check_cache<T: Half>(
    gpu: &mut Gpu,
    s: Shape,
    (slots, capacity): (usize, usize),
    lengths: &[usize],
    steps: &[Vec<usize>],
) {
    let starts = starts_of(lengths);
    let (w, rows) = (s.width(), lengths.iter().sum::<usize>());
    let qkv = halves::<T>(rows * w, 5);
    let (full, _) = gpu_forward(gpu, s, &qkv, &starts, 0);
    let len = cache_len(slots, capacity, s.kv, s.d);
    let (mut k, mut v) = (gpu.alloc::<T>(len), gpu.alloc::<T>(len));
    let mut done = vec![0; lengths.len()];
    for chunks in steps {
        let batch = Chunk::new(chunks, &mut done, &starts, slots, w, &qkv);
        let (x, slot, position) =
            (gpu.upload(&batch.x), gpu.upload(&batch.slot), gpu.upload(&batch.position));
        let mut out = gpu.alloc::<T>(batch.from.len() * s.heads * s.d);
        let args = AttentionExtendArgs {
            qkv: x.arg(),
            slot: slot.arg(),
            position: position.arg(),
            k_cache: k.arg_mut(),
            v_cache: v.arg_mut(),
            out: out.arg_mut(),
        };
        gpu.run(&s.extend(batch.from.len(), slots, capacity).of::<T>(), args);
        let bits = |x: &[T]| widen(x).iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        for (row, got) in batch.from.iter().zip(out.to_vec().chunks(s.heads * s.d)) {
            let want = &full[row * s.heads * s.d..(row + 1) * s.heads * s.d];
            assert_eq!(bits(got), bits(want), "{s:?} row {row}");
        }
    }
    assert_eq!(done, lengths);
}

#[test]
fn the_cache_gives_the_bits_of_training() {
    let mut gpu = Gpu::new();
    for (heads, kv, d) in [(4, 2, 24), (2, 2, 64), (5, 1, 7), (17, 1, 80), (3, 1, 96), (1, 1, 128)] {
        let s = Shape { heads, kv, d };
        let steps = [vec![9, 17, 70], vec![1, 0, 1], vec![1, 1, 1], vec![1, 2, 0], vec![0, 1, 5]];
        check_cache::<bf16>(&mut gpu, s, (4, 90), &[12, 21, 77], &steps);
        // One slot's positions end where the next one's begin.
        check_cache::<f16>(&mut gpu, s, (2, 16), &[5, 9], &[vec![0, 5], vec![5, 4]]);
        // With slots for all rows every step goes row by row. (f16: it shows a sum in another order more often.)
        let steps = [vec![5, 3], vec![1, 70], vec![1, 0]];
        check_cache::<f16>(&mut gpu, s, (80, 80), &[7, 73], &steps);
    }
}

#[test]
fn the_cache_gives_the_bits_of_training_over_several_spans() {
    let steps = [vec![1026, 500], vec![1, 11], vec![1, 1], vec![0, 1]];
    check_cache::<f16>(&mut Gpu::new(), Shape { heads: 2, kv: 1, d: 72 }, (2, 1040), &[1028, 513], &steps);
}

fn gpu_backward<T: Half>(
    gpu: &mut Gpu,
    s: Shape,
    x: &[T],
    starts: &[u32],
    (out, lse, dout): (&[T], &[f32], &[T]),
    skip: usize,
) -> Vec<T> {
    let rows = x.len() / s.width();
    let padded = |v: &[T]| [vec![T::from_f32(0.0); skip], v.to_vec()].concat();
    let (qkv, gstarts) = (gpu.upload(&padded(x)), gpu.upload(starts));
    let (out, lse, dout) = (gpu.upload(&padded(out)), gpu.upload(lse), gpu.upload(&padded(dout)));
    let mut dqkv = gpu.upload(&vec![T::from_f32(f32::NAN); x.len() + skip]);
    let args = AttentionBackwardArgs {
        qkv: qkv.arg().skip(skip),
        starts: gstarts.arg(),
        out: out.arg().skip(skip),
        lse: lse.arg(),
        dout: dout.arg().skip(skip),
        dqkv: dqkv.arg_mut().skip(skip),
    };
    gpu.run(&s.backward(rows).of::<T>(), args);
    dqkv.to_vec()[skip..].to_vec()
}

/// Gradients as a plain program in this precision would compute them: f32 sums, p, ds and results rounded to `T`.
fn same_precision_gradient<T: Half>(
    s: Shape,
    qkv: &[T],
    starts: &[u32],
    (out, lse, dout): (&[T], &[f32], &[T]),
) -> Vec<f32> {
    let (x, o, slope, w, d) = (widen(qkv), widen(out), widen(dout), s.width(), s.d);
    let scale = 1.0 / (d as f32).sqrt();
    let round = |x: f32| T::from_f32(x).to_f32();
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let mut grad = vec![0.0f32; x.len()];
    each(s, starts, |i, h, first, kv| {
        let at = (i * s.heads + h) * d;
        let (oi, di) = (&o[at..at + d], &slope[at..at + d]);
        let delta = dot(oi, di);
        let (q0, k0, v0) = (i * w + h * d, (s.heads + kv) * d, (s.heads + s.kv + kv) * d);
        for j in first..i + 1 {
            let (k0, v0) = (j * w + k0, j * w + v0);
            let p = (dot(&x[q0..q0 + d], &x[k0..k0 + d]) * scale - lse[i * s.heads + h]).exp();
            let ds = round(p * (dot(di, &x[v0..v0 + d]) - delta));
            for t in 0..d {
                grad[q0 + t] += ds * x[k0 + t] * scale;
                grad[k0 + t] += ds * x[q0 + t] * scale;
                grad[v0 + t] += round(p) * di[t];
            }
        }
    });
    grad.iter_mut().for_each(|g| *g = round(*g));
    grad
}

fn check_backward<T: Half>(gpu: &mut Gpu, s: Shape, lengths: &[usize], skip: usize) {
    let starts = starts_of(lengths);
    let rows = lengths.iter().sum::<usize>();
    let (qkv, dout) = (halves::<T>(rows * s.width(), 1), halves::<T>(rows * s.heads * s.d, 2));
    let (out, lse) = gpu_forward(gpu, s, &qkv, &starts, 0);
    let got = gpu_backward(gpu, s, &qkv, &starts, (&out, &lse, &dout), skip);
    let want = reference_gradient(s, &wide(&widen(&qkv)), &starts, &wide(&widen(&dout)));
    let what = format!("gradient of {s:?} {lengths:?} in {}", T::NAME);
    assert_close(&what, &widen(&got), &want, limit::<T>());
    let reference = same_precision_gradient(s, &qkv, &starts, (&out, &lse, &dout));
    assert_twice(&what, &widen(&got), &reference, &want, FLOOR);
    let mut twin = vec![T::from_f32(0.0); qkv.len()];
    s.backward(rows).of::<T>().cpu(AttentionBackwardArgs {
        qkv: (&qkv).into(),
        starts: (&starts).into(),
        out: (&out).into(),
        lse: (&lse).into(),
        dout: (&dout).into(),
        dqkv: (&mut twin).into(),
    });
    assert_close(&format!("twin of {what}"), &widen(&got), &wide(&widen(&twin)), limit::<T>());
    let again = gpu_backward(gpu, s, &qkv, &starts, (&out, &lse, &dout), skip);
    assert_eq!(widen(&again), widen(&got), "the same bits again");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]
    #[test]
    fn gradients_are_near_f64(
        s in shape(129), lengths in prop::collection::vec(0usize..90, 0..3), skip in prop::sample::select(vec![0usize, 1, 8]),
    ) {
        let mut gpu = Gpu::new();
        check_backward::<f16>(&mut gpu, s, &lengths, skip);
        check_backward::<bf16>(&mut gpu, s, &lengths, skip);
    }
}

#[test]
fn gradients_at_the_sizes_of_models() {
    let mut gpu = Gpu::new();
    for d in [64, 80, 96, 128] {
        check_backward::<f16>(&mut gpu, Shape { heads: 2, kv: 1, d }, &[65, 1, 133], 0);
        check_backward::<bf16>(&mut gpu, Shape { heads: 2, kv: 1, d }, &[65, 1, 133], 0);
    }
}

#[test]
fn gradients_under_an_adversary() {
    every_way(|gpu| {
        let s = Shape { heads: 2, kv: 1, d: 72 };
        check_backward::<bf16>(gpu, s, &[70, 3], 0);
    });
}

/// Prompts of 20 and 530 tokens, then a token each: tiles, single rows and merged spans, against f64.
#[test]
fn the_cache_under_an_adversary() {
    every_way(|gpu| {
        let s = Shape { heads: 2, kv: 1, d: 8 };
        let (starts, rows) = (starts_of(&[21, 531]), 552);
        let qkv = halves::<f16>(rows * s.width(), 5);
        let want = reference(s, &wide(&widen(&qkv)), &starts).out;
        let len = cache_len(2, 540, 1, 8);
        let (mut k, mut v) = (gpu.alloc::<f16>(len), gpu.alloc::<f16>(len));
        let mut done = vec![0; 2];
        for chunks in [[20, 530], [1, 1]] {
            let c = Chunk::new(&chunks, &mut done, &starts, 2, s.width(), &qkv);
            let (x, slot, position) = (gpu.upload(&c.x), gpu.upload(&c.slot), gpu.upload(&c.position));
            let mut out = gpu.alloc::<f16>(c.from.len() * 16);
            let args = AttentionExtendArgs {
                qkv: x.arg(),
                slot: slot.arg(),
                position: position.arg(),
                k_cache: k.arg_mut(),
                v_cache: v.arg_mut(),
                out: out.arg_mut(),
            };
            gpu.run(&s.extend(c.from.len(), 2, 540).of::<f16>(), args);
            let rows: Vec<f64> = c.from.iter().flat_map(|r| &want[r * 16..(r + 1) * 16]).copied().collect();
            assert_close("rows through the cache", &widen(&out.to_vec()), &rows, limit::<f16>());
        }
    });
}
