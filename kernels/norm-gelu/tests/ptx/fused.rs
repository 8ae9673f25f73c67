//! FusedNormForward: sums before the norm, and a second norm.

use crate::{
    GPU,
    reference::{self, EPS},
    rounded,
};
use kernel_abi::{Float, Half, Kernel, bf16, f16, narrow, widen};
use kernel_test::{Gpu, compare::*, every_way};
use norm_gelu::*;
use proptest::prelude::*;

/// Inputs of a call, `skip` elements into their buffers.
struct Inputs<T> {
    rows: [Vec<T>; 2],
    cols: [Vec<T>; 5],
    skip: usize,
}

/// sum, y, y2 widened, mean, rstd.
type Outputs = [Vec<f32>; 5];

impl<T: Float> Inputs<T> {
    fn new(shape: FusedNormForward, skip: usize) -> Inputs<T> {
        let (all, cols) = (shape.norm.rows * shape.norm.cols + skip, shape.norm.cols + skip);
        let seeds = [3, 4, 5, 6, 7];
        Inputs { rows: [rounded(all, 1), rounded(all, 2)], cols: seeds.map(|s| rounded(cols, s)), skip }
    }

    /// Everything from `skip` on, in f64.
    fn wide(&self) -> ([Vec<f64>; 2], [Vec<f64>; 5]) {
        let of = |v: &Vec<T>| wide(&widen(&v[self.skip..]));
        (self.rows.each_ref().map(of), self.cols.each_ref().map(of))
    }
}

fn twin<T, K>(kernel: &K, shape: FusedNormForward, inputs: &Inputs<T>) -> Outputs
where
    T: Float,
    K: for<'a> Kernel<Args<'a> = FusedNormForwardArgs<'a, T>>,
{
    let (rows, all) = (shape.norm.rows, shape.norm.rows * shape.norm.cols);
    let [x, residual] = inputs.rows.each_ref().map(|v| &v[inputs.skip..]);
    let [x_bias, w, b, w2, b2] = inputs.cols.each_ref().map(|v| &v[inputs.skip..]);
    let [mut sum, mut y, mut y2] = [(); 3].map(|()| vec![T::from_f32(0.0); all]);
    let (mut mean, mut rstd) = (vec![0.0; rows], vec![0.0; rows]);
    kernel.cpu(FusedNormForwardArgs {
        x: x.into(),
        x_bias: shape.x_bias.then(|| x_bias.into()),
        residual: shape.residual.then(|| residual.into()),
        sum: shape.sum.then(|| (&mut sum).into()),
        weight: w.into(),
        bias: Some(b.into()),
        y: (&mut y).into(),
        second: shape.second.then(|| SecondNorm {
            weight: w2.into(),
            bias: Some(b2.into()),
            y: (&mut y2).into(),
        }),
        mean: (&mut mean).into(),
        rstd: (&mut rstd).into(),
    });
    [widen(&sum), widen(&y), widen(&y2), mean, rstd]
}

fn on_gpu<T, K>(gpu: &mut Gpu, kernel: &K, shape: FusedNormForward, inputs: &Inputs<T>) -> Outputs
where
    T: Float,
    K: for<'a> Kernel<Args<'a> = FusedNormForwardArgs<'a, T>>,
{
    let (rows, all, skip) = (shape.norm.rows, shape.norm.rows * shape.norm.cols, inputs.skip);
    let [x, residual] = inputs.rows.each_ref().map(|v| gpu.upload(v));
    let [x_bias, w, b, w2, b2] = inputs.cols.each_ref().map(|v| gpu.upload(v));
    let [mut sum, mut y, mut y2] = [(); 3].map(|()| gpu.upload(&vec![T::from_f32(0.0); all + skip]));
    let (mut mean, mut rstd) = (gpu.alloc::<f32>(rows), gpu.alloc::<f32>(rows));
    let args = FusedNormForwardArgs {
        x: x.arg().skip(skip),
        x_bias: shape.x_bias.then(|| x_bias.arg().skip(skip)),
        residual: shape.residual.then(|| residual.arg().skip(skip)),
        sum: shape.sum.then(|| sum.arg_mut().skip(skip)),
        weight: w.arg().skip(skip),
        bias: Some(b.arg().skip(skip)),
        y: y.arg_mut().skip(skip),
        second: shape.second.then(|| SecondNorm {
            weight: w2.arg().skip(skip),
            bias: Some(b2.arg().skip(skip)),
            y: y2.arg_mut().skip(skip),
        }),
        mean: mean.arg_mut(),
        rstd: rstd.arg_mut(),
    };
    gpu.run(kernel, args);
    let from = |v: Vec<T>| widen(&v[skip..]);
    [from(sum.to_vec()), from(y.to_vec()), from(y2.to_vec()), mean.to_vec(), rstd.to_vec()]
}

/// Against the twin, and the norms against f64 of the sum as it was rounded.
fn check<T, K>(gpu: &mut Gpu, kernel: &K, shape: FusedNormForward, skip: usize)
where
    T: Float,
    K: for<'a> Kernel<Args<'a> = FusedNormForwardArgs<'a, T>>,
{
    let inputs = Inputs::<T>::new(shape, skip);
    let (got, twin) = (on_gpu(gpu, kernel, shape, &inputs), twin(kernel, shape, &inputs));
    let what = format!("{} {shape:?}", T::NAME);
    assert_eq!(got[0], twin[0], "sum of {what}");
    let ([x, residual], [x_bias, w, b, w2, b2]) = inputs.wide();
    let at = |v: &[f64], i: usize, there: bool| if there { v[i % v.len()] as f32 } else { 0.0 };
    let exact: Vec<f32> = (0..x.len())
        .map(|i| x[i] as f32 + at(&x_bias, i, shape.x_bias) + at(&residual, i, shape.residual))
        .collect();
    let mut sum = vec![T::from_f32(0.0); exact.len()];
    narrow(&exact, &mut sum);
    let sum = wide(&widen(&sum));
    let limit = [("f32", 1e-5), ("f16", 2e-3), ("bf16", 1e-2)].iter().find(|l| l.0 == T::NAME).unwrap().1;
    for (i, (w, b)) in [(1, (&w, &b)), (2, (&w2, &b2))] {
        if i == 2 && !shape.second {
            continue;
        }
        let want = reference::norm(&sum, w, Some(b), shape.norm.kind);
        assert_close(&format!("norm {i} of {what}"), &got[i], &want, limit);
        if T::NAME != "f32" {
            assert_twice(&format!("norm {i} of {what}"), &got[i], &twin[i], &want, 1e-7);
        }
    }
    assert_close(&format!("rstd of {what}"), &got[4], &wide(&twin[4]), 1e-5);
}

fn shape(rows: usize, cols: usize, [x_bias, residual, sum, second]: [bool; 4]) -> FusedNormForward {
    let norm = NormForward { rows, cols, eps: EPS, kind: Norm::Layer };
    FusedNormForward { norm, x_bias, residual, sum, second }
}

fn check_half<T: Half>(gpu: &mut Gpu, shape: FusedNormForward, skip: usize) {
    check::<T, _>(gpu, &shape.of::<T>(), shape, skip);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn sums_and_norms_are_the_twin_s(
        rows in 0usize..9, cols in 1usize..600, parts: [bool; 4], rms: bool, skip in 0usize..2,
    ) {
        GPU.with_borrow_mut(|gpu| {
            for cols in [cols, cols.next_multiple_of(8)] {
                let mut shape = shape(rows, cols, parts);
                shape.norm.kind = if rms { Norm::Rms } else { Norm::Layer };
                check::<f32, _>(gpu, &shape, shape, skip);
                check_half::<f16>(gpu, shape, skip);
                check_half::<bf16>(gpu, shape, skip);
            }
        });
    }
}

#[test]
fn every_width_has_a_variant() {
    let mut gpu = Gpu::new();
    for (i, cols) in [4096, 4100, 12288, 12289, 4099, 13000, 65536].into_iter().enumerate() {
        let parts = [i % 2 == 0, true, true, i % 3 != 0];
        let shape = shape(2, cols, parts);
        check::<f32, _>(&mut gpu, &shape, shape, 0);
        check_half::<bf16>(&mut gpu, shape, 1);
    }
}

#[test]
fn under_an_adversary() {
    every_way(|gpu| {
        for cols in [52, 1032, 5000, 13000] {
            let shape = shape(3, cols, [true; 4]);
            check::<f32, _>(gpu, &shape, shape, 0);
        }
    });
}

#[test]
fn the_norm_of_the_sum_is_the_norm_alone() {
    // bit for bit: generation and training may fuse differently
    let mut gpu = Gpu::new();
    for cols in [768, 6144] {
        let fused = shape(3, cols, [true, true, true, false]);
        let inputs = Inputs::<f32>::new(fused, 0);
        let got = on_gpu(&mut gpu, &fused, fused, &inputs);
        let (sum, weight, bias) =
            (gpu.upload(&got[0]), gpu.upload(&inputs.cols[1]), gpu.upload(&inputs.cols[2]));
        let mut y = gpu.alloc::<f32>(3 * cols);
        let (mut mean, mut rstd) = (gpu.alloc::<f32>(3), gpu.alloc::<f32>(3));
        let args = NormForwardArgs {
            x: sum.arg(),
            weight: weight.arg(),
            bias: Some(bias.arg()),
            y: y.arg_mut(),
            mean: mean.arg_mut(),
            rstd: rstd.arg_mut(),
        };
        gpu.run(&fused.norm, args);
        if cols == 768 {
            assert_eq!((y.to_vec(), mean.to_vec()), (got[1].clone(), got[3].clone()));
        } else {
            // another number of threads from 4096 columns on: equal to rounding only
            assert_close("y", &y.to_vec(), &wide(&got[1]), 1e-6);
        }
    }
}
