//! Vector mathematics whose scalar form the compiler turns into SIMD inside `simd_fn!` bodies.
//!
//! Each function is branch-free and built from `mul_add`, so a scalar tail gives the same bits as a lane.

// Coefficients are written with the digits they were derived with.
#![allow(clippy::excessive_precision, clippy::approx_constant)]

/// e^x. Relative error below 2.5e-7 on [-87.3, 88.7]; 0 below, largest finite power above.
///
/// Range reduction x = n ln2 + r, |r| <= ln2/2, Taylor polynomial of degree 7 in r, then 2^n by exponent bits.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to an integer in the low mantissa bits
    // `max`/`min` drop a NaN; the final select puts it back.
    let c = x.clamp(-87.336_54, 88.722_83);
    let t = c.mul_add(std::f32::consts::LOG2_E, MAGIC);
    let n = t - MAGIC;
    let r = n.mul_add(-0.693_145_75, c); // ln2, high part
    let r = n.mul_add(-1.428_606_8e-6, r); // ln2, low part
    let mut p = 1.984_126_98e-4f32;
    p = p.mul_add(r, 1.388_888_9e-3);
    p = p.mul_add(r, 8.333_333_5e-3);
    p = p.mul_add(r, 4.166_666_8e-2);
    p = p.mul_add(r, 1.666_666_7e-1);
    p = p.mul_add(r, 0.5);
    p = p.mul_add(r, 1.0);
    p = p.mul_add(r, 1.0);
    // 2^n in two steps, so that n = 128 does not overflow the exponent field.
    let bits = t.to_bits().wrapping_sub(MAGIC.to_bits()) as i32;
    let half = bits >> 1;
    let a = f32::from_bits(((half + 127) << 23) as u32);
    let b = f32::from_bits(((bits - half + 127) << 23) as u32);
    let y = p * a * b;
    let y = if x < -87.336_54 { 0.0 } else { y };
    if x.is_nan() { x } else { y }
}

/// Natural logarithm of a positive normal number; relative error below 3e-7.
#[inline(always)]
pub fn ln(x: f32) -> f32 {
    // x = m 2^e with m in [sqrt(1/2), sqrt(2)); ln m = 2 atanh(s), s = (m-1)/(m+1).
    let bits = x.to_bits().wrapping_sub(0x3f35_04f3);
    let e = (bits as i32 >> 23) as f32;
    let m = f32::from_bits((bits & 0x007f_ffff).wrapping_add(0x3f35_04f3));
    let s = (m - 1.0) / (m + 1.0);
    let z = s * s;
    let mut p = 0.222_222_22f32 * 0.5;
    p = p.mul_add(z, 1.0 / 7.0);
    p = p.mul_add(z, 0.2);
    p = p.mul_add(z, 1.0 / 3.0);
    let atanh2 = (s * z).mul_add(2.0 * p, 2.0 * s);
    e.mul_add(0.693_147_2, atanh2)
}

/// Hyperbolic tangent, absolute error below 3e-7 (relative error below 1e-6 for |x| >= 0.01).
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    let a = x.abs().min(10.0);
    let e = exp(2.0 * a);
    let big = 1.0 - 2.0 / (e + 1.0);
    let z = x * x;
    let mut p = -1.705_2e-2f32 * 0.5; // short Taylor tail for small |x|
    p = p.mul_add(z, 2.0 / 15.0);
    p = p.mul_add(z, -1.0 / 3.0);
    let small = (a * z).mul_add(p, a);
    let y = if a < 0.05 { small } else { big };
    let y = y.copysign(x);
    if x.is_nan() { x } else { y }
}

/// Logistic function 1 / (1 + e^-x).
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// Error function, relative error below 5e-7.
///
/// x P(x^2) / Q(x^2) with |x| cut at 4, beyond which erf rounds to 1: our own minimax fit (relative error 2.5e-8
/// in exact arithmetic), with no exponential and no branch.
#[inline(always)]
pub fn erf(x: f32) -> f32 {
    let c = x.clamp(-4.0, 4.0);
    let z = c * c;
    let mut p = 1.986_575_8e-6f32;
    p = p.mul_add(z, 2.845_409_5e-4);
    p = p.mul_add(z, 3.883_070_7e-3);
    p = p.mul_add(z, 5.310_086_8e-2);
    p = p.mul_add(z, 1.935_414_1e-1);
    p = p.mul_add(z, 1.128_379_1);
    let mut q = 3.741_669_6e-5f32;
    q = q.mul_add(z, 1.185_468_9e-3);
    q = q.mul_add(z, 1.520_672_9e-2);
    q = q.mul_add(z, 1.153_481_3e-1);
    q = q.mul_add(z, 5.048_541_7e-1);
    q = q.mul_add(z, 1.0);
    let y = (c * p / q).clamp(-1.0, 1.0);
    if x.is_nan() { x } else { y }
}

/// Lanes of the fixed summation order.
const LANES: usize = 16;

#[inline(always)]
fn tree(mut acc: [f32; LANES]) -> f32 {
    let mut w = LANES / 2;
    while w > 0 {
        for i in 0..w {
            acc[i] += acc[i + w];
        }
        w /= 2;
    }
    acc[0]
}

/// Sum in a fixed order: 16 interleaved partial sums, then a tree.
#[inline(always)]
pub fn sum(x: &[f32]) -> f32 {
    let mut acc = [0.0f32; LANES];
    let mut chunks = x.chunks_exact(LANES);
    for c in &mut chunks {
        for i in 0..LANES {
            acc[i] += c[i];
        }
    }
    for (a, v) in acc.iter_mut().zip(chunks.remainder()) {
        *a += v;
    }
    tree(acc)
}

/// Inner product in a fixed order: 16 interleaved fused chains, then a tree.
#[inline(always)]
pub fn dot(x: &[f32], y: &[f32]) -> f32 {
    debug_assert_eq!(x.len(), y.len());
    let mut acc = [0.0f32; LANES];
    let (mut a, mut b) = (x.chunks_exact(LANES), y.chunks_exact(LANES));
    for (p, q) in (&mut a).zip(&mut b) {
        for i in 0..LANES {
            acc[i] = p[i].mul_add(q[i], acc[i]);
        }
    }
    for ((acc, p), q) in acc.iter_mut().zip(a.remainder()).zip(b.remainder()) {
        *acc = p.mul_add(*q, *acc);
    }
    tree(acc)
}

/// Largest element; negative infinity for an empty slice. NaN elements are ignored.
#[inline(always)]
pub fn max(x: &[f32]) -> f32 {
    let mut acc = [f32::NEG_INFINITY; LANES];
    let mut chunks = x.chunks_exact(LANES);
    for c in &mut chunks {
        for i in 0..LANES {
            acc[i] = if c[i] > acc[i] { c[i] } else { acc[i] };
        }
    }
    for (a, v) in acc.iter_mut().zip(chunks.remainder()) {
        *a = if *v > *a { *v } else { *a };
    }
    acc.iter().fold(f32::NEG_INFINITY, |m, v| if *v > m { *v } else { m })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(
        name: &str,
        f: impl Fn(f32) -> f32,
        want: impl Fn(f64) -> f64,
        lo: f64,
        hi: f64,
        abs: f64,
        rel: f64,
    ) {
        for i in 0..=20_000 {
            let x = (lo + (hi - lo) * i as f64 / 20_000.0) as f32;
            let (got, want) = (f(x) as f64, want(x as f64));
            let err = (got - want).abs();
            assert!(err <= abs + rel * want.abs(), "{name}({x}) = {got}, want {want}");
        }
    }

    /// erf by its Taylor series in f64 (fine up to |x| = 4).
    fn erf64(x: f64) -> f64 {
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            term *= -x * x / n as f64;
            sum += term / (2 * n + 1) as f64;
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    }

    #[test]
    fn functions_stay_within_their_documented_error() {
        check("exp", exp, f64::exp, -87.0, 88.0, 0.0, 2.5e-7);
        check("ln", ln, f64::ln, 1e-6, 100.0, 3e-7, 3e-7);
        check("tanh", tanh, f64::tanh, -12.0, 12.0, 3e-7, 0.0);
        check("sigmoid", sigmoid, |x| 1.0 / (1.0 + (-x).exp()), -30.0, 30.0, 1e-7, 3e-7);
        check("erf", erf, erf64, -4.0, 4.0, 0.0, 5e-7);
    }

    #[test]
    fn special_values() {
        assert!(exp(f32::NAN).is_nan() && tanh(f32::NAN).is_nan() && erf(f32::NAN).is_nan());
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(0.0), 1.0);
        assert_eq!((tanh(1e9), tanh(-1e9)), (1.0, -1.0));
        assert_eq!((erf(10.0), erf(-10.0)), (1.0, -1.0));
        assert_eq!(max(&[]), f32::NEG_INFINITY);
    }

    #[test]
    fn sums_do_not_depend_on_the_instruction_set() {
        crate::simd_fn! { fn fast(x: &[f32], y: &[f32]) -> [f32; 3] { [sum(x), dot(x, y), exp(x[0])] } }
        let x: Vec<f32> = (0..1003).map(|i| ((i * 7919) % 1000) as f32 * 1e-3 - 0.3).collect();
        let y: Vec<f32> = x.iter().rev().copied().collect();
        let slow = [sum(&x), dot(&x, &y), exp(x[0])];
        assert_eq!(fast(&x, &y).map(f32::to_bits), slow.map(f32::to_bits));
    }
}
