//! f16 and bf16 on bits, alone and packed in pairs.
//!
//! Sums and products of two halves are exact enough in f32 (24 >= 2 * 11 + 2 bits) for one more rounding to be
//! innocent. A fused multiply-add is not: it is summed in f64 with the error term of the sum forced into the last
//! bit (rounding to odd), after which rounding to the half format is exact again.
use super::float::flush32;
use super::soft::{Format, Round, convert};

/// A 16-bit format.
pub trait Half: Copy + 'static {
    /// Its layout.
    const FORMAT: Format;
    /// To f32, exactly.
    fn widen(bits: u32) -> f32;
    /// From f32, to the nearest even; NaN becomes 0x7fff.
    fn narrow(value: f32) -> u32;
    /// From a double that was rounded to odd.
    fn narrow_odd(value: f64) -> u32;
}

/// IEEE binary16.
#[derive(Clone, Copy, Debug)]
pub struct F16;
/// bfloat16.
#[derive(Clone, Copy, Debug)]
pub struct Bf16;

impl Half for F16 {
    const FORMAT: Format = Format::F16;

    #[inline(always)]
    fn widen(bits: u32) -> f32 {
        // The exponent is rebiased by a multiplication, which normalises subnormals for free; infinity and NaN
        // get the missing exponent bits afterwards.
        let magnitude = (bits & 0x7fff) << 13;
        let scaled = f32::from_bits(magnitude) * f32::from_bits((254 - 15) << 23);
        let special = if magnitude >= 0x0f80_0000 { 0x7f80_0000 } else { 0 };
        f32::from_bits(scaled.to_bits() | special | (bits & 0x8000) << 16)
    }

    #[inline(always)]
    fn narrow(value: f32) -> u32 {
        let bits = value.to_bits();
        let sign = bits >> 16 & 0x8000;
        let magnitude = bits & 0x7fff_ffff;
        // Normal results: drop 13 bits, ties to even, rebias. Subnormal ones: adding 0.5 aligns the last place.
        let normal = (magnitude + 0xfff + (magnitude >> 13 & 1)).wrapping_sub(112 << 23) >> 13;
        let aligned = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
        let small = if magnitude < 113 << 23 { aligned } else { normal };
        let finite = if magnitude >= 0x4780_0000 { 0x7c00 } else { small };
        if magnitude > 0x7f80_0000 { 0x7fff } else { sign | finite }
    }

    #[inline]
    fn narrow_odd(value: f64) -> u32 {
        convert(value.to_bits(), Format::F64, Format::F16, Round::Nearest) as u32
    }
}

impl Half for Bf16 {
    const FORMAT: Format = Format::BF16;

    #[inline(always)]
    fn widen(bits: u32) -> f32 {
        f32::from_bits(bits << 16)
    }

    #[inline(always)]
    fn narrow(value: f32) -> u32 {
        let bits = value.to_bits();
        let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
        if bits & 0x7fff_ffff > 0x7f80_0000 { 0x7fff } else { rounded }
    }

    #[inline]
    fn narrow_odd(value: f64) -> u32 {
        convert(value.to_bits(), Format::F64, Format::BF16, Round::Nearest) as u32
    }
}

/// `.ftz` of a half (only f16 has it).
#[inline(always)]
pub fn flush16(bits: u32) -> u32 {
    if bits & 0x7c00 == 0 { bits & 0x8000 } else { bits }
}

/// How a 16-bit instruction treats its operands and its result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Post {
    /// Subnormals become zero.
    pub ftz: bool,
    /// Into [0, 1], NaN to +0.
    pub sat: bool,
    /// Negative to +0, NaN canonical.
    pub relu: bool,
}

impl Post {
    #[inline(always)]
    fn input(self, bits: u32) -> u32 {
        if self.ftz { flush16(bits) } else { bits }
    }

    #[inline(always)]
    fn output<H: Half>(self, bits: u32) -> u32 {
        let bits = if self.ftz { flush16(bits) } else { bits };
        let nan = bits & 0x7fff > H::FORMAT.infinity() as u32;
        if self.sat {
            let one = H::narrow(1.0);
            let low = if bits & 0x8000 != 0 || nan { 0 } else { bits };
            if low > one { one } else { low }
        } else if self.relu {
            if nan {
                0x7fff
            } else if bits & 0x8000 != 0 {
                0
            } else {
                bits
            }
        } else {
            bits
        }
    }
}

/// `a + b`
#[inline(always)]
pub fn add<H: Half>(a: u32, b: u32, post: Post) -> u32 {
    post.output::<H>(H::narrow(H::widen(post.input(a)) + H::widen(post.input(b))))
}

/// `a - b`
#[inline(always)]
pub fn sub<H: Half>(a: u32, b: u32, post: Post) -> u32 {
    post.output::<H>(H::narrow(H::widen(post.input(a)) - H::widen(post.input(b))))
}

/// `a * b`
#[inline(always)]
pub fn mul<H: Half>(a: u32, b: u32, post: Post) -> u32 {
    let (x, y) = (H::widen(post.input(a)), H::widen(post.input(b)));
    // The product is exact in f32 unless it is subnormal there (which bf16 can reach): then it is formed in f64.
    let product = x * y;
    let bits = if product.abs() < f32::MIN_POSITIVE {
        H::narrow_odd(f64::from(x) * f64::from(y))
    } else {
        H::narrow(product)
    };
    post.output::<H>(bits)
}

/// `a * b + c`, rounded once.
#[inline]
pub fn fma<H: Half>(a: u32, b: u32, c: u32, post: Post) -> u32 {
    let [x, y, z] = [a, b, c].map(|v| f64::from(H::widen(post.input(v))));
    post.output::<H>(H::narrow_odd(add_odd(x * y, z)))
}

/// `a + b` in f64, rounded to odd: an inexact sum has its last bit set. Knuth's two-sum gives the error.
#[inline(always)]
fn add_odd(a: f64, b: f64) -> f64 {
    let sum = a + b;
    let t = sum - a;
    let error = (a - (sum - t)) + (b - t);
    let bits = sum.to_bits();
    if error == 0.0 || !sum.is_finite() || bits & 1 == 1 {
        return sum;
    }
    // The true value lies between the sum and its neighbour on the side of the error; one of the two is odd.
    let outward = (error > 0.0) == (sum > 0.0);
    f64::from_bits(if outward { bits + 1 } else { bits - 1 })
}

/// Applies `op` to both halves of packed operands.
#[inline(always)]
pub fn both<const N: usize>(operands: [u32; N], op: impl Fn([u32; N]) -> u32) -> u32 {
    let low = op(operands.map(|v| v & 0xffff));
    let high = op(operands.map(|v| v >> 16));
    low & 0xffff | high << 16
}

/// f32 to bf16 through `.ftz` and any mode: the general form, by exact conversion.
pub fn narrow_general(value: u32, ftz: bool, to: Format, mode: Round) -> u32 {
    let value = if ftz { flush32(value) } else { value };
    convert(u64::from(value), Format::F32, to, mode) as u32
}
