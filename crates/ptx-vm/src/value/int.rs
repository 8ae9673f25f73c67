//! Integer and bit instructions on bits.

/// `bfe`: the `len` bits of `a` from bit `pos`, extended by zeros or, when `signed`, by the field's top bit (the
/// sign of `a` where the field sticks out). ISA 9.7.1.20.
#[inline(always)]
pub fn bfe(a: u64, pos: u32, len: u32, width: u32, signed: bool) -> u64 {
    let (pos, len) = (pos & 0xff, len & 0xff);
    let msb = width - 1;
    let mask = if width == 64 { !0 } else { (1u64 << width) - 1 };
    if len == 0 {
        return 0;
    }
    let sign = signed && a >> (pos + len - 1).min(msb) & 1 == 1;
    let field = if pos > msb { 0 } else { a >> pos };
    let keep = len.min(if pos > msb { 0 } else { width - pos });
    let low = if keep >= 64 { !0 } else { (1u64 << keep) - 1 };
    (field & low | if sign { !low } else { 0 }) & mask
}

/// `bfi`: `b` with its `len` bits from `pos` replaced by the low bits of `a`.
#[inline(always)]
pub fn bfi(a: u64, b: u64, pos: u32, len: u32, width: u32) -> u64 {
    let (pos, len) = (pos & 0xff, len & 0xff);
    if pos >= width || len == 0 {
        return b;
    }
    let len = len.min(width - pos);
    let ones = if len >= 64 { !0 } else { (1u64 << len) - 1 };
    b & !(ones << pos) | (a & ones) << pos
}

/// `bfind`: the place of the most significant bit that is not a sign bit, or `0xffffffff`; with `shiftamt` the
/// distance it would have to be shifted left.
#[inline(always)]
pub fn bfind(a: u64, width: u32, signed: bool, shiftamt: bool) -> u32 {
    let mask = if width == 64 { !0 } else { (1u64 << width) - 1 };
    let negative = signed && a >> (width - 1) & 1 == 1;
    let v = (if negative { !a } else { a }) & mask;
    if v == 0 {
        return !0;
    }
    let place = 63 - v.leading_zeros();
    if shiftamt { width - 1 - place } else { place }
}

/// `fns`: the place of the `offset`-th set bit of `mask` counted from bit `base` (upwards when positive, downwards
/// when negative), or `0xffffffff`.
pub fn fns(mask: u32, base: u32, offset: i32) -> u32 {
    let set = |i: &u32| mask >> i & 1 == 1;
    let found = match offset {
        0 => (base < 32 && set(&base)).then_some(base),
        1.. => (base.min(32)..32).filter(set).nth(offset as usize - 1),
        _ => (0..=base.min(31)).rev().filter(set).nth(offset.unsigned_abs() as usize - 1),
    };
    found.unwrap_or(!0)
}

/// `bmsk`: `len` ones from bit `pos`; `clamp` limits both to 32, otherwise they wrap at 32.
#[inline(always)]
pub fn bmsk(pos: u32, len: u32, clamp: bool) -> u32 {
    let (pos, len) = if clamp { (pos.min(32), len.min(32)) } else { (pos & 31, len & 31) };
    let ones = (1u64 << len) - 1;
    (ones << pos) as u32
}

/// `szext`: the low `bits` bits of `a`, extended to 32.
#[inline(always)]
pub fn szext(a: u32, bits: u32, signed: bool, clamp: bool) -> u32 {
    let n = if clamp { bits.min(32) } else { bits & 31 };
    if n == 0 {
        return 0;
    }
    let up = 32 - n;
    if signed { ((a << up) as i32 >> up) as u32 } else { a << up >> up }
}

/// `prmt` in its default mode: each nibble of `selector` picks one of the eight bytes of `b:a`, or copies its sign.
#[inline(always)]
pub fn prmt(a: u32, b: u32, selector: u32) -> u32 {
    let bytes = u64::from(b) << 32 | u64::from(a);
    let pick = |i: u32| {
        let nibble = selector >> (4 * i) & 0xf;
        let byte = (bytes >> (8 * (nibble & 7))) as u8;
        let sign = (byte as i8 >> 7) as u8;
        u32::from(if nibble & 8 != 0 { sign } else { byte }) << (8 * i)
    };
    pick(0) | pick(1) | pick(2) | pick(3)
}

/// The special modes of `prmt`; `selector`'s low two bits choose. ISA 9.7.9.7.
pub fn prmt_mode(a: u32, b: u32, selector: u32, mode: crate::syntax::ast::PermuteMode) -> u32 {
    use crate::syntax::ast::PermuteMode::*;
    let s = selector & 3;
    let nibbles: [u32; 4] = match mode {
        F4e => [s, s + 1, s + 2, s + 3],
        B4e => [s, (s + 7) & 7, (s + 6) & 7, (s + 5) & 7],
        Rc8 => [s; 4],
        Ecl => [0, 1, 2, 3].map(|i: u32| i.max(s)),
        Ecr => [0, 1, 2, 3].map(|i: u32| i.min(s)),
        Rc16 => {
            let low = (s & 1) * 2;
            [low, low + 1, low, low + 1]
        }
    };
    prmt(a, b, nibbles[0] | nibbles[1] << 4 | nibbles[2] << 8 | nibbles[3] << 12)
}

/// `lop3`: any function of three bits, given as its truth table.
#[inline(always)]
pub fn lop3(a: u32, b: u32, c: u32, table: u32) -> u32 {
    let term = |i: u32, x: u32, y: u32, z: u32| if table >> i & 1 == 1 { x & y & z } else { 0 };
    term(0, !a, !b, !c)
        | term(1, !a, !b, c)
        | term(2, !a, b, !c)
        | term(3, !a, b, c)
        | term(4, a, !b, !c)
        | term(5, a, !b, c)
        | term(6, a, b, !c)
        | term(7, a, b, c)
}

/// `shf`: 32 bits out of `b:a` shifted. `wrap` takes the amount modulo 32, else it stops at 32.
#[inline(always)]
pub fn shf(a: u32, b: u32, amount: u32, left: bool, wrap: bool) -> u32 {
    let n = if wrap { amount & 31 } else { amount.min(32) };
    let pair = u64::from(b) << 32 | u64::from(a);
    if left { (pair << n >> 32) as u32 } else { (pair >> n) as u32 }
}

/// `shl`: amounts beyond the width give 0.
#[inline(always)]
pub fn shl(a: u64, amount: u32, width: u32) -> u64 {
    if amount >= width { 0 } else { a << amount }
}

/// `shr` on a value already extended (by its sign or zeros) to 64 bits: amounts stop at the width.
#[inline(always)]
pub fn shr(a: i64, amount: u32, width: u32) -> i64 {
    a >> amount.min(width - 1)
}

/// `dp4a`: the dot product of four bytes with four bytes, plus `c`.
#[inline(always)]
pub fn dp4a(a: u32, b: u32, c: u32, a_signed: bool, b_signed: bool) -> u32 {
    let byte = |v: u32, i: u32, signed: bool| {
        let x = (v >> (8 * i)) as u8;
        if signed { i32::from(x as i8) } else { i32::from(x) }
    };
    let dot = (0..4).map(|i| byte(a, i, a_signed) * byte(b, i, b_signed)).sum::<i32>();
    c.wrapping_add(dot as u32)
}

/// `dp2a`: two 16-bit halves of `a` times two bytes of `b` (the low or the high two), plus `c`.
#[inline(always)]
pub fn dp2a(a: u32, b: u32, c: u32, a_signed: bool, b_signed: bool, high: bool) -> u32 {
    let b = if high { b >> 16 } else { b };
    let half = |i: u32| {
        let x = (a >> (16 * i)) as u16;
        if a_signed { i64::from(x as i16) } else { i64::from(x) }
    };
    let byte = |i: u32| {
        let x = (b >> (8 * i)) as u8;
        if b_signed { i64::from(x as i8) } else { i64::from(x) }
    };
    c.wrapping_add((half(0) * byte(0) + half(1) * byte(1)) as u32)
}

/// The high half of a product of two `i32`.
#[inline(always)]
pub fn mul_hi_s32(a: u32, b: u32) -> u32 {
    ((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32
}

/// The high half of a product of two `u32`.
#[inline(always)]
pub fn mul_hi_u32(a: u32, b: u32) -> u32 {
    ((u64::from(a) * u64::from(b)) >> 32) as u32
}

/// The high half of a product of two `i64`.
#[inline(always)]
pub fn mul_hi_s64(a: u64, b: u64) -> u64 {
    ((i128::from(a as i64) * i128::from(b as i64)) >> 64) as u64
}

/// The high half of a product of two `u64`.
#[inline(always)]
pub fn mul_hi_u64(a: u64, b: u64) -> u64 {
    ((u128::from(a) * u128::from(b)) >> 64) as u64
}

/// The 48-bit product of two 24-bit numbers, its low or its high 32 bits (`mul24`).
#[inline(always)]
pub fn mul24(a: u32, b: u32, signed: bool, high: bool) -> u32 {
    let low24 = |v: u32| if signed { i64::from((v << 8) as i32 >> 8) } else { i64::from(v & 0xff_ffff) };
    let product = low24(a) * low24(b);
    (if high { product >> 16 } else { product }) as u32
}

/// Signed division as the hardware does it: by zero gives all ones (for either sign), overflow wraps.
#[inline(always)]
pub fn div_s(a: i64, b: i64) -> i64 {
    if b == 0 { -1 } else { a.wrapping_div(b) }
}

/// Unsigned division: by zero gives all ones.
#[inline(always)]
pub fn div_u(a: u64, b: u64) -> u64 {
    a.checked_div(b).unwrap_or(!0)
}

/// Signed remainder: by zero gives the dividend.
#[inline(always)]
pub fn rem_s(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { a.wrapping_rem(b) }
}

/// Unsigned remainder: by zero gives the dividend.
#[inline(always)]
pub fn rem_u(a: u64, b: u64) -> u64 {
    a.checked_rem(b).unwrap_or(a)
}
