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
    /// A number belongs to the last code whose bound is not above it; infinity is the bound after the last.
    bounds: [f32; 257],
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
            256 => f32::INFINITY,
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

/// [`Codes::nearest`] without a search, at most one off: the rank from the decimal exponent and the cell. Branch-free, so
/// that it becomes SIMD.
#[inline(always)]
fn guess<const SIGNED: bool>(x: f32) -> i32 {
    let all = if SIGNED { 64.0f32 } else { 128.0 };
    let (a, mut power, mut cells) = (x.abs(), 1.0f32, all);
    for (below, p, part) in [
        (1e-1, 1e1, 1.0 / 2.0),
        (1e-2, 1e2, 1.0 / 4.0),
        (1e-3, 1e3, 1.0 / 8.0),
        (1e-4, 1e4, 1.0 / 16.0),
        (1e-5, 1e5, 1.0 / 32.0),
        (1e-6, 1e6, 1.0 / 64.0),
    ] {
        power = if a < below { p } else { power };
        cells = if a < below { part * all } else { cells };
    }
    let cell = (a * power - 0.1) * (cells * (1.0 / 0.9));
    let cell = if cell > 0.0 { cell } else { 0.0 };
    let cell = if cell < cells - 1.0 { cell } else { cells - 1.0 };
    // Adding 2^23 leaves the rank among the positive values, from 1 (2 of the unsigned kind), in the low bits.
    let rank = ((cell + cells) - 0.4999 + 8_388_608.0).to_bits() as i32 & 0x1ff;
    match (SIGNED, x < 0.0) {
        (false, _) => rank - 1,
        (true, false) => 127 + rank,
        (true, true) => 127 - rank,
    }
}

/// The guess, put right.
#[inline(always)]
fn exact(guess: i32, x: f32, bounds: &[f32; 257]) -> u8 {
    let code = guess.clamp(0, 255);
    let (low, high) = (bounds[code as usize], bounds[code as usize + 1]);
    (code - i32::from(x < low) + i32::from(x >= high)) as u8
}

/// Moments that share a largest magnitude.
pub const GROUP: usize = 256;

cpu::simd_fn! {
    /// Writes moments of a group as codes; returns their largest magnitude. Code zero of the unsigned kind is for zero
    /// alone: see [`crate::AdamW8bit`].
    pub(crate) fn encode(codes: Codes, x: &[f32], to: &mut [u8]) -> f32 {
        let mut largest = 0.0f32;
        for x in x {
            let a = x.abs();
            largest = if a > largest || a.is_nan() { a } else { largest };
        }
        let inverse = if largest >= f32::MIN_POSITIVE { 1.0 / largest } else { 0.0 };
        let (mut parts, mut guesses) = ([0.0f32; GROUP], [0i32; GROUP]);
        parts.iter_mut().zip(x).for_each(|(part, x)| *part = *x * inverse);
        match codes {
            Codes::Signed => guesses.iter_mut().zip(&parts).for_each(|(g, x)| *g = guess::<true>(*x)),
            Codes::Unsigned => guesses.iter_mut().zip(&parts).for_each(|(g, x)| *g = guess::<false>(*x)),
        }
        let bounds = &codes.map().bounds;
        for i in 0..to.len() {
            let code = exact(guesses[i], parts[i], bounds);
            to[i] = if codes == Codes::Unsigned && x[i] > 0.0 { code.max(1) } else { code };
        }
        largest
    }
}

/// The reverse.
pub(crate) fn decode(codes: Codes, from: &[u8], largest: f32, to: &mut [f32]) {
    let values = &codes.map().values;
    to.iter_mut().zip(from).for_each(|(to, code)| *to = values[usize::from(*code)] * largest);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_computed_rank_is_the_nearest_code() {
        for codes in [Codes::Signed, Codes::Unsigned] {
            let bounds = &codes.map().bounds;
            // Every 1001st number of [0, 1], and both sides of every bound.
            let sweep = (0..=1.0f32.to_bits()).step_by(1001).map(f32::from_bits);
            let edges = (1..256).flat_map(|c| {
                let at = bounds[c].to_bits();
                [at - 1, at, at + 1].map(f32::from_bits)
            });
            for x in sweep.chain(edges).chain([0.0, 1.0, 1.0000001]) {
                if codes == Codes::Unsigned {
                    assert_eq!(exact(guess::<false>(x), x, bounds), codes.nearest(x), "{x}");
                    continue;
                }
                assert_eq!(exact(guess::<true>(x), x, bounds), codes.nearest(x), "{x}");
                assert_eq!(exact(guess::<true>(-x), -x, bounds), codes.nearest(-x), "-{x}");
            }
        }
    }
}
