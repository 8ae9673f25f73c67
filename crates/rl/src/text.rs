//! Measures of generated text that need token ids or log-probabilities only.

use std::collections::HashSet;

use crate::error::Result;
use crate::ragged::{check_starts, responses};

/// Distinct n-grams over all n-grams of the batch, pooled (Li et al., arXiv 1510.03055): 1 when none is
/// repeated, near 0 when every response says the same. It falls with the number of tokens, so compare
/// batches of equal size. 1 when no response has `n` tokens.
///
/// # Errors
/// Those of [`check_starts`]; `n` = 0 counts as 1.
pub fn distinct_n(tokens: &[u32], starts: &[usize], n: usize) -> Result<f64> {
    check_starts(starts, tokens.len())?;
    let (mut seen, mut total) = (HashSet::new(), 0usize);
    for gram in responses(tokens, starts).flat_map(|r| r.windows(n.max(1))) {
        seen.insert(gram);
        total += 1;
    }
    Ok(if total == 0 { 1.0 } else { seen.len() as f64 / total as f64 })
}

/// The mean over responses of each response's own distinct-n: it sees repetition within a text, and does
/// not depend on the number of responses. Responses shorter than `n` tokens are left out; 1 when all are.
///
/// # Errors
/// Those of [`check_starts`]; `n` = 0 counts as 1.
pub fn mean_distinct_n(tokens: &[u32], starts: &[usize], n: usize) -> Result<f64> {
    check_starts(starts, tokens.len())?;
    let n = n.max(1);
    let (mut sum, mut count) = (0.0, 0usize);
    for response in responses(tokens, starts).filter(|r| r.len() >= n) {
        let seen: HashSet<&[u32]> = response.windows(n).collect();
        sum += seen.len() as f64 / (response.len() + 1 - n) as f64;
        count += 1;
    }
    Ok(if count == 0 { 1.0 } else { sum / count as f64 })
}

/// `exp` of the mean negative log-probability per token (nats); 1 for no tokens.
pub fn perplexity(logprob: &[f32]) -> f64 {
    (-crate::moments::mean(logprob)).exp()
}
