//! Casts and reductions in PTX on the VM: the CPU twin's bits, strict and adversarial.

use elementwise::*;
use kernel_abi::{Float, Kernel, bf16, f16, narrow, widen};
use kernel_test::{Gpu, compare::*, every_way};
use proptest::prelude::*;

fn of<T: Float>(n: usize, seed: u32) -> Vec<T> {
    let mut out = vec![T::from_f32(0.0); n];
    narrow(&values(n, seed), &mut out);
    out
}

fn cast<F: Float, T: Float>(gpu: &mut Gpu, x: &[F], skip: usize) {
    let kernel = Cast::<F, T>::new(x.len() - skip);
    let mut y = of::<T>(x.len(), 2);
    let (gx, mut gy) = (gpu.upload(x), gpu.upload(&y));
    gpu.run(&kernel, CastArgs { x: gx.arg().skip(skip), y: gy.arg_mut().skip(skip) });
    kernel.cpu(CastArgs { x: x[skip..].into(), y: (&mut y[skip..]).into() });
    let bits = |v: &[T]| widen(v).iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&gy.to_vec()), bits(&y), "{} to {}", F::NAME, T::NAME);
}

fn casts(gpu: &mut Gpu, len: usize, skip: usize) {
    let x = values(len + skip, 1);
    cast::<f32, f16>(gpu, &x, skip);
    cast::<f32, bf16>(gpu, &x, skip);
    cast::<f16, f32>(gpu, &of::<f16>(len + skip, 1), skip);
    cast::<bf16, f32>(gpu, &of::<bf16>(len + skip, 1), skip);
    cast::<f16, bf16>(gpu, &of::<f16>(len + skip, 1), skip);
    cast::<bf16, f16>(gpu, &of::<bf16>(len + skip, 1), skip);
}

const REDUCTIONS: [Reduction; 3] = [Reduction::Sum, Reduction::Mean, Reduction::Max];

fn in_f64(shape: Reduce, x: &[f32]) -> Vec<f64> {
    let row = |i: usize| {
        let row = x[i * shape.cols..][..shape.cols].iter().map(|x| f64::from(*x));
        match shape.reduction {
            Reduction::Sum => row.sum(),
            Reduction::Mean => row.sum::<f64>() / shape.cols as f64,
            Reduction::Max => row.fold(f64::NEG_INFINITY, f64::max),
        }
    };
    (0..shape.rows).map(row).collect()
}

fn reduce<T: Float, K>(gpu: &mut Gpu, shape: Reduce, kernel: K, skip: usize)
where
    K: for<'a> Kernel<Args<'a> = ReduceArgs<'a, T>>,
{
    let x = of::<T>(shape.rows * shape.cols + skip, 1);
    let (gx, mut gy, mut y) = (gpu.upload(&x), gpu.alloc::<f32>(shape.rows), vec![0.0f32; shape.rows]);
    gpu.run(&kernel, ReduceArgs { x: gx.arg().skip(skip), y: gy.arg_mut() });
    kernel.cpu(ReduceArgs { x: x[skip..].into(), y: (&mut y).into() });
    assert_eq!(gy.to_vec(), y, "{shape:?} {}", T::NAME);
    // Sums may cancel: the error is measured against the sum of the sizes.
    let x = widen(&x[skip..]);
    let sizes: Vec<f32> = x.iter().map(|x| x.abs()).collect();
    for ((y, want), size) in y.iter().zip(in_f64(shape, &x)).zip(in_f64(shape, &sizes)) {
        assert!((f64::from(*y) - want).abs() <= 1e-6 * size, "{y} instead of {want}: {shape:?}");
    }
}

fn reductions(gpu: &mut Gpu, rows: usize, cols: usize, skip: usize) {
    for reduction in REDUCTIONS {
        let shape = Reduce { rows, cols, reduction };
        reduce(gpu, shape, shape, skip);
        reduce(gpu, shape, shape.of::<f16>(), skip);
        reduce(gpu, shape, shape.of::<bf16>(), skip);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn casts_are_the_twin_s_bits(len in 0usize..10_000, skip in 0usize..9) {
        casts(&mut Gpu::new(), len, skip);
    }

    #[test]
    fn reductions_are_the_twin_s_bits(rows in 0usize..9, cols in 1usize..3000, skip in 0usize..9) {
        let gpu = &mut Gpu::new();
        reductions(gpu, rows, cols, skip);
        reductions(gpu, rows, cols.next_multiple_of(4), skip & 4);
    }
}

#[test]
fn casts_and_reductions_under_an_adversary() {
    every_way(|gpu| {
        casts(gpu, 5000, 0);
        casts(gpu, 77, 1);
        reductions(gpu, 3, 2052, 0);
        reductions(gpu, 2, 1031, 1);
    });
}

#[test]
fn special_values_are_cast_as_ieee_says() {
    let gpu = &mut Gpu::new();
    // The ends of f16's range, ties, subnormals, infinities; a NaN stays one.
    let x = [
        65504.0f32,
        65519.99,
        65520.0,
        -1e9,
        6.0e-8,
        2.9e-8,
        2.98e-8,
        1e-40,
        3.4e38,
        f32::MAX,
        1.0009766,
        1.0004883,
        1.001953,
        -0.0,
        f32::INFINITY,
        f32::NEG_INFINITY,
        1.0 + 1.0 / 256.0,
        1.0 + 3.0 / 256.0,
    ];
    cast::<f32, f16>(gpu, &x, 0);
    cast::<f32, bf16>(gpu, &x, 0);
    let (gx, mut gy) = (gpu.upload(&[f32::NAN; 4]), gpu.alloc::<f16>(4));
    gpu.run(&Cast::<f32, f16>::new(4), CastArgs { x: gx.arg(), y: gy.arg_mut() });
    assert!(gy.to_vec().iter().all(|y| y.is_nan()));
}

#[test]
fn whole_arrays_rows_of_nothing_and_nan() {
    let gpu = &mut Gpu::new();
    // Three launches: 1024 * 1024 + 1 elements.
    let shape = Reduce { rows: 1, cols: 1024 * 1024 + 1, reduction: Reduction::Mean };
    reduce(gpu, shape, shape.of::<bf16>(), 0);
    assert_eq!(gpu.launches.len(), 3);
    for (reduction, want) in [(Reduction::Sum, 0.0), (Reduction::Max, f32::NEG_INFINITY)] {
        let shape = Reduce { rows: 2, cols: 0, reduction };
        let (x, mut y) = (gpu.upload::<f32>(&[]), gpu.alloc::<f32>(2));
        gpu.run(&shape, ReduceArgs { x: x.arg(), y: y.arg_mut() });
        assert_eq!(y.to_vec(), [want; 2]);
    }
    for reduction in REDUCTIONS {
        for at in [0, 1, 700] {
            let mut x = values(2 * 1100, 1);
            x[1100 + at] = f32::NAN;
            let shape = Reduce { rows: 2, cols: 1100, reduction };
            let (gx, mut gy, mut y) = (gpu.upload(&x), gpu.alloc::<f32>(2), [0.0f32; 2]);
            gpu.run(&shape, ReduceArgs { x: gx.arg(), y: gy.arg_mut() });
            shape.cpu(ReduceArgs { x: (&x).into(), y: y[..].as_mut().into() });
            assert!(gy.to_vec()[1].is_nan() && y[1].is_nan(), "{reduction:?}");
            assert_eq!(gy.to_vec()[0], y[0]);
        }
    }
}
