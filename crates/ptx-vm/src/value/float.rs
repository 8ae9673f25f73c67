//! f32 and f64 arithmetic on bits: host operations plus the rules that only PTX has.
//!
//! Round-to-nearest runs on the host and is corrected without branches; directed rounding goes through
//! [`soft`](super::soft). f32 results that are NaN are the canonical `0x7fffffff` (ISA 9.7.3: payloads are not
//! preserved); f64 keeps the payload of the first NaN operand, made quiet.
use super::soft::{self, Format, Round};

const F32_SIGN: u32 = 0x8000_0000;
/// The NaN of every single-precision instruction.
pub const NAN32: u32 = 0x7fff_ffff;

/// `.ftz`: a subnormal becomes zero with its sign.
#[inline(always)]
pub fn flush32(bits: u32) -> u32 {
    if bits & 0x7f80_0000 == 0 { bits & F32_SIGN } else { bits }
}

/// [`flush32`] when `FTZ`.
#[inline(always)]
pub fn ftz<const FTZ: bool>(bits: u32) -> u32 {
    if FTZ { flush32(bits) } else { bits }
}

/// Any NaN becomes the canonical one.
#[inline(always)]
pub fn canon32(value: f32) -> u32 {
    if value.is_nan() { NAN32 } else { value.to_bits() }
}

/// `.sat`: into [0, 1]; NaN and -0 become +0.
#[inline(always)]
pub fn saturate32(bits: u32) -> u32 {
    let v = f32::from_bits(bits);
    let low = if v > 0.0 { bits } else { 0 };
    if v > 1.0 { 0x3f80_0000 } else { low }
}

/// `.sat` of an f64.
#[inline(always)]
pub fn saturate64(bits: u64) -> u64 {
    let v = f64::from_bits(bits);
    let low = if v > 0.0 { bits } else { 0 };
    if v > 1.0 { 1f64.to_bits() } else { low }
}

#[inline(always)]
fn out32<const FTZ: bool, const SAT: bool>(value: f32) -> u32 {
    let bits = ftz::<FTZ>(canon32(value));
    if SAT { saturate32(bits) } else { bits }
}

#[inline(always)]
fn in32<const FTZ: bool>(bits: u32) -> f32 {
    f32::from_bits(ftz::<FTZ>(bits))
}

/// `add.rn.f32`
#[inline(always)]
pub fn add32<const FTZ: bool, const SAT: bool>(a: u32, b: u32) -> u32 {
    out32::<FTZ, SAT>(in32::<FTZ>(a) + in32::<FTZ>(b))
}

/// `sub.rn.f32`
#[inline(always)]
pub fn sub32<const FTZ: bool, const SAT: bool>(a: u32, b: u32) -> u32 {
    out32::<FTZ, SAT>(in32::<FTZ>(a) - in32::<FTZ>(b))
}

/// `mul.rn.f32`
#[inline(always)]
pub fn mul32<const FTZ: bool, const SAT: bool>(a: u32, b: u32) -> u32 {
    out32::<FTZ, SAT>(in32::<FTZ>(a) * in32::<FTZ>(b))
}

/// `fma.rn.f32`
#[inline(always)]
pub fn fma32<const FTZ: bool, const SAT: bool>(a: u32, b: u32, c: u32) -> u32 {
    out32::<FTZ, SAT>(in32::<FTZ>(a).mul_add(in32::<FTZ>(b), in32::<FTZ>(c)))
}

/// `div.rn.f32`
#[inline(always)]
pub fn div32<const FTZ: bool>(a: u32, b: u32) -> u32 {
    out32::<FTZ, false>(in32::<FTZ>(a) / in32::<FTZ>(b))
}

/// `sqrt.rn.f32`
#[inline(always)]
pub fn sqrt32<const FTZ: bool>(a: u32) -> u32 {
    out32::<FTZ, false>(in32::<FTZ>(a).sqrt())
}

/// An f32 operation in any rounding mode, through exact arithmetic: `op` gets flushed operands.
#[inline]
pub fn directed32(ftz: bool, sat: bool, operands: [u32; 3], op: impl Fn([u64; 3]) -> u64) -> u32 {
    let flush = |x: u32| if ftz { flush32(x) } else { x };
    let r = flush(op(operands.map(|x| u64::from(flush(x)))) as u32);
    if sat { saturate32(r) } else { r }
}

/// The NaN result of an f64 operation: the first operand that is NaN, quiet, or the default NaN.
#[inline(always)]
fn nan64(operands: [u64; 3]) -> u64 {
    let pick = |x: u64, otherwise: u64| {
        if f64::from_bits(x).is_nan() { x | 0x0008_0000_0000_0000 } else { otherwise }
    };
    let last = pick(operands[2], Format::F64.canonical_nan());
    pick(operands[0], pick(operands[1], last))
}

#[inline(always)]
fn out64(value: f64, operands: [u64; 3]) -> u64 {
    if value.is_nan() { nan64(operands) } else { value.to_bits() }
}

/// `add.rn.f64`
#[inline(always)]
pub fn add64(a: u64, b: u64) -> u64 {
    out64(f64::from_bits(a) + f64::from_bits(b), [a, b, b])
}

/// `sub.rn.f64`
#[inline(always)]
pub fn sub64(a: u64, b: u64) -> u64 {
    out64(f64::from_bits(a) - f64::from_bits(b), [a, b, b])
}

/// `mul.rn.f64`
#[inline(always)]
pub fn mul64(a: u64, b: u64) -> u64 {
    out64(f64::from_bits(a) * f64::from_bits(b), [a, b, b])
}

/// `fma.rn.f64`
#[inline(always)]
pub fn fma64(a: u64, b: u64, c: u64) -> u64 {
    out64(f64::from_bits(a).mul_add(f64::from_bits(b), f64::from_bits(c)), [a, b, c])
}

/// `div.rn.f64`
#[inline(always)]
pub fn div64(a: u64, b: u64) -> u64 {
    out64(f64::from_bits(a) / f64::from_bits(b), [a, b, b])
}

/// `sqrt.rn.f64`
#[inline(always)]
pub fn sqrt64(a: u64) -> u64 {
    out64(f64::from_bits(a).sqrt(), [a, a, a])
}

/// An f64 operation in any rounding mode, through exact arithmetic.
#[inline]
pub fn directed64(operands: [u64; 3], op: impl Fn([u64; 3]) -> u64) -> u64 {
    let r = op(operands);
    if f64::from_bits(r).is_nan() { nan64(operands) } else { r }
}

/// `a + b`, `a * b`, `a * b + c`, `a / b`, `sqrt a`: what [`directed32`] and [`directed64`] are called with.
pub mod exact {
    use super::{Format, Round, soft};

    /// `a + b`
    pub fn add(f: Format, mode: Round) -> impl Fn([u64; 3]) -> u64 {
        move |[a, b, _]| soft::add(a, b, f, mode)
    }
    /// `a - b`
    pub fn sub(f: Format, mode: Round) -> impl Fn([u64; 3]) -> u64 {
        move |[a, b, _]| soft::add(a, b ^ f.sign_bit(), f, mode)
    }
    /// `a * b`
    pub fn mul(f: Format, mode: Round) -> impl Fn([u64; 3]) -> u64 {
        move |[a, b, _]| soft::mul(a, b, f, mode)
    }
    /// `a * b + c`
    pub fn fma(f: Format, mode: Round) -> impl Fn([u64; 3]) -> u64 {
        move |[a, b, c]| soft::fma(a, b, c, f, mode)
    }
    /// `a / b`
    pub fn div(f: Format, mode: Round) -> impl Fn([u64; 3]) -> u64 {
        move |[a, b, _]| soft::div(a, b, f, mode)
    }
    /// The square root of `a`.
    pub fn sqrt(f: Format, mode: Round) -> impl Fn([u64; 3]) -> u64 {
        move |[a, _, _]| soft::sqrt(a, f, mode)
    }
}

/// How `min` and `max` treat specials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MinMax {
    /// Maximum rather than minimum.
    pub max: bool,
    /// `.NaN`: any NaN operand gives the canonical NaN; otherwise the other operand wins.
    pub nan: bool,
    /// `.xorsign.abs`: by magnitude, the sign is the xor of the operands' signs.
    pub xorsign_abs: bool,
}

/// `min`/`max` of two floats given as an order-preserving view: `-0 < +0`, one NaN gives the other operand, two
/// give the canonical NaN. `width` is the number of bits of the format.
#[inline(always)]
pub fn min_max(a: u64, b: u64, format: Format, how: MinMax) -> u64 {
    let sign = format.sign_bit();
    let (x, y) = if how.xorsign_abs { (a & !sign, b & !sign) } else { (a, b) };
    let is_nan = |v: u64| v & !sign > format.infinity();
    let key = |v: u64| if v & sign != 0 { -((v & !sign) as i64) - 1 } else { v as i64 };
    let (nx, ny) = (is_nan(x), is_nan(y));
    let first = if how.max { key(x) >= key(y) } else { key(x) <= key(y) };
    let ordered = if first { x } else { y };
    let picked = if nx {
        y
    } else if ny {
        x
    } else {
        ordered
    };
    if (nx && ny) || (how.nan && (nx || ny)) {
        // The canonical NaN; f64 min and max quieten the NaN they return.
        return if format.man_bits == 52 { 0x7fff_ffff_ffff_ffff } else { format.canonical_nan() };
    }
    if how.xorsign_abs { picked | ((a ^ b) & sign) } else { picked }
}

/// `min.f32`, `max.f32`: [`min_max`] for vectors of f32.
#[inline(always)]
pub fn extremum32<const MAX: bool, const NAN: bool, const FTZ: bool>(a: u32, b: u32) -> u32 {
    let (a, b) = (ftz::<FTZ>(a), ftz::<FTZ>(b));
    let key = |v: u32| (v ^ ((v as i32 >> 31) as u32 >> 1)) as i32;
    let is_nan = |v: u32| v & !F32_SIGN > 0x7f80_0000;
    let first = if MAX { key(a) >= key(b) } else { key(a) <= key(b) };
    let ordered = if first { a } else { b };
    let some = if is_nan(b) { a } else { ordered };
    let some = if is_nan(a) { b } else { some };
    let canonical = if NAN { is_nan(a) | is_nan(b) } else { is_nan(a) & is_nan(b) };
    if canonical { NAN32 } else { some }
}

/// A class of floats, for `testp`.
#[inline]
pub fn test_property(bits: u64, format: Format, property: crate::syntax::ast::FloatProperty) -> bool {
    use crate::syntax::ast::FloatProperty::*;
    let magnitude = bits & !format.sign_bit();
    let infinity = format.infinity();
    let lowest_normal = 1 << format.man_bits;
    match property {
        Finite => magnitude < infinity,
        Infinite => magnitude == infinity,
        Number => magnitude <= infinity,
        NotANumber => magnitude > infinity,
        Normal => magnitude >= lowest_normal && magnitude < infinity,
        Subnormal => magnitude > 0 && magnitude < lowest_normal,
    }
}
