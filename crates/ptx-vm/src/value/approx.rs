//! `.approx` functions: computed in f64 well beyond the documented error, then settled.
//!
//! Settling means: to the nearest f32, or, under the adversary's seed, to the nearest f32 of `value * (1 + u * e)`
//! with `u` in [-1, 1] drawn from the seed and the operand, and `e` the documented relative error less the half
//! unit that rounding adds. A kernel that passes under many seeds does not lean on a lucky last bit.
//!
//! Documented bounds (PTX ISA 9.7.3): `rcp` 2^-23, `sqrt` 2^-23, `rsqrt` 2^-22.9, `div.approx` and `div.full` 2
//! ulp, `ex2` 2^-22, `lg2` 2^-22 (absolute on (0.5, 2), relative elsewhere), `sin` and `cos` 2^-20.9 absolute on
//! [-pi, pi], `tanh` 2^-11 relative; on halves `ex2.f16` 2^-9.9, `ex2.bf16` 2^-7, `tanh.f16` 2^-10.987,
//! `tanh.bf16` 2^-8.
use super::float::{NAN32, flush32};
use super::half::Half;

/// The function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Function {
    /// `1 / a`
    Rcp,
    /// The square root.
    Sqrt,
    /// `1 / sqrt(a)`
    Rsqrt,
    /// `2^a`
    Ex2,
    /// The binary logarithm.
    Lg2,
    /// The sine.
    Sin,
    /// The cosine.
    Cos,
    /// The hyperbolic tangent.
    Tanh,
}

impl Function {
    /// The documented relative error of the f32 form, less the half unit of the final rounding.
    pub const fn relative(self) -> f64 {
        const HALF_ULP: f64 = 5.97e-8;
        match self {
            Function::Rcp | Function::Sqrt => 1.19e-7 - HALF_ULP,
            Function::Rsqrt => 1.27e-7 - HALF_ULP,
            Function::Ex2 | Function::Lg2 => 2.38e-7 - HALF_ULP,
            Function::Sin | Function::Cos => 0.0,
            Function::Tanh => 4.88e-4 - HALF_ULP,
        }
    }

    /// The documented absolute error, where the bound is absolute.
    pub fn absolute(self, a: f64) -> f64 {
        match self {
            Function::Sin | Function::Cos => 5.1e-7 - 6e-8,
            Function::Lg2 if a > 0.5 && a < 2.0 => 2.38e-7 - 6e-8,
            _ => 0.0,
        }
    }
}

/// `2^x` in f64 to about 2^-38: split off the integer, Taylor series of `exp(r ln 2)` on [-1/2, 1/2].
#[inline(always)]
pub fn exp2(x: f64) -> f64 {
    let x = x.clamp(-1000.0, 1000.0);
    let n = (x + 6755399441055744.0) - 6755399441055744.0;
    let r = (x - n) * std::f64::consts::LN_2;
    let mut p = 1.0 / 3628800.0;
    for c in [362880.0, 40320.0, 5040.0, 720.0, 120.0, 24.0, 6.0, 2.0, 1.0, 1.0] {
        p = p * r + 1.0 / c;
    }
    p * f64::from_bits(((n as i64 + 1023) as u64) << 52)
}

/// `log2 x` of a positive normal x in f64 to about 2^-38: exponent, then `atanh` series of the mantissa.
#[inline(always)]
pub fn log2(x: f64) -> f64 {
    let bits = x.to_bits();
    // Move the mantissa into [sqrt(1/2), sqrt(2)).
    let shifted = bits.wrapping_sub(0x3fe6_a09e_667f_3bcd);
    let n = (shifted as i64 >> 52) as f64;
    let m = f64::from_bits((shifted & 0x000f_ffff_ffff_ffff).wrapping_add(0x3fe6_a09e_667f_3bcd));
    let s = (m - 1.0) / (m + 1.0);
    let z = s * s;
    let mut p = 1.0 / 17.0;
    for c in [15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0, 1.0] {
        p = p * z + 1.0 / c;
    }
    n + 2.0 * std::f64::consts::LOG2_E * s * p
}

/// `tanh x` in f64 to about 2^-30 relative.
#[inline(always)]
pub fn tanh(x: f64) -> f64 {
    let e = exp2(x.abs().min(40.0) * (2.0 * std::f64::consts::LOG2_E));
    let big = 1.0 - 2.0 / (e + 1.0);
    let small = x.abs() * (1.0 - x * x / 3.0);
    let magnitude = if x.abs() < 1e-3 { small } else { big };
    magnitude.copysign(x)
}

/// `sin x`, or `cos x`, in f64: one reduction by multiples of pi/2, then the host's polynomial.
#[inline(always)]
fn sine(x: f64, cosine: bool) -> f64 {
    if cosine { x.cos() } else { x.sin() }
}

/// The function's exact value in f64, before settling.
#[inline(always)]
pub fn evaluate(function: Function, a: f64) -> f64 {
    match function {
        Function::Rcp => 1.0 / a,
        Function::Sqrt => a.sqrt(),
        Function::Rsqrt => 1.0 / a.sqrt(),
        Function::Ex2 => exp2(a),
        Function::Lg2 => {
            let v = log2(a);
            // Zero, negatives, infinities and NaN are outside the series.
            if a > 0.0 && a < f64::INFINITY {
                v
            } else if a == 0.0 {
                f64::NEG_INFINITY
            } else if a > 0.0 {
                f64::INFINITY
            } else {
                f64::NAN
            }
        }
        Function::Sin => sine(a, false),
        Function::Cos => sine(a, true),
        Function::Tanh => tanh(a),
    }
}

/// A number in [-1, 1] that depends on the seed and the operand only.
#[inline(always)]
fn draw(noise: u64, operand: u64) -> f64 {
    let mut h = (noise ^ operand).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    h ^= h >> 29;
    h = h.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    h ^= h >> 32;
    (h as i32 as f64) / 2147483648.0
}

/// Moves `value` by up to `relative * |value| + absolute`, unless it is exact, special or `noise` is 0.
#[inline(always)]
pub fn perturb(value: f64, relative: f64, absolute: f64, noise: u64, operand: u64) -> f64 {
    if noise == 0 || !value.is_finite() {
        return value;
    }
    value + draw(noise, operand) * (relative * value.abs() + absolute)
}

#[inline(always)]
fn settle(value: f64) -> u32 {
    let v = value as f32;
    if v.is_nan() { NAN32 } else { v.to_bits() }
}

/// An `.approx` function of one f32.
#[inline(always)]
pub fn unary32<const FTZ: bool>(function: Function, a: u32, noise: u64) -> u32 {
    // sqrt, sin, cos, ... of a subnormal: without .ftz the operand is taken as it is.
    let a = if FTZ { flush32(a) } else { a };
    let x = f64::from(f32::from_bits(a));
    let value = evaluate(function, x);
    let moved = perturb(value, function.relative(), function.absolute(x), noise, u64::from(a));
    let bounded = match function {
        // The range of the function is kept by the hardware.
        Function::Sin | Function::Cos | Function::Tanh => moved.clamp(-1.0, 1.0),
        _ => moved,
    };
    // Exact zeros keep their sign and powers their exactness when nothing is perturbed.
    let r = settle(if value.is_nan() || value == 0.0 { value } else { bounded });
    if FTZ { flush32(r) } else { r }
}

/// `div.approx.f32` and `div.full.f32`: within 2 ulp.
#[inline(always)]
pub fn divide32<const FTZ: bool>(a: u32, b: u32, noise: u64) -> u32 {
    let (a, b) = if FTZ { (flush32(a), flush32(b)) } else { (a, b) };
    let value = f64::from(f32::from_bits(a)) / f64::from(f32::from_bits(b));
    let r = settle(perturb(value, 1.19e-7, 0.0, noise, u64::from(a) << 32 | u64::from(b)));
    if FTZ { flush32(r) } else { r }
}

/// `ex2.approx` and `tanh.approx` on a half.
#[inline(always)]
pub fn unary16<H: Half>(function: Function, a: u32, ftz: bool, noise: u64) -> u32 {
    let wide = H::widen(a);
    let wide = if ftz && H::FORMAT.exp_bits == 8 { f32::from_bits(flush32(wide.to_bits())) } else { wide };
    let a = if ftz && H::FORMAT.exp_bits == 5 { super::half::flush16(a) } else { a };
    let x = if H::FORMAT.exp_bits == 5 { H::widen(a) } else { wide };
    let value = evaluate(function, f64::from(x));
    // The documented error less the half unit of rounding to the format (2^-11 for f16, 2^-9 for bf16).
    let (relative, absolute) = match (function, H::FORMAT.exp_bits) {
        (Function::Ex2, 5) => (1.046e-3 - 4.89e-4, 0.0),
        (Function::Ex2, _) => (7.8e-3 - 3.91e-3, 0.0),
        (_, 5) => (0.0, 4.92e-4 - 2.45e-4),
        _ => (0.0, 3.9e-3 - 1.96e-3),
    };
    let r = H::narrow(perturb(value, relative, absolute, noise, u64::from(a)) as f32);
    if ftz && H::FORMAT.exp_bits == 5 { super::half::flush16(r) } else { r }
}

/// `rcp.approx.ftz.f64`, `rsqrt.approx.ftz.f64`: 20 bits of mantissa, the low word of the result is 0.
#[inline(always)]
pub fn unary64(function: Function, a: u64, noise: u64) -> u64 {
    let subnormal = a & 0x7ff0_0000_0000_0000 == 0;
    // Only the upper word of the operand takes part.
    let x = if subnormal { a & 1 << 63 } else { a & !0xffff_ffff };
    let value = perturb(evaluate(function, f64::from_bits(x)), 4.7e-7, 0.0, noise, a);
    if value.is_nan() {
        return 0x7fff_ffff_0000_0000;
    }
    let r = value.to_bits();
    // Round to the upper word; results below the normal range become zero.
    let r = if r & 0x7fff_ffff_ffff_ffff < 0x7ff0_0000_0000_0000 { r.wrapping_add(0x8000_0000) } else { r };
    if r & 0x7ff0_0000_0000_0000 == 0 { r & 1 << 63 } else { r & !0xffff_ffff }
}
