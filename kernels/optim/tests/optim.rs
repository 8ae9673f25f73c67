//! AdamW against its definition in f64, the norm, the schedules.

use kernel_abi::Kernel;
use optim::*;
use proptest::prelude::*;

proptest! {
    #[test]
    fn adamw_follows_its_definition(n in 1usize..50, scale in 0.1f32..2.0) {
        let grad = |t: usize, i: usize| ((i * 31 + t * 17) % 19) as f32 * 0.1 - 0.9;
        let (mut p, mut m, mut v) = (vec![0.5f32; n], vec![0.0f32; n], vec![0.0f32; n]);
        let (mut pw, mut mw, mut vw) = (vec![0.5f64; n], vec![0.0f64; n], vec![0.0f64; n]);
        for t in 1..6 {
            let g: Vec<f32> = (0..n).map(|i| grad(t, i)).collect();
            let k = AdamW {
                len: n, lr: 0.01, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, step: t as u32,
                grad_scale: scale,
            };
            let args = AdamWArgs { param: (&mut p).into(), grad: (&g).into(), m: (&mut m).into(), v: (&mut v).into() };
            k.check(&args).unwrap();
            k.cpu(args);
            for i in 0..n {
                let g = f64::from(g[i]) * f64::from(scale);
                mw[i] = 0.9 * mw[i] + 0.1 * g;
                vw[i] = 0.95 * vw[i] + 0.05 * g * g;
                let (mh, vh) = (mw[i] / (1.0 - 0.9f64.powi(t as i32)), vw[i] / (1.0 - 0.95f64.powi(t as i32)));
                pw[i] = pw[i] - 0.01 * 0.1 * pw[i] - 0.01 * mh / (vh.sqrt() + 1e-8);
                prop_assert!((f64::from(p[i]) - pw[i]).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn squared_norm_adds_up(n in 0usize..200_000) {
        let x: Vec<f32> = (0..n).map(|i| (i % 7) as f32).collect();
        let want: f64 = x.iter().map(|v| f64::from(*v) * f64::from(*v)).sum();
        let mut out = [1.0f64];
        SquaredNorm { len: n }.cpu(SquaredNormArgs { x: (&x).into(), out: out[..].as_mut().into() });
        prop_assert_eq!(out[0], want + 1.0);
    }
}

#[test]
fn a_nan_reaches_the_norm() {
    let mut out = [0.0f64];
    let x = [1.0, f32::NAN];
    SquaredNorm { len: 2 }.cpu(SquaredNormArgs { x: x[..].into(), out: out[..].as_mut().into() });
    assert!(out[0].is_nan());
}

#[test]
fn schedules_warm_up_and_fall() {
    for s in [Schedule::Constant, Schedule::Linear, Schedule::Cosine] {
        assert_eq!(s.factor(0, 4, 100), 0.25);
        assert!((s.factor(4, 4, 100) - 1.0).abs() < 1e-6);
    }
    assert!((Schedule::Cosine.factor(100, 4, 100) - 0.1).abs() < 1e-6);
    assert!(Schedule::Linear.factor(99, 0, 100) < 0.02);
    assert_eq!((clip_scale(0.5, 1.0), clip_scale(3.0, 0.0)), (1.0, 0.0));
}

#[test]
fn bits_do_not_depend_on_threads() {
    let len = 100_003;
    let g: Vec<f32> = (0..len).map(|i| ((i * 31) % 997) as f32 * 1e-3 - 0.4).collect();
    let run = |threads: usize| {
        let (mut p, mut m, mut v, mut norm) = (g.clone(), vec![0.1f32; len], vec![0.2f32; len], [0.0f64]);
        let k = AdamW {
            len,
            lr: 0.01,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            weight_decay: 0.1,
            step: 3,
            grad_scale: 0.5,
        };
        cpu::with_threads(threads, || {
            k.cpu(AdamWArgs {
                param: (&mut p).into(),
                grad: (&g).into(),
                m: (&mut m).into(),
                v: (&mut v).into(),
            });
            SquaredNorm { len }.cpu(SquaredNormArgs { x: (&g).into(), out: norm[..].as_mut().into() });
        });
        (p, m, v, norm)
    };
    assert_eq!(run(1), run(3));
}

#[test]
fn wrong_arguments_are_named() {
    let (mut a, mut b, mut c, g) = ([0.0f32; 2], [0.0f32; 2], [0.0f32; 1], [0.0f32; 2]);
    let k = AdamW {
        len: 2,
        lr: 0.1,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weight_decay: 0.0,
        step: 1,
        grad_scale: 1.0,
    };
    let args = AdamWArgs {
        param: a[..].as_mut().into(),
        grad: g[..].into(),
        m: b[..].as_mut().into(),
        v: c[..].as_mut().into(),
    };
    assert_eq!(k.check(&args).unwrap_err().to_string(), "adamw: argument `v`: has 1 elements, expected 2");
}
