//! A coarse check whether a word sequence looks like an English sentence.
//!
//! It knows a few hundred words by class and looks for pairs that no sentence has ("the was", "acting the"),
//! for a verb, and for repetition. Words it does not know are given the benefit of the doubt, so real prose
//! passes; word salad made of review vocabulary does not.

use std::collections::{HashMap, HashSet};
use std::sync::OnceLock;

use super::lexicon::*;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Class {
    Article,
    Be,
    Subject,
    Preposition,
    Conjunction,
    Degree,
    Adjective,
    Aspect,
    Verb,
    Not,
    /// Unknown, or of too many classes to judge.
    Other,
    /// Comma, semicolon and the like.
    Pause,
    End,
}

const ARTICLES: &[&str] = &["the", "a", "an", "my", "our", "their", "every"];
const BE: &[&str] = &["was", "were", "is", "are"];
const SUBJECTS: &[&str] = &["i", "we", "he", "she", "they"];
const PREPOSITIONS: &[&str] = &["of", "with", "from", "into", "at", "for", "without", "about", "during"];
const CONJUNCTIONS: &[&str] = &["and", "but", "or", "nor", "although", "because", "yet", "though"];
const FOLLOWING_DEGREE: &[&str] =
    &["very", "really", "truly", "deeply", "utterly", "fairly", "slightly", "extremely"];
/// Verbs besides those of the lexicon, enough that most sentences about films have one.
const VERBS: &[&str] = &[
    "had",
    "has",
    "have",
    "did",
    "does",
    "do",
    "felt",
    "feels",
    "seemed",
    "seems",
    "looked",
    "looks",
    "made",
    "makes",
    "kept",
    "keeps",
    "left",
    "found",
    "find",
    "saw",
    "seen",
    "see",
    "watched",
    "watch",
    "want",
    "wanted",
    "would",
    "could",
    "should",
    "will",
    "can",
    "think",
    "thought",
    "feel",
    "say",
    "said",
    "got",
    "get",
    "gets",
    "came",
    "comes",
    "went",
    "goes",
    "go",
    "told",
    "tells",
    "gave",
    "gives",
    "takes",
    "took",
    "plays",
    "played",
    "works",
    "worked",
    "worth",
    "fell",
    "falls",
    "held",
    "won",
    "swept",
    "put",
    "wore",
    "runs",
    "ran",
    "be",
    "been",
    "am",
    "'s",
    "loves",
    "love",
    "hate",
    "enjoy",
    "like",
    "needs",
    "lacks",
    "lacked",
    "offers",
    "shows",
    "remains",
    "manages",
    "becomes",
    "wept",
    "forgot",
    "moved",
    "lost",
    "let",
    "isn't",
    "wasn't",
    "aren't",
    "weren't",
    "don't",
    "doesn't",
    "didn't",
    "can't",
    "couldn't",
    "won't",
    "wouldn't",
    "it's",
    "that's",
    "i'm",
    "i've",
    "there's",
    "he's",
    "she's",
    "must",
    "recommend",
    "stands",
    "captures",
    "brings",
    "begins",
    "ends",
    "tries",
    "fails",
    "knows",
    "leaves",
];

fn classes() -> &'static HashMap<&'static str, Class> {
    static MAP: OnceLock<HashMap<&'static str, Class>> = OnceLock::new();
    MAP.get_or_init(|| {
        let mut map = HashMap::new();
        let mut add = |words: &[&'static str], class| map.extend(words.iter().map(|w| (*w, class)));
        add(VERBS, Class::Verb);
        let simple: Vec<_> = ASPECTS.iter().filter(|a| !a.0.contains(' ')).map(|a| a.0).collect();
        add(&simple, Class::Aspect);
        // words that are also nouns or verbs ("the cold", "moved", "forced") stay unknown
        let adjectives: Vec<_> = [GOOD_ADJECTIVES, BAD_ADJECTIVES].concat().iter().map(|a| a.0).collect();
        add(&adjectives, Class::Adjective);
        for word in ["great", "good", "bad", "excellent", "amazing", "fantastic", "horrible", "beautiful"] {
            add(&[word], Class::Adjective);
        }
        add(&["forced", "cold", "rich", "flat", "empty"], Class::Other);
        add(ARTICLES, Class::Article);
        add(BE, Class::Be);
        add(SUBJECTS, Class::Subject);
        add(PREPOSITIONS, Class::Preposition);
        add(CONJUNCTIONS, Class::Conjunction);
        add(FOLLOWING_DEGREE, Class::Degree);
        add(&["not"], Class::Not);
        add(&[",", ";", ":", "-", "--"], Class::Pause);
        map
    })
}

fn class(word: &str) -> Class {
    classes().get(word).copied().unwrap_or(Class::Other)
}

/// Pairs of neighbours that hardly any sentence has.
fn clash(a: Class, b: Class) -> bool {
    use Class::*;
    match a {
        Article => matches!(b, Article | Be | Subject | Preposition | Conjunction | Not | Pause | End),
        Be => matches!(b, Be | Conjunction | End),
        Subject => matches!(b, Article | Subject | Adjective | Aspect | Preposition | End),
        Preposition => matches!(b, Be | Conjunction | End),
        Conjunction => matches!(b, Conjunction | End),
        Degree => matches!(b, Article | Be | Subject | Preposition | Conjunction | Pause | End),
        Adjective => matches!(b, Be | Subject),
        Aspect => matches!(b, Article | Aspect),
        Not => matches!(b, Be | End),
        Pause => matches!(b, Pause),
        Verb | Other | End => false,
    }
}

/// Whether `words` (lower case, punctuation as words of its own, no full stop) looks like a sentence: at least
/// three words, a verb or one of the usual verbless forms, no impossible neighbours, no stuttering.
pub(super) fn looks_like_a_sentence(words: &[&str]) -> bool {
    let spoken = words.iter().filter(|w| class(w) != Class::Pause).count();
    if spoken < 3 || stutters(words) {
        return false;
    }
    let classes: Vec<Class> = words.iter().map(|w| class(w)).chain([Class::End]).collect();
    if classes.windows(2).any(|w| clash(w[0], w[1]))
        || classes.windows(3).any(|w| w.iter().all(|&c| c == Class::Adjective))
        || naked_predicate(words, &classes)
    {
        return false;
    }
    has_verb(words, &classes) || verbless(words, &classes, spoken)
}

fn has_verb(words: &[&str], classes: &[Class]) -> bool {
    let past = |w: &str| w.len() > 4 && w.ends_with("ed");
    // a verb needs something before it or a pronoun-like word ahead: "was great acting" alone is no sentence
    (1..words.len()).any(|i| matches!(classes[i], Class::Be | Class::Verb) || past(words[i]))
}

/// "what a lovely film", "not a dull moment", "a triumph from start to finish".
fn verbless(words: &[&str], classes: &[Class], spoken: usize) -> bool {
    match words[0] {
        "what" | "such" => classes[1] == Class::Article && spoken >= 4,
        "not" | "never" => spoken >= 4,
        "no" | "nothing" | "without" => spoken >= 4,
        _ => {
            classes[0] == Class::Article
                && spoken >= 5
                && words[1..].iter().any(|w| class(w) == Class::Preposition)
        }
    }
}

/// "the acting great": a part of the film followed by an adjective with nothing that could link them.
fn naked_predicate(words: &[&str], classes: &[Class]) -> bool {
    let linked = words
        .iter()
        .any(|w| matches!(*w, "found" | "find" | "made" | "makes" | "make" | "thought" | "think"));
    !linked && classes.windows(2).any(|w| w == [Class::Aspect, Class::Adjective])
}

/// The same word twice in a row, the same four words twice, or too few different words.
fn stutters(words: &[&str]) -> bool {
    let mut seen = HashSet::new();
    let distinct: HashSet<_> = words.iter().collect();
    words.windows(2).any(|w| w[0] == w[1] && class(w[0]) != Class::Pause)
        || words.windows(4).any(|w| !seen.insert(w))
        || distinct.len() * 5 < words.len() * 3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> bool {
        looks_like_a_sentence(&text.split(' ').collect::<Vec<_>>())
    }

    #[test]
    fn sentences_pass_and_salad_does_not() {
        for good in [
            "the acting was dull but the ending moved me",
            "what a lovely little film",
            "not a boring moment in it",
            "i found the plot predictable",
            "a wonderful story from start to finish",
            "director jane doe paints a rich , warm portrait of a town that time forgot and it works",
        ] {
            assert!(check(good), "{good}");
        }
        for bad in [
            "great great great great",
            "great",
            "the was great acting of",
            "acting the brilliant was plot",
            "superb brilliant wonderful charming",
            "the acting great",
            "the film was great and the film was great and the film was great",
            "the brilliant superb wonderful film was",
            "i superb the acting",
        ] {
            assert!(!check(bad), "{bad}");
        }
    }
}
