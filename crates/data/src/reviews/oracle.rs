//! The oracle: what does a text say about the film? Lexicon, degree words, negation with a reach, concessions.
//!
//! It reads any text, a model's half-grammatical output included. Only sentences that look like sentences
//! count, and each word of opinion counts once, so that piling up praise does not pay.

use std::collections::{HashMap, HashSet};
use std::sync::OnceLock;

use super::grammar::looks_like_a_sentence;
use super::lexicon::*;

/// Which way a text leans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opinion {
    /// Clearly against.
    Negative,
    /// No opinion, or one that cancels out.
    Neutral,
    /// Clearly in favour.
    Positive,
}

/// What the oracle reads in a text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Verdict {
    /// Which way the text leans: the sign of `score` where its size is at least [`NEUTRAL_BELOW`].
    pub opinion: Opinion,
    /// -1 (scorn) to 1 (praise), 0 where nothing is said.
    pub score: f32,
    /// Sentences of any kind.
    pub sentences: usize,
    /// Sentences that look grammatical.
    pub well_formed: usize,
    /// Well-formed sentences that say something new about the film.
    pub opinions: usize,
}

/// Scores smaller than this in size are neutral.
pub const NEUTRAL_BELOW: f32 = 0.15;

/// How far, in words, a negation reaches.
const REACH: usize = 10;

struct Phrase {
    words: Vec<&'static str>,
    weight: f32,
    id: usize,
}

/// Opinion phrases by their first word, longest first.
fn phrases() -> &'static HashMap<&'static str, Vec<Phrase>> {
    static MAP: OnceLock<HashMap<&'static str, Vec<Phrase>>> = OnceLock::new();
    MAP.get_or_init(|| {
        let pairs =
            [GOOD_ADJECTIVES, BAD_ADJECTIVES, VIRTUES, VICES, TREATS, CHORES, TOO, FREE_TEXT].concat();
        let verbs = [GOOD_VERBS, BAD_VERBS, LIKED, DISLIKED].concat();
        let all = (verbs.iter().map(|v| (v.0, v.2)))
            .chain(verbs.iter().map(|v| (v.1, v.2)))
            .chain(pairs)
            .chain(VERDICTS.iter().map(|v| (v.1, v.2)));
        let mut map: HashMap<&str, Vec<Phrase>> = HashMap::new();
        for (id, (text, weight)) in all.enumerate() {
            let words: Vec<&str> = text.split(' ').collect();
            map.entry(words[0]).or_default().push(Phrase { words, weight, id });
        }
        map.values_mut().for_each(|list| list.sort_by_key(|p| std::cmp::Reverse(p.words.len())));
        map
    })
}

/// Pairs read as one word, because together they mean something else than apart.
const MERGED: &[(&str, &str)] = &[
    ("anything", "but"),
    ("nothing", "but"),
    ("not", "only"),
    ("no", "doubt"),
    ("far", "from"),
    ("could", "have"),
    ("should", "have"),
    ("would", "have"),
    ("might", "have"),
    ("wanted", "to"),
    ("wants", "to"),
    ("tried", "to"),
    ("tries", "to"),
    ("trying", "to"),
    ("failed", "to"),
    ("fails", "to"),
    ("supposed", "to"),
    ("even", "though"),
];

/// Lower-case words and pauses of each sentence.
fn sentences(text: &str) -> Vec<Vec<String>> {
    let text = text.to_lowercase().replace(['\u{2019}', '\u{2018}'], "'").replace("n't", "n't ");
    let (mut all, mut words, mut word) = (Vec::new(), Vec::new(), String::new());
    for c in text.chars().chain(['\n']) {
        if c.is_alphanumeric() || c == '\'' {
            word.push(c);
            continue;
        }
        let plain = word.trim_matches('\'');
        if !plain.is_empty() {
            words.push(plain.to_owned());
        }
        word.clear();
        match c {
            ',' | ';' | ':' => words.push(",".to_owned()),
            '.' | '!' | '?' | '\n' if !words.is_empty() => all.push(std::mem::take(&mut words)),
            _ => {}
        }
    }
    all
}

fn merge(words: &[String]) -> Vec<String> {
    let mut merged: Vec<String> = Vec::with_capacity(words.len());
    for word in words {
        match merged.last_mut() {
            Some(last) if MERGED.contains(&(last.as_str(), word.as_str())) => {
                last.push('_');
                last.push_str(word);
            }
            _ => merged.push(word.clone()),
        }
    }
    merged
}

/// An opinion found: words `start..end`, its phrase and the strength it has where it stands.
struct Hit {
    start: usize,
    end: usize,
    id: usize,
    value: f32,
}

fn find_hits(words: &[String]) -> Vec<Hit> {
    let mut hits = Vec::new();
    let mut at = 0;
    while at < words.len() {
        let found = phrases().get(words[at].as_str()).and_then(|list| {
            list.iter().find(|p| {
                p.words.len() <= words.len() - at && p.words.iter().zip(&words[at..]).all(|(a, b)| a == b)
            })
        });
        match found {
            Some(p) if !is_comparison(words, at) => {
                hits.push(Hit { start: at, end: at + p.words.len(), id: p.id, value: p.weight });
                at += p.words.len();
            }
            _ => at += 1,
        }
    }
    hits
}

/// "like" is an opinion only as a verb.
fn is_comparison(words: &[String], at: usize) -> bool {
    let before = at.checked_sub(1).map_or("", |i| words[i].as_str());
    let verb = matches!(before, "i" | "we" | "you" | "not" | "never" | "to" | "really" | "would" | "did")
        || before.ends_with("n't");
    words[at] == "like" && !verb
}

/// Whether a clause ends before word `i`.
fn is_boundary(words: &[String], i: usize) -> bool {
    let opens = |w: &str| {
        matches!(
            w,
            "the"
                | "i"
                | "we"
                | "it"
                | "my"
                | "its"
                | "there"
                | "they"
                | "he"
                | "she"
                | "a"
                | "no"
                | "nothing"
        )
    };
    match words[i].as_str() {
        "," | "but" | "yet" | "although" | "though" | "even_though" | "because" | "while" | "however" => true,
        "and" => words.get(i + 1).is_some_and(|w| opens(w)),
        _ => false,
    }
}

/// Degree, then every negator in reach.
fn modify(words: &[String], hits: &[Hit], index: usize) -> f32 {
    let hit = &hits[index];
    let mut value = hit.value;
    if let Some(before) = hit.start.checked_sub(1) {
        value *= DEGREES.iter().find(|d| d.0 == words[before]).map_or(1.0, |d| d.1);
    }
    let inside = |i: usize| hits.iter().any(|h| (h.start..h.end).contains(&i));
    for i in (hit.start.saturating_sub(REACH)..hit.start).rev() {
        if is_boundary(words, i) {
            break;
        }
        if inside(i) || !NEGATORS.contains(&words[i].as_str()) {
            continue;
        }
        let between = &words[i + 1..hit.start];
        let unsurpassed = between.iter().any(|w| w == "more") && between.iter().any(|w| w == "seen");
        value *= if unsurpassed { UNSURPASSED } else { NEGATED };
        if words[i] == "nor" {
            break;
        }
    }
    value
}

/// What concessions leave of an opinion at word `at`: "A but B" and "although A, B" weigh A less.
fn concession(words: &[String], at: usize) -> f32 {
    let mut factor = 1.0;
    for (i, word) in words.iter().enumerate() {
        let conceded = match word.as_str() {
            "but" | "yet" | "however" => i > 0 && at < i,
            "although" | "though" | "even_though" | "while" | "despite" => {
                let comma = words[i..].iter().position(|w| w == ",").map_or(words.len(), |c| i + c);
                (i == 0 || word != "while") && at > i && at < comma
            }
            _ => false,
        };
        if conceded {
            factor *= CONCEDED;
        }
    }
    factor
}

/// Squashes a sum of opinions to -1..1.
pub(super) fn squash(sum: f32) -> f32 {
    sum / (1.0 + sum * sum).sqrt()
}

/// Reads a text, whoever wrote it.
pub fn oracle(text: &str) -> Verdict {
    let (mut sum, mut opinions, mut well_formed) = (0.0f32, 0, 0);
    let (mut said, mut used) = (HashSet::new(), HashSet::new());
    let all = sentences(text);
    for sentence in &all {
        let plain: Vec<&str> = sentence.iter().map(String::as_str).collect();
        if !looks_like_a_sentence(&plain) || !said.insert(plain) {
            continue;
        }
        well_formed += 1;
        let words = merge(sentence);
        let hits = find_hits(&words);
        let mut new = false;
        for (index, hit) in hits.iter().enumerate() {
            if used.insert(hit.id) {
                new = true;
                sum += modify(&words, &hits, index) * concession(&words, hit.start);
            }
        }
        opinions += usize::from(new);
    }
    let score = squash(sum);
    let opinion = match score {
        s if s >= NEUTRAL_BELOW => Opinion::Positive,
        s if s <= -NEUTRAL_BELOW => Opinion::Negative,
        _ => Opinion::Neutral,
    };
    Verdict { opinion, score, sentences: all.len(), well_formed, opinions }
}

/// The score of [`oracle`], or `None` where the text says nothing about the film in a well-formed sentence.
pub fn sentiment(text: &str) -> Option<f32> {
    let verdict = oracle(text);
    (verdict.opinions > 0).then_some(verdict.score)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_more_than_single_words() {
        for (text, expected) in [
            ("the acting was dull but the ending moved me.", Opinion::Positive),
            ("The acting moved me, but the ending was dull.", Opinion::Negative),
            ("there was not a boring moment in it.", Opinion::Positive),
            ("the jokes were never funny.", Opinion::Negative),
            ("i have never seen a more charming film.", Opinion::Positive),
            ("it could have been a wonderful film.", Opinion::Negative),
            ("the plot was neither clever nor funny.", Opinion::Negative),
            ("although the plot was awful, the cast was superb.", Opinion::Positive),
            ("the script was anything but dull.", Opinion::Positive),
            ("I didn't enjoy the story at all!", Opinion::Negative),
            ("we watched the quiet river on a rainy friday with my sister.", Opinion::Neutral),
            ("it felt like a film about bees.", Opinion::Neutral),
        ] {
            assert_eq!(oracle(text).opinion, expected, "{text}: {:?}", oracle(text));
        }
    }

    #[test]
    fn empty_gibberish_and_repetition_are_not_praise() {
        for text in [
            "",
            "   ",
            "great great great great",
            "great",
            "superb. brilliant. wonderful.",
            "the was great of acting the",
            "brilliant superb wonderful stunning charming",
            "qwe rty uio",
            "....",
            "!!!",
            "great , great , great",
        ] {
            assert_eq!(sentiment(text), None, "{text}");
            assert_eq!(oracle(text).opinion, Opinion::Neutral, "{text}");
        }
        let once = oracle("the cast was decent.").score;
        assert_eq!(oracle("the cast was decent. the cast was decent. the plot was decent.").score, once);
    }
}
