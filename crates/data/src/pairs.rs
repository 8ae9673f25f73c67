//! Ranked pairs out of rated texts.

use std::collections::HashSet;

use crate::{DataError, Labelled, Ranked, Rng};

/// Up to `n` different pairs of texts whose ratings differ by at least `min_gap`, the higher rated one chosen;
/// prompts are empty. Every text is drawn about equally often. Fewer than `n` come back where there are not
/// as many pairs.
///
/// # Errors
/// If `min_gap` is not positive, an item has no rating, or no two ratings differ that much.
pub fn pairs_from_ratings(
    items: &[Labelled],
    min_gap: f32,
    n: usize,
    seed: u64,
) -> Result<Vec<Ranked>, DataError> {
    if min_gap.is_nan() || min_gap <= 0.0 {
        return Err(DataError::Request(format!("the rating gap must be positive, not {min_gap}")));
    }
    let mut rated = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        let Some(rating) = item.rating else {
            let problem = format!("record {index} has no rating; pairs need a `rating` for every text");
            return Err(DataError::Request(problem));
        };
        rated.push((rating, item.text.as_str()));
    }
    rated.sort_by(|a, b| a.0.total_cmp(&b.0));
    if rated.last().zip(rated.first()).is_none_or(|(high, low)| high.0 - low.0 < min_gap) {
        let problem =
            format!("no two of the {} ratings differ by {min_gap} or more; lower the gap", rated.len());
        return Err(DataError::Request(problem));
    }
    let (mut rng, mut seen, mut pairs) = (Rng::new(seed), HashSet::new(), Vec::with_capacity(n));
    // many times over what is needed, so that only exhausted sets fall short
    for _ in 0..n.saturating_mul(20) {
        if pairs.len() == n {
            break;
        }
        let i = rng.below(rated.len());
        let below = rated.partition_point(|r| rated[i].0 - r.0 >= min_gap);
        let above = rated.partition_point(|r| r.0 - rated[i].0 < min_gap);
        let others = below + rated.len() - above;
        if others == 0 {
            continue;
        }
        let k = rng.below(others);
        let (low, high) = if k < below { (k, i) } else { (i, above + k - below) };
        if seen.insert((low, high)) {
            let (chosen, rejected) = (rated[high].1.to_owned(), rated[low].1.to_owned());
            pairs.push(Ranked { prompt: String::new(), chosen, rejected });
        }
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Label;

    fn rated(ratings: &[f32]) -> Vec<Labelled> {
        let item = |r: &f32| Labelled { text: r.to_string(), label: Label::Positive, rating: Some(*r) };
        ratings.iter().map(item).collect()
    }

    #[test]
    fn gap_order_and_seed_hold() {
        let items = rated(&[3.0, -2.0, 0.5, 0.0, 1.5, -3.5, 2.25]);
        let pairs = pairs_from_ratings(&items, 1.0, 12, 4).unwrap();
        assert_eq!(pairs.len(), 12);
        assert_eq!(pairs, pairs_from_ratings(&items, 1.0, 12, 4).unwrap());
        assert_ne!(pairs, pairs_from_ratings(&items, 1.0, 12, 5).unwrap());
        for pair in &pairs {
            let gap = pair.chosen.parse::<f32>().unwrap() - pair.rejected.parse::<f32>().unwrap();
            assert!(gap >= 1.0, "{pair:?}");
        }
        let exhausted = pairs_from_ratings(&rated(&[0.0, 1.0, 2.0]), 2.0, 100, 0).unwrap();
        assert_eq!(exhausted.len(), 1);
    }

    #[test]
    fn impossible_requests_say_why() {
        let message = |items: &[Labelled], gap| pairs_from_ratings(items, gap, 3, 0).unwrap_err().to_string();
        assert!(message(&rated(&[0.0, 0.5]), 1.0).contains("lower the gap"));
        assert!(message(&[], 1.0).contains("lower the gap"));
        assert!(message(&rated(&[0.0]), 0.0).contains("must be positive"));
        let bare = Labelled { text: String::new(), label: Label::Positive, rating: None };
        assert!(message(&[bare], 1.0).contains("record 0 has no rating"));
    }
}
