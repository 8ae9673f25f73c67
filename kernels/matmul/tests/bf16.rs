//! Products with bf16 weights against scalar chains over the rounded operands: equal bits; and against f64.

use kernel_abi::Kernel;
use matmul::*;
use proptest::prelude::*;

fn values(n: usize, seed: u32) -> Vec<f32> {
    (0..n as u32)
        .map(|i| (((i ^ seed).wrapping_mul(2_654_435_761) >> 8) as f32 / 8_388_608.0) - 1.0)
        .collect()
}

fn packed(w: &[f32], n: usize, k: usize) -> Vec<u32> {
    let mut packed = vec![u32::MAX; bf16_packed_len(n, k)];
    PackBf16 { n, k }.cpu(PackBf16Args { w: w.into(), packed: (&mut packed[..]).into() });
    packed
}

fn linear(m: usize, n: usize, k: usize, x: &[f32], w: &[u32], bias: &[f32], res: &[f32]) -> Vec<f32> {
    let mut y = vec![f32::NAN; m * n];
    let (bias, residual) = (Some(bias.into()), Some(res.into()));
    let args = Bf16LinearArgs { x: x.into(), packed: w.into(), bias, residual, y: (&mut y).into() };
    Bf16Linear { m, n, k }.check(&args).unwrap();
    Bf16Linear { m, n, k }.cpu(args);
    y
}

fn chain(k: usize, a: impl Fn(usize) -> f32, b: impl Fn(usize) -> f32) -> f32 {
    (0..k).fold(0.0f32, |acc, i| round_bf16(a(i)).mul_add(round_bf16(b(i)), acc))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn forward_equals_the_scalar_chain(m in 0usize..40, n in 0usize..70, k in 0usize..90) {
        let (x, w, bias, res) = (values(m * k, 1), values(n * k, 2), values(n, 3), values(m * n, 4));
        let y = linear(m, n, k, &x, &packed(&w, n, k), &bias, &res);
        for i in 0..m {
            for j in 0..n {
                let want = chain(k, |t| x[i * k + t], |t| w[j * k + t]) + bias[j] + res[i * n + j];
                prop_assert_eq!(y[i * n + j].to_bits(), want.to_bits());
            }
        }
    }

    #[test]
    fn backward_equals_the_scalar_chain(m in 0usize..30, n in 0usize..90, k in 1usize..90, accumulate: bool) {
        let (dy, w, before) = (values(m * n, 1), values(n * k, 2), values(m * k, 3));
        let w_packed = packed(&w, n, k);
        let mut dx = before.clone();
        let args = Bf16LinearBackwardArgs { dy: (&dy).into(), packed: (&w_packed[..]).into(), dx: (&mut dx).into() };
        let kernel = Bf16LinearBackward { m, n, k, accumulate };
        kernel.check(&args).unwrap();
        kernel.cpu(args);
        for i in 0..m {
            for t in 0..k {
                let product = chain(n, |j| dy[i * n + j], |j| w[j * k + t]);
                let want = if accumulate { before[i * k + t] + product } else { product };
                prop_assert_eq!(dx[i * k + t].to_bits(), want.to_bits());
            }
        }
    }

    #[test]
    fn rounding_is_to_nearest_even(bits: u32) {
        let x = f32::from_bits(bits);
        let y = round_bf16(x);
        if x.is_nan() {
            prop_assert!(y.is_nan());
        } else if x.is_finite() && x.abs() >= f32::MIN_POSITIVE && y.is_finite() {
            let (down, up) = (bits & 0xffff_0000, (bits & 0xffff_0000) + 0x1_0000);
            let far = |b: u32| (f64::from(f32::from_bits(b)) - f64::from(x)).abs();
            let best = match far(down).total_cmp(&far(up)) {
                std::cmp::Ordering::Less => down,
                std::cmp::Ordering::Greater => up,
                std::cmp::Ordering::Equal => if down >> 16 & 1 == 0 { down } else { up },
            };
            prop_assert_eq!(y.to_bits(), best);
        }
    }
}

#[test]
fn error_against_f64_is_that_of_bf16_operands() {
    let (m, n, k) = (37, 65, 1000);
    let (x, w) = (values(m * k, 1), values(n * k, 2));
    let y = linear(m, n, k, &x, &packed(&w, n, k), &vec![0.0; n], &vec![0.0; m * n]);
    let (mut error, mut size) = (0.0, 0.0);
    for i in 0..m {
        for j in 0..n {
            let exact: f64 = (0..k).map(|t| f64::from(x[i * k + t]) * f64::from(w[j * k + t])).sum();
            error += (f64::from(y[i * n + j]) - exact).powi(2);
            size += exact.powi(2);
        }
    }
    let relative = f64::sqrt(error / size);
    assert!(relative < 1e-2 && relative > 1e-4, "{relative}");
}

#[test]
fn threads_and_neighbours_do_not_change_a_row() {
    let (m, n, k) = (200, 300, 257);
    let (x, w, bias, res) = (values(m * k, 1), values(n * k, 2), values(n, 3), values(m * n, 4));
    let w = packed(&w, n, k);
    let one = cpu::with_threads(1, || linear(m, n, k, &x, &w, &bias, &res));
    let two = cpu::with_threads(2, || linear(m, n, k, &x, &w, &bias, &res));
    assert_eq!(one, two);
    let row = linear(1, n, k, &x[7 * k..8 * k], &w, &bias, &res[7 * n..8 * n]);
    assert_eq!(row, one[7 * n..8 * n]);
}

#[test]
fn unpacking_gives_the_rounded_weight() {
    let (n, k) = (45, 33);
    let w = values(n * k, 9);
    let rounded: Vec<f32> = w.iter().map(|v| round_bf16(*v)).collect();
    assert_eq!(unpack_bf16(&packed(&w, n, k), n, k), rounded);
}
