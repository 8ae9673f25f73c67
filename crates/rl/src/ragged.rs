//! Flat arrays over the tokens of ragged responses.

use crate::error::{Error, Result, check_len};

/// Checks that `starts` describes at least one response over `tokens` tokens, none of them empty.
///
/// # Errors
/// [`Error::Starts`] or [`Error::EmptyResponse`].
pub fn check_starts(starts: &[usize], tokens: usize) -> Result<()> {
    if starts.len() < 2 {
        return Err(Error::Starts(format!(
            "{} offsets, at least 2 are needed for one response",
            starts.len()
        )));
    }
    if starts[0] != 0 {
        return Err(Error::Starts(format!("it begins with {}", starts[0])));
    }
    for (index, w) in starts.windows(2).enumerate() {
        if w[1] == w[0] {
            return Err(Error::EmptyResponse { index });
        }
        if w[1] < w[0] {
            return Err(Error::Starts(format!("offset {} falls from {} to {}", index + 1, w[0], w[1])));
        }
    }
    let end = starts[starts.len() - 1];
    if end != tokens {
        return Err(Error::Starts(format!("it ends with {end}, but there are {tokens} tokens")));
    }
    Ok(())
}

/// The responses' slices, in order. `starts` as checked by [`check_starts`].
pub fn responses<'a, T>(values: &'a [T], starts: &'a [usize]) -> impl ExactSizeIterator<Item = &'a [T]> + 'a {
    starts.windows(2).map(move |w| &values[w[0]..w[1]])
}

/// The sum of each response's values: `[T]` → `[R]`.
///
/// # Errors
/// Those of [`check_starts`].
pub fn sequence_sums(values: &[f32], starts: &[usize]) -> Result<Vec<f64>> {
    check_starts(starts, values.len())?;
    Ok(responses(values, starts).map(|r| r.iter().map(|&v| f64::from(v)).sum()).collect())
}

/// Spreads one value per response over its tokens: `[R]` → `[T]`.
///
/// # Errors
/// [`Error::Length`] when there is not one value per response, and those of [`check_starts`].
pub fn per_token(values: &[f32], starts: &[usize]) -> Result<Vec<f32>> {
    check_starts(starts, starts.last().copied().unwrap_or(0))?;
    check_len("values", values.len(), starts.len() - 1, "one per response")?;
    let mut out = Vec::with_capacity(starts[starts.len() - 1]);
    for (w, &v) in starts.windows(2).zip(values) {
        out.resize(w[1], v);
    }
    Ok(out)
}
