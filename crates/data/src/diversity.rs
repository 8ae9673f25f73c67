//! How varied a set of texts is.

use std::collections::HashSet;

use crate::baseline::words;

/// Distinct n-grams over all n-grams of all texts (distinct-n; Li et al., arXiv 1510.03055), in 0..=1; 0 where
/// there is no n-gram.
pub fn distinct_n<T: AsRef<str>>(texts: &[T], n: usize) -> f64 {
    let (mut seen, mut total) = (HashSet::new(), 0usize);
    for text in texts {
        let words = words(text.as_ref());
        for gram in words.windows(n.max(1)) {
            total += 1;
            seen.insert(gram.to_vec());
        }
    }
    if total == 0 { 0.0 } else { seen.len() as f64 / total as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_distinct_ngrams() {
        assert_eq!(distinct_n(&["a b a b", "A, b!"], 2), 2.0 / 4.0);
        assert_eq!(distinct_n(&["a b c"], 1), 1.0);
        assert_eq!(distinct_n::<&str>(&[], 2), 0.0);
        assert_eq!(distinct_n(&["one"], 2), 0.0);
    }
}
