//! The f32 PTX on the VM: against the CPU twin and f64, strict and adversarial; the cache against the full pass.

mod common;

use attention::*;
use common::*;
use kernel_abi::{DevicePtr, In, Kernel, Out, Recorder};
use kernel_test::{Checks, Gpu, Options, compare::*, every_way, ptxas};
use proptest::prelude::*;

fn gpu_forward(gpu: &mut Gpu, s: Shape, qkv: &[f32], starts: &[u32], skip: usize) -> (Vec<f32>, Vec<f32>) {
    let rows = (qkv.len() - skip) / s.width();
    let (qkv, starts) = (gpu.upload(qkv), gpu.upload(starts));
    let (mut out, mut lse) =
        (gpu.alloc::<f32>(rows * s.heads * s.d + skip), gpu.alloc::<f32>(rows * s.heads));
    out.write(&vec![7.0; rows * s.heads * s.d + skip]);
    gpu.run(
        &s.forward(rows),
        AttentionForwardArgs {
            qkv: qkv.arg().skip(skip),
            starts: starts.arg(),
            out: out.arg_mut().skip(skip),
            lse: lse.arg_mut(),
        },
    );
    (out.to_vec()[skip..].to_vec(), lse.to_vec())
}

fn check_forward(gpu: &mut Gpu, s: Shape, lengths: &[usize], skip: usize) {
    let starts = starts_of(lengths);
    let rows = lengths.iter().sum::<usize>();
    let qkv = values(rows * s.width() + skip, 1);
    let (out, lse) = gpu_forward(gpu, s, &qkv, &starts, skip);
    let want = reference(s, &wide(&qkv[skip..]), &starts);
    assert_close(&format!("out of {s:?} {lengths:?}"), &out, &want.out, 1e-5);
    assert_close(&format!("lse of {s:?} {lengths:?}"), &lse, &want.lse, 1e-5);
    let (twin, twin_lse) = forward(s, &qkv[skip..], &starts);
    assert_close("out against the twin", &out, &wide(&twin), 1e-5);
    assert_close("lse against the twin", &lse, &wide(&twin_lse), 1e-5);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn forward_is_near_f64(
        s in shape(70), lengths in prop::collection::vec(0usize..90, 0..4), skip in prop::sample::select(vec![0usize, 1, 4]),
    ) {
        check_forward(&mut Gpu::new(), s, &lengths, skip);
    }
}

#[test]
fn forward_at_the_sizes_of_models() {
    let mut gpu = Gpu::new();
    for d in [8, 24, 32, 48, 64, 80, 96, 128] {
        check_forward(&mut gpu, Shape { heads: 2, kv: 1, d }, &[65, 1, 33], 0);
    }
}

/// Tiles find their sequence among many, empty ones too, across the bounds of 32 and 64 rows.
#[test]
fn many_short_sequences() {
    let lengths: Vec<usize> = (0..60).map(|i| [0, 5, 1, 0, 0, 33, 2][i % 7]).collect();
    let s = Shape { heads: 1, kv: 1, d: 4 };
    check_forward(&mut Gpu::new(), s, &lengths, 0);
    check_backward(&mut Gpu::new(), s, &lengths, 0);
    check_backward(&mut Gpu::new(), Shape { d: 68, ..s }, &lengths[..20], 0);
}

#[test]
fn forward_over_several_spans() {
    check_forward(&mut Gpu::new(), Shape { heads: 1, kv: 1, d: 16 }, &[1100], 0);
}

#[test]
fn forward_under_an_adversary() {
    every_way(|gpu| check_forward(gpu, Shape { heads: 2, kv: 1, d: 20 }, &[70, 3], 0));
}

fn gpu_backward(
    gpu: &mut Gpu,
    s: Shape,
    x: &[f32],
    starts: &[u32],
    (out, lse, dout): (&[f32], &[f32], &[f32]),
    skip: usize,
) -> Vec<f32> {
    let rows = x.len() / s.width();
    let padded = |v: &[f32]| [vec![0.0; skip], v.to_vec()].concat();
    let (qkv, gstarts) = (gpu.upload(&padded(x)), gpu.upload(starts));
    let (out, lse, dout) = (gpu.upload(&padded(out)), gpu.upload(lse), gpu.upload(&padded(dout)));
    let mut dqkv = gpu.alloc::<f32>(x.len() + skip);
    dqkv.write(&vec![f32::NAN; x.len() + skip]);
    let args = AttentionBackwardArgs {
        qkv: qkv.arg().skip(skip),
        starts: gstarts.arg(),
        out: out.arg().skip(skip),
        lse: lse.arg(),
        dout: dout.arg().skip(skip),
        dqkv: dqkv.arg_mut().skip(skip),
    };
    gpu.run(&s.backward(rows), args);
    dqkv.to_vec()[skip..].to_vec()
}

fn check_backward(gpu: &mut Gpu, s: Shape, lengths: &[usize], skip: usize) {
    let starts = starts_of(lengths);
    let rows = lengths.iter().sum::<usize>();
    let (qkv, dout) = (values(rows * s.width(), 1), values(rows * s.heads * s.d, 2));
    let (out, lse) = forward(s, &qkv, &starts);
    let got = gpu_backward(gpu, s, &qkv, &starts, (&out, &lse, &dout), skip);
    let want = reference_gradient(s, &wide(&qkv), &starts, &wide(&dout));
    assert_close(&format!("dqkv of {s:?} {lengths:?}"), &got, &want, 1e-5);
    let mut twin = vec![f32::NAN; qkv.len()];
    s.backward(rows).cpu(AttentionBackwardArgs {
        qkv: (&qkv).into(),
        starts: (&starts).into(),
        out: (&out).into(),
        lse: (&lse).into(),
        dout: (&dout).into(),
        dqkv: (&mut twin).into(),
    });
    assert_close("dqkv against the twin", &got, &wide(&twin), 1e-5);
    assert_eq!(gpu_backward(gpu, s, &qkv, &starts, (&out, &lse, &dout), skip), got, "the same bits again");
    // A sequence's gradient does not depend on its neighbours.
    if let Some((last, before)) = lengths.split_last() {
        let first = before.iter().sum::<usize>();
        let (x, o) = (&qkv[first * s.width()..], first * s.heads * s.d);
        let parts = (&out[o..], &lse[first * s.heads..], &dout[o..]);
        let alone = gpu_backward(gpu, s, x, &[0, *last as u32], parts, skip);
        assert_eq!(alone, got[first * s.width()..], "neighbours");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10))]
    #[test]
    fn gradients_are_near_f64(
        s in shape(70), lengths in prop::collection::vec(0usize..90, 0..4), skip in prop::sample::select(vec![0usize, 1, 4]),
    ) {
        check_backward(&mut Gpu::new(), s, &lengths, skip);
    }
}

#[test]
fn gradients_at_the_sizes_of_models() {
    let mut gpu = Gpu::new();
    for d in [8, 24, 32, 48, 64, 80, 96, 128] {
        check_backward(&mut gpu, Shape { heads: 2, kv: 1, d }, &[65, 1, 34], 0);
    }
}

#[test]
fn gradients_under_an_adversary() {
    for seed in [1, 77, 4242] {
        let mut gpu = Gpu::with(Options { checks: Checks::All, seed: Some(seed), ..Options::default() });
        let s = Shape { heads: 2, kv: 1, d: 20 };
        let (starts, rows) = (starts_of(&[70, 3]), 73);
        let (qkv, dout) = (values(rows * s.width(), 1), values(rows * s.heads * s.d, 2));
        let (out, lse) = forward(s, &qkv, &starts);
        let got = gpu_backward(&mut gpu, s, &qkv, &starts, (&out, &lse, &dout), 0);
        let want = reference_gradient(s, &wide(&qkv), &starts, &wide(&dout));
        assert_close("dqkv under an adversary", &got, &want, 1e-5);
    }
}

fn rotary_case(gpu: &mut Gpu, k: Rotary, positions: &[u32], skip: usize) {
    let width = (k.heads + 2 * k.kv_heads) * k.head_dim;
    let x = values(k.rows * width + skip, 3);
    let (mut gx, p) = (gpu.upload(&x), gpu.upload(positions));
    gpu.run(&k, RotaryArgs { qkv: gx.arg_mut().skip(skip), positions: p.arg() });
    let mut twin = x.clone();
    k.cpu(RotaryArgs { qkv: (&mut twin[skip..]).into(), positions: positions.into() });
    for (i, (g, w)) in gx.to_vec().iter().zip(&twin).enumerate() {
        assert!((g - w).abs() < 6e-7, "{k:?} element {i}: {g} instead of {w}");
    }
}

#[test]
fn rotary_equals_the_twin_at_far_positions() {
    every_way(|gpu| {
        let positions = [0u32, 1, 7, 1023, 4096, 5001, 8191];
        for (head_dim, rotary_dim, skip) in [(64, 64, 0), (64, 16, 0), (9, 6, 0), (32, 32, 1)] {
            for inverse in [false, true] {
                let theta = if skip == 0 { 1e4 } else { 5e5 };
                let k = Rotary { rows: 7, heads: 3, kv_heads: 1, head_dim, rotary_dim, theta, inverse };
                rotary_case(gpu, k, &positions, skip);
            }
        }
    });
}

#[test]
fn rotary_is_exact_at_any_position() {
    let mut gpu = Gpu::new();
    let positions = [131_071u32, 1_000_003, 100_000_007, u32::MAX];
    let k =
        Rotary { rows: 4, heads: 1, kv_heads: 0, head_dim: 64, rotary_dim: 64, theta: 1e4, inverse: false };
    // Ones and zeros: the result is the cosine and the sine.
    let x: Vec<f32> = (0..4 * 64).map(|i| if i % 64 < 32 { 1.0 } else { 0.0 }).collect();
    let (mut gx, p) = (gpu.upload(&x), gpu.upload(&positions));
    gpu.run(&k, RotaryArgs { qkv: gx.arg_mut(), positions: p.arg() });
    for (row, p) in gx.to_vec().chunks(64).zip(positions) {
        for i in 0..32 {
            let (sin, cos) = (f64::from(p) * 1e4f64.powf(-(i as f64) / 32.0)).sin_cos();
            let (c, s) = (f64::from(row[i]), f64::from(row[32 + i]));
            assert!(
                (c - cos).abs() < 1.3e-7 && (s - sin).abs() < 1.3e-7,
                "position {p} element {i}: {c} {s}"
            );
        }
    }
}

/// Feeds sequences through the cache in steps: chunk sizes per step and sequence. Rows must have the full pass's bits.
fn check_cache(
    gpu: &mut Gpu,
    s: Shape,
    slots: usize,
    capacity: usize,
    lengths: &[usize],
    steps: &[Vec<usize>],
) {
    let starts = starts_of(lengths);
    let (w, rows) = (s.width(), lengths.iter().sum::<usize>());
    let qkv = values(rows * w, 5);
    let (full, _) = gpu_forward(gpu, s, &qkv, &starts, 0);
    let len = cache_len(slots, capacity, s.kv, s.d);
    let (mut k, mut v) = (gpu.alloc::<f32>(len), gpu.alloc::<f32>(len));
    let mut done = vec![0; lengths.len()];
    for chunks in steps {
        let Chunk { x, slot, position, from } = Chunk::new(chunks, &mut done, &starts, slots, w, &qkv);
        let (gx, gslot, gposition) = (gpu.upload(&x), gpu.upload(&slot), gpu.upload(&position));
        let mut out = gpu.alloc::<f32>(from.len() * s.heads * s.d);
        let kernel = s.extend(from.len(), slots, capacity);
        gpu.run(
            &kernel,
            AttentionExtendArgs {
                qkv: gx.arg(),
                slot: gslot.arg(),
                position: gposition.arg(),
                k_cache: k.arg_mut(),
                v_cache: v.arg_mut(),
                out: out.arg_mut(),
            },
        );
        for (row, got) in from.iter().zip(out.to_vec().chunks(s.heads * s.d)) {
            assert_eq!(got, &full[row * s.heads * s.d..(row + 1) * s.heads * s.d], "{s:?} row {row}");
        }
    }
    assert_eq!(done, lengths);
}

#[test]
fn the_cache_gives_the_bits_of_training() {
    let mut gpu = Gpu::new();
    for (heads, kv, d) in [(4, 2, 24), (2, 2, 64), (5, 1, 7), (3, 1, 96), (1, 1, 128)] {
        let steps = [vec![9, 17, 70], vec![1, 0, 1], vec![1, 1, 1], vec![1, 2, 0], vec![0, 1, 5]];
        check_cache(&mut gpu, Shape { heads, kv, d }, 4, 90, &[12, 21, 77], &steps);
        // One slot's positions end where the next one's begin.
        check_cache(&mut gpu, Shape { heads, kv, d }, 2, 16, &[5, 9], &[vec![0, 5], vec![5, 4]]);
        // With slots for all rows every step goes row by row.
        let steps = [vec![5, 3], vec![1, 1], vec![1, 0]];
        check_cache(&mut gpu, Shape { heads, kv, d }, 9, 40, &[7, 4], &steps);
    }
}

#[test]
fn the_cache_gives_the_bits_of_training_over_several_spans() {
    let steps = [vec![1026, 500], vec![1, 11], vec![1, 1], vec![0, 1]];
    check_cache(&mut Gpu::new(), Shape { heads: 2, kv: 1, d: 8 }, 2, 1040, &[1028, 513], &steps);
}

/// Prompts of 20 and 530 tokens, then a token each: tiles, single rows and merged spans, against f64.
#[test]
fn the_cache_under_an_adversary() {
    every_way(|gpu| {
        let s = Shape { heads: 2, kv: 1, d: 8 };
        let lengths = [21, 531];
        let (starts, rows) = (starts_of(&lengths), 552);
        let qkv = values(rows * s.width(), 5);
        let want = reference(s, &wide(&qkv), &starts).out;
        let len = cache_len(2, 540, 1, 8);
        let (mut k, mut v) = (gpu.alloc::<f32>(len), gpu.alloc::<f32>(len));
        let mut done = vec![0; 2];
        for chunks in [[20, 530], [1, 1]] {
            let c = Chunk::new(&chunks, &mut done, &starts, 2, s.width(), &qkv);
            let (x, slot, position) = (gpu.upload(&c.x), gpu.upload(&c.slot), gpu.upload(&c.position));
            let mut out = gpu.alloc::<f32>(c.from.len() * 16);
            let args = AttentionExtendArgs {
                qkv: x.arg(),
                slot: slot.arg(),
                position: position.arg(),
                k_cache: k.arg_mut(),
                v_cache: v.arg_mut(),
                out: out.arg_mut(),
            };
            gpu.run(&s.extend(c.from.len(), 2, 540), args);
            let rows: Vec<f64> = c.from.iter().flat_map(|r| &want[r * 16..(r + 1) * 16]).copied().collect();
            assert_close("rows through the cache", &out.to_vec(), &rows, 1e-5);
        }
    });
}

/// A key that is no number spoils the rows that see it, and no other.
#[test]
fn a_nan_reaches_the_rows_that_see_it() {
    let (s, starts) = (Shape { heads: 1, kv: 1, d: 8 }, starts_of(&[40, 5]));
    let mut qkv = values(45 * s.width(), 1);
    let (clean, _) = gpu_forward(&mut Gpu::new(), s, &qkv, &starts, 0);
    qkv[17 * s.width() + 8] = f32::NAN;
    let (out, lse) = gpu_forward(&mut Gpu::new(), s, &qkv, &starts, 0);
    for row in 0..45 {
        let (got, want) = (&out[row * 8..][..8], &clean[row * 8..][..8]);
        let spoilt = (17..40).contains(&row);
        assert_eq!(lse[row].is_nan(), spoilt, "row {row}");
        assert!(if spoilt { got.iter().all(|x| x.is_nan()) } else { got == want }, "row {row}: {got:?}");
    }
}

#[test]
fn rows_outside_the_cache_are_nan_and_touch_nothing() {
    every_way(|gpu| {
        let s = Shape { heads: 2, kv: 1, d: 8 };
        for slots in [2, 4] {
            let (k0, v0) =
                (vec![0.5f32; cache_len(slots, 16, 1, 8)], vec![0.25f32; cache_len(slots, 16, 1, 8)]);
            let (mut k, mut v) = (gpu.upload(&k0), gpu.upload(&v0));
            let qkv = gpu.upload(&values(3 * s.width(), 1));
            let (slot, position) = (gpu.upload(&[9u32, 0, 1]), gpu.upload(&[0u32, 16, 3]));
            let mut out = gpu.alloc::<f32>(3 * 16);
            let args = AttentionExtendArgs {
                qkv: qkv.arg(),
                slot: slot.arg(),
                position: position.arg(),
                k_cache: k.arg_mut(),
                v_cache: v.arg_mut(),
                out: out.arg_mut(),
            };
            gpu.run(&s.extend(3, slots, 16), args);
            let out = out.to_vec();
            assert!(out[..32].iter().all(|x| x.is_nan()) && out[32..].iter().all(|x| x.is_finite()));
            let changed = k.to_vec().iter().zip(&k0).filter(|(a, b)| a != b).count();
            assert_eq!(changed, 8);
        }
    });
}

#[test]
fn a_head_that_no_tile_holds_is_refused() {
    let s = Shape { heads: 1, kv: 1, d: 129 };
    let args = AttentionForwardArgs {
        qkv: In::Device(DevicePtr(256), s.width()),
        starts: In::Device(DevicePtr(256), 2),
        out: Out::Device(DevicePtr(256), 129),
        lse: Out::Device(DevicePtr(256), 1),
    };
    let mut launches = Recorder::default();
    let e = s.forward(1).ptx(args, &mut launches).unwrap_err();
    assert_eq!(e.to_string(), "attention_forward: head_dim 129: the PTX is made for at most 128");
    assert!(launches.launches.is_empty());
}

#[test]
fn assembles_without_spills() {
    ptxas::check(ptx::ALL);
}
