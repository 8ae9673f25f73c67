//! Merging into 16-bit and int8 weights on the VM, against the CPU twins, the parts they are made of, and f64.

use int8_matmul::{QuantizeWeight, QuantizeWeightArgs};
use kernel_abi::{Half, Kernel, bf16, f16, narrow, widen};
use kernel_test::{Gpu, compare::*, every_way};
use lora::*;
use proptest::prelude::*;

fn into_half<T: Half>(gpu: &mut Gpu, [n_in, n_out, rank, skip]: [usize; 4], limit: f64) {
    let (a, b) = (values(rank * n_in, 1), values(n_out * rank, 2));
    let mut w = vec![T::from_f32(0.0); n_out * n_in + skip];
    narrow(&values(w.len(), 3), &mut w);
    let mut want = wide(&widen(&w));
    for (i, v) in want[skip..].iter_mut().enumerate() {
        let (j, t) = (i / n_in, i % n_in);
        *v += (0..rank)
            .map(|r| f64::from(0.3f32) * f64::from(b[j * rank + r]) * f64::from(a[r * n_in + t]))
            .sum::<f64>();
    }
    let kernel = LoraMerge { n_in, n_out, rank, scale: 0.3 }.of::<T>();
    let (ga, gb, mut gw) = (gpu.upload(&a), gpu.upload(&b), gpu.upload(&w));
    gpu.run(&kernel, LoraMergeArgs { a: ga.arg(), b: gb.arg(), w: gw.arg_mut().skip(skip) });
    kernel.cpu(LoraMergeArgs { a: (&a).into(), b: (&b).into(), w: (&mut w[skip..]).into() });
    assert_eq!(widen(&gw.to_vec()), widen(&w), "{n_out} x {n_in}, rank {rank}, {}", T::NAME);
    assert_close("merged", &widen(&w), &want, limit);
}

/// An int8 weight with an adapter.
struct Int8 {
    kernel: LoraMergeInt8,
    a: Vec<f32>,
    b: Vec<f32>,
    q: Vec<i8>,
    scb: Vec<f32>,
}

fn int8(n_in: usize, n_out: usize, rank: usize, scale: f32) -> Int8 {
    let q = values(n_out * n_in, 3).iter().map(|v| (v * 63.5).round() as i8).collect();
    let scb = values(n_out, 4).iter().map(|v| v.abs()).collect();
    let (a, b) = (values(rank * n_in, 1), values(n_out * rank, 2));
    Int8 { kernel: LoraMergeInt8 { n_in, n_out, rank, scale }, a, b, q, scb }
}

/// q, scb, max and mean error.
type Merged = (Vec<i8>, Vec<f32>, Vec<f32>, Vec<f32>);

fn on_gpu(gpu: &mut Gpu, t: &Int8, skip: usize) -> Merged {
    let n = t.kernel.n_out;
    let shifted = |v: &[f32]| [vec![0.0; skip], v.to_vec()].concat();
    let (a, b) = (gpu.upload(&shifted(&t.a)), gpu.upload(&t.b));
    let (mut q, mut scb) = (gpu.upload(&t.q), gpu.upload(&t.scb));
    let (mut max, mut mean) = (gpu.alloc::<f32>(n), gpu.alloc::<f32>(n));
    gpu.run(
        &t.kernel,
        LoraMergeInt8Args {
            a: a.arg().skip(skip),
            b: b.arg(),
            q: q.arg_mut(),
            scb: scb.arg_mut(),
            max_error: max.arg_mut(),
            mean_error: mean.arg_mut(),
        },
    );
    (q.to_vec(), scb.to_vec(), max.to_vec(), mean.to_vec())
}

fn by_twin(t: &Int8) -> Merged {
    let n = t.kernel.n_out;
    let (mut q, mut scb, mut max, mut mean) = (t.q.clone(), t.scb.clone(), vec![0.0; n], vec![0.0; n]);
    t.kernel.cpu(LoraMergeInt8Args {
        a: (&t.a).into(),
        b: (&t.b).into(),
        q: (&mut q[..]).into(),
        scb: (&mut scb).into(),
        max_error: (&mut max).into(),
        mean_error: (&mut mean).into(),
    });
    (q, scb, max, mean)
}

/// The same merge by its parts: dequantise, merge in f32, quantise.
fn by_parts(t: &Int8) -> (Vec<f32>, Vec<i8>, Vec<f32>) {
    let LoraMergeInt8 { n_in, n_out, rank, scale } = t.kernel;
    let mut w: Vec<f32> = (0..n_out * n_in).map(|i| f32::from(t.q[i]) * (t.scb[i / n_in] / 127.0)).collect();
    let args = LoraMergeArgs { a: (&t.a).into(), b: (&t.b).into(), w: (&mut w).into() };
    LoraMerge { n_in, n_out, rank, scale }.cpu(args);
    let (mut q, mut scb) = (vec![0; w.len()], vec![0.0; n_out]);
    let args = QuantizeWeightArgs { w: (&w).into(), q: (&mut q[..]).into(), scb: (&mut scb).into() };
    QuantizeWeight { n: n_out, k: n_in }.cpu(args);
    (w, q, scb)
}

fn int8_is_right(gpu: &mut Gpu, t: &Int8, skip: usize) {
    let (q, scb, max, mean) = on_gpu(gpu, t, skip);
    let (twin_q, twin_scb, twin_max, twin_mean) = by_twin(t);
    assert_eq!((&q, &scb, &max), (&twin_q, &twin_scb, &twin_max), "{:?}", t.kernel);
    assert_close("mean error", &mean, &wide(&twin_mean), 1e-5);
    let (w, parts_q, parts_scb) = by_parts(t);
    assert_eq!((&q, &scb), (&parts_q, &parts_scb), "{:?}", t.kernel);
    // What is reported is what happened.
    for (j, row) in w.chunks(t.kernel.n_in).enumerate() {
        let error = |i: usize| {
            (f64::from(q[j * t.kernel.n_in + i]) * f64::from(scb[j]) / 127.0 - f64::from(row[i])).abs()
        };
        let (worst, sum) = (0..row.len()).map(error).fold((0.0f64, 0.0), |(m, s), e| (m.max(e), s + e));
        assert!((worst - f64::from(max[j])).abs() <= 1e-6 * f64::from(scb[j]), "row {j}: {worst} {}", max[j]);
        assert!((sum / row.len() as f64 - f64::from(mean[j])).abs() <= 1e-6 * f64::from(scb[j]), "row {j}");
        // Half a step of the grid, and half a step of f16 at the row's maximum.
        assert!(worst <= f64::from(scb[j]) * (0.5 / 127.0 + 1.0 / 2048.0), "row {j}: {worst}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn sixteen_bit_weights_have_the_twin_s_bits(
        n_in in prop_oneof![1usize..90, (1usize..30).prop_map(|n| 8 * n)],
        (n_out, rank, skip) in (1usize..40, 1usize..80, 0usize..3),
    ) {
        into_half::<f16>(&mut Gpu::new(), [n_in, n_out, rank, skip], 2e-3);
        into_half::<bf16>(&mut Gpu::new(), [n_in, n_out, rank, skip], 1e-2);
    }

    #[test]
    fn int8_weights_have_the_bits_of_the_parts(
        n_in in prop_oneof![1usize..90, (1usize..40).prop_map(|n| 4 * n), Just(1100)],
        (n_out, rank, scale) in (1usize..20, 1usize..80, -1.0f32..1.0),
        skip in 0usize..2,
    ) {
        int8_is_right(&mut Gpu::new(), &int8(n_in, n_out, rank, scale), skip);
    }
}

#[test]
fn an_empty_adapter_and_a_row_of_zeros() {
    let mut t = int8(40, 3, 2, 0.0);
    t.scb[1] = 0.0;
    int8_is_right(&mut Gpu::new(), &t, 0);
    let (q, scb, max, _) = on_gpu(&mut Gpu::new(), &t, 0);
    assert_eq!((&q[40..80], scb[1], max[1]), (&[0i8; 40][..], 0.0, 0.0));
}

#[test]
fn taking_an_adapter_out_again_comes_back_to_the_grid() {
    // The adapter is small against the weight, so the rounding of the merge is within a step or two.
    let mut t = int8(256, 8, 4, 1e-3);
    t.scb.fill(1.0);
    let (before_q, before_scb) = (t.q.clone(), t.scb.clone());
    (t.q, t.scb, ..) = on_gpu(&mut Gpu::new(), &t, 0);
    t.kernel.scale = -1e-3;
    let (q, scb, ..) = on_gpu(&mut Gpu::new(), &t, 0);
    for i in 0..q.len() {
        let back = f32::from(q[i]) * scb[i / 256] / 127.0;
        let was = f32::from(before_q[i]) * before_scb[i / 256] / 127.0;
        assert!((back - was).abs() <= 1.2 / 127.0, "{i}: {back} {was}");
    }
}

#[test]
fn under_an_adversary() {
    every_way(|gpu| {
        int8_is_right(gpu, &int8(1028, 10, 7, 0.5), 0);
        int8_is_right(gpu, &int8(37, 3, 66, 0.5), 1);
        into_half::<bf16>(gpu, [72, 20, 9, 0], 1e-2);
    });
}
