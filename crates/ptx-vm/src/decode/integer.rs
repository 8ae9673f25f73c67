//! Integer arithmetic, bit fields, logic and shifts: which closure an instruction is.
use super::pure::{Pure, pure};
use crate::counters::Class;
use crate::exec::lanes::{RowOp, map1, map2, map3, rare1, rare2, rare3, rare4};
use crate::syntax::ast::{Bound, Direction, Instr, Opcode, OperandKind, Part, Type};
use crate::value::half::both;
use crate::value::int;

/// Sign extension of the low 16 bits.
#[inline(always)]
fn s16(v: u32) -> i32 {
    i32::from(v as i16)
}

#[inline(always)]
fn low16(v: u32) -> u32 {
    v & 0xffff
}

/// How many bits the lanes of an integer type have: 16, 32 or 64.
fn width(ty: Type) -> u32 {
    ty.bits().max(16)
}

/// One closure per width from an expression on unsigned integers.
macro_rules! by_width {
    ($ty:expr, $map:ident, |$($a:ident),*| $e:expr) => {
        match width($ty) {
            16 => $map(move |$($a: u32),*| low16($e)),
            32 => $map(move |$($a: u32),*| $e),
            _ => $map(move |$($a: u64),*| $e),
        }
    };
}

/// One closure per width and signedness from an expression that is right for the extended values.
macro_rules! by_sign {
    ($ty:expr, $map:ident, |$($a:ident),*| $e:expr) => {
        match (width($ty), $ty.is_signed()) {
            (16, true) => $map(move |$($a: u32),*| { $(let $a = s16($a);)* low16(($e) as u32) }),
            (16, false) => $map(move |$($a: u32),*| low16($e)),
            (32, true) => $map(move |$($a: u32),*| { $(let $a = $a as i32;)* ($e) as u32 }),
            (32, false) => $map(move |$($a: u32),*| $e),
            (_, true) => $map(move |$($a: u64),*| { $(let $a = $a as i64;)* ($e) as u64 }),
            (_, false) => $map(move |$($a: u64),*| $e),
        }
    };
}

/// `mad.sat`, `mad24.sat`: the sum saturates as an `s32`.
#[inline(always)]
fn sum(a: u32, b: u32, saturate: bool) -> u32 {
    if saturate { (a as i32).saturating_add(b as i32) as u32 } else { a.wrapping_add(b) }
}

/// The closure of an integer instruction, or `None` when it is none.
pub(super) fn integer(i: &Instr) -> Option<Pure> {
    use Opcode::*;
    let m = &i.mods;
    let ty = *m.types.first()?;
    if m.cc || ty.is_float() || ty == Type::Pred {
        return None;
    }
    let relu = m.relu;
    let (op, operands): (Box<dyn RowOp>, usize) = match i.op {
        Add | Min | Max if matches!(ty, Type::U16x2 | Type::S16x2) => (packed16(i.op, ty, relu), 2),
        Add if m.saturate => (map2(|a: u32, b: u32| sum(a, b, true)), 2),
        Sub if m.saturate => (map2(|a: u32, b: u32| (a as i32).saturating_sub(b as i32) as u32), 2),
        Add => (by_width!(ty, map2, |a, b| a.wrapping_add(b)), 2),
        Sub => (by_width!(ty, map2, |a, b| a.wrapping_sub(b)), 2),
        Mul => return Some(product(ty, m.part)),
        Mad => return Some(multiply_add(ty, m.part, m.saturate)),
        Mul24 => {
            let (signed, high) = (ty.is_signed(), m.part == Some(Part::Hi));
            (rare2(move |a, b| int::mul24(a, b, signed, high)), 2)
        }
        Mad24 => {
            let (signed, high, sat) = (ty.is_signed(), m.part == Some(Part::Hi), m.saturate);
            (rare3(move |a, b, c| sum(int::mul24(a, b, signed, high), c, sat)), 3)
        }
        Sad => {
            let op = by_sign!(ty, rare3, |a, b, c| c.wrapping_add(if a < b {
                b.wrapping_sub(a)
            } else {
                a.wrapping_sub(b)
            }));
            (op, 3)
        }
        Div | Rem => (divide(i.op == Div, ty), 2),
        Abs => (by_sign_abs(ty), 1),
        Neg => (by_width!(ty, map1, |a| a.wrapping_neg()), 1),
        Min if relu => (rare2(|a: u32, b: u32| (a as i32).min(b as i32).max(0) as u32), 2),
        Max if relu => (rare2(|a: u32, b: u32| (a as i32).max(b as i32).max(0) as u32), 2),
        Min => (by_sign!(ty, map2, |a, b| a.min(b)), 2),
        Max => (by_sign!(ty, map2, |a, b| a.max(b)), 2),
        _ => return bits(i, ty),
    };
    Some(pure(op, Class::Integer, ty, vec![ty; operands]))
}

fn by_sign_abs(ty: Type) -> Box<dyn RowOp> {
    match width(ty) {
        16 => map1(|a: u32| low16(s16(a).wrapping_abs() as u32)),
        32 => map1(|a: u32| (a as i32).wrapping_abs() as u32),
        _ => map1(|a: u64| (a as i64).wrapping_abs() as u64),
    }
}

fn packed16(op: Opcode, ty: Type, relu: bool) -> Box<dyn RowOp> {
    let signed = ty == Type::S16x2;
    rare2(move |a, b| {
        both([a, b], |[x, y]| {
            let (sx, sy) = if signed { (s16(x), s16(y)) } else { (x as i32, y as i32) };
            let r = match op {
                Opcode::Add => sx.wrapping_add(sy),
                Opcode::Min => sx.min(sy),
                _ => sx.max(sy),
            };
            low16(if relu { r.max(0) } else { r } as u32)
        })
    })
}

fn divide(quotient: bool, ty: Type) -> Box<dyn RowOp> {
    match (width(ty), ty.is_signed(), quotient) {
        (16, true, true) => rare2(|a, b| low16(int::div_s(s16(a).into(), s16(b).into()) as u32)),
        (16, true, false) => rare2(|a, b| low16(int::rem_s(s16(a).into(), s16(b).into()) as u32)),
        (16, false, true) => rare2(|a: u32, b: u32| low16(int::div_u(a.into(), b.into()) as u32)),
        (16, false, false) => rare2(|a: u32, b: u32| low16(int::rem_u(a.into(), b.into()) as u32)),
        (32, true, true) => rare2(|a: u32, b: u32| int::div_s((a as i32).into(), (b as i32).into()) as u32),
        (32, true, false) => rare2(|a: u32, b: u32| int::rem_s((a as i32).into(), (b as i32).into()) as u32),
        (32, false, true) => rare2(|a: u32, b: u32| a.checked_div(b).unwrap_or(!0)),
        (32, false, false) => rare2(|a: u32, b: u32| a.checked_rem(b).unwrap_or(a)),
        (_, true, true) => rare2(|a: u64, b: u64| int::div_s(a as i64, b as i64) as u64),
        (_, true, false) => rare2(|a: u64, b: u64| int::rem_s(a as i64, b as i64) as u64),
        (_, false, true) => rare2(int::div_u),
        (_, false, false) => rare2(int::rem_u),
    }
}

/// The type twice as wide.
pub(super) fn wide(ty: Type) -> Type {
    match ty {
        Type::U16 => Type::U32,
        Type::S16 => Type::S32,
        Type::U32 => Type::U64,
        _ => Type::S64,
    }
}

/// `mul.{lo,hi,wide}`
fn product(ty: Type, part: Option<Part>) -> Pure {
    let op = match (part, ty) {
        (Some(Part::Wide), Type::U16) => map2(|a: u32, b: u32| a.wrapping_mul(b)),
        (Some(Part::Wide), Type::S16) => map2(|a: u32, b: u32| (s16(a) * s16(b)) as u32),
        (Some(Part::Wide), Type::U32) => map2(|a: u32, b: u32| u64::from(a) * u64::from(b)),
        (Some(Part::Wide), _) => map2(|a: u32, b: u32| (i64::from(a as i32) * i64::from(b as i32)) as u64),
        (Some(Part::Hi), _) => high(ty),
        _ => by_width!(ty, map2, |a, b| a.wrapping_mul(b)),
    };
    let dst = if part == Some(Part::Wide) { wide(ty) } else { ty };
    pure(op, Class::Integer, dst, vec![ty; 2])
}

fn high(ty: Type) -> Box<dyn RowOp> {
    match (width(ty), ty.is_signed()) {
        (16, true) => map2(|a: u32, b: u32| low16((s16(a) * s16(b)) as u32 >> 16)),
        (16, false) => map2(|a: u32, b: u32| a.wrapping_mul(b) >> 16),
        (32, true) => map2(int::mul_hi_s32),
        (32, false) => map2(int::mul_hi_u32),
        (_, true) => rare2(int::mul_hi_s64),
        (_, false) => rare2(int::mul_hi_u64),
    }
}

/// `mad.{lo,hi,wide}`
fn multiply_add(ty: Type, part: Option<Part>, saturate: bool) -> Pure {
    let wide_type = wide(ty);
    let op = match (part, ty) {
        (Some(Part::Wide), Type::U16) => map3(|a: u32, b: u32, c: u32| a.wrapping_mul(b).wrapping_add(c)),
        (Some(Part::Wide), Type::S16) => {
            map3(|a: u32, b: u32, c: u32| ((s16(a) * s16(b)) as u32).wrapping_add(c))
        }
        (Some(Part::Wide), Type::U32) => {
            map3(|a: u32, b: u32, c: u64| (u64::from(a) * u64::from(b)).wrapping_add(c))
        }
        (Some(Part::Wide), _) => map3(|a: u32, b: u32, c: u64| {
            ((i64::from(a as i32) * i64::from(b as i32)) as u64).wrapping_add(c)
        }),
        (Some(Part::Hi), _) => match (width(ty), ty.is_signed()) {
            (16, true) => rare3(|a, b, c| low16(((s16(a) * s16(b)) as u32 >> 16).wrapping_add(c))),
            (16, false) => rare3(|a: u32, b: u32, c: u32| low16((a.wrapping_mul(b) >> 16).wrapping_add(c))),
            (32, true) => map3(move |a, b, c| sum(int::mul_hi_s32(a, b), c, saturate)),
            (32, false) => map3(|a, b, c| int::mul_hi_u32(a, b).wrapping_add(c)),
            (_, true) => rare3(|a, b, c| int::mul_hi_s64(a, b).wrapping_add(c)),
            (_, false) => rare3(|a, b, c| int::mul_hi_u64(a, b).wrapping_add(c)),
        },
        _ => by_width!(ty, map3, |a, b, c| a.wrapping_mul(b).wrapping_add(c)),
    };
    let dst = if part == Some(Part::Wide) { wide_type } else { ty };
    pure(op, Class::Integer, dst, vec![ty, ty, dst])
}

/// Logic, shifts, bit fields.
fn bits(i: &Instr, ty: Type) -> Option<Pure> {
    use Opcode::*;
    let m = &i.mods;
    let (w, signed) = (ty.bits(), ty.is_signed());
    let u = Type::U32;
    let clamp = m.bound != Some(Bound::Wrap);
    let one = |op, dst, sources: Vec<Type>| Some(pure(op, Class::Logic, dst, sources));
    match i.op {
        And => one(by_width!(ty, map2, |a, b| a & b), ty, vec![ty; 2]),
        Or => one(by_width!(ty, map2, |a, b| a | b), ty, vec![ty; 2]),
        Xor => one(by_width!(ty, map2, |a, b| a ^ b), ty, vec![ty; 2]),
        Not => one(by_width!(ty, map1, |a| !a), ty, vec![ty]),
        Cnot => one(cnot(ty), ty, vec![ty]),
        Shl => {
            let op = match w {
                16 => map2(|a: u32, n: u32| low16(int::shl(a.into(), n, 16) as u32)),
                32 => map2(|a: u32, n: u32| a.checked_shl(n).unwrap_or(0)),
                _ => map2(|a: u64, n: u32| a.checked_shl(n).unwrap_or(0)),
            };
            one(op, ty, vec![ty, u])
        }
        Shr => {
            let op = match (w, signed) {
                (16, true) => map2(|a: u32, n: u32| low16((s16(a) >> n.min(15)) as u32)),
                (16, false) => map2(|a: u32, n: u32| a.checked_shr(n).unwrap_or(0)),
                (32, true) => map2(|a: u32, n: u32| (a as i32 >> n.min(31)) as u32),
                (32, false) => map2(|a: u32, n: u32| a.checked_shr(n).unwrap_or(0)),
                (_, true) => map2(|a: u64, n: u32| (a as i64 >> n.min(63)) as u64),
                (_, false) => map2(|a: u64, n: u32| a.checked_shr(n).unwrap_or(0)),
            };
            one(op, ty, vec![ty, u])
        }
        Shf => {
            let (left, wrap) = (m.direction == Some(Direction::Left), !clamp);
            one(map3(move |a, b, n| int::shf(a, b, n, left, wrap)), ty, vec![ty, ty, u])
        }
        Lop3 => {
            let table = match i.operands.get(4)?.kind {
                OperandKind::Immediate(v) => v.bits(u) as u32,
                _ => return None,
            };
            one(lop3(table), ty, vec![ty; 3])
        }
        Prmt => match m.permute {
            None => one(map3(int::prmt), ty, vec![ty; 3]),
            Some(mode) => one(rare3(move |a, b, c| int::prmt_mode(a, b, c, mode)), ty, vec![ty; 3]),
        },
        Popc if w == 32 => one(map1(|a: u32| a.count_ones()), u, vec![ty]),
        Popc => one(map1(|a: u64| a.count_ones()), u, vec![ty]),
        Clz if w == 32 => one(map1(|a: u32| a.leading_zeros()), u, vec![ty]),
        Clz => one(map1(|a: u64| a.leading_zeros()), u, vec![ty]),
        Brev if w == 32 => one(map1(|a: u32| a.reverse_bits()), ty, vec![ty]),
        Brev => one(map1(|a: u64| a.reverse_bits()), ty, vec![ty]),
        Bfind => {
            let amount = m.shiftamt;
            let op = if w == 32 {
                rare1(move |a: u32| int::bfind(a.into(), 32, signed, amount))
            } else {
                rare1(move |a: u64| int::bfind(a, 64, signed, amount))
            };
            one(op, u, vec![ty])
        }
        Bfe => {
            let op = if w == 32 {
                map3(move |a: u32, p: u32, n: u32| int::bfe(a.into(), p, n, 32, signed) as u32)
            } else {
                map3(move |a: u64, p: u32, n: u32| int::bfe(a, p, n, 64, signed))
            };
            one(op, ty, vec![ty, u, u])
        }
        Bfi => {
            let op = if w == 32 {
                rare4(move |a: u32, b: u32, p: u32, n: u32| int::bfi(a.into(), b.into(), p, n, 32) as u32)
            } else {
                rare4(move |a: u64, b: u64, p: u32, n: u32| int::bfi(a, b, p, n, 64))
            };
            one(op, ty, vec![ty, ty, u, u])
        }
        Fns => one(rare3(|a, b, n: u32| int::fns(a, b, n as i32)), ty, vec![ty, u, Type::S32]),
        Bmsk => one(rare2(move |a, b| int::bmsk(a, b, clamp)), ty, vec![u, u]),
        Szext => one(rare2(move |a, b| int::szext(a, b, signed, clamp)), ty, vec![ty, u]),
        Dp4a | Dp2a => {
            let (sa, sb) = (ty.is_signed(), m.types.get(1)?.is_signed());
            let high = m.part == Some(Part::Hi);
            let sum = if sa || sb { Type::S32 } else { u };
            let op = if i.op == Dp4a {
                map3(move |a, b, c| int::dp4a(a, b, c, sa, sb))
            } else {
                map3(move |a, b, c| int::dp2a(a, b, c, sa, sb, high))
            };
            Some(pure(op, Class::Integer, sum, vec![Type::B32, Type::B32, sum]))
        }
        _ => None,
    }
}

/// 1 for 0, 0 for everything else.
fn cnot(ty: Type) -> Box<dyn RowOp> {
    if ty.bits() == 64 { map1(|a: u64| u64::from(a == 0)) } else { map1(|a: u32| u32::from(a == 0)) }
}

/// `lop3`: the common tables have their own closures, the rest goes through the eight minterms.
fn lop3(table: u32) -> Box<dyn RowOp> {
    match table & 0xff {
        0xc0 => map3(|a: u32, b: u32, _: u32| a & b),
        0xfc => map3(|a: u32, b: u32, _: u32| a | b),
        0x3c => map3(|a: u32, b: u32, _: u32| a ^ b),
        0x80 => map3(|a: u32, b: u32, c: u32| a & b & c),
        0xfe => map3(|a: u32, b: u32, c: u32| a | b | c),
        0x96 => map3(|a: u32, b: u32, c: u32| a ^ b ^ c),
        0xea => map3(|a: u32, b: u32, c: u32| (a & b) | c),
        0xf8 => map3(|a: u32, b: u32, c: u32| a | (b & c)),
        0x6a => map3(|a: u32, b: u32, c: u32| (a & b) ^ c),
        0x78 => map3(|a: u32, b: u32, c: u32| a ^ (b & c)),
        0xe8 => map3(|a: u32, b: u32, c: u32| (a & b) | (a & c) | (b & c)),
        0xca => map3(|a: u32, b: u32, c: u32| (a & b) | (!a & c)),
        table => map3(move |a, b, c| int::lop3(a, b, c, table)),
    }
}
