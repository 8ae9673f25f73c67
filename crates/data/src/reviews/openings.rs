//! Neutral first sentences: what was seen, when, where, with whom, and what it is about.

use super::clauses::article;
use super::lexicon::*;
use crate::Rng;

/// One or two sentences without any opinion.
pub(super) fn opening(rng: &mut Rng) -> String {
    let title = title(rng);
    let first = match rng.below(8) {
        0 => format!(
            "{} watched {title} on a {} {} with {}.",
            who(rng),
            rng.pick(WEATHER),
            rng.pick(DAYS),
            with(rng)
        ),
        1 => format!("{} and i saw {title} at {}.", with(rng), rng.pick(VENUES)),
        2 => format!("last {} {} took me to see {title}.", rng.pick(DAYS), with(rng)),
        3 => {
            format!("on a {} evening {} went to see {title} with {}.", rng.pick(WEATHER), who(rng), with(rng))
        }
        4 => format!("{} saw {title} at {} last {}.", who(rng), rng.pick(VENUES), rng.pick(DAYS)),
        5 => {
            let genre = rng.pick(GENRES);
            format!(
                "{title} is {} about {} from {}.",
                article(genre),
                article(any(rng, PEOPLE)),
                rng.pick(PLACES)
            )
        }
        6 => format!("{} picked {title} for our {} night.", with(rng), rng.pick(DAYS)),
        _ => format!("{title} follows {} who {}.", article(any(rng, PEOPLE)), rng.pick(DEEDS)),
    };
    if rng.chance(0.6) {
        return first;
    }
    let person = article(any(rng, PEOPLE));
    let second = match rng.below(4) {
        0 => format!("it is about {person} who {}.", rng.pick(DEEDS)),
        1 => format!("the {} is set in {}.", rng.pick(&["story", "film", "movie"]), rng.pick(PLACES)),
        2 => format!("in it {person} {}.", rng.pick(DEEDS)),
        _ => format!("{}.", rng.pick(ASIDES)),
    };
    format!("{first} {second}")
}

fn title(rng: &mut Rng) -> String {
    let (first, second) = (rng.pick(TITLE_FIRST), rng.pick(TITLE_SECOND));
    match rng.below(3) {
        0 => format!(
            "the {second} of {}",
            rng.pick(&["winter", "glass", "stone", "paper", "the north", "two rivers"])
        ),
        _ => format!("the {first} {second}"),
    }
}

fn who(rng: &mut Rng) -> &'static str {
    if rng.chance(0.5) { "i" } else { "we" }
}

fn with(rng: &mut Rng) -> &'static str {
    any(rng, COMPANIONS)
}

fn any(rng: &mut Rng, from: &'static [&'static str]) -> &'static str {
    let word: &&str = rng.pick(from);
    word
}
