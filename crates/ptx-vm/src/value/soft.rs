//! Exact floating-point arithmetic in integers, rounded once.
//!
//! A finite number is `(-1)^sign * mant * 2^exp` with a 128-bit `mant`; an operation computes that exactly (or to
//! far more bits than any format keeps, with a sticky bit for the rest) and [`Exact::round`] puts it into a format.
//! Double rounding cannot happen, whatever the mode. PTX ISA "Floating-Point Rounding Modifiers".

/// A binary interchange format: `1 + exp_bits + man_bits` bits, biased exponent, IEEE specials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// Width of the exponent field.
    pub exp_bits: u32,
    /// Stored mantissa bits.
    pub man_bits: u32,
}

impl Format {
    /// IEEE binary16.
    pub const F16: Format = Format { exp_bits: 5, man_bits: 10 };
    /// bfloat16.
    pub const BF16: Format = Format { exp_bits: 8, man_bits: 7 };
    /// tf32 without its 13 unused low bits (19 bits in all).
    pub const TF32: Format = Format { exp_bits: 8, man_bits: 10 };
    /// IEEE binary32.
    pub const F32: Format = Format { exp_bits: 8, man_bits: 23 };
    /// IEEE binary64.
    pub const F64: Format = Format { exp_bits: 11, man_bits: 52 };
    /// 8-bit float with five exponent bits (IEEE specials).
    pub const E5M2: Format = Format { exp_bits: 5, man_bits: 2 };

    const fn bias(self) -> i32 {
        (1 << (self.exp_bits - 1)) - 1
    }
    const fn exp_mask(self) -> u64 {
        (1 << self.exp_bits) - 1
    }
    /// The bits of infinity, without sign.
    pub const fn infinity(self) -> u64 {
        self.exp_mask() << self.man_bits
    }
    /// The largest finite magnitude.
    pub const fn max_finite(self) -> u64 {
        self.infinity() - 1
    }
    /// The sign bit.
    pub const fn sign_bit(self) -> u64 {
        1 << (self.exp_bits + self.man_bits)
    }
    /// The NaN that PTX produces: all ones below the sign (`0x7fff`, `0x7fffffff`), the default quiet NaN of the
    /// hardware for `f64` (`0xfff8000000000000`).
    pub const fn canonical_nan(self) -> u64 {
        if self.man_bits == 52 { 0xfff8_0000_0000_0000 } else { self.sign_bit() - 1 }
    }
}

/// Where a value between two representable ones goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Round {
    /// `.rn`: nearest, ties to even.
    Nearest,
    /// `.rz`: towards zero.
    Zero,
    /// `.rm`: towards minus infinity.
    Down,
    /// `.rp`: towards plus infinity.
    Up,
    /// `.rna`: nearest, ties away from zero.
    NearestAway,
}

/// An exact value, or one known to more bits than any format keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exact {
    /// Not a number.
    Nan,
    /// Infinity with its sign.
    Inf(bool),
    /// `(-1)^sign * (mant + s) * 2^exp` with `s = 0`, or `0 < s < 1` when `sticky`.
    Finite {
        /// Negative.
        sign: bool,
        /// Integer significand.
        mant: u128,
        /// Exponent of the significand's lowest bit.
        exp: i32,
        /// Something nonzero was lost below `mant`.
        sticky: bool,
    },
}

use Exact::{Finite, Inf, Nan};

const fn finite(sign: bool, mant: u128, exp: i32) -> Exact {
    Finite { sign, mant, exp, sticky: false }
}

/// `mant >> by` with whether ones fell off.
const fn shift_right(mant: u128, by: u32) -> (u128, bool) {
    if by == 0 {
        (mant, false)
    } else if by >= 128 {
        (0, mant != 0)
    } else {
        (mant >> by, mant << (128 - by) != 0)
    }
}

impl Exact {
    /// The value of `bits` in `format`.
    pub fn of(bits: u64, format: Format) -> Exact {
        let sign = bits & format.sign_bit() != 0;
        let exp = ((bits >> format.man_bits) & format.exp_mask()) as i32;
        let man = bits & ((1 << format.man_bits) - 1);
        let lowest = 1 - format.bias() - format.man_bits as i32;
        match exp as u64 {
            0 => finite(sign, u128::from(man), lowest),
            e if e == format.exp_mask() => {
                if man == 0 {
                    Inf(sign)
                } else {
                    Nan
                }
            }
            _ => finite(sign, u128::from(man | 1 << format.man_bits), lowest + exp - 1),
        }
    }

    /// An integer.
    pub fn of_int(v: i128) -> Exact {
        finite(v < 0, v.unsigned_abs(), 0)
    }

    /// `self * other`; mantissas of at most 64 bits.
    pub fn times(self, other: Exact) -> Exact {
        match (self, other) {
            (Nan, _) | (_, Nan) => Nan,
            (Inf(_), Finite { mant: 0, .. }) | (Finite { mant: 0, .. }, Inf(_)) => Nan,
            (Inf(a), Inf(b)) => Inf(a ^ b),
            (Inf(a), Finite { sign, .. }) | (Finite { sign, .. }, Inf(a)) => Inf(a ^ sign),
            (Finite { sign: a, mant: m, exp: e, .. }, Finite { sign: b, mant: n, exp: f, .. }) => {
                finite(a ^ b, m * n, e + f)
            }
        }
    }

    /// `self + other` under `mode` (which only decides the sign of an exact zero).
    pub fn add(self, other: Exact, mode: Round) -> Exact {
        let (a, b) = match (self, other) {
            (Nan, _) | (_, Nan) => return Nan,
            (Inf(a), Inf(b)) => return if a == b { Inf(a) } else { Nan },
            (Inf(a), _) | (_, Inf(a)) => return Inf(a),
            (Finite { sign: a, mant: m, .. }, Finite { sign: b, mant: n, .. }) if m == 0 && n == 0 => {
                return finite(if a == b { a } else { mode == Round::Down }, 0, 0);
            }
            (Finite { mant: 0, .. }, _) => return other,
            (_, Finite { mant: 0, .. }) => return self,
            (Finite { sign: sa, mant: ma, exp: ea, .. }, Finite { sign: sb, mant: mb, exp: eb, .. }) => {
                let a = (sa, ma, ea);
                let b = (sb, mb, eb);
                let top = |m: u128, e: i32| e + 127 - m.leading_zeros() as i32;
                if top(ma, ea) >= top(mb, eb) { (a, b) } else { (b, a) }
            }
        };
        // The larger one is moved up to bit 125: then whatever the smaller loses below bit 0 lies so far under the
        // leading bit of the result that no format can see more of it than "not zero".
        let up = a.1.leading_zeros() - 2;
        let (big, exp) = (a.1 << up, a.2 - up as i32);
        let (small, sticky) = match b.2 - exp {
            left @ 0.. => (b.1 << left, false),
            right => shift_right(b.1, right.unsigned_abs()),
        };
        if a.0 == b.0 {
            Finite { sign: a.0, mant: big + small, exp, sticky }
        } else if big > small || sticky {
            Finite { sign: a.0, mant: big - small - u128::from(sticky), exp, sticky }
        } else if big < small {
            finite(b.0, small - big, exp)
        } else {
            finite(mode == Round::Down, 0, 0)
        }
    }

    /// `self / other`; mantissas of at most 64 bits.
    pub fn over(self, other: Exact) -> Exact {
        match (self, other) {
            (Nan, _) | (_, Nan) | (Inf(_), Inf(_)) => Nan,
            (Inf(a), Finite { sign, .. }) => Inf(a ^ sign),
            (Finite { sign, .. }, Inf(b)) => finite(sign ^ b, 0, 0),
            (Finite { mant: 0, .. }, Finite { mant: 0, .. }) => Nan,
            (Finite { sign: a, .. }, Finite { sign: b, mant: 0, .. }) => Inf(a ^ b),
            (Finite { sign: a, mant: 0, .. }, Finite { sign: b, .. }) => finite(a ^ b, 0, 0),
            (Finite { sign: a, mant: m, exp: e, .. }, Finite { sign: b, mant: n, exp: f, .. }) => {
                let up = m.leading_zeros();
                let (m, e) = (m << up, e - up as i32);
                Finite { sign: a ^ b, mant: m / n, exp: e - f, sticky: m % n != 0 }
            }
        }
    }

    /// The square root.
    pub fn sqrt(self) -> Exact {
        match self {
            Nan | Inf(true) => Nan,
            Inf(false) => Inf(false),
            Finite { mant: 0, .. } => self,
            Finite { sign: true, .. } => Nan,
            Finite { mant, exp, .. } => {
                let mut up = mant.leading_zeros();
                if (exp - up as i32) % 2 != 0 {
                    up -= 1;
                }
                let (m, e) = (mant << up, exp - up as i32);
                let root = m.isqrt();
                Finite { sign: false, mant: root, exp: e / 2, sticky: root * root != m }
            }
        }
    }

    /// The integer this rounds to (saturated to 128 bits); `None` for NaN.
    pub fn round_int(self, mode: Round) -> Option<i128> {
        match self {
            Nan => None,
            Inf(s) => Some(if s { i128::MIN } else { i128::MAX }),
            Finite { sign, mant, exp, sticky } => {
                let magnitude = if exp >= 0 {
                    if mant != 0 && exp as u32 >= mant.leading_zeros() {
                        return Some(if sign { i128::MIN } else { i128::MAX });
                    }
                    mant << exp
                } else {
                    round_shift(mant, exp.unsigned_abs(), sticky, sign, mode)
                };
                let m = i128::try_from(magnitude).unwrap_or(i128::MAX);
                Some(if sign { -m } else { m })
            }
        }
    }

    /// The nearest representable value under `mode`, as bits.
    pub fn round(self, format: Format, mode: Round) -> u64 {
        let (sign, mant, exp, sticky) = match self {
            Nan => return format.canonical_nan(),
            Inf(s) => return format.infinity() | if s { format.sign_bit() } else { 0 },
            Finite { sign, mant, exp, sticky } => (sign, mant, exp, sticky),
        };
        let s = if sign { format.sign_bit() } else { 0 };
        if mant == 0 {
            return s;
        }
        let man = format.man_bits as i32;
        let top = exp + 127 - mant.leading_zeros() as i32;
        let emin = 1 - format.bias();
        let lsb = top.max(emin) - man;
        let kept = match lsb - exp {
            down @ 1.. => round_shift(mant, down as u32, sticky, sign, mode),
            up => mant << -up,
        } as u64;
        // A subnormal has exponent field 0 and no hidden bit, which is what the carry below gives for free.
        let field = (lsb + man + format.bias()) as u64 - 1;
        let bits = (field << format.man_bits) + kept;
        if bits < format.infinity() {
            return s | bits;
        }
        let to_inf = match mode {
            Round::Nearest | Round::NearestAway => true,
            Round::Zero => false,
            Round::Down => sign,
            Round::Up => !sign,
        };
        s | if to_inf { format.infinity() } else { format.max_finite() }
    }
}

/// `mant / 2^by` to an integer under `mode`; `sticky` says that more lies below `mant`.
fn round_shift(mant: u128, by: u32, sticky: bool, sign: bool, mode: Round) -> u128 {
    let (kept, _) = shift_right(mant, by);
    let half = if by == 0 || by > 128 { false } else { mant >> (by - 1) & 1 == 1 };
    let rest = sticky || (by > 0 && shift_right(mant, by - 1).1);
    let up = match mode {
        Round::Nearest => half && (rest || kept & 1 == 1),
        Round::NearestAway => half,
        Round::Zero => false,
        Round::Down => sign && (half || rest),
        Round::Up => !sign && (half || rest),
    };
    kept + u128::from(up)
}

/// `a + b` in `format`.
pub fn add(a: u64, b: u64, format: Format, mode: Round) -> u64 {
    Exact::of(a, format).add(Exact::of(b, format), mode).round(format, mode)
}

/// `a * b` in `format`.
pub fn mul(a: u64, b: u64, format: Format, mode: Round) -> u64 {
    Exact::of(a, format).times(Exact::of(b, format)).round(format, mode)
}

/// `a * b + c` in `format`, rounded once.
pub fn fma(a: u64, b: u64, c: u64, format: Format, mode: Round) -> u64 {
    let product = Exact::of(a, format).times(Exact::of(b, format));
    product.add(Exact::of(c, format), mode).round(format, mode)
}

/// `a / b` in `format`.
pub fn div(a: u64, b: u64, format: Format, mode: Round) -> u64 {
    Exact::of(a, format).over(Exact::of(b, format)).round(format, mode)
}

/// The square root in `format`.
pub fn sqrt(a: u64, format: Format, mode: Round) -> u64 {
    Exact::of(a, format).sqrt().round(format, mode)
}

/// `bits` of one format in another.
pub fn convert(bits: u64, from: Format, to: Format, mode: Round) -> u64 {
    Exact::of(bits, from).round(to, mode)
}
