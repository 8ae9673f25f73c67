//! Short movie reviews of known sentiment, written by a seeded grammar, and an oracle that reads any text back.
//!
//! A review is a neutral opening (the prompt) and one to three sentences of opinion (the completion). Its
//! sentiment is composed while it is written, from negations, concessions, degrees and unfulfilled
//! expectations as much as from words, so no single word gives the label away.

mod clauses;
mod grammar;
#[rustfmt::skip] // tables: one entry a line would be hundreds of lines
mod lexicon;
mod openings;
mod oracle;

pub use oracle::{NEUTRAL_BELOW, Opinion, Verdict, oracle, sentiment};

use crate::{Dataset, Demonstration, Label, Labelled, Ranked, Rng};
use clauses::Writer;

/// Share of reviews meant to be positive.
const POSITIVE_SHARE: f64 = 0.47;
/// Reviews that lean less than this are thrown away.
const CLEAR: f32 = 0.2;
/// Words in a completion.
const LENGTH: std::ops::RangeInclusive<usize> = 10..=30;
/// Share of ranked pairs whose rejected answer stops after one remark.
const CUT_SHORT: f64 = 0.2;
/// How far apart the two answers of a ranked pair must be.
const PAIR_GAP: f32 = 0.3;

/// A generated review.
#[derive(Clone, Debug, PartialEq)]
pub struct Review {
    /// One or two neutral sentences about what was seen, when and with whom.
    pub prompt: String,
    /// One to three sentences of opinion, 10 to 30 words.
    pub completion: String,
    /// -1 (scorn) to 1 (praise), never near 0.
    pub sentiment: f32,
    /// The sign of `sentiment`.
    pub label: Label,
}

impl Review {
    /// Prompt and completion joined by a space.
    pub fn text(&self) -> String {
        format!("{} {}", self.prompt, self.completion)
    }
}

/// An endless source of reviews; the seed gives the whole sequence.
///
/// ```
/// let mut reviews = data::reviews::Reviews::new(1);
/// let review = reviews.review();
/// assert_eq!(data::reviews::oracle(&review.text()).score > 0.0, review.sentiment > 0.0);
/// ```
#[derive(Clone, Debug)]
pub struct Reviews {
    rng: Rng,
}

impl Reviews {
    /// A source of its own for each seed.
    pub fn new(seed: u64) -> Reviews {
        Reviews { rng: Rng::new(seed ^ 0x7265_7669_6577_7321) }
    }

    /// A neutral opening.
    pub fn prompt(&mut self) -> String {
        openings::opening(&mut self.rng)
    }

    /// A review with a fresh prompt.
    pub fn review(&mut self) -> Review {
        let prompt = self.prompt();
        let (completion, sentiment) = self.completion();
        let label = if sentiment > 0.0 { Label::Positive } else { Label::Negative };
        Review { prompt, completion, sentiment, label }
    }

    /// A review as classified text; the rating is its sentiment.
    pub fn labelled(&mut self) -> Labelled {
        let review = self.review();
        Labelled { text: review.text(), label: review.label, rating: Some(review.sentiment) }
    }

    /// A review as prompt and answer.
    pub fn demonstration(&mut self) -> Demonstration {
        let Review { prompt, completion, .. } = self.review();
        Demonstration { prompt, completion }
    }

    /// Two reviews of one prompt: the kinder one chosen where their sentiments differ clearly, and in a few pairs
    /// a finished review over its own first remark, since readers want more than a line.
    pub fn ranked_pair(&mut self) -> Ranked {
        let prompt = self.prompt();
        let cut_short = self.rng.chance(CUT_SHORT);
        loop {
            if cut_short {
                let (chosen, sentiment) = self.completion();
                match chosen.split_once(". ") {
                    Some((first, _)) if sentiment > 0.0 => {
                        let rejected = format!("{first}.");
                        return Ranked { prompt, chosen, rejected };
                    }
                    _ => continue,
                }
            }
            let (a, b) = (self.completion(), self.completion());
            if (a.1 - b.1).abs() >= PAIR_GAP {
                let (chosen, rejected) = if a.1 > b.1 { (a.0, b.0) } else { (b.0, a.0) };
                return Ranked { prompt, chosen, rejected };
            }
        }
    }

    /// The next `n` classified texts.
    pub fn labelled_set(&mut self, n: usize) -> Dataset<Labelled> {
        (0..n).map(|_| self.labelled()).collect()
    }

    /// The next `n` demonstrations.
    pub fn demonstrations(&mut self, n: usize) -> Dataset<Demonstration> {
        (0..n).map(|_| self.demonstration()).collect()
    }

    /// The next `n` ranked pairs.
    pub fn ranked_pairs(&mut self, n: usize) -> Dataset<Ranked> {
        (0..n).map(|_| self.ranked_pair()).collect()
    }

    /// The next `n` prompts.
    pub fn prompts(&mut self, n: usize) -> Vec<String> {
        (0..n).map(|_| self.prompt()).collect()
    }

    /// Opinion sentences and their composed sentiment, drawn until clear and of the right length.
    fn completion(&mut self) -> (String, f32) {
        let target = if self.rng.chance(POSITIVE_SHARE) { 1.0 } else { -1.0 };
        loop {
            let (text, sum) = Writer::new(&mut self.rng).opinions(target);
            let sentiment = oracle::squash(sum);
            if sentiment * target >= CLEAR && LENGTH.contains(&text.split(' ').count()) {
                return (text, sentiment);
            }
        }
    }
}

#[cfg(test)]
mod tests;
