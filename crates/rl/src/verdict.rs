//! How good a reward model is, from its scores on preference pairs.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, check_finite, check_len};

/// One bar of the margin histogram: `low <= margin < high` (the last bar includes its upper end).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct MarginBin {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Pairs in it.
    pub count: usize,
}

/// One bar of the reliability diagram.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CalibrationBin {
    /// Lower end of the confidence, in 0.5..1.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Pairs in it.
    pub count: usize,
    /// Their mean confidence, 0 when there are none.
    pub confidence: f64,
    /// The share of them ordered rightly, 0 when there are none.
    pub accuracy: f64,
}

/// What a reward model's scores say of held-out pairs. Depends on the scores alone.
///
/// A margin is `chosen - rejected`. Under Bradley-Terry the model prefers the higher score with confidence
/// `sigmoid(|margin|)` and is right when the margin is positive; a tie counts as half right.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RewardVerdict {
    /// Pairs judged.
    pub pairs: usize,
    /// The share of pairs with `chosen > rejected`, ties counting half.
    pub accuracy: f64,
    /// Pairs with equal scores.
    pub ties: usize,
    /// Mean margin.
    pub margin_mean: f64,
    /// Unbiased standard deviation of the margins.
    pub margin_std: f64,
    /// Mean `-log sigmoid(margin)`: the held-out loss.
    pub loss: f64,
    /// Twenty equal bars from the smallest margin to the largest.
    pub histogram: Vec<MarginBin>,
    /// Ten equal bars over confidence 0.5..1.
    pub calibration: Vec<CalibrationBin>,
    /// Expected calibration error: the mean of |accuracy - confidence| over the bars, weighted by pairs
    /// (Guo et al., arXiv 1706.04599, eq. 3).
    pub ece: f64,
}

const MARGIN_BINS: usize = 20;
const CALIBRATION_BINS: usize = 10;

impl RewardVerdict {
    /// Judges `chosen[i]` against `rejected[i]`.
    ///
    /// # Errors
    /// [`Error::Length`], [`Error::NonFinite`], or [`Error::Missing`] when there are no pairs.
    pub fn new(chosen: &[f32], rejected: &[f32]) -> Result<RewardVerdict> {
        check_len("rejected", rejected.len(), chosen.len(), "one per pair")?;
        check_finite("chosen", chosen)?;
        check_finite("rejected", rejected)?;
        if chosen.is_empty() {
            return Err(Error::Missing { name: "chosen", why: "a verdict needs at least one pair".into() });
        }
        let margins: Vec<f64> =
            chosen.iter().zip(rejected).map(|(&c, &r)| f64::from(c) - f64::from(r)).collect();
        let n = margins.len() as f64;
        let margin_mean = margins.iter().sum::<f64>() / n;
        let squares: f64 = margins.iter().map(|m| (m - margin_mean).powi(2)).sum();
        let calibration = calibration(&margins);
        let ece = calibration.iter().map(|b| b.count as f64 / n * (b.accuracy - b.confidence).abs()).sum();
        Ok(RewardVerdict {
            pairs: margins.len(),
            accuracy: margins.iter().map(|&m| rightness(m)).sum::<f64>() / n,
            ties: margins.iter().filter(|m| **m == 0.0).count(),
            margin_mean,
            margin_std: if margins.len() < 2 { 0.0 } else { (squares / (n - 1.0)).sqrt() },
            loss: margins.iter().map(|&m| softplus(-m)).sum::<f64>() / n,
            histogram: histogram(&margins),
            calibration,
            ece,
        })
    }
}

fn rightness(margin: f64) -> f64 {
    if margin > 0.0 {
        1.0
    } else if margin == 0.0 {
        0.5
    } else {
        0.0
    }
}

/// `log(1 + exp(x))` without overflow.
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

fn histogram(margins: &[f64]) -> Vec<MarginBin> {
    let low = margins.iter().copied().fold(f64::INFINITY, f64::min);
    let high = margins.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    // Equal margins all the way: one bar wide enough to draw.
    let (low, high) = if low == high { (low - 0.5, high + 0.5) } else { (low, high) };
    let edge = |i: usize| low + (high - low) * i as f64 / MARGIN_BINS as f64;
    let mut bins: Vec<MarginBin> =
        (0..MARGIN_BINS).map(|i| MarginBin { low: edge(i), high: edge(i + 1), count: 0 }).collect();
    for m in margins {
        let i = bins.partition_point(|b| b.low <= *m).saturating_sub(1);
        bins[i].count += 1;
    }
    bins
}

fn calibration(margins: &[f64]) -> Vec<CalibrationBin> {
    let edge = |i: usize| 0.5 + 0.5 * i as f64 / CALIBRATION_BINS as f64;
    let mut bins: Vec<CalibrationBin> = (0..CALIBRATION_BINS)
        .map(|i| CalibrationBin { low: edge(i), high: edge(i + 1), count: 0, confidence: 0.0, accuracy: 0.0 })
        .collect();
    for &m in margins {
        let confidence = 1.0 / (1.0 + (-m.abs()).exp());
        let i = bins.partition_point(|b| b.low <= confidence).saturating_sub(1);
        bins[i].count += 1;
        bins[i].confidence += confidence;
        bins[i].accuracy += rightness(m);
    }
    for b in bins.iter_mut().filter(|b| b.count > 0) {
        b.confidence /= b.count as f64;
        b.accuracy /= b.count as f64;
    }
    bins
}
