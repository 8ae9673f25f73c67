//! int8 products against an integer reference written out longhand.

use int8_matmul::*;
use kernel_abi::Kernel;
use proptest::prelude::*;

fn values(n: usize, seed: u32, scale: f32) -> Vec<f32> {
    let unit = |i: u32| ((i ^ seed).wrapping_mul(2_654_435_761) >> 8) as f32 / 8_388_608.0 - 1.0;
    (0..n as u32).map(|i| unit(i) * scale).collect()
}

struct Weight {
    q: Vec<i8>,
    packed: Vec<i8>,
    scb: Vec<f32>,
}

fn weight(w: &[f32], n: usize, k: usize) -> Weight {
    let (mut q, mut scb) = (vec![0i8; n * k], vec![0.0f32; n]);
    QuantizeWeight { n, k }.cpu(QuantizeWeightArgs {
        w: w.into(),
        q: (&mut q).into(),
        scb: (&mut scb).into(),
    });
    let mut packed = vec![1i8; packed_len(n, k)];
    PackInt8 { n, k }.cpu(PackInt8Args { q: (&q).into(), packed: (&mut packed).into() });
    Weight { q, packed, scb }
}

fn forward(
    m: usize,
    n: usize,
    k: usize,
    threshold: f32,
    x: &[f32],
    w: &Weight,
    bias: &[f32],
    res: &[f32],
) -> Vec<f32> {
    let mut y = vec![f32::NAN; m * n];
    let kernel = Int8Linear { m, n, k, threshold };
    let args = Int8LinearArgs {
        x: x.into(),
        packed: (&w.packed).into(),
        scb: (&w.scb).into(),
        bias: Some(bias.into()),
        residual: Some(res.into()),
        y: (&mut y).into(),
    };
    kernel.check(&args).unwrap();
    kernel.cpu(args);
    y
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn forward_equals_the_longhand_sum(m in 0usize..20, n in 1usize..50, k in 1usize..70, threshold in 0usize..3) {
        let threshold = [0.0, 6.0, 2.0][threshold];
        let (x, dense) = (values(m * k, 1, 8.0), values(n * k, 2, 1.0));
        let (bias, res) = (values(n, 3, 1.0), values(m * n, 4, 1.0));
        let w = weight(&dense, n, k);
        prop_assert_eq!(unpack(&w.packed, n, k), w.q.clone());
        let y = forward(m, n, k, threshold, &x, &w, &bias, &res);
        for i in 0..m {
            let row = &x[i * k..(i + 1) * k];
            let far = |v: f32| threshold > 0.0 && v.abs() >= threshold;
            let max = row.iter().filter(|v| !far(**v)).fold(0.0f32, |m, v| m.max(v.abs()));
            let inverse = if max > 0.0 { 127.0 / max } else { 0.0 };
            for j in 0..n {
                let mut acc = 0i64;
                let mut wide = 0.0f64;
                for t in 0..k {
                    if far(row[t]) {
                        wide += f64::from(row[t]) * f64::from(w.q[j * k + t]) * f64::from(w.scb[j]) / 127.0;
                    } else {
                        // The kernel rounds x * inverse in one step: at an exact tie f32 and f64 may differ.
                        acc += (f64::from(row[t]) * f64::from(inverse)).round_ties_even() as i64
                            * i64::from(w.q[j * k + t]);
                    }
                }
                let s = f64::from(max) / 127.0 * f64::from(w.scb[j]) / 127.0;
                let want = acc as f64 * s + wide + f64::from(bias[j]) + f64::from(res[i * n + j]);
                prop_assert!((f64::from(y[i * n + j]) - want).abs() < 1e-4 * (1.0 + want.abs() + wide.abs()));
            }
        }
    }

    #[test]
    fn backward_is_the_chain_of_scaled_and_rounded_gradients(
        m in 0usize..20, n in 1usize..50, k in 1usize..70, accumulate: bool,
    ) {
        let (dy, dense, before) = (values(m * n, 1, 1.0), values(n * k, 2, 1.0), values(m * k, 3, 1.0));
        let w = weight(&dense, n, k);
        let mut dx = before.clone();
        let kernel = Int8LinearBackward { m, n, k, accumulate };
        let (packed, scb) = ((&w.packed).into(), (&w.scb).into());
        kernel.cpu(Int8LinearBackwardArgs { dy: (&dy).into(), packed, scb, dx: (&mut dx).into() });
        for i in 0..m {
            for t in 0..k {
                let chain = (0..n).fold(0.0f32, |a, j| {
                    let d = matmul::round_bf16(dy[i * n + j] * (w.scb[j] / 127.0));
                    d.mul_add(f32::from(w.q[j * k + t]), a)
                });
                let want = if accumulate { before[i * k + t] + chain } else { chain };
                prop_assert_eq!(dx[i * k + t].to_bits(), want.to_bits());
            }
        }
    }
}

#[test]
fn a_row_keeps_its_bits_in_any_batch_and_on_any_threads() {
    let (m, n, k) = (130, 200, 129);
    let mut x = values(m * k, 1, 3.0);
    x[5 * k + 17] = 9.0;
    let (bias, res) = (values(n, 3, 1.0), values(m * n, 4, 1.0));
    let w = weight(&values(n * k, 2, 1.0), n, k);
    let run = |t: usize| cpu::with_threads(t, || forward(m, n, k, 6.0, &x, &w, &bias, &res));
    let all = run(2);
    assert_eq!(run(1), all);
    for i in [0, 5, 129] {
        let alone = forward(1, n, k, 6.0, &x[i * k..(i + 1) * k], &w, &bias, &res[i * n..(i + 1) * n]);
        assert_eq!(alone, all[i * n..(i + 1) * n]);
    }
}

#[test]
fn outliers_rescue_the_small_elements_of_a_row() {
    let (n, k) = (64, 256);
    let dense = values(n * k, 2, 0.1);
    let w = weight(&dense, n, k);
    let mut x = values(k, 1, 1.0);
    x[100] = 60.0;
    let exact: Vec<f64> =
        (0..n).map(|j| (0..k).map(|t| f64::from(x[t]) * f64::from(dense[j * k + t])).sum()).collect();
    let error = |threshold: f32| {
        let y = forward(1, n, k, threshold, &x, &w, &vec![0.0; n], &vec![0.0; n]);
        let square = |v: f64| v * v;
        let diff: f64 = y.iter().zip(&exact).map(|(y, e)| square(f64::from(*y) - e)).sum();
        (diff / exact.iter().map(|e| square(*e)).sum::<f64>()).sqrt()
    };
    let (with, without) = (error(6.0), error(0.0));
    assert!(with < 0.02 && with * 4.0 < without, "with {with}, without {without}");
}

#[test]
fn rows_that_cannot_be_scaled_and_values_that_are_not_numbers() {
    let (m, n, k) = (4, 17, 9);
    let w = weight(&values(n * k, 2, 1.0), n, k);
    let mut x = vec![0.0f32; m * k];
    x[k + 3] = 1e-42; // 127 / absmax overflows
    x[2 * k + 5] = f32::NAN;
    x[3 * k + 5] = f32::INFINITY;
    for threshold in [0.0, 6.0] {
        let y = forward(m, n, k, threshold, &x, &w, &vec![0.5; n], &vec![0.0; m * n]);
        assert!(y[..2 * n].iter().all(|v| *v == 0.5), "a row of (nearly) zeros is the bias");
        assert!(y[2 * n..3 * n].iter().all(|v| v.is_nan()), "NaN stays NaN");
        assert!(y[3 * n..].iter().all(|v| !v.is_finite()), "infinity does not turn into a number");
    }
}

#[test]
fn blocks_of_inputs_and_rows_change_nothing() {
    // More than one block of inputs (1024) and of rows, ragged edges, many outliers.
    let (m, n, k) = (203, 37, 2051);
    let (x, dense) = (values(m * k, 1, 6.1), values(n * k, 2, 1.0));
    let w = weight(&dense, n, k);
    let (bias, res) = (values(n, 3, 1.0), values(m * n, 4, 1.0));
    let all = forward(m, n, k, 6.0, &x, &w, &bias, &res);
    for i in [0, 100, 202] {
        let row = &x[i * k..(i + 1) * k];
        let alone = forward(1, n, k, 6.0, row, &w, &bias, &res[i * n..(i + 1) * n]);
        assert_eq!(alone, all[i * n..(i + 1) * n]);
        for j in 0..n {
            let exact: f64 = (0..k).map(|t| f64::from(row[t]) * f64::from(dense[j * k + t])).sum();
            let want = exact + f64::from(bias[j]) + f64::from(res[i * n + j]);
            assert!((f64::from(all[i * n + j]) - want).abs() < 6.0, "row {i}, column {j}");
        }
    }
}
