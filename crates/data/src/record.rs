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

impl Demonstration {
    /// Cuts a text after its first `prompt_words` words, so that texts alone can serve as demonstrations and
    /// prompts. `None` where nothing would be left to write.
    pub fn from_text(text: &str, prompt_words: usize) -> Option<Demonstration> {
        let text = text.trim();
        let mut blank_before = true;
        let mut starts = text.char_indices().filter(|(_, c)| {
            let starts_word = blank_before && !c.is_whitespace();
            blank_before = c.is_whitespace();
            starts_word
        });
        let (at, _) = starts.nth(prompt_words)?;
        Some(Demonstration { prompt: text[..at].trim_end().to_owned(), completion: text[at..].to_owned() })
    }
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

    /// Shuffles by `seed` and cuts into training (80 %), validation (10 %) and test (10 %) sets.
    ///
    /// # Errors
    /// If there are fewer than three records.
    pub fn split_80_10_10(self, seed: u64) -> Result<[Dataset<T>; 3], DataError> {
        let n = self.len();
        if n < 3 {
            return Err(DataError::Request(format!("{n} records cannot be split in three; give at least 3")));
        }
        let tenth = ((n as f64 * 0.1).round() as usize).max(1);
        let mut items = self.shuffled(seed).items;
        let test = items.split_off(n - tenth);
        let validation = items.split_off(n - 2 * tenth);
        Ok([items, validation, test].map(Dataset::new))
    }
}

impl Dataset<Labelled> {
    /// Without the texts rated exactly 0, which the sign of a mean rating cannot place.
    pub fn decided(mut self) -> Dataset<Labelled> {
        self.items.retain(|item| item.rating != Some(0.0));
        self
    }

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
    fn three_parts_share_nothing() {
        let parts = (0..1000u32).collect::<Dataset<_>>().split_80_10_10(3).unwrap();
        assert_eq!(parts.each_ref().map(Dataset::len), [800, 100, 100]);
        let mut all: Vec<u32> = parts.into_iter().flat_map(|p| p.items).collect();
        all.sort_unstable();
        assert_eq!(all, (0..1000).collect::<Vec<_>>());
        assert_eq!((0..3).collect::<Dataset<_>>().split_80_10_10(3).unwrap().map(|p| p.len()), [1, 1, 1]);
        assert!(Dataset::new(vec![1, 2]).split_80_10_10(3).is_err());
    }

    #[test]
    fn texts_become_demonstrations() {
        let cut = Demonstration::from_text(" a  fine film . ", 2).unwrap();
        assert_eq!((cut.prompt.as_str(), cut.completion.as_str()), ("a  fine", "film ."));
        assert_eq!(Demonstration::from_text("a fine", 2), None);
        assert_eq!(Demonstration::from_text("a fine", 0).unwrap().prompt, "");
    }

    #[test]
    fn labels_in_every_spelling() {
        assert_eq!(Label::parse(" POS "), Some(Label::Positive));
        assert_eq!(Label::parse("0"), Some(Label::Negative));
        assert_eq!(Label::parse("good"), None);
    }
}
