//! Comparisons as closures on raw bits, and the carry flag.
use crate::exec::lanes::{Args, Combine, RowOp, compare, map3, whole};
use crate::exec::regs::{CARRY, LANES, Lane, Regs};
use crate::syntax::ast::{Compare, Opcode, Part, Type};
use crate::value::float::flush32;
use crate::value::half::{Bf16, F16, Half};
use crate::value::int;

/// Whether `op` holds for values that compare as `order` (`None`: one is NaN).
#[inline(always)]
pub(super) fn holds(op: Compare, order: Option<std::cmp::Ordering>) -> bool {
    use Compare::*;
    use std::cmp::Ordering::{Equal, Greater, Less};
    match op {
        Eq => order == Some(Equal),
        Ne => matches!(order, Some(Less | Greater)),
        Lt | Lo => order == Some(Less),
        Le | Ls => matches!(order, Some(Less | Equal)),
        Gt | Hi => order == Some(Greater),
        Ge | Hs => matches!(order, Some(Greater | Equal)),
        Equ => matches!(order, Some(Equal) | None),
        Neu => order != Some(Equal),
        Ltu => matches!(order, Some(Less) | None),
        Leu => order != Some(Greater),
        Gtu => matches!(order, Some(Greater) | None),
        Geu => order != Some(Less),
        Num => order.is_some(),
        Nan => order.is_none(),
    }
}

/// One of the comparison's closures per operator, so that the loop over lanes has no decision left.
macro_rules! ordered {
    ($op:expr, $how:expr, $ordered_ne:expr, $t:ty, |$v:ident| $view:expr) => {{
        let view = |$v: $t| $view;
        match $op {
            Compare::Eq => compare::<$t>($how, move |a, b| view(a) == view(b)),
            Compare::Ne if !$ordered_ne => compare::<$t>($how, move |a, b| view(a) != view(b)),
            Compare::Neu => compare::<$t>($how, move |a, b| view(a) != view(b)),
            Compare::Lt | Compare::Lo => compare::<$t>($how, move |a, b| view(a) < view(b)),
            Compare::Le | Compare::Ls => compare::<$t>($how, move |a, b| view(a) <= view(b)),
            Compare::Gt | Compare::Hi => compare::<$t>($how, move |a, b| view(a) > view(b)),
            Compare::Ge | Compare::Hs => compare::<$t>($how, move |a, b| view(a) >= view(b)),
            op => compare::<$t>($how, move |a, b| holds(op, view(a).partial_cmp(&view(b)))),
        }
    }};
}

/// The comparison of two registers of type `ty`.
pub(super) fn comparison(op: Compare, ty: Type, ftz: bool, how: Combine) -> Box<dyn RowOp> {
    // `lo`, `ls`, `hi`, `hs` compare as unsigned whatever the type says.
    let signed = ty.is_signed() && !matches!(op, Compare::Lo | Compare::Ls | Compare::Hi | Compare::Hs);
    match (ty, ty.bits(), signed) {
        (Type::F32, ..) => {
            if ftz {
                ordered!(op, how, true, u32, |v| f32::from_bits(flush32(v)))
            } else {
                ordered!(op, how, true, u32, |v| f32::from_bits(v))
            }
        }
        (Type::F64, ..) => ordered!(op, how, true, u64, |v| f64::from_bits(v)),
        (Type::F16, ..) => compare::<u32>(how, move |a, b| holds(op, half_order::<F16>(a, b, ftz))),
        (Type::Bf16, ..) => compare::<u32>(how, move |a, b| holds(op, half_order::<Bf16>(a, b, false))),
        (_, 64, true) => ordered!(op, how, false, u64, |v| v as i64),
        (_, 64, false) => ordered!(op, how, false, u64, |v| v),
        (_, 32, true) => ordered!(op, how, false, u32, |v| v as i32),
        (_, 32, false) => ordered!(op, how, false, u32, |v| v),
        (_, _, true) => ordered!(op, how, false, u32, |v| v as i16),
        (_, _, false) => ordered!(op, how, false, u32, |v| v as u16),
    }
}

/// How two halves compare.
#[inline(always)]
pub(super) fn half_order<H: Half>(a: u32, b: u32, ftz: bool) -> Option<std::cmp::Ordering> {
    let view = |v: u32| H::widen(if ftz { crate::value::half::flush16(v & 0xffff) } else { v & 0xffff });
    view(a).partial_cmp(&view(b))
}

/// Where a comparison holds for the low halves of `args.s[0]` and `args.s[1]`, and where for the high ones.
pub(super) fn compare_halves(regs: &Regs, args: &Args, op: Compare, bf: bool, ftz: bool) -> [u32; 2] {
    let (a, b) = (regs.get::<u32>(args.s[0]), regs.get::<u32>(args.s[1]));
    [0, 16].map(|shift| {
        (0..LANES).fold(0, |bits, l| {
            let order = if bf {
                half_order::<Bf16>(a[l] >> shift, b[l] >> shift, false)
            } else {
                half_order::<F16>(a[l] >> shift, b[l] >> shift, ftz)
            };
            bits | u32::from(holds(op, order)) << l
        })
    })
}

/// What `set` writes for true: all ones for an integer, 1.0 for a float.
pub(super) fn set_true(ty: Type) -> u64 {
    match ty {
        Type::F32 => 0x3f80_0000,
        Type::F16 => 0x3c00,
        Type::Bf16 => 0x3f80,
        Type::F16x2 => 0x3c00_3c00,
        Type::Bf16x2 => 0x3f80_3f80,
        Type::U16 | Type::S16 => 0xffff,
        _ => 0xffff_ffff,
    }
}

/// `slct.d.{s32,f32}`: `a` where `c >= 0`, else `b`; NaN takes `b`.
pub(super) fn slct(wide: bool, float: bool, ftz: bool) -> Box<dyn RowOp> {
    let chooses_a = move |c: u32| {
        if float { f32::from_bits(if ftz { flush32(c) } else { c }) >= 0.0 } else { c as i32 >= 0 }
    };
    if wide {
        map3(move |a: u64, b: u64, c: u32| if chooses_a(c) { a } else { b })
    } else {
        map3(move |a: u32, b: u32, c: u32| if chooses_a(c) { a } else { b })
    }
}

/// Extended-precision arithmetic (ISA 9.7.2): reads or writes the carry flag, or both.
pub(super) fn carry(op: Opcode, part: Option<Part>, writes: bool, ty: Type) -> Option<Box<dyn RowOp>> {
    use Opcode::*;
    let reads = matches!(op, Addc | Subc | Madc);
    let high = part == Some(Part::Hi);
    let signed = ty.is_signed();
    Some(match (op, ty.bits()) {
        (Add | Addc, 32) => with_carry::<u32>(reads, writes, |a, b, _, c| add_carry32(a, b, c)),
        (Add | Addc, _) => with_carry::<u64>(reads, writes, |a, b, _, c| add_carry64(a, b, c)),
        (Sub | Subc, 32) => with_carry::<u32>(reads, writes, |a, b, _, c| {
            let (r, x) = a.overflowing_sub(b);
            let (r, y) = r.overflowing_sub(u32::from(c));
            (r, x | y)
        }),
        (Sub | Subc, _) => with_carry::<u64>(reads, writes, |a, b, _, c| {
            let (r, x) = a.overflowing_sub(b);
            let (r, y) = r.overflowing_sub(u64::from(c));
            (r, x | y)
        }),
        (Mad | Madc, 32) => with_carry::<u32>(reads, writes, move |a, b, add, c| {
            let product = match (high, signed) {
                (false, _) => a.wrapping_mul(b),
                (true, true) => int::mul_hi_s32(a, b),
                (true, false) => int::mul_hi_u32(a, b),
            };
            add_carry32(product, add, c)
        }),
        (Mad | Madc, _) => with_carry::<u64>(reads, writes, move |a, b, add, c| {
            let product = match (high, signed) {
                (false, _) => a.wrapping_mul(b),
                (true, true) => int::mul_hi_s64(a, b),
                (true, false) => int::mul_hi_u64(a, b),
            };
            add_carry64(product, add, c)
        }),
        _ => return None,
    })
}

fn add_carry32(a: u32, b: u32, carry: bool) -> (u32, bool) {
    let sum = u64::from(a) + u64::from(b) + u64::from(carry);
    (sum as u32, sum >> 32 != 0)
}

fn add_carry64(a: u64, b: u64, carry: bool) -> (u64, bool) {
    let sum = u128::from(a) + u128::from(b) + u128::from(carry);
    (sum as u64, sum >> 64 != 0)
}

fn with_carry<T: Lane>(
    reads: bool,
    writes: bool,
    f: impl Fn(T, T, T, bool) -> (T, bool) + Send + Sync + 'static,
) -> Box<dyn RowOp> {
    whole(move |regs: &mut Regs, args: &Args, mask| {
        let carry = if reads { regs.preds[CARRY as usize] } else { 0 };
        let (mut out, mut flags) = ([T::default(); LANES], 0);
        for l in 0..LANES {
            let [a, b, c] = [0, 1, 2].map(|i| regs.get::<T>(args.s[i])[l]);
            let (r, flag) = f(a, b, c, carry >> l & 1 == 1);
            out[l] = r;
            flags |= u32::from(flag) << l;
        }
        regs.put(args.d, mask, &out);
        if writes {
            regs.set_pred(CARRY, mask, flags);
        }
    })
}
