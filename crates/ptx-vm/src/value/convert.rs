//! `cvt`: between any two types, in any mode, by one exact path.
//!
//! The source becomes an [`Exact`] value, is rounded once, and is clamped where the ISA says so. Fast twins of the
//! usual conversions are at the end. PTX ISA 9.7.9.21.
use super::float::{canon32, flush32, ftz, saturate32};
use super::half::Half;
use super::soft::{Exact, Format, Round};

/// What a `cvt` converts from or to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Number {
    /// An integer of so many bits.
    Int {
        /// Width.
        bits: u32,
        /// Two's complement.
        signed: bool,
    },
    /// A float in the low bits of its register.
    Float(Format),
    /// tf32: an f32 whose low 13 bits are zero.
    Tf32,
    /// The 8-bit float with four exponent bits, no infinity and one NaN.
    E4m3,
}

/// One `cvt`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conversion {
    /// From.
    pub from: Number,
    /// To.
    pub to: Number,
    /// Direction of rounding.
    pub round: Round,
    /// Round to an integral value although the result is a float (`cvt.rni.f32.f32`).
    pub integral: bool,
    /// Flush subnormal f32 (and, from f16, subnormal inputs stay).
    pub ftz: bool,
    /// `.sat`
    pub sat: bool,
    /// `.satfinite`: overflow gives the largest finite value.
    pub satfinite: bool,
    /// `.relu`
    pub relu: bool,
}

/// The bits of the largest finite e4m3 magnitude, 448.
const E4M3_MAX: u64 = 0x7e;
/// e4m3 seen as IEEE with an exponent bias of 7; its top binade is finite, so it is rounded as a wider format.
const E4M3_WIDE: Format = Format { exp_bits: 5, man_bits: 3 };

fn e4m3_value(bits: u64) -> Exact {
    if bits & 0x7f == 0x7f {
        return Exact::Nan;
    }
    let sign = bits & 0x80 != 0;
    let (exp, man) = ((bits >> 3 & 0xf) as i32, u128::from(bits & 7));
    let (mant, exp) = if exp == 0 { (man, -9) } else { (man | 8, exp - 10) };
    Exact::Finite { sign, mant, exp, sticky: false }
}

/// The value of an e4m3.
pub fn e4m3_to_f32(bits: u8) -> f32 {
    f32::from_bits(e4m3_value(bits.into()).round(Format::F32, Round::Nearest) as u32)
}

/// The value of an e5m2: the upper half of an f16.
pub fn e5m2_to_f32(bits: u8) -> f32 {
    half::f16::from_bits(u16::from(bits) << 8).to_f32()
}

/// Rounds to e4m3; out of range gives the largest finite value (`.satfinite` is mandatory).
fn e4m3_bits(value: Exact, round: Round) -> u64 {
    let sign = match value {
        Exact::Nan => return 0x7f,
        Exact::Inf(s) => return E4M3_MAX | u64::from(s) << 7,
        Exact::Finite { sign, .. } => u64::from(sign) << 7,
    };
    // Scale by 2^-8: e4m3's bias 7 becomes the wide format's 15, subnormals included.
    let scaled = match value {
        Exact::Finite { sign, mant, exp, sticky } => Exact::Finite { sign, mant, exp: exp - 8, sticky },
        other => other,
    };
    sign | (scaled.round(E4M3_WIDE, round) & 0xff).min(E4M3_MAX)
}

impl Number {
    fn exact(self, bits: u64, ftz: bool) -> Exact {
        match self {
            Number::Int { bits: width, signed } => {
                let up = 64 - width;
                Exact::of_int(if signed {
                    i128::from((bits << up) as i64 >> up)
                } else {
                    i128::from(bits << up >> up)
                })
            }
            Number::Float(f) => {
                let mask = f.sign_bit() * 2 - 1;
                let bits = if f.sign_bit() == 1 << 63 { bits } else { bits & mask };
                let bits = if ftz && f == Format::F32 { u64::from(flush32(bits as u32)) } else { bits };
                Exact::of(bits, f)
            }
            Number::Tf32 => Exact::of(bits, Format::F32),
            Number::E4m3 => e4m3_value(bits & 0xff),
        }
    }
}

/// Converts `bits`; an integer result narrower than its register is left in its own width (the caller extends it).
pub fn convert(bits: u64, how: &Conversion) -> u64 {
    let mut value = how.from.exact(bits, how.ftz);
    if let (Number::Int { bits, signed }, true) = (how.to, matches!(how.from, Number::Int { .. })) {
        return int_to_int(value, bits, signed, how.sat);
    }
    if how.integral && !matches!(how.to, Number::Int { .. }) {
        value = round_to_integral(value, how.round);
    }
    if how.relu && matches!(value, Exact::Finite { sign: true, .. } | Exact::Inf(true)) {
        return 0;
    }
    match how.to {
        Number::Int { bits: width, signed } => float_to_int(value, width, signed, how),
        Number::Float(f) => finish(value.round(f, how.round), f, how),
        Number::Tf32 => {
            finish(value.round(Format::TF32, how.round), Format::TF32, how) << 13 | tf32_tail(value)
        }
        Number::E4m3 => e4m3_bits(value, how.round),
    }
}

/// The canonical NaN of a tf32 result is that of f32.
fn tf32_tail(value: Exact) -> u64 {
    if value == Exact::Nan { 0x1fff } else { 0 }
}

/// The rules that follow rounding to a float.
fn finish(bits: u64, f: Format, how: &Conversion) -> u64 {
    let magnitude = bits & !f.sign_bit();
    if how.satfinite && magnitude == f.infinity() {
        return bits & f.sign_bit() | f.max_finite();
    }
    match f {
        Format::F32 => {
            let bits = if how.ftz { flush32(bits as u32) } else { bits as u32 };
            u64::from(if how.sat { saturate32(bits) } else { bits })
        }
        Format::F64 if how.sat => super::float::saturate64(bits),
        Format::F16 if how.sat => {
            let one = 0x3c00;
            if magnitude > f.infinity() || bits & f.sign_bit() != 0 { 0 } else { bits.min(one) }
        }
        _ => bits,
    }
}

fn round_to_integral(value: Exact, round: Round) -> Exact {
    match value {
        Exact::Finite { sign, exp, .. } if exp < 0 => {
            let n = value.round_int(round).unwrap_or(0);
            Exact::Finite { sign, mant: n.unsigned_abs(), exp: 0, sticky: false }
        }
        other => other,
    }
}

fn int_range(width: u32, signed: bool) -> (i128, i128) {
    if signed { (-(1i128 << (width - 1)), (1i128 << (width - 1)) - 1) } else { (0, (1i128 << width) - 1) }
}

fn int_to_int(value: Exact, width: u32, signed: bool, sat: bool) -> u64 {
    let n = value.round_int(Round::Zero).unwrap_or(0);
    let (low, high) = int_range(width, signed);
    let n = if sat { n.clamp(low, high) } else { n };
    n as u64 & high_mask(width)
}

fn high_mask(width: u32) -> u64 {
    if width == 64 { !0 } else { (1 << width) - 1 }
}

/// Float to integer clamps always; NaN gives 0, or the lone top bit when a 64-bit type takes part.
fn float_to_int(value: Exact, width: u32, signed: bool, how: &Conversion) -> u64 {
    match value.round_int(how.round) {
        None if width == 64 || how.from == Number::Float(Format::F64) => 1 << (width - 1),
        None => 0,
        Some(n) => {
            let (low, high) = int_range(width, signed);
            n.clamp(low, high) as u64 & high_mask(width)
        }
    }
}

/// `cvt.rn.f16.f32`, `cvt.rn.bf16.f32` for one half.
#[inline(always)]
pub fn f32_to_half<H: Half>(bits: u32, ftz_in: bool, relu: bool) -> u32 {
    let bits = if ftz_in { flush32(bits) } else { bits };
    let bits = if relu && f32::from_bits(bits) < 0.0 { 0 } else { bits };
    let half = H::narrow(f32::from_bits(bits));
    if relu && half == 0x8000 { 0 } else { half }
}

/// `cvt.f32.f16`, `cvt.f32.bf16`
#[inline(always)]
pub fn half_to_f32<H: Half>(bits: u32, ftz_out: bool) -> u32 {
    let r = canon32(H::widen(bits));
    if ftz_out { flush32(r) } else { r }
}

/// `cvt.rzi.s32.f32`: the host's cast clamps and takes NaN to 0 as well.
#[inline(always)]
pub fn f32_to_s32_rz<const FTZ: bool>(bits: u32) -> u32 {
    f32::from_bits(ftz::<FTZ>(bits)) as i32 as u32
}

/// `cvt.rni.s32.f32`
#[inline(always)]
pub fn f32_to_s32_rn<const FTZ: bool>(bits: u32) -> u32 {
    f32::from_bits(ftz::<FTZ>(bits)).round_ties_even() as i32 as u32
}

/// `cvt.rzi.u32.f32`
#[inline(always)]
pub fn f32_to_u32_rz<const FTZ: bool>(bits: u32) -> u32 {
    f32::from_bits(ftz::<FTZ>(bits)) as u32
}

/// `cvt.rn.f32.s32`
#[inline(always)]
pub fn s32_to_f32(bits: u32) -> u32 {
    (bits as i32 as f32).to_bits()
}

/// `cvt.rn.f32.u32`
#[inline(always)]
pub fn u32_to_f32(bits: u32) -> u32 {
    (bits as f32).to_bits()
}

/// `cvt.f64.f32`
#[inline(always)]
pub fn f32_to_f64<const FTZ: bool>(bits: u32) -> u64 {
    let v = f32::from_bits(ftz::<FTZ>(bits));
    if v.is_nan() { Format::F64.canonical_nan() } else { f64::from(v).to_bits() }
}

/// `cvt.rn.f32.f64`
#[inline(always)]
pub fn f64_to_f32<const FTZ: bool>(bits: u64) -> u32 {
    ftz::<FTZ>(canon32(f64::from_bits(bits) as f32))
}

/// `cvt.rni/rzi/rmi/rpi.f32.f32`
#[inline(always)]
pub fn f32_integral<const FTZ: bool>(bits: u32, round: Round) -> u32 {
    let v = f32::from_bits(ftz::<FTZ>(bits));
    canon32(match round {
        Round::Nearest => v.round_ties_even(),
        Round::Zero => v.trunc(),
        Round::Down => v.floor(),
        Round::Up => v.ceil(),
        Round::NearestAway => v.round(),
    })
}
