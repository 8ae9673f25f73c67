//! The f32 PTX on the VM: the CPU twin's bits where the order of summation is the twin's, f64 where it is not; strict and
//! adversarial.

use kernel_abi::{Kernel, f16};
use kernel_test::{Gpu, compare::*, every_way};
use lora::*;
use proptest::prelude::*;

/// A shape, and how far the buffers begin from an aligned address.
#[derive(Debug, Clone, Copy)]
struct Case {
    m: usize,
    n_in: usize,
    n_out: usize,
    rank: usize,
    ldy: usize,
    col_offset: usize,
    skip: usize,
}

fn bits(v: &[f32]) -> Vec<u32> {
    v.iter().map(|v| v.to_bits()).collect()
}

/// u and y, on the GPU and by the twin.
fn forward(gpu: &mut Gpu, c: Case) -> [(Vec<f32>, Vec<f32>); 2] {
    let Case { m, n_in, n_out, rank, ldy, col_offset, skip } = c;
    let (x, a) = (values(m * n_in + skip, 1), values(rank * n_in + skip, 2));
    let (b, mut y) = (values(n_out * rank + skip, 3), values(m * ldy + skip, 4));
    let mut u = vec![7.0; m * rank + skip];
    let kernel = LoraForward { m, n_in, n_out, rank, scale: 0.3, ldy, col_offset };
    let (gx, ga, gb) = (gpu.upload(&x), gpu.upload(&a), gpu.upload(&b));
    let (mut gu, mut gy) = (gpu.upload(&u), gpu.upload(&y));
    gpu.run(
        &kernel,
        LoraForwardArgs {
            x: gx.arg().skip(skip),
            a: ga.arg().skip(skip),
            b: gb.arg().skip(skip),
            u: gu.arg_mut().skip(skip),
            y: gy.arg_mut().skip(skip),
        },
    );
    kernel.cpu(LoraForwardArgs {
        x: x[skip..].into(),
        a: a[skip..].into(),
        b: b[skip..].into(),
        u: (&mut u[skip..]).into(),
        y: (&mut y[skip..]).into(),
    });
    [(gu.to_vec(), gy.to_vec()), (u, y)]
}

fn forward_equals_the_twin(gpu: &mut Gpu, c: Case) {
    let [(u, y), (want_u, want_y)] = forward(gpu, c);
    assert_eq!(bits(&u), bits(&want_u), "u of {c:?}");
    assert_eq!(bits(&y), bits(&want_y), "y of {c:?}");
}

/// dA, dB, dx on the GPU and by the twin; if asked for, in f64.
struct Gradients {
    got: [Vec<f32>; 3],
    twin: [Vec<f32>; 3],
    want: Option<[Vec<f64>; 3]>,
}

fn backward(gpu: &mut Gpu, c: Case, with_dx: bool, in_f64: bool) -> Gradients {
    let Case { m, n_in, n_out, rank, ldy, col_offset, skip } = c;
    let lens = [m * n_in, rank * n_in, n_out * rank, m * rank, m * ldy];
    let inputs: Vec<Vec<f32>> = (0..5).map(|i| values(lens[i] + skip, i as u32 + 1)).collect();
    let mut twin = [lens[1], lens[2], lens[0]].map(|n| values(n + skip, n as u32));
    let kernel = LoraBackward { m, n_in, n_out, rank, scale: 0.3, ldy, col_offset };
    let on_gpu: Vec<_> = inputs.iter().map(|v| gpu.upload(v)).collect();
    let mut outs = twin.each_ref().map(|v| gpu.upload(v));
    let operands = [0, 1, 2, 3, 4].map(|i| &inputs[i][skip..]);
    let want = in_f64.then(|| gradients_in_f64(&kernel, operands, &twin, skip, with_dx));
    let [da, db, dx] = &mut outs;
    gpu.run(
        &kernel,
        LoraBackwardArgs {
            x: on_gpu[0].arg().skip(skip),
            a: on_gpu[1].arg().skip(skip),
            b: on_gpu[2].arg().skip(skip),
            u: on_gpu[3].arg().skip(skip),
            dy: on_gpu[4].arg().skip(skip),
            da: da.arg_mut().skip(skip),
            db: db.arg_mut().skip(skip),
            dx: with_dx.then(|| dx.arg_mut().skip(skip)),
        },
    );
    let [da, db, dx] = &mut twin;
    kernel.cpu(LoraBackwardArgs {
        x: inputs[0][skip..].into(),
        a: inputs[1][skip..].into(),
        b: inputs[2][skip..].into(),
        u: inputs[3][skip..].into(),
        dy: inputs[4][skip..].into(),
        da: (&mut da[skip..]).into(),
        db: (&mut db[skip..]).into(),
        dx: with_dx.then(|| (&mut dx[skip..]).into()),
    });
    Gradients { got: outs.each_ref().map(|v| v.to_vec()), twin, want }
}

/// What dA, dB and dx become, from what they were.
fn gradients_in_f64(
    k: &LoraBackward,
    [x, a, b, u, dy]: [&[f32]; 5],
    before: &[Vec<f32>; 3],
    skip: usize,
    with_dx: bool,
) -> [Vec<f64>; 3] {
    let [mut da, mut db, mut dx] = before.each_ref().map(|v| wide(v));
    for i in 0..k.m {
        let dy = wide(&dy[i * k.ldy + k.col_offset..][..k.n_out]);
        for r in 0..k.rank {
            let s = f64::from(k.scale);
            let du: f64 = s * (0..k.n_out).map(|j| dy[j] * f64::from(b[j * k.rank + r])).sum::<f64>();
            for t in 0..k.n_in {
                da[skip + r * k.n_in + t] += du * f64::from(x[i * k.n_in + t]);
                if with_dx {
                    dx[skip + i * k.n_in + t] += du * f64::from(a[r * k.n_in + t]);
                }
            }
            for j in 0..k.n_out {
                db[skip + j * k.rank + r] += s * dy[j] * f64::from(u[i * k.rank + r]);
            }
        }
    }
    [da, db, dx]
}

fn backward_is_right(gpu: &mut Gpu, c: Case, with_dx: bool) -> Gradients {
    let g = backward(gpu, c, with_dx, true);
    let want = g.want.as_ref().expect("asked for");
    assert_eq!(bits(&g.got[2]), bits(&g.twin[2]), "dx of {c:?}");
    for (i, what) in ["dA", "dB", "dx"].iter().enumerate() {
        assert_close(&format!("{what} of {c:?}"), &g.got[i], &want[i], 1e-5);
    }
    // Up to 256 rows are one chain, as in the twin.
    if c.m <= 256 {
        assert_eq!(bits(&g.got[0]), bits(&g.twin[0]), "dA of {c:?}");
        assert_eq!(bits(&g.got[1]), bits(&g.twin[1]), "dB of {c:?}");
    }
    g
}

/// Odd and aligned sizes, ranks on both sides of every variant, a few rows and none.
fn cases() -> impl Strategy<Value = Case> {
    let side = || prop_oneof![1usize..80, (1usize..40).prop_map(|n| 4 * n), Just(131)];
    let rank = prop_oneof![1usize..9, 9usize..40, 60usize..70, Just(150)];
    (0usize..50, side(), side(), rank, 0usize..9, 0usize..5).prop_map(|(m, n_in, n_out, rank, pad, skip)| {
        Case { m, n_in, n_out, rank, ldy: n_out + pad, col_offset: pad / 2, skip }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn forward_has_the_twin_s_bits(c in cases()) {
        forward_equals_the_twin(&mut Gpu::new(), c);
    }

    #[test]
    fn backward_has_the_twin_s_bits(c in cases(), with_dx in any::<bool>()) {
        backward_is_right(&mut Gpu::new(), c, with_dx);
    }

    #[test]
    fn merge_has_the_twin_s_bits(c in cases(), scale in -2.0f32..2.0) {
        let Case { n_in, n_out, rank, skip, .. } = c;
        let (a, b) = (values(rank * n_in + skip, 1), values(n_out * rank + skip, 2));
        let mut w = values(n_out * n_in + skip, 3);
        let mut gpu = Gpu::new();
        let (ga, gb, mut gw) = (gpu.upload(&a), gpu.upload(&b), gpu.upload(&w));
        let kernel = LoraMerge { n_in, n_out, rank, scale };
        let [a_at, b_at] = [&ga, &gb].map(|v| v.arg().skip(skip));
        gpu.run(&kernel, LoraMergeArgs { a: a_at, b: b_at, w: gw.arg_mut().skip(skip) });
        kernel.cpu(LoraMergeArgs { a: a[skip..].into(), b: b[skip..].into(), w: (&mut w[skip..]).into() });
        prop_assert_eq!(bits(&gw.to_vec()), bits(&w));
    }
}

#[test]
fn many_rows_run_in_tall_blocks() {
    // That both give the same bits is tested beside the launch.
    let entry = |m: usize| {
        let kernel = LoraForward { m, n_in: 8, n_out: 8, rank: 4, scale: 1.0, ldy: 8, col_offset: 0 };
        let (at, mut on) = (kernel_abi::DevicePtr(256), kernel_abi::Recorder::default());
        let read = |n| kernel_abi::In::Device(at, n);
        let write = |n| kernel_abi::Out::Device(at, n);
        let args =
            LoraForwardArgs { x: read(8 * m), a: read(32), b: read(32), u: write(4 * m), y: write(8 * m) };
        kernel.ptx(args, &mut on).unwrap();
        on.launches[0].entry.as_str().to_string()
    };
    assert_eq!((entry(8191), entry(8192)), ("forward_m16_r16".to_string(), "forward_m64_r16".to_string()));
}

#[test]
fn long_sums_over_rows_are_the_same_every_time() {
    for (m, rank, launches) in [(700, 17, 3), (256, 17, 2), (600, 130, 4)] {
        let c = Case { m, n_in: 70, n_out: 33, rank, ldy: 40, col_offset: 3, skip: 0 };
        let mut gpu = Gpu::new();
        let first = backward_is_right(&mut gpu, c, true);
        assert_eq!(gpu.launches.len(), launches, "{c:?}");
        let second = backward(&mut gpu, c, true, false);
        assert_eq!(first.got.map(|v| bits(&v)), second.got.map(|v| bits(&v)));
    }
}

#[test]
fn under_an_adversary() {
    every_way(|gpu| {
        for (rank, skip) in [(8, 0), (17, 1), (64, 0), (67, 0)] {
            let c = Case { m: 19, n_in: 72, n_out: 68, rank, ldy: 72, col_offset: 4, skip };
            forward_equals_the_twin(gpu, c);
            backward_is_right(gpu, c, true);
        }
    });
}

#[test]
fn infinities_and_nan_go_where_the_twin_lets_them() {
    // The variant's ranks and steps are padded with zeros; zero times infinity must not come back.
    for (rank, n_in, n_out) in [(3, 37, 20), (20, 64, 70), (70, 40, 36)] {
        let m = 6;
        let mut x = values(m * n_in, 1);
        (x[0], x[n_in + 5], x[3 * n_in - 1]) = (f32::INFINITY, f32::NAN, f32::NEG_INFINITY);
        let (a, b) = (vec![0.5; rank * n_in], vec![0.25; n_out * rank]);
        let (mut u, mut y) = (vec![0.0; m * rank], values(m * n_out, 2));
        let kernel = LoraForward { m, n_in, n_out, rank, scale: 0.5, ldy: n_out, col_offset: 0 };
        let mut gpu = Gpu::new();
        let (gx, ga, gb) = (gpu.upload(&x), gpu.upload(&a), gpu.upload(&b));
        let (mut gu, mut gy) = (gpu.upload(&u), gpu.upload(&y));
        let args =
            LoraForwardArgs { x: gx.arg(), a: ga.arg(), b: gb.arg(), u: gu.arg_mut(), y: gy.arg_mut() };
        gpu.run(&kernel, args);
        kernel.cpu(LoraForwardArgs {
            x: (&x).into(),
            a: (&a).into(),
            b: (&b).into(),
            u: (&mut u).into(),
            y: (&mut y).into(),
        });
        let same = |got: &f32, want: &f32| got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan();
        assert!(gu.to_vec().iter().zip(&u).all(|(g, w)| same(g, w)), "u, rank {rank}");
        assert!(gy.to_vec().iter().zip(&y).all(|(g, w)| same(g, w)), "y, rank {rank}");
        assert!(y[..n_out].iter().all(|v| *v == f32::INFINITY) && y[n_out].is_nan());

        // The same with tensor cores: rows of infinity, of NaN, of minus infinity, and finite ones.
        let half = |v: &[f32]| v.iter().map(|v| f16::from_f32(*v)).collect::<Vec<_>>();
        let (gx, ga, gb) = (gpu.upload(&half(&x)), gpu.upload(&half(&a)), gpu.upload(&half(&b)));
        let mut gy = gpu.upload(&half(&values(m * n_out, 2)));
        let mut gu = gpu.alloc::<f16>(m * rank);
        let args =
            LoraForwardArgs { x: gx.arg(), a: ga.arg(), b: gb.arg(), u: gu.arg_mut(), y: gy.arg_mut() };
        gpu.run(&kernel.of::<f16>(), args);
        for (g, w) in gy.to_vec().iter().zip(&y) {
            let g = g.to_f32();
            assert!(g.is_nan() == w.is_nan() && g.is_infinite() == w.is_infinite(), "{g} {w}, rank {rank}");
        }
    }
}
