//! `cvt`: which closure a pair of types and its modifiers are.
use super::float::round;
use crate::exec::lanes::{RowOp, map1, map2, rare1, rare2};
use crate::syntax::ast::{Modifiers, Type};
use crate::value::convert::{self, Conversion, Number, convert};
use crate::value::half;
use crate::value::soft::{Format, Round};

/// A type as a number, `None` for packed pairs and predicates.
fn number(ty: Type) -> Option<Number> {
    let int = |signed| Number::Int { bits: ty.bits(), signed };
    Some(match ty {
        Type::F16 => Number::Float(Format::F16),
        Type::Bf16 => Number::Float(Format::BF16),
        Type::F32 => Number::Float(Format::F32),
        Type::F64 => Number::Float(Format::F64),
        Type::Tf32 => Number::Tf32,
        Type::E5m2 => Number::Float(Format::E5M2),
        Type::E4m3 => Number::E4m3,
        Type::S8 | Type::S16 | Type::S32 | Type::S64 => int(true),
        Type::U8 | Type::U16 | Type::U32 | Type::U64 | Type::B8 | Type::B16 | Type::B32 | Type::B64 => {
            int(false)
        }
        _ => return None,
    })
}

/// The rows an integer result takes when its register is wider than its type: extended by its sign.
fn extend(bits: u64, ty: Type, register_bits: u32) -> u64 {
    if ty.is_signed() && ty.bits() < register_bits {
        let up = 64 - ty.bits();
        let r = ((bits << up) as i64 >> up) as u64;
        if register_bits >= 64 { r } else { r & ((1 << register_bits) - 1) }
    } else {
        bits
    }
}

fn conversion(to: Type, from: Type, m: &Modifiers) -> Option<Conversion> {
    let integral = m.rounding.is_some_and(|r| r.word().ends_with('i'));
    let default = if to.is_integer() && from.is_float() { Round::Zero } else { Round::Nearest };
    Some(Conversion {
        from: number(from)?,
        to: number(to)?,
        round: if m.rounding.is_some() { round(m.rounding) } else { default },
        integral,
        ftz: m.ftz,
        sat: m.saturate,
        satfinite: m.satfinite,
        relu: m.relu,
    })
}

/// `cvt` between single values; `src_wide` and `dst_bits` describe the registers.
pub(super) fn single(
    to: Type,
    from: Type,
    m: &Modifiers,
    src_wide: bool,
    dst_bits: u32,
) -> Option<Box<dyn RowOp>> {
    if let Some(fast) = fast(to, from, m, src_wide, dst_bits) {
        return Some(fast);
    }
    let how = conversion(to, from, m)?;
    let f = move |bits: u64| extend(convert(bits, &how), to, dst_bits);
    Some(match (src_wide, dst_bits > 32) {
        (false, false) => rare1(move |a: u32| f(a.into()) as u32),
        (false, true) => rare1(move |a: u32| f(a.into())),
        (true, false) => rare1(move |a: u64| f(a) as u32),
        (true, true) => rare1(move |a: u64| f(a)),
    })
}

/// The conversions that kernels are full of.
fn fast(to: Type, from: Type, m: &Modifiers, src_wide: bool, dst_bits: u32) -> Option<Box<dyn RowOp>> {
    use Type::*;
    let (ftz, relu) = (m.ftz, m.relu);
    let mode = m.rounding.map(|_| round(m.rounding));
    if m.saturate || m.satfinite {
        return None;
    }
    if to.is_integer() && from.is_integer() {
        return Some(integers(to, from, src_wide, dst_bits));
    }
    if src_wide != (from.bits() == 64) || dst_bits.max(32) != to.bits().max(32) {
        return None;
    }
    Some(match (to, from, mode) {
        (F16, F32, Some(Round::Nearest)) => map1(move |a| convert::f32_to_half::<half::F16>(a, ftz, relu)),
        (Bf16, F32, Some(Round::Nearest)) => map1(move |a| convert::f32_to_half::<half::Bf16>(a, ftz, relu)),
        (F32, F16, None) => map1(move |a| convert::half_to_f32::<half::F16>(a, ftz)),
        (F32, Bf16, None) => map1(move |a| convert::half_to_f32::<half::Bf16>(a, ftz)),
        (S32, F32, Some(Round::Zero)) if ftz => map1(convert::f32_to_s32_rz::<true>),
        (S32, F32, Some(Round::Zero)) => map1(convert::f32_to_s32_rz::<false>),
        (S32, F32, Some(Round::Nearest)) if ftz => map1(convert::f32_to_s32_rn::<true>),
        (S32, F32, Some(Round::Nearest)) => map1(convert::f32_to_s32_rn::<false>),
        (U32, F32, Some(Round::Zero)) if ftz => map1(convert::f32_to_u32_rz::<true>),
        (U32, F32, Some(Round::Zero)) => map1(convert::f32_to_u32_rz::<false>),
        (F32, S32, Some(Round::Nearest)) => map1(convert::s32_to_f32),
        (F32, U32, Some(Round::Nearest)) => map1(convert::u32_to_f32),
        (F64, F32, None) if ftz => map1(convert::f32_to_f64::<true>),
        (F64, F32, None) => map1(convert::f32_to_f64::<false>),
        (F32, F64, Some(Round::Nearest)) if ftz => map1(convert::f64_to_f32::<true>),
        (F32, F64, Some(Round::Nearest)) => map1(convert::f64_to_f32::<false>),
        (F32, F32, Some(r)) if ftz => map1(move |a| convert::f32_integral::<true>(a, r)),
        (F32, F32, Some(r)) => map1(move |a| convert::f32_integral::<false>(a, r)),
        _ => return None,
    })
}

/// Integer to integer without `.sat`: cut to the narrower type, extend by the source's sign.
fn integers(to: Type, from: Type, src_wide: bool, dst_bits: u32) -> Box<dyn RowOp> {
    // The source's value in 64 bits, cut to the destination type, extended into the register by that type's sign.
    let (up, signed) = (64 - from.bits(), from.is_signed());
    let f = move |a: u64| {
        let v = if signed { ((a << up) as i64 >> up) as u64 } else { a << up >> up };
        let cut = if to.bits() == 64 { v } else { v & ((1 << to.bits()) - 1) };
        extend(cut, to, dst_bits)
    };
    match (src_wide, dst_bits > 32) {
        (false, false) => map1(move |a: u32| f(a.into()) as u32),
        (false, true) if from == Type::S32 && to.bits() == 64 => map1(|a: u32| i64::from(a as i32) as u64),
        (false, true) if from == Type::U32 => map1(|a: u32| u64::from(a)),
        (false, true) => map1(move |a: u32| f(a.into())),
        (true, false) if to.bits() == 32 && from.bits() == 64 => map1(|a: u64| a as u32),
        (true, false) => map1(move |a: u64| f(a) as u32),
        (true, true) => map1(f),
    }
}

/// `cvt` of two values into a pair, or of a pair into a pair of another format. The flag says: one source.
pub(super) fn packed(to: Type, from: Type, m: &Modifiers) -> Option<(Box<dyn RowOp>, bool)> {
    let half_of = |ty: Type| match ty {
        Type::F16x2 => Some((Type::F16, 16)),
        Type::Bf16x2 => Some((Type::Bf16, 16)),
        Type::E4m3x2 => Some((Type::E4m3, 8)),
        Type::E5m2x2 => Some((Type::E5m2, 8)),
        _ => None,
    };
    let (to_half, to_bits) = half_of(to)?;
    if let Some((from_half, from_bits)) = half_of(from) {
        let how = conversion(to_half, from_half, m)?;
        let f = move |a: u32| {
            let low = convert((a & ((1 << from_bits) - 1)).into(), &how) as u32;
            let high = convert((a >> from_bits).into(), &how) as u32;
            low | high << to_bits
        };
        return Some((rare1(f), true));
    }
    let (ftz, relu) = (m.ftz, m.relu);
    let nearest = round(m.rounding) == Round::Nearest && !m.satfinite;
    let op = match to_half {
        Type::F16 if nearest => map2(move |a, b| {
            convert::f32_to_half::<half::F16>(b, ftz, relu)
                | convert::f32_to_half::<half::F16>(a, ftz, relu) << 16
        }),
        Type::Bf16 if nearest => map2(move |a, b| {
            convert::f32_to_half::<half::Bf16>(b, ftz, relu)
                | convert::f32_to_half::<half::Bf16>(a, ftz, relu) << 16
        }),
        _ => {
            let how = conversion(to_half, from, m)?;
            rare2(move |a: u32, b: u32| {
                convert(b.into(), &how) as u32 | (convert(a.into(), &how) as u32) << to_bits
            })
        }
    };
    Some((op, false))
}

/// `cvt.pack.sat.to.s32 d, a, b {, c}`: two integers saturated and packed (below `c`, for types under 16 bits).
pub(super) fn pack(to: Type, with_c: bool) -> Box<dyn RowOp> {
    let bits = to.bits();
    let (low, high) = if to.is_signed() {
        (-(1i64 << (bits - 1)), (1i64 << (bits - 1)) - 1)
    } else {
        (0, (1i64 << bits) - 1)
    };
    let mask = (1u32 << bits) - 1;
    let sat = move |v: u32| i64::from(v as i32).clamp(low, high) as u32 & mask;
    if with_c {
        crate::exec::lanes::rare3(move |a: u32, b: u32, c: u32| c << (2 * bits) | sat(a) << bits | sat(b))
    } else {
        rare2(move |a: u32, b: u32| sat(a) << bits | sat(b))
    }
}
