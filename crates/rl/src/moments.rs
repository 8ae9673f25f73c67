//! Means, variances, whitening, and moments that run over batches.

use serde::{Deserialize, Serialize};

use crate::error::{Result, check_len};

/// The mean, 0 for no values.
pub fn mean(values: &[f32]) -> f64 {
    if values.is_empty() {
        return 0.0;
    }
    values.iter().map(|&v| f64::from(v)).sum::<f64>() / values.len() as f64
}

/// The unbiased variance (divided by `n - 1`), 0 for fewer than two values. Two passes in `f64`.
pub fn variance(values: &[f32]) -> f64 {
    if values.len() < 2 {
        return 0.0;
    }
    let m = mean(values);
    values.iter().map(|&v| (f64::from(v) - m).powi(2)).sum::<f64>() / (values.len() - 1) as f64
}

/// Whitens in place: `(v - mean) / sqrt(variance + 1e-8)`, variance unbiased. With `shift_mean` false the
/// mean is put back, so that only the scale changes (used for rewards, whose mean is their meaning).
pub fn whiten(values: &mut [f32], shift_mean: bool) {
    let (m, var) = (mean(values), variance(values));
    apply_whitening(values, m, var, shift_mean);
}

/// [`whiten`] over the values whose `mask` is true; the others become 0 and count for nothing.
///
/// # Errors
/// [`crate::Error::Length`] when `mask` and `values` differ in length.
pub fn whiten_masked(values: &mut [f32], mask: &[bool], shift_mean: bool) -> Result<()> {
    check_len("mask", mask.len(), values.len(), "one per value")?;
    let mut kept: Vec<f32> = values.iter().zip(mask).filter(|(_, m)| **m).map(|(v, _)| *v).collect();
    whiten(&mut kept, shift_mean);
    let mut kept = kept.into_iter();
    for (v, &m) in values.iter_mut().zip(mask) {
        *v = if m { kept.next().unwrap_or(0.0) } else { 0.0 };
    }
    Ok(())
}

fn apply_whitening(values: &mut [f32], mean: f64, variance: f64, shift_mean: bool) {
    let scale = 1.0 / (variance + 1e-8).sqrt();
    let back = if shift_mean { 0.0 } else { mean };
    for v in values {
        *v = ((f64::from(*v) - mean) * scale + back) as f32;
    }
}

/// Count, mean and variance of everything seen so far, one batch at a time, without keeping the values
/// (the pairwise update of Chan, Golub and LeVeque, 1983).
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunningMoments {
    /// Values seen.
    pub count: u64,
    /// Their mean.
    pub mean: f64,
    /// The sum of their squared distances from the mean.
    pub m2: f64,
}

impl RunningMoments {
    /// Takes in a batch. The caller keeps non-finite values out.
    pub fn update(&mut self, values: &[f32]) {
        if values.is_empty() {
            return;
        }
        let (n, m) = (values.len() as f64, mean(values));
        let m2: f64 = values.iter().map(|&v| (f64::from(v) - m).powi(2)).sum();
        let (before, delta) = (self.count as f64, m - self.mean);
        let total = before + n;
        self.mean += delta * n / total;
        self.m2 += m2 + delta * delta * before * n / total;
        self.count += values.len() as u64;
    }

    /// The unbiased standard deviation; 1 while fewer than two values have been seen.
    pub fn std(&self) -> f64 {
        if self.count < 2 { 1.0 } else { (self.m2 / (self.count - 1) as f64).sqrt() }
    }
}
