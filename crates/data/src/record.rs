//! The records that training takes, and sets of them.

use serde::{Deserialize, Serialize};

use crate::{DataError, Rng};

/// Which way an opinion goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Label {
    /// Class 0.
    Negative,
    /// Class 1.
    Positive,
}

impl Label {
    /// 0 for negative, 1 for positive.
    pub fn index(self) -> usize {
        self as usize
    }

    /// `negative` or `positive`.
    pub fn name(self) -> &'static str {
        match self {
            Label::Negative => "negative",
            Label::Positive => "positive",
        }
    }

    /// Reads `0`, `1`, `neg`, `pos`, `negative`, `positive`, `false`, `true` in any case, also `-1`, `0.0`, `1.0`.
    pub fn parse(text: &str) -> Option<Label> {
        match text.trim().to_ascii_lowercase().as_str() {
            "0" | "0.0" | "-1" | "neg" | "negative" | "false" => Some(Label::Negative),
            "1" | "1.0" | "pos" | "positive" | "true" => Some(Label::Positive),
            _ => None,
        }
    }
}

/// A text with its class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Labelled {
    /// The whole text.
    pub text: String,
    /// Its class.
    pub label: Label,
    /// A finer judgement where the source has one, on the source's own scale.
    pub rating: Option<f32>,
}

/// A prompt and a good answer, for supervised fine-tuning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Demonstration {
    /// What the model is given.
    pub prompt: String,
    /// What it should write.
    pub completion: String,
}

/// Two answers to one prompt, the better one named, for reward models.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ranked {
    /// What both answers follow; may be empty.
    pub prompt: String,
    /// The preferred answer.
    pub chosen: String,
    /// The other one.
    pub rejected: String,
}

/// Records in a fixed order.
#[derive(Clone, Debug, PartialEq)]
pub struct Dataset<T> {
    /// The records.
    pub items: Vec<T>,
}

/// A data set cut in two, no record in both.
#[derive(Clone, Debug, PartialEq)]
pub struct Split<T> {
    /// To learn from.
    pub train: Dataset<T>,
    /// Never learned from.
    pub held_out: Dataset<T>,
}

impl<T> Dataset<T> {
    /// A set of the records in the order given.
    pub fn new(items: Vec<T>) -> Dataset<T> {
        Dataset { items }
    }

    /// How many records.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The same records in an order given by `seed` alone.
    pub fn shuffled(mut self, seed: u64) -> Dataset<T> {
        Rng::new(seed).shuffle(&mut self.items);
        self
    }

    /// Shuffles by `seed` and sets `round(held_out * len)` records aside, at least one on either side.
    ///
    /// # Errors
    /// If `held_out` is not within 0..1 or there are fewer than two records.
    pub fn split(self, held_out: f64, seed: u64) -> Result<Split<T>, DataError> {
        if !(held_out > 0.0 && held_out < 1.0) {
            return Err(DataError::Request(format!(
                "the held-out share must lie between 0 and 1, not {held_out}"
            )));
        }
        let n = self.len();
        if n < 2 {
            return Err(DataError::Request(format!("{n} records cannot be split; give at least 2")));
        }
        let aside = ((n as f64 * held_out).round() as usize).clamp(1, n - 1);
        let mut items = self.shuffled(seed).items;
        let held_out = items.split_off(n - aside);
        Ok(Split { train: Dataset { items }, held_out: Dataset { items: held_out } })
    }
}

impl Dataset<Labelled> {
    /// How many records are negative and positive.
    pub fn class_counts(&self) -> [usize; 2] {
        self.items.iter().fold([0; 2], |mut counts, item| {
            counts[item.label.index()] += 1;
            counts
        })
    }
}

impl<T> From<Vec<T>> for Dataset<T> {
    fn from(items: Vec<T>) -> Dataset<T> {
        Dataset { items }
    }
}

impl<T> FromIterator<T> for Dataset<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Dataset<T> {
        Dataset { items: items.into_iter().collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_is_seeded_and_keeps_every_record_once() {
        let set: Dataset<u32> = (0..101).collect();
        let a = set.clone().split(0.1, 7).unwrap();
        assert_eq!(a, set.clone().split(0.1, 7).unwrap());
        assert_ne!(a, set.clone().split(0.1, 8).unwrap());
        assert_eq!((a.train.len(), a.held_out.len()), (91, 10));
        let mut all = [a.train.items, a.held_out.items].concat();
        all.sort_unstable();
        assert_eq!(all, set.items);
    }

    #[test]
    fn split_refuses_what_cannot_be_split() {
        assert!(Dataset::new(vec![1]).split(0.5, 0).unwrap_err().to_string().contains("at least 2"));
        assert!(Dataset::new(vec![1, 2]).split(1.0, 0).is_err());
        assert_eq!(Dataset::new(vec![1, 2]).split(0.01, 0).unwrap().held_out.len(), 1);
    }

    #[test]
    fn labels_in_every_spelling() {
        assert_eq!(Label::parse(" POS "), Some(Label::Positive));
        assert_eq!(Label::parse("0"), Some(Label::Negative));
        assert_eq!(Label::parse("good"), None);
    }
}
