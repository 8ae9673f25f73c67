//! Products against a scalar chain of fused multiply-adds: equal bits, whatever the shape.

use kernel_abi::Kernel;
use matmul::*;
use proptest::prelude::*;

fn values(n: usize, seed: u32) -> Vec<f32> {
    (0..n as u32)
        .map(|i| (((i ^ seed).wrapping_mul(2_654_435_761) >> 8) as f32 / 8_388_608.0) - 1.0)
        .collect()
}

fn chain(k: usize, a: impl Fn(usize) -> f32, b: impl Fn(usize) -> f32) -> f32 {
    (0..k).fold(0.0f32, |acc, i| a(i).mul_add(b(i), acc))
}

fn linear(m: usize, n: usize, k: usize, x: &[f32], w: &[f32], bias: &[f32], res: &[f32]) -> Vec<f32> {
    let mut packed = vec![f32::NAN; packed_len(n, k)];
    PackWeight { n, k }.cpu(PackWeightArgs { w: w.into(), packed: (&mut packed).into() });
    let mut y = vec![f32::NAN; m * n];
    let (packed, bias, residual) = ((&packed).into(), Some(bias.into()), Some(res.into()));
    let args = LinearArgs { x: x.into(), packed, bias, residual, y: (&mut y).into() };
    Linear { m, n, k }.check(&args).unwrap();
    Linear { m, n, k }.cpu(args);
    y
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn linear_equals_the_scalar_chain(m in 0usize..40, n in 0usize..70, k in 0usize..90) {
        let (x, w, bias, res) = (values(m * k, 1), values(n * k, 2), values(n, 3), values(m * n, 4));
        let y = linear(m, n, k, &x, &w, &bias, &res);
        for i in 0..m {
            for j in 0..n {
                let want = chain(k, |t| x[i * k + t], |t| w[j * k + t]) + bias[j] + res[i * n + j];
                prop_assert_eq!(y[i * n + j].to_bits(), want.to_bits());
            }
        }
    }

    #[test]
    fn every_transpose_equals_the_scalar_chain(
        m in 1usize..30, n in 1usize..50, k in 0usize..40, ta: bool, tb: bool, accumulate: bool, pad in 0usize..3,
    ) {
        let (lda, ldb, ldc) = (if ta { m } else { k } + pad, if tb { k } else { n } + pad, n + pad);
        let a = values(if ta { k } else { m } * lda, 5);
        let b = values(if tb { n } else { k } * ldb, 6);
        let before = values(m * ldc, 7);
        let mut c = before.clone();
        let shape = Matmul { m, n, k, ta, tb, lda, ldb, ldc, alpha: 0.5, accumulate };
        let args = MatmulArgs { a: (&a).into(), b: (&b).into(), c: (&mut c).into() };
        shape.check(&args).unwrap();
        shape.cpu(args);
        for i in 0..m {
            for j in 0..n {
                let at = |t: usize| if ta { a[t * lda + i] } else { a[i * lda + t] };
                let bt = |t: usize| if tb { b[j * ldb + t] } else { b[t * ldb + j] };
                let product = 0.5 * chain(k, at, bt);
                let want = if accumulate { before[i * ldc + j] + product } else { product };
                prop_assert_eq!(c[i * ldc + j].to_bits(), want.to_bits());
            }
        }
    }
}

#[test]
fn threads_and_neighbours_do_not_change_a_row() {
    let (m, n, k) = (200, 300, 257);
    let (x, w, bias, res) = (values(m * k, 1), values(n * k, 2), values(n, 3), values(m * n, 4));
    let one = cpu::with_threads(1, || linear(m, n, k, &x, &w, &bias, &res));
    let two = cpu::with_threads(2, || linear(m, n, k, &x, &w, &bias, &res));
    assert_eq!(one, two);
    let row = linear(1, n, k, &x[7 * k..8 * k], &w, &bias, &res[7 * n..8 * n]);
    assert_eq!(row, one[7 * n..8 * n]);
}

#[test]
fn a_wrong_argument_is_named() {
    let shape = Matmul {
        m: 2,
        n: 2,
        k: 3,
        ta: false,
        tb: false,
        lda: 3,
        ldb: 2,
        ldc: 2,
        alpha: 1.0,
        accumulate: false,
    };
    let (a, b, mut c) = ([0.0f32; 5], [0.0f32; 6], [0.0f32; 4]);
    let e =
        shape.check(&MatmulArgs { a: a[..].into(), b: b[..].into(), c: c[..].as_mut().into() }).unwrap_err();
    assert_eq!(e.to_string(), "matmul: argument `a`: has 5 elements, expected at least 6");
}

#[test]
fn long_sums_stay_close_to_f64() {
    let (m, n, k) = (37, 61, 3001);
    let (x, w, bias, res) = (values(m * k, 1), values(n * k, 2), vec![0.0; n], vec![0.0; m * n]);
    let y = linear(m, n, k, &x, &w, &bias, &res);
    let (mut error, mut size) = (0.0f64, 0.0f64);
    for i in 0..m {
        for j in 0..n {
            let want: f64 = (0..k).map(|t| f64::from(x[i * k + t]) * f64::from(w[j * k + t])).sum();
            error += (f64::from(y[i * n + j]) - want).powi(2);
            size += want.powi(2);
        }
    }
    assert!((error / size).sqrt() < 1e-5, "relative Frobenius error {}", (error / size).sqrt());
}

#[test]
fn blocks_of_rows_and_of_the_inner_dimension_change_nothing() {
    // More than one block of each, a ragged edge of each, both storage orders of A, on one and two threads.
    let (m, n, k) = (401, 83, 1031);
    let (a, b) = (values(m * k, 1), values(k * n, 2));
    for ta in [false, true] {
        let lda = if ta { m } else { k };
        let shape = Matmul { m, n, k, ta, tb: false, lda, ldb: n, ldc: n, alpha: 2.0, accumulate: true };
        let run = |threads| {
            let mut c = vec![1.0f32; m * n];
            cpu::with_threads(threads, || {
                shape.cpu(MatmulArgs { a: (&a).into(), b: (&b).into(), c: (&mut c).into() })
            });
            c
        };
        let c = run(2);
        assert_eq!(run(1), c);
        for (i, j) in [(0, 0), (191, 15), (192, 16), (400, 82), (399, 80), (7, 64)] {
            let at = |t: usize| if ta { a[t * lda + i] } else { a[i * lda + t] };
            assert_eq!(c[i * n + j], 1.0 + 2.0 * chain(k, at, |t| b[t * n + j]), "({i}, {j})");
        }
    }
}
