//! Floating-point arithmetic: which closure an instruction is.
use super::pure::{Pure, pure};
use crate::counters::Class;
use crate::exec::lanes::{RowOp, map1, map2, map3, noisy1, noisy2, rare1, rare2, rare3};
use crate::syntax::ast::{Instr, Modifiers, Opcode, Rounding, Type};
use crate::value::approx::{self, Function};
use crate::value::float::{self, MinMax, directed32, directed64, exact, flush32, min_max};
use crate::value::half::{self, Bf16, F16, Half, Post, both, flush16};
use crate::value::soft::{self, Format, Round};

/// The soft rounding mode of a modifier; none is to nearest.
pub(crate) fn round(rounding: Option<Rounding>) -> Round {
    match rounding {
        None | Some(Rounding::Rn | Rounding::Rni) => Round::Nearest,
        Some(Rounding::Rz | Rounding::Rzi) => Round::Zero,
        Some(Rounding::Rm | Rounding::Rmi) => Round::Down,
        Some(Rounding::Rp | Rounding::Rpi) => Round::Up,
        Some(Rounding::Rna) => Round::NearestAway,
    }
}

/// A specialised closure for each of the four `.ftz`/`.sat` combinations of an f32 operation.
macro_rules! ftz_sat {
    ($m:expr, $map:ident, $f:ident) => {
        match ($m.ftz, $m.saturate) {
            (false, false) => $map(float::$f::<false, false>),
            (true, false) => $map(float::$f::<true, false>),
            (false, true) => $map(float::$f::<false, true>),
            (true, true) => $map(float::$f::<true, true>),
        }
    };
}

/// The four 16-bit types of one operation on halves.
macro_rules! on_halves {
    ($ty:expr, $map:ident, |$H:ident, $($a:ident),*| $e:expr) => {
        match $ty {
            Type::F16 => { type $H = F16; $map(move |$($a: u32),*| $e) }
            Type::Bf16 => { type $H = Bf16; $map(move |$($a: u32),*| $e) }
            Type::F16x2 => { type $H = F16; $map(move |$($a: u32),*| both([$($a),*], |[$($a),*]| $e)) }
            _ => { type $H = Bf16; $map(move |$($a: u32),*| both([$($a),*], |[$($a),*]| $e)) }
        }
    };
}

fn class(ty: Type) -> Class {
    match ty {
        Type::F32 => Class::F32,
        Type::F64 => Class::F64,
        _ => Class::Half,
    }
}

/// The closure of a floating-point instruction, or `None` when it is none.
pub(super) fn floating(i: &Instr) -> Option<Pure> {
    use Opcode::*;
    let m = &i.mods;
    let ty = *m.types.first()?;
    if !ty.is_float() {
        return None;
    }
    let (op, operands) = match i.op {
        Add | Sub | Mul => (two(i.op, ty, m), 2),
        Fma | Mad => (three(ty, m), 3),
        Div => (divide(ty, m), 2),
        Rcp | Sqrt | Rsqrt | Sin | Cos | Lg2 | Ex2 | Tanh => {
            let special = m.precision.is_some() || !matches!(i.op, Rcp | Sqrt);
            let class = if special { Class::Special } else { class(ty) };
            return Some(pure(function(i.op, ty, m)?, class, ty, vec![ty]));
        }
        Abs | Neg => (sign(i.op == Neg, ty, m.ftz), 1),
        Min | Max => (extremum(i.op == Max, ty, m), 2),
        Copysign if ty == Type::F32 => (map2(|a: u32, b: u32| (a & 1 << 31) | (b & !(1 << 31))), 2),
        Copysign => (map2(|a: u64, b: u64| (a & 1 << 63) | (b & !(1 << 63))), 2),
        _ => return None,
    };
    Some(pure(op, class(ty), ty, vec![ty; operands]))
}

fn post(m: &Modifiers) -> Post {
    Post { ftz: m.ftz, sat: m.saturate, relu: m.relu }
}

fn two(op: Opcode, ty: Type, m: &Modifiers) -> Box<dyn RowOp> {
    use Opcode::{Add, Sub};
    let mode = round(m.rounding);
    let (ftz, sat) = (m.ftz, m.saturate);
    match (ty, mode, op) {
        (Type::F32, Round::Nearest, Add) => ftz_sat!(m, map2, add32),
        (Type::F32, Round::Nearest, Sub) => ftz_sat!(m, map2, sub32),
        (Type::F32, Round::Nearest, _) => ftz_sat!(m, map2, mul32),
        (Type::F64, Round::Nearest, Add) => map2(float::add64),
        (Type::F64, Round::Nearest, Sub) => map2(float::sub64),
        (Type::F64, Round::Nearest, _) => map2(float::mul64),
        (Type::F32, _, Add) => {
            rare2(move |a, b| directed32(ftz, sat, [a, b, b], exact::add(Format::F32, mode)))
        }
        (Type::F32, _, Sub) => {
            rare2(move |a, b| directed32(ftz, sat, [a, b, b], exact::sub(Format::F32, mode)))
        }
        (Type::F32, ..) => rare2(move |a, b| directed32(ftz, sat, [a, b, b], exact::mul(Format::F32, mode))),
        (Type::F64, _, Add) => rare2(move |a, b| directed64([a, b, b], exact::add(Format::F64, mode))),
        (Type::F64, _, Sub) => rare2(move |a, b| directed64([a, b, b], exact::sub(Format::F64, mode))),
        (Type::F64, ..) => rare2(move |a, b| directed64([a, b, b], exact::mul(Format::F64, mode))),
        _ => {
            let post = post(m);
            match op {
                Add => on_halves!(ty, map2, |H, a, b| half::add::<H>(a, b, post)),
                Sub => on_halves!(ty, map2, |H, a, b| half::sub::<H>(a, b, post)),
                _ => on_halves!(ty, map2, |H, a, b| half::mul::<H>(a, b, post)),
            }
        }
    }
}

fn three(ty: Type, m: &Modifiers) -> Box<dyn RowOp> {
    let mode = round(m.rounding);
    let (ftz, sat) = (m.ftz, m.saturate);
    match (ty, mode) {
        (Type::F32, Round::Nearest) => ftz_sat!(m, map3, fma32),
        (Type::F64, Round::Nearest) => map3(float::fma64),
        (Type::F32, _) => {
            rare3(move |a, b, c| directed32(ftz, sat, [a, b, c], exact::fma(Format::F32, mode)))
        }
        (Type::F64, _) => rare3(move |a, b, c| directed64([a, b, c], exact::fma(Format::F64, mode))),
        _ => {
            let post = post(m);
            on_halves!(ty, map3, |H, a, b, c| half::fma::<H>(a, b, c, post))
        }
    }
}

fn divide(ty: Type, m: &Modifiers) -> Box<dyn RowOp> {
    let mode = round(m.rounding);
    let ftz = m.ftz;
    match (ty, m.precision, mode) {
        (Type::F64, _, Round::Nearest) => map2(float::div64),
        (Type::F64, ..) => rare2(move |a, b| directed64([a, b, b], exact::div(Format::F64, mode))),
        (_, Some(_), _) if ftz => noisy2(approx::divide32::<true>),
        (_, Some(_), _) => noisy2(approx::divide32::<false>),
        // A `div.f32` without a modifier (sm_1x style) is `.approx` to the letter; rounding it is within bounds.
        (_, None, Round::Nearest) if ftz => map2(float::div32::<true>),
        (_, None, Round::Nearest) => map2(float::div32::<false>),
        _ => rare2(move |a, b| directed32(ftz, false, [a, b, b], exact::div(Format::F32, mode))),
    }
}

fn function(op: Opcode, ty: Type, m: &Modifiers) -> Option<Box<dyn RowOp>> {
    let which = match op {
        Opcode::Rcp => Function::Rcp,
        Opcode::Sqrt => Function::Sqrt,
        Opcode::Rsqrt => Function::Rsqrt,
        Opcode::Sin => Function::Sin,
        Opcode::Cos => Function::Cos,
        Opcode::Lg2 => Function::Lg2,
        Opcode::Ex2 => Function::Ex2,
        _ => Function::Tanh,
    };
    if m.precision.is_none() && matches!(which, Function::Rcp | Function::Sqrt) {
        return Some(rounded(which, ty, m));
    }
    let ftz = m.ftz;
    macro_rules! each {
        ($($f:ident)*) => {
            match (ty, which) {
                $((Type::F32, Function::$f) if ftz => noisy1(|a, n| approx::unary32::<true>(Function::$f, a, n)),
                (Type::F32, Function::$f) => noisy1(|a, n| approx::unary32::<false>(Function::$f, a, n)),)*
                (Type::F64, f) => noisy1(move |a, n| approx::unary64(f, a, n)),
                (Type::F16, f) => noisy1(move |a, n| approx::unary16::<F16>(f, a, ftz, n)),
                (Type::Bf16, f) => noisy1(move |a, n| approx::unary16::<Bf16>(f, a, ftz, n)),
                (Type::F16x2, f) => noisy1(move |a, n| both([a], |[x]| approx::unary16::<F16>(f, x, ftz, n))),
                (Type::Bf16x2, f) => noisy1(move |a, n| both([a], |[x]| approx::unary16::<Bf16>(f, x, ftz, n))),
                _ => return None,
            }
        };
    }
    Some(each!(Rcp Sqrt Rsqrt Ex2 Lg2 Sin Cos Tanh))
}

/// `rcp` and `sqrt` with a rounding mode.
fn rounded(which: Function, ty: Type, m: &Modifiers) -> Box<dyn RowOp> {
    let (mode, ftz, root) = (round(m.rounding), m.ftz, which == Function::Sqrt);
    const ONE32: u32 = 0x3f80_0000;
    const ONE64: u64 = 0x3ff0_0000_0000_0000;
    match (ty, mode, root) {
        (Type::F32, Round::Nearest, true) if ftz => map1(float::sqrt32::<true>),
        (Type::F32, Round::Nearest, true) => map1(float::sqrt32::<false>),
        (Type::F32, Round::Nearest, false) if ftz => map1(|a| float::div32::<true>(ONE32, a)),
        (Type::F32, Round::Nearest, false) => map1(|a| float::div32::<false>(ONE32, a)),
        (Type::F64, Round::Nearest, true) => map1(float::sqrt64),
        (Type::F64, Round::Nearest, false) => map1(|a| float::div64(ONE64, a)),
        (Type::F32, _, true) => {
            rare1(move |a| directed32(ftz, false, [a; 3], exact::sqrt(Format::F32, mode)))
        }
        (Type::F32, _, false) => {
            rare1(move |a| directed32(ftz, false, [ONE32, a, a], exact::div(Format::F32, mode)))
        }
        (_, _, true) => rare1(move |a| directed64([a; 3], exact::sqrt(Format::F64, mode))),
        (_, _, false) => rare1(move |a| directed64([ONE64, a, a], exact::div(Format::F64, mode))),
    }
}

fn sign(negate: bool, ty: Type, ftz: bool) -> Box<dyn RowOp> {
    match (ty, negate) {
        (Type::F32, true) => map1(move |a: u32| (if ftz { flush32(a) } else { a }) ^ 1 << 31),
        (Type::F32, false) => map1(move |a: u32| (if ftz { flush32(a) } else { a }) & !(1 << 31)),
        (Type::F64, true) => map1(|a: u64| a ^ 1 << 63),
        (Type::F64, false) => map1(|a: u64| a & !(1 << 63)),
        (_, true) => on_halves!(ty, map1, |_H, a| (if ftz { flush16(a) } else { a }) ^ 0x8000),
        (_, false) => on_halves!(ty, map1, |_H, a| (if ftz { flush16(a) } else { a }) & 0x7fff),
    }
}

fn extremum(max: bool, ty: Type, m: &Modifiers) -> Box<dyn RowOp> {
    let how = MinMax { max, nan: m.nan, xorsign_abs: m.xorsign_abs };
    let ftz = m.ftz;
    match ty {
        Type::F32 if !how.xorsign_abs => match (max, how.nan, ftz) {
            (false, false, false) => map2(float::extremum32::<false, false, false>),
            (false, false, true) => map2(float::extremum32::<false, false, true>),
            (false, true, false) => map2(float::extremum32::<false, true, false>),
            (false, true, true) => map2(float::extremum32::<false, true, true>),
            (true, false, false) => map2(float::extremum32::<true, false, false>),
            (true, false, true) => map2(float::extremum32::<true, false, true>),
            (true, true, false) => map2(float::extremum32::<true, true, false>),
            (true, true, true) => map2(float::extremum32::<true, true, true>),
        },
        Type::F32 => rare2(move |a: u32, b: u32| {
            let [a, b] = [a, b].map(|v| u64::from(if ftz { flush32(v) } else { v }));
            min_max(a, b, Format::F32, how) as u32
        }),
        Type::F64 => map2(move |a: u64, b: u64| min_max(a, b, Format::F64, how)),
        _ => on_halves!(ty, map2, |H, a, b| {
            let [a, b] = [a, b].map(|v| u64::from(if ftz { flush16(v) } else { v }));
            min_max(a, b, <H as Half>::FORMAT, how) as u32
        }),
    }
}

/// `testp` and comparisons need the format of any float type, tf32 excluded.
pub(super) fn testable(ty: Type) -> Format {
    if ty == Type::F64 { soft::Format::F64 } else { soft::Format::F32 }
}
