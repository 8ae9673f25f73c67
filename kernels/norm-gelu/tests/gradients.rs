//! Norms and activations against f64, and their gradients against central differences.

use kernel_abi::Kernel;
use norm_gelu::*;
use proptest::prelude::*;

fn values(n: usize, seed: u32) -> Vec<f32> {
    (0..n as u32).map(|i| ((i ^ seed).wrapping_mul(2_654_435_761) >> 8) as f32 / 4_194_304.0 - 2.0).collect()
}

fn wide(v: &[f32]) -> Vec<f64> {
    v.iter().map(|v| f64::from(*v)).collect()
}

fn norm64(x: &[f64], w: &[f64], b: &[f64], cols: usize, kind: Norm) -> Vec<f64> {
    let row = |x: &[f64]| {
        let n = cols as f64;
        let mean = if kind == Norm::Layer { x.iter().sum::<f64>() / n } else { 0.0 };
        let var = x.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / n;
        let rstd = 1.0 / (var + 1e-5).sqrt();
        (0..cols).map(|i| (x[i] - mean) * rstd * w[i] + b[i]).collect::<Vec<_>>()
    };
    x.chunks(cols).flat_map(row).collect()
}

fn erf64(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..120 {
        term *= -x * x / n as f64;
        sum += term / (2 * n + 1) as f64;
    }
    sum * std::f64::consts::FRAC_2_SQRT_PI
}

fn act64(x: &[f64], cols: usize, kind: Act) -> Vec<f64> {
    let silu = |x: f64| x / (1.0 + (-x).exp());
    let row = |r: &[f64]| -> Vec<f64> {
        (0..cols)
            .map(|i| match kind {
                Act::Gelu => 0.5 * r[i] * (1.0 + erf64(r[i] / 2f64.sqrt())),
                Act::GeluTanh => {
                    let inner = (2.0 / std::f64::consts::PI).sqrt() * (r[i] + 0.044715 * r[i].powi(3));
                    0.5 * r[i] * (1.0 + inner.tanh())
                }
                Act::Silu => silu(r[i]),
                Act::SwiGlu => silu(r[i]) * r[cols + i],
            })
            .collect()
    };
    x.chunks(cols * kind.fan_in()).flat_map(row).collect()
}

fn frobenius(got: &[f32], want: &[f64]) -> f64 {
    let diff: f64 = got.iter().zip(want).map(|(g, w)| (f64::from(*g) - w).powi(2)).sum();
    (diff / want.iter().map(|w| w * w).sum::<f64>().max(1e-30)).sqrt()
}

fn slopes(x: &[f64], dy: &[f32], f: impl Fn(&[f64]) -> Vec<f64>) -> Vec<f64> {
    let objective = |x: &[f64]| f(x).iter().zip(dy).map(|(y, d)| y * f64::from(*d)).sum::<f64>();
    let mut x = x.to_vec();
    (0..x.len())
        .map(|i| {
            let (at, h) = (x[i], 1e-5);
            x[i] = at + h;
            let up = objective(&x);
            x[i] = at - h;
            let down = objective(&x);
            x[i] = at;
            (up - down) / (2.0 * h)
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn norm_and_its_gradients(rows in 1usize..6, cols in 2usize..40, rms: bool) {
        let kind = if rms { Norm::Rms } else { Norm::Layer };
        let (x, w, b, dy) = (values(rows * cols, 1), values(cols, 2), values(cols, 3), values(rows * cols, 4));
        let b = if rms { vec![0.0; cols] } else { b };
        let (mut y, mut mean, mut rstd) = (vec![0.0; x.len()], vec![0.0; rows], vec![0.0; rows]);
        NormForward { rows, cols, eps: 1e-5, kind }.cpu(NormForwardArgs {
            x: (&x).into(), weight: (&w).into(), bias: (!rms).then(|| (&b).into()),
            y: (&mut y).into(), mean: (&mut mean).into(), rstd: (&mut rstd).into(),
        });
        let (xw, ww, bw) = (wide(&x), wide(&w), wide(&b));
        prop_assert!(frobenius(&y, &norm64(&xw, &ww, &bw, cols, kind)) < 1e-5);
        let (mut dx, mut dw, mut db) = (vec![1.0; x.len()], vec![0.0; cols], vec![0.0; cols]);
        NormBackward { rows, cols, kind, accumulate: true }.cpu(NormBackwardArgs {
            x: (&x).into(), weight: (&w).into(), mean: (&mean).into(), rstd: (&rstd).into(), dy: (&dy).into(),
            dx: (&mut dx).into(), dweight: Some((&mut dw).into()), dbias: Some((&mut db).into()),
        });
        dx.iter_mut().for_each(|d| *d -= 1.0);
        let close = |got: &[f32], want: &[f64]| {
            let scale = want.iter().map(|w| w * w).sum::<f64>().sqrt().max(1.0);
            got.iter().zip(want).all(|(g, w)| (f64::from(*g) - w).abs() < 1e-4 * scale)
        };
        prop_assert!(close(&dx, &slopes(&xw, &dy, |x| norm64(x, &ww, &bw, cols, kind))));
        prop_assert!(close(&dw, &slopes(&ww, &dy, |w| norm64(&xw, w, &bw, cols, kind))));
        prop_assert!(close(&db, &slopes(&bw, &dy, |b| norm64(&xw, &ww, b, cols, kind))));
    }

    #[test]
    fn activations_and_their_gradients(rows in 0usize..5, cols in 1usize..40) {
        for kind in [Act::Gelu, Act::GeluTanh, Act::Silu, Act::SwiGlu] {
            let (x, dy) = (values(rows * cols * kind.fan_in(), 1), values(rows * cols, 2));
            let mut y = vec![0.0; rows * cols];
            ActForward { rows, cols, kind }.cpu(ActForwardArgs { x: (&x).into(), y: (&mut y).into() });
            let xw = wide(&x);
            prop_assert!(frobenius(&y, &act64(&xw, cols, kind)) < 1e-5);
            let mut dx = vec![0.0; x.len()];
            let args = ActBackwardArgs { x: (&x).into(), dy: (&dy).into(), dx: (&mut dx).into() };
            ActBackward { rows, cols, kind }.cpu(args);
            let want = slopes(&xw, &dy, |x| act64(x, cols, kind));
            for (g, w) in dx.iter().zip(&want) {
                prop_assert!((f64::from(*g) - w).abs() < 1e-4 * (0.1 + w.abs()), "{:?}: {} {}", kind, g, w);
            }
        }
    }
}

#[test]
fn weight_gradients_do_not_depend_on_the_threads() {
    let (rows, cols) = (1000, 96);
    let (x, w, dy) = (values(rows * cols, 1), values(cols, 2), values(rows * cols, 3));
    let (mean, rstd) = (values(rows, 4), values(rows, 5));
    let run = |threads: usize| {
        let (mut dx, mut dw, mut db) = (vec![0.0; x.len()], vec![0.0; cols], vec![0.0; cols]);
        cpu::with_threads(threads, || {
            NormBackward { rows, cols, kind: Norm::Layer, accumulate: false }.cpu(NormBackwardArgs {
                x: (&x).into(),
                weight: (&w).into(),
                mean: (&mean).into(),
                rstd: (&rstd).into(),
                dy: (&dy).into(),
                dx: (&mut dx).into(),
                dweight: Some((&mut dw).into()),
                dbias: Some((&mut db).into()),
            })
        });
        (dx, dw, db)
    };
    assert_eq!(run(1), run(2));
}
