//! The general GEMM's PTX on the VM: twice the error of a same-precision reference at most, both against f64; every form, tile,
//! epilogue and split; counted bars.

use kernel_abi::{Float, Kernel, bf16, f16, narrow, widen};
use kernel_test::{Checks, Counters, Gpu, Options, compare::*, every_way};
use matmul::*;
use proptest::prelude::*;

/// What a case adds to the product.
#[derive(Debug, Clone, Copy)]
struct Extras {
    bias: bool,
    residual: bool,
    /// Elements into every buffer.
    skip: usize,
}

const PLAIN: Extras = Extras { bias: false, residual: false, skip: 0 };
const FULL: Extras = Extras { bias: true, residual: true, skip: 0 };

fn rounded<T: Float>(n: usize, seed: u32) -> Vec<T> {
    let mut v = vec![T::from_f32(0.0); n];
    narrow(&values(n, seed), &mut v);
    v
}

fn act(kind: Activation, x: f64) -> f64 {
    // erf by its series
    let erf = |x: f64| {
        if x.abs() > 5.0 {
            return x.signum();
        }
        let (mut term, mut sum, mut n) = (x, x, 0.0);
        while f64::abs(term) > 1e-18 {
            n += 1.0;
            term *= -x * x / n;
            sum += term / (2.0 * n + 1.0);
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    };
    match kind {
        Activation::None => x,
        Activation::Gelu => 0.5 * x * (1.0 + erf(x / 2f64.sqrt())),
        Activation::GeluTanh => {
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
        }
    }
}

/// Every element of a case in f64, from the given buffers.
fn exact<T: Float>(g: &Gemm, [a, b, bias, residual, c]: [&[T]; 5], extras: Extras) -> Vec<f64> {
    let mut out: Vec<f64> = c.iter().map(|c| f64::from(c.to_f32())).collect();
    let at = |v: &[T], i: usize| f64::from(v[i].to_f32());
    for z in 0..g.batch {
        let (a, b) = (&a[z * g.strides[0]..], &b[z * g.strides[1]..]);
        for (i, j) in (0..g.m).flat_map(|i| (0..g.n).map(move |j| (i, j))) {
            let from_a = |k: usize| if g.ta { k * g.ld[0] + i } else { i * g.ld[0] + k };
            let from_b = |k: usize| if g.tb { j * g.ld[1] + k } else { k * g.ld[1] + j };
            let dot: f64 = (0..g.k).map(|k| at(a, from_a(k)) * at(b, from_b(k))).sum();
            let to = z * g.strides[2] + i * g.ld[2] + j;
            let v = act(g.act, f64::from(g.alpha) * dot + if extras.bias { at(bias, j) } else { 0.0 });
            let add = if extras.residual { at(residual, to) } else { at(c, to) };
            out[to] = if extras.residual || g.beta != 0.0 { v + f64::from(g.beta) * add } else { v };
        }
    }
    out
}

/// Runs a case on the GPU and by the twin, compares both with f64; `run` is given the kernel's own way to run.
fn case<T: Float, K>(gpu: &mut Gpu, kernel: &K, g: &Gemm, extras: Extras) -> (Counters, String, Vec<f32>)
where
    K: for<'a> Kernel<Args<'a> = GemmArgs<'a, T>>,
{
    let rows = [if g.ta { g.k } else { g.m }, if g.tb { g.n } else { g.k }, g.m];
    let len = |i: usize| ((g.batch.max(1) - 1) * g.strides[i] + rows[i] * g.ld[i]).max(1);
    let skip = extras.skip;
    let [a, b, mut c] = [0, 1, 2].map(|i| rounded::<T>(skip + len(i), 1 + i as u32));
    let (bias, residual) = (rounded::<T>(skip + g.n, 7), rounded::<T>(c.len(), 8));
    let want = exact(g, [&a, &b, &bias, &residual, &c].map(|v| &v[skip..]), extras);
    let (ga, gb, gbias, gres, mut gc) =
        (gpu.upload(&a), gpu.upload(&b), gpu.upload(&bias), gpu.upload(&residual), gpu.upload(&c));
    let counted = gpu.run(
        kernel,
        GemmArgs {
            a: ga.arg().skip(skip),
            b: gb.arg().skip(skip),
            bias: extras.bias.then(|| gbias.arg().skip(skip)),
            residual: extras.residual.then(|| gres.arg().skip(skip)),
            c: gc.arg_mut().skip(skip),
        },
    );
    let got = widen(&gc.to_vec()[skip..]);
    kernel.cpu(GemmArgs {
        a: a[skip..].into(),
        b: b[skip..].into(),
        bias: extras.bias.then(|| bias[skip..].into()),
        residual: extras.residual.then(|| residual[skip..].into()),
        c: (&mut c[skip..]).into(),
    });
    let what = format!("{} {g:?} {extras:?}", T::NAME);
    let limit = match T::NAME {
        "bf16" => 1e-2,
        "f16" => 2e-3,
        _ => 1e-3,
    };
    assert_close(&what, &got, &want, limit);
    assert_twice(&what, &got, &widen(&c[skip..]), &want, 1e-7);
    (counted, gpu.launches.first().map(|l| l.entry.as_str().to_string()).unwrap_or_default(), got)
}

/// A case in all three precisions; returns the entries that ran.
fn all(gpu: &mut Gpu, g: Gemm, extras: Extras) -> [String; 3] {
    [
        case::<f16, _>(gpu, &g.of::<f16>(), &g, extras).1,
        case::<bf16, _>(gpu, &g.of::<bf16>(), &g, extras).1,
        case::<f32, _>(gpu, &g, &g, extras).1,
    ]
}

fn form(form: usize, m: usize, n: usize, k: usize) -> Gemm {
    [Gemm::new, Gemm::nt, Gemm::tn][form](m, n, k)
}

const ACTS: [Activation; 3] = [Activation::None, Activation::Gelu, Activation::GeluTanh];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn any_shape(
        m in 0usize..70, n in 0usize..70, k in 0usize..70, f in 0usize..3, pad in 0usize..4, bias: bool, residual: bool,
        kind in 0usize..3, skip in 0usize..3, batch in 0usize..3,
    ) {
        let g = form(f, m, n, k);
        let ld = g.ld.map(|l| l + pad);
        let rows = [if g.ta { k } else { m }, if g.tb { n } else { k }, m];
        let strides = [0, 1, 2].map(|i| rows[i] * ld[i] + pad);
        let g = Gemm { batch, ld, strides, alpha: 0.5, beta: -0.5, act: ACTS[kind], ..g };
        all(&mut Gpu::new(), g, Extras { bias, residual, skip });
    }

    #[test]
    fn aligned_shapes(m in 1usize..20, n in 1usize..20, k in 1usize..20, f in 0usize..3, kind in 0usize..3, full: bool, parts in 0usize..4) {
        let g = Gemm { act: ACTS[kind], beta: 1.0, alpha: 0.25, parts, ..form(f, 8 * m, 8 * n, 8 * k) };
        all(&mut Gpu::new(), g, if full { FULL } else { PLAIN });
    }

    #[test]
    fn few_rows(m in 1usize..17, n in 1usize..20, k in 1usize..40, f in 0usize..2, full: bool, parts in 0usize..3) {
        let g = Gemm { parts, ..form(f, m, 8 * n, 8 * k) };
        all(&mut Gpu::new(), g, if full { FULL } else { PLAIN });
    }
}

#[test]
fn every_tile_by_its_shape() {
    let mut gpu = Gpu::new();
    for (f, forms) in ["nn", "nt", "tn"].into_iter().enumerate() {
        for (batch, m, n, k, tile) in [
            (20, 136, 136, 40, "128x128"),
            (14, 136, 136, 40, "128x64"),
            (2, 72, 88, 104, "64x64"),
            (1, 16, 64, 264, if f == 2 { "64x64" } else { "16x32" }),
            (1, 33, 35, 37, "any"),
        ] {
            let g = Gemm { batch, act: Activation::Gelu, beta: 1.0, ..form(f, m, n, k) };
            let want = ["f16", "bf16", "tf32"].map(|t| format!("gemm_{t}_{forms}_{tile}"));
            assert_eq!(all(&mut gpu, g, FULL), want);
        }
    }
}

/// An A100's shared memory and tile.
#[test]
fn the_wide_tile_where_tensor_cores_outrun_the_cache() {
    let mut options = Options { checks: Checks::All, ..Options::default() };
    options.device.sm = 80;
    let mut gpu = Gpu::with(options);
    let g = |f| Gemm { batch: 27, act: Activation::GeluTanh, beta: 1.0, ..form(f, 136, 264, 104) };
    let ran = [
        case::<f16, _>(&mut gpu, &g(0).of::<f16>(), &g(0), FULL).1,
        case::<bf16, _>(&mut gpu, &g(1).of::<bf16>(), &g(1), FULL).1,
        case::<f32, _>(&mut gpu, &g(2), &g(2), FULL).1,
    ];
    assert_eq!(ran, ["gemm_f16_nn_128x256", "gemm_bf16_nt_128x256", "gemm_tf32_tn_128x256"]);
}

#[test]
fn under_an_adversary() {
    every_way(|gpu| {
        for f in 0..3 {
            all(gpu, Gemm { act: Activation::GeluTanh, parts: 2, beta: 1.0, ..form(f, 72, 80, 136) }, FULL);
            all(gpu, form(f, 9, 40, 136), FULL);
            all(gpu, form(f, 17, 19, 23), Extras { skip: 1, ..FULL });
        }
    });
}

#[test]
fn parts_are_summed_in_order_and_runs_are_equal() {
    let mut gpu = Gpu::new();
    let g = form(1, 64, 64, 2048);
    let (_, _, first) = case::<f16, _>(&mut gpu, &g.of::<f16>(), &g, FULL);
    assert_eq!(gpu.launches.len(), 2, "k is split where tiles are few");
    assert!(gpu.launches[0].grid[2] > 1);
    let (_, _, again) = case::<f16, _>(&mut gpu, &g.of::<f16>(), &g, FULL);
    assert_eq!(first, again);
    let whole = Gemm { parts: 1, ..g };
    case::<f16, _>(&mut gpu, &whole.of::<f16>(), &whole, FULL);
    assert_eq!(gpu.launches.len(), 1);
}

#[test]
fn a_wrong_argument_is_named() {
    let (a, b, mut c) = ([0.0f32; 5], [0.0f32; 6], [0.0f32; 4]);
    let mut says = |g: Gemm, bias: Option<&[f32]>| {
        let bias = bias.map(Into::into);
        let args =
            GemmArgs { a: a[..].into(), b: b[..].into(), bias, residual: None, c: c[..].as_mut().into() };
        g.check(&args).unwrap_err().to_string()
    };
    assert_eq!(says(Gemm::new(2, 2, 3), None), "gemm: argument `a`: has 5 elements, expected at least 6");
    let both = Gemm { ta: true, ..Gemm::nt(2, 2, 2) };
    assert_eq!(says(both, None), "gemm: argument `a`: A and B cannot both be transposed");
    assert_eq!(says(Gemm::new(2, 2, 2), Some(&a[..3])), "gemm: argument `bias`: has 3 elements, expected 2");
    let overlap = Gemm { batch: 2, strides: [0, 0, 3], ..Gemm::new(2, 2, 1) };
    assert_eq!(says(overlap, None), "gemm: argument `c`: matrices 3 apart overlap: each takes 4 elements");
}
