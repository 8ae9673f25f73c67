//! Numbers in [-1, 1] as codes of 8 bits: dynamic tree quantisation (arXiv 2110.02861, section 1.3).

use std::sync::LazyLock;

/// The two kinds of codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codes {
    /// For the first moment: one bit of the eight is the sign.
    Signed,
    /// For the second moment: the sign's bit is one more of the fraction.
    Unsigned,
}

/// Values and lower bounds by code.
struct Map {
    values: [f32; 256],
    /// A number belongs to the last code whose bound is not above it.
    bounds: [f32; 256],
}

static MAPS: LazyLock<[Map; 2]> = LazyLock::new(|| [Map::new(Codes::Signed), Map::new(Codes::Unsigned)]);

impl Map {
    fn new(codes: Codes) -> Map {
        let bits = if codes == Codes::Signed { 6 } else { 7 };
        // E zeros, a one, and bits - E bits that hold k: 10^-E (0.1 + 0.9 (k + 1/2) / 2^(bits - E)).
        let value = |e: i32, k: i32| {
            ((0.1 + 0.9 * (f64::from(k) + 0.5) / f64::from(1 << (bits - e))) / 10f64.powi(e)) as f32
        };
        let positive = (0..=6).rev().flat_map(|e| (0..1 << (bits - e)).map(move |k| value(e, k)));
        let mut values: Vec<f32> = positive.chain([0.0, 1.0]).collect();
        if codes == Codes::Signed {
            let negative: Vec<f32> = values.iter().filter(|v| **v > 0.0 && **v < 1.0).map(|v| -v).collect();
            values.extend(negative);
        }
        values.sort_by(f32::total_cmp);
        let values: [f32; 256] = values.try_into().expect("all codes");
        let bounds = std::array::from_fn(|c| match c {
            0 => f32::NEG_INFINITY,
            _ => (values[c - 1] + values[c]) * 0.5,
        });
        Map { values, bounds }
    }
}

impl Codes {
    fn map(self) -> &'static Map {
        &MAPS[self as usize]
    }

    /// The value of a code.
    pub fn value(self, code: u8) -> f32 {
        self.map().values[usize::from(code)]
    }

    /// The code of the nearest value (the larger of two).
    pub fn nearest(self, x: f32) -> u8 {
        (self.map().bounds.partition_point(|bound| *bound <= x).max(1) - 1) as u8
    }
}

/// Moments that share a largest magnitude.
pub const GROUP: usize = 256;

/// Writes moments as codes; returns their largest magnitude. Code zero of the unsigned kind is for zero alone: see
/// [`crate::AdamW8bit`].
pub(crate) fn encode(codes: Codes, x: &[f32], to: &mut [u8]) -> f32 {
    let larger = |a: f32, b: f32| if b > a || b.is_nan() { b } else { a };
    let largest = x.iter().fold(0.0, |a, x| larger(a, x.abs()));
    let inverse = if largest >= f32::MIN_POSITIVE { 1.0 / largest } else { 0.0 };
    for (to, x) in to.iter_mut().zip(x) {
        let code = codes.nearest(x * inverse);
        *to = if codes == Codes::Unsigned && *x > 0.0 { code.max(1) } else { code };
    }
    largest
}

/// The reverse.
pub(crate) fn decode(codes: Codes, from: &[u8], largest: f32, to: &mut [f32]) {
    let values = &codes.map().values;
    to.iter_mut().zip(from).for_each(|(to, code)| *to = values[usize::from(*code)] * largest);
}
