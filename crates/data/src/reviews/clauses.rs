//! Sentences of opinion, each composed together with what it says.

use super::lexicon::*;
use crate::Rng;

/// A piece of text and the opinion it adds, sign included.
type Piece = (String, f32);

/// `a` or `an` and the phrase.
pub(super) fn article(phrase: &str) -> String {
    let vowel = phrase.starts_with(['a', 'e', 'i', 'o', 'u']) || phrase.starts_with("honest");
    format!("{} {phrase}", if vowel { "an" } else { "a" })
}

/// A part of the film as the subject of a clause.
struct Subject {
    text: String,
    plural: bool,
}

impl Subject {
    fn was(&self) -> &'static str {
        if self.plural { "were" } else { "was" }
    }
}

/// Writes one completion; uses no word of opinion and no part of the film twice.
pub(super) struct Writer<'a> {
    rng: &'a mut Rng,
    used: Vec<&'static str>,
}

impl Writer<'_> {
    pub(super) fn new(rng: &mut Rng) -> Writer<'_> {
        Writer { rng, used: Vec::new() }
    }

    /// One to three sentences, each with probability `coherence` of the sign of `target` (1 or -1), else of the
    /// other, and the sum of their opinions.
    pub(super) fn opinions(mut self, target: f32, coherence: f64) -> Piece {
        let count = *self.rng.pick(&[1, 1, 2, 2, 2, 3]);
        let (mut text, mut sum) = (Vec::new(), 0.0);
        for _ in 0..count {
            let sign = if self.rng.chance(coherence) { target } else { -target };
            let (sentence, value) = self.sentence(sign);
            text.push(sentence + ".");
            sum += value;
        }
        if count < 3 && self.rng.chance(0.12) {
            let at = self.rng.below(text.len() + 1);
            text.insert(at, format!("{}.", self.rng.pick(ASIDES)));
        }
        (text.join(" "), sum)
    }

    /// A sentence that leans towards `sign` on the whole.
    fn sentence(&mut self, sign: f32) -> Piece {
        match self.rng.below(12) {
            0 | 1 => self.clause(sign),
            2 => {
                let (a, b) = (self.clause(sign), self.clause(sign));
                (format!("{} and {}", a.0, b.0), a.1 + b.1)
            }
            3 | 4 => {
                let (a, b) = (self.clause(-sign), self.clause(sign));
                (format!("{}, but {}", a.0, b.0), a.1 * CONCEDED + b.1)
            }
            5 => {
                let (a, b) = (self.clause(-sign), self.clause(sign));
                let word = self.rng.pick(&["although", "even though", "though"]);
                (format!("{word} {}, {}", a.0, b.0), a.1 * CONCEDED + b.1)
            }
            6 | 7 => self.whole_film(sign),
            8 => self.expectation(sign),
            9 => {
                let (text, _, weight) = self.fresh(VERDICTS, sign, |v| (v.0, v.2));
                ((*text).to_owned(), *weight)
            }
            10 => self.scenes(sign),
            _ => {
                let (subject, a) = (self.subject(), self.adjective(sign));
                let b = self.adjective(sign);
                (format!("{} {} {} and {}", subject.text, subject.was(), a.0, b.0), a.1 + b.1)
            }
        }
    }

    /// A clause about one part of the film.
    fn clause(&mut self, sign: f32) -> Piece {
        let s = self.subject();
        match self.rng.below(12) {
            0..=2 => {
                let (adjective, value) = self.degree_adjective(sign);
                (format!("{} {} {adjective}", s.text, s.was()), value)
            }
            3 => {
                let (adjective, value) = self.degree_adjective(sign);
                let verb = self.rng.pick(&["felt", "seemed", "looked"]);
                (format!("{} {verb} {adjective}", s.text), value)
            }
            4 => {
                let &(past, _, weight) = self.verb(sign);
                (format!("{} {past}", s.text), weight)
            }
            5 => {
                let &(_, base, weight) = self.verb(-sign);
                let adverb = self.rng.pick(&["did not", "never", "did not"]);
                let base = if *adverb == "never" { self.past_of(base) } else { base };
                (format!("{} {adverb} {base}", s.text), weight * NEGATED)
            }
            6 => self.viewer(&s, sign),
            7 | 8 => self.denied(&s, sign),
            9 => self.having(&s, sign),
            10 if !s.plural => {
                let (noun, weight) = *self.fresh(if sign > 0.0 { TREATS } else { CHORES }, sign, |n| *n);
                (format!("{} was {}", s.text, article(noun)), weight)
            }
            10 => {
                let (adjective, value) = self.adjective(-sign);
                (format!("{} were anything but {adjective}", s.text), value * NEGATED)
            }
            _ => {
                let (adjective, value) = self.degree_adjective(sign);
                (format!("i found {} {adjective}", s.text), value)
            }
        }
    }

    /// "i loved the music", "i did not hate the plot".
    fn viewer(&mut self, s: &Subject, sign: f32) -> Piece {
        let pool = |sign: f32| if sign > 0.0 { LIKED } else { DISLIKED };
        if self.rng.chance(0.35) {
            let &(_, base, weight) = self.fresh(pool(-sign), -sign, |v| (v.1, v.2));
            return (format!("i did not {base} {}", s.text), weight * NEGATED);
        }
        let &(past, _, weight) = self.fresh(pool(sign), sign, |v| (v.0, v.2));
        let (adverb, factor) = *self.rng.pick(&[("", 1.0), ("", 1.0), ("really ", 1.3), ("truly ", 1.4)]);
        (format!("i {adverb}{past} {}", s.text), weight * factor)
    }

    /// The opposite, denied.
    fn denied(&mut self, s: &Subject, sign: f32) -> Piece {
        let (a, value) = self.adjective(-sign);
        let (t, was) = (&s.text, s.was());
        match self.rng.below(7) {
            0 => (format!("{t} {was} not {a}"), value * NEGATED),
            1 => (format!("{t} {was} not {a} at all"), value * NEGATED),
            2 => (format!("{t} {was} never {a}"), value * NEGATED),
            3 => (format!("{t} {was} hardly {a}"), value * NEGATED),
            4 => (format!("{t} {was} far from {a}"), value * NEGATED),
            5 => (format!("nothing about {t} {was} {a}", was = "was"), value * NEGATED),
            _ => {
                let (b, other) = self.adjective(-sign);
                (format!("{t} {was} neither {a} nor {b}"), (value + other) * NEGATED)
            }
        }
    }

    /// "the songs had charm", "the plot lacked wit".
    fn having(&mut self, s: &Subject, sign: f32) -> Piece {
        if sign < 0.0 && self.rng.chance(0.5) {
            let (noun, weight) = *self.fresh(VIRTUES, 1.0, |n| *n);
            return (format!("{} lacked {noun}", s.text), weight * NEGATED);
        }
        let (noun, weight) = *self.fresh(if sign > 0.0 { VIRTUES } else { VICES }, sign, |n| *n);
        match self.rng.below(3) {
            0 => (format!("{} {} full of {noun}", s.text, s.was()), weight),
            1 => (format!("{} had plenty of {noun}", s.text), weight),
            _ => (format!("there was {noun} in {}", s.text).replace("was cliches", "were cliches"), weight),
        }
    }

    /// About the film as a whole.
    fn whole_film(&mut self, sign: f32) -> Piece {
        let kind = *self.rng.pick(KINDS);
        match self.rng.below(7) {
            0 => {
                let (adjective, value) = self.degree_adjective(sign);
                (format!("it was {}", article(&format!("{adjective} {kind}"))), value)
            }
            1 => {
                let (adjective, value) = self.adjective(sign);
                (format!("what {}", article(&format!("{adjective} {kind}"))), value)
            }
            2 => {
                let (adjective, value) = self.adjective(sign);
                (format!("i have never seen a more {adjective} {kind}"), value * UNSURPASSED)
            }
            3 => {
                let (noun, weight) = *self.fresh(if sign > 0.0 { TREATS } else { CHORES }, sign, |n| *n);
                let tail =
                    self.rng.pick(&[" from start to finish", " for the whole family", "", " in the end"]);
                (format!("the {kind} was {}{tail}", article(noun)), weight)
            }
            4 => {
                let (phrase, weight) = *self.fresh(TOO, -1.0, |t| *t);
                if sign > 0.0 {
                    return (format!("for once the {kind} was not {phrase}"), weight * NEGATED);
                }
                (format!("the {kind} was {phrase} for me"), weight)
            }
            5 => {
                let (adjective, value) = self.adjective(-sign);
                (format!("it was not {}", article(&format!("{adjective} {kind}"))), value * NEGATED)
            }
            _ => {
                let (a, value) = self.adjective(sign);
                let (b, other) = self.adjective(sign);
                (format!("we found it {a} and {b}"), value + other)
            }
        }
    }

    /// Hopes and fears that did not come true.
    fn expectation(&mut self, sign: f32) -> Piece {
        let kind = *self.rng.pick(KINDS);
        let (a, value) = self.adjective(-sign);
        match self.rng.below(4) {
            0 => (format!("it could have been {}", article(&format!("{a} {kind}"))), value * NEGATED),
            1 => (format!("i expected {}", article(&format!("{a} {kind}"))), value * NEGATED),
            2 => {
                let (b, other) = self.clause(sign);
                (
                    format!("i expected {}, but {b}", article(&format!("{a} {kind}"))),
                    value * NEGATED * CONCEDED + other,
                )
            }
            _ => {
                let s = self.subject();
                (format!("{} should have been {a}", s.text), value * NEGATED)
            }
        }
    }

    /// "there was not a dull moment in it", "without a single clever line".
    fn scenes(&mut self, sign: f32) -> Piece {
        let bit = *self.rng.pick(&["scene", "moment", "minute", "line", "idea"]);
        let (a, value) = self.adjective(-sign);
        let negated = value * NEGATED;
        match self.rng.below(4) {
            0 => (format!("there was not a single {a} {bit} in it"), negated),
            1 => (format!("not {} in the whole film", article(&format!("{a} {bit}"))), negated),
            2 => (format!("it went by without {}", article(&format!("{a} {bit}"))), negated),
            _ => (format!("no {bit} was {a}"), negated),
        }
    }

    fn subject(&mut self) -> Subject {
        let &(name, plural) = self.fresh(ASPECTS, 1.0, |a| (a.0, 1.0));
        if LOCATED.contains(&name) && self.rng.chance(0.25) {
            let place = *self.rng.pick(&["at the start", "near the end", "in the middle"]);
            if !self.used.contains(&place) {
                self.used.push(place);
                return Subject { text: format!("the {name} {place}"), plural };
            }
        }
        Subject { text: format!("the {name}"), plural }
    }

    fn verb(&mut self, sign: f32) -> &'static (&'static str, &'static str, f32) {
        self.fresh(if sign > 0.0 { GOOD_VERBS } else { BAD_VERBS }, sign, |v| (v.0, v.2))
    }

    fn past_of(&self, base: &str) -> &'static str {
        GOOD_VERBS.iter().chain(BAD_VERBS).find(|v| v.1 == base).map_or("", |v| v.0)
    }

    fn adjective(&mut self, sign: f32) -> Piece {
        let pool = if sign > 0.0 { GOOD_ADJECTIVES } else { BAD_ADJECTIVES };
        let &(word, weight) = self.fresh(pool, sign, |a| *a);
        (word.to_owned(), weight)
    }

    fn degree_adjective(&mut self, sign: f32) -> Piece {
        let (word, weight) = self.adjective(sign);
        if self.rng.chance(0.6) {
            return (word, weight);
        }
        let (degree, factor) = *self.rng.pick(&DEGREES[..DEGREES_SPOKEN]);
        (format!("{degree} {word}"), weight * factor)
    }

    /// An entry of the given sign whose key has not been used yet.
    fn fresh<T>(
        &mut self,
        pool: &'static [T],
        sign: f32,
        key: impl Fn(&T) -> (&'static str, f32),
    ) -> &'static T {
        loop {
            let entry = self.rng.pick(pool);
            let (name, weight) = key(entry);
            if weight * sign > 0.0 && !self.used.contains(&name) {
                self.used.push(name);
                return entry;
            }
        }
    }
}
