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
/// Share of a review's sentences that lean its way.
const COHERENCE: f64 = 0.82;
/// Kinds of ranked pairs and their shares: two reviews; two texts whose sentences agree on nothing, as a model's
/// answers often do; a good review over its own first remark; a good review over that remark said again and again.
const KINDS: [(PairKind, f64); 4] = [
    (PairKind::Reviews, 0.4),
    (PairKind::Mixed, 0.35),
    (PairKind::CutShort, 0.15),
    (PairKind::Repeated, 0.1),
];
/// How far apart the two answers of a ranked pair must be.
const PAIR_GAP: f32 = 0.3;

/// How the two answers of a ranked pair come about.
#[derive(Clone, Copy, Debug)]
enum PairKind {
    Reviews,
    Mixed,
    CutShort,
    Repeated,
}

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

    /// Two texts on one prompt: the kinder one chosen where their sentiments differ clearly, and in some pairs a
    /// finished review over one that stops short or repeats itself.
    pub fn ranked_pair(&mut self) -> Ranked {
        let prompt = self.prompt();
        let mut at = self.rng.unit();
        let kind = KINDS.iter().find(|(_, share)| {
            at -= share;
            at < 0.0
        });
        let (chosen, rejected) = match kind.map_or(PairKind::Reviews, |(kind, _)| *kind) {
            PairKind::Reviews => self.pair(Reviews::completion),
            PairKind::Mixed => self.pair(Reviews::mixed),
            PairKind::CutShort => self.finished_over(|first| first.to_owned()),
            PairKind::Repeated => self.finished_over(|first| format!("{first} {first}")),
        };
        Ranked { prompt, chosen, rejected }
    }

    /// Two texts from `draw` that differ clearly, the kinder one first.
    fn pair(&mut self, draw: fn(&mut Reviews) -> (String, f32)) -> (String, String) {
        loop {
            let (a, b) = (draw(self), draw(self));
            if (a.1 - b.1).abs() >= PAIR_GAP {
                return if a.1 > b.1 { (a.0, b.0) } else { (b.0, a.0) };
            }
        }
    }

    /// A good review of several sentences, and what `spoil` makes of its first.
    fn finished_over(&mut self, spoil: impl Fn(&str) -> String) -> (String, String) {
        loop {
            let (chosen, sentiment) = self.completion();
            if let Some((first, _)) = chosen.split_once(". ").filter(|_| sentiment > 0.0) {
                let rejected = spoil(&format!("{first}."));
                return (chosen, rejected);
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
            let (text, sum) = Writer::new(&mut self.rng).opinions(target, COHERENCE);
            let sentiment = oracle::squash(sum);
            if sentiment * target >= CLEAR && LENGTH.contains(&text.split(' ').count()) {
                return (text, sentiment);
            }
        }
    }

    /// Sentences that do not agree with each other, and where that leaves them.
    fn mixed(&mut self) -> (String, f32) {
        loop {
            let (text, sum) = Writer::new(&mut self.rng).opinions(1.0, 0.5);
            if LENGTH.contains(&text.split(' ').count()) {
                return (text, oracle::squash(sum));
            }
        }
    }
}

#[cfg(test)]
mod tests;
