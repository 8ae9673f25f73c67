//! Tests of the generator and its oracle.

use std::collections::HashSet;

use super::lexicon::*;
use super::*;

#[test]
fn seeds_give_the_sequence() {
    let (mut a, mut b, mut c) = (Reviews::new(3), Reviews::new(3), Reviews::new(4));
    let first: Vec<_> = (0..50).map(|_| a.review()).collect();
    assert_eq!(first, (0..50).map(|_| b.review()).collect::<Vec<_>>());
    assert_ne!(first, (0..50).map(|_| c.review()).collect::<Vec<_>>());
}

#[test]
fn oracle_agrees_with_the_composed_sentiment() {
    let mut reviews = Reviews::new(11);
    let (n, mut same, mut close) = (5000, 0, 0);
    let mut wrong = Vec::new();
    for _ in 0..n {
        let review = reviews.review();
        let verdict = oracle(&review.text());
        let expected = if review.label == Label::Positive { Opinion::Positive } else { Opinion::Negative };
        same += usize::from(verdict.opinion == expected);
        close += usize::from((verdict.score - review.sentiment).abs() < 0.02);
        if verdict.opinion != expected || (verdict.score - review.sentiment).abs() >= 0.02 {
            wrong.push((review, verdict));
        }
    }
    assert!(
        same * 1000 >= n * 995 && close * 100 >= n * 98,
        "{same} {close} of {n}: {:#?}",
        &wrong[..wrong.len().min(8)]
    );
}

#[test]
fn completions_keep_their_length_and_base_rate() {
    let mut reviews = Reviews::new(12);
    let all: Vec<_> = (0..4000).map(|_| reviews.review()).collect();
    let positive = all.iter().filter(|r| r.label == Label::Positive).count() as f64 / all.len() as f64;
    assert!((0.45..0.50).contains(&positive), "{positive}");
    for r in &all {
        assert!(LENGTH.contains(&r.completion.split(' ').count()) && r.sentiment.abs() >= CLEAR, "{r:?}");
        assert!(r.text().chars().all(|c| c.is_ascii_lowercase() || " .,'".contains(c)), "{r:?}");
    }
}

#[test]
fn no_single_word_gives_the_label() {
    // the best guess from the first word of opinion alone stays well below certainty
    let mut reviews = Reviews::new(13);
    let good: HashSet<&str> = GOOD_ADJECTIVES.iter().map(|a| a.0).collect();
    let (mut with, mut positive) = (0, 0);
    for _ in 0..5000 {
        let review = reviews.review();
        if review.completion.split([' ', '.', ',']).any(|w| good.contains(w)) {
            with += 1;
            positive += usize::from(review.label == Label::Positive);
        }
    }
    let share = positive as f64 / with as f64;
    assert!(with > 1000 && (0.3..0.8).contains(&share), "{positive} of {with}");
}

#[test]
fn prompts_say_nothing() {
    let mut reviews = Reviews::new(14);
    for _ in 0..3000 {
        let prompt = reviews.prompt();
        assert_eq!(sentiment(&prompt), None, "{prompt}");
    }
}

#[test]
fn ranked_pairs_differ_for_the_oracle_too() {
    let mut reviews = Reviews::new(15);
    let (mut whole, mut right, mut spoiled) = (0, 0, 0);
    for _ in 0..1000 {
        let pair = reviews.ranked_pair();
        let first = pair.chosen.split_once(". ").map_or("", |(first, _)| first);
        if !first.is_empty() && pair.rejected.split(". ").all(|s| s.trim_end_matches('.') == first) {
            spoiled += 1;
            assert!(oracle(&pair.chosen).score > 0.0, "a bad review is not worth finishing: {}", pair.chosen);
            continue;
        }
        whole += 1;
        right += usize::from(oracle(&pair.chosen).score > oracle(&pair.rejected).score);
    }
    assert!(right * 100 >= whole * 98, "{right} of {whole}");
    assert!((200..300).contains(&spoiled), "{spoiled}");
}

#[test]
fn vocabulary_and_bigrams_are_plentiful() {
    let texts: Vec<String> = (0..1000)
        .map({
            let mut reviews = Reviews::new(16);
            move |_| reviews.review().text()
        })
        .collect();
    let words: HashSet<&str> =
        texts.iter().flat_map(|t| t.split(' ')).map(|w| w.trim_matches(['.', ','])).collect();
    let bigrams: HashSet<(&str, &str)> = texts
        .iter()
        .flat_map(|t| {
            let words: Vec<&str> = t.split(' ').collect();
            words.windows(2).map(|w| (w[0], w[1])).collect::<Vec<_>>()
        })
        .collect();
    assert!(words.len() > 400, "{}", words.len());
    assert!(bigrams.len() > 4000, "{}", bigrams.len());
    assert!(texts.iter().collect::<HashSet<_>>().len() > 995);
}
