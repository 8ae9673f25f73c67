//! The normaliser of a row of logits.
//!
//! What makes it fast and exact: one pass for the maximum, one for the sum, both in 16 lanes with the
//! vector exponential; f32 sums within chunks of [`CHUNK`] logits, f64 across chunks, so that 50k terms lose
//! no more digits than 32 per lane do. The order is fixed by the row's length alone.

/// Logits per partial sum; part of the summation order.
pub const CHUNK: usize = 512;
const LANES: usize = 16;

/// What is known of a row after [`row_softmax`]. With z = logit * inv_temperature, a token's probability is
/// exp(z - max) / sum and its log-probability z - lse.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RowSoftmax {
    /// Largest z.
    pub max: f32,
    /// Sum of exp(z - max).
    pub sum: f64,
    /// max + ln(sum); NaN when any logit is NaN or +infinity, or all are -infinity.
    pub lse: f32,
}

impl RowSoftmax {
    #[inline(always)]
    fn new(max: f32, sum: f64) -> Self {
        // `cpu::ln` takes positive normal numbers only.
        let lse = if sum.is_finite() && sum > 0.0 { max + cpu::ln(sum as f32) } else { f32::NAN };
        RowSoftmax { max, sum, lse }
    }
}

/// ln sum exp(logit * inv_temperature): a token's log-probability is logit * inv_temperature minus this.
/// NaN when any logit is NaN.
pub fn log_sum_exp(row: &[f32], inv_temperature: f32) -> f32 {
    normalise(row, inv_temperature, None).lse
}

/// [`log_sum_exp`] with its parts; `sums`, when given, receives the sum of exp(z - max) of each chunk of
/// [`CHUNK`] logits (room for `row.len().div_ceil(CHUNK)`), for drawing from the distribution.
pub fn row_softmax(row: &[f32], inv_temperature: f32, sums: Option<&mut [f32]>) -> RowSoftmax {
    normalise(row, inv_temperature, sums)
}

cpu::simd_fn! {
    fn normalise(row: &[f32], inv_temperature: f32, sums: Option<&mut [f32]>) -> RowSoftmax {
        let max = cpu::max(row) * inv_temperature;
        let mut total = 0.0f64;
        match sums {
            Some(sums) => {
                for (chunk, sum) in row.chunks(CHUNK).zip(sums) {
                    *sum = exp_sum(chunk, inv_temperature, max);
                    total += f64::from(*sum);
                }
            }
            None => {
                for chunk in row.chunks(CHUNK) {
                    total += f64::from(exp_sum(chunk, inv_temperature, max));
                }
            }
        }
        RowSoftmax::new(max, total)
    }
}

cpu::simd_fn! {
    /// The softmax of a row, and its entropy -sum p ln p. The softmax has [`row_softmax`]'s bits.
    pub(crate) fn with_entropy(row: &[f32], inv_temperature: f32) -> (RowSoftmax, f32) {
        let max = cpu::max(row) * inv_temperature;
        let (mut total, mut moment) = (0.0f64, 0.0f64);
        for chunk in row.chunks(CHUNK) {
            let (sum, weighted) = lane_sums(chunk, inv_temperature, max, |d| {
                let e = cpu::exp(d);
                (e, if e == 0.0 { 0.0 } else { e * d }) // 0 * -infinity
            });
            total += f64::from(sum);
            moment += f64::from(weighted);
        }
        let s = RowSoftmax::new(max, total);
        // H = ln(sum) - sum e^(z - max) (z - max) / sum.
        let entropy = (s.lse - max) as f64 - moment / total;
        (s, entropy as f32)
    }
}

/// Both sums of `f(z - max)` over a chunk, each in 16 lanes and then a tree.
#[inline(always)]
fn lane_sums(chunk: &[f32], inv_temperature: f32, max: f32, f: impl Fn(f32) -> (f32, f32)) -> (f32, f32) {
    let (mut first, mut second) = ([0.0f32; LANES], [0.0f32; LANES]);
    let mut groups = chunk.chunks_exact(LANES);
    for g in &mut groups {
        for i in 0..LANES {
            let (a, b) = f(g[i] * inv_temperature - max);
            first[i] += a;
            second[i] += b;
        }
    }
    for (i, x) in groups.remainder().iter().enumerate() {
        let (a, b) = f(*x * inv_temperature - max);
        first[i] += a;
        second[i] += b;
    }
    (cpu::sum(&first), cpu::sum(&second))
}

#[inline(always)]
fn exp_sum(chunk: &[f32], inv_temperature: f32, max: f32) -> f32 {
    lane_sums(chunk, inv_temperature, max, |d| (cpu::exp(d), 0.0)).0
}
