//! The data sets of a run, split, with prompts: from the embedded generator or from files.

use crate::{
    config::DataSection,
    error::{Error, Result},
};
use data::{Dataset, Demonstration, Label, Labelled, LoadOptions, Loaded, Ranked, reviews::Reviews};

/// Everything the stages read. Held-out parts are never trained on.
#[derive(Debug, Clone, Default)]
pub struct Corpus {
    /// Texts to pre-train on and to train the tokenizer on.
    pub pretrain: Vec<String>,
    /// Held-out plain text: what the model should not forget.
    pub plain_held_out: Vec<String>,
    /// Demonstrations.
    pub demonstrations: Vec<Demonstration>,
    /// Rankings.
    pub rankings: Vec<Ranked>,
    /// Held-out rankings.
    pub rankings_held_out: Vec<Ranked>,
    /// Labelled texts.
    pub labelled: Vec<Labelled>,
    /// Held-out labelled texts.
    pub labelled_held_out: Vec<Labelled>,
    /// Prompts for PPO.
    pub prompts: Vec<String>,
    /// Held-out prompts.
    pub prompts_held_out: Vec<String>,
    /// Whether the generator's oracle can judge completions.
    pub oracle: bool,
    /// Whether rankings were derived from ratings.
    pub derived_rankings: bool,
    /// Why no rankings could be derived; a reward of kind "classifier" needs none.
    pub no_rankings: Option<String>,
}

impl Corpus {
    /// Builds the data sets of a run.
    ///
    /// # Errors
    /// When a file cannot be read or gives too little.
    pub fn load(section: &DataSection, seed: u64, eval_prompts: usize) -> Result<Corpus> {
        let mut corpus = match &section.path {
            None => embedded(section, seed, eval_prompts),
            Some(path) => {
                let options = LoadOptions { names: section.column_names.clone(), ..LoadOptions::default() };
                from_files(section, data::load(path, &options)?, seed)?
            }
        };
        corpus.plain_held_out.truncate(section.plain_held_out);
        Ok(corpus)
    }
}

fn embedded(section: &DataSection, seed: u64, eval_prompts: usize) -> Corpus {
    // Separate generators: a held-out item shares nothing with training but the grammar.
    let part = |n: u64| Reviews::new(seed.wrapping_mul(1009).wrapping_add(n));
    let held = ((section.reviews as f64 * section.held_out) as usize).max(2);
    let held_pairs = ((section.pairs as f64 * section.held_out) as usize).max(2);
    let demonstrations = part(1).demonstrations(section.reviews).items;
    let text = |d: &Demonstration| format!("{} {}", d.prompt, d.completion);
    Corpus {
        pretrain: demonstrations.iter().map(text).collect(),
        plain_held_out: part(2).demonstrations(held).items.iter().map(text).collect(),
        rankings: part(3).ranked_pairs(section.pairs).items,
        rankings_held_out: part(4).ranked_pairs(held_pairs).items,
        labelled: part(5).labelled_set(section.reviews).items,
        labelled_held_out: part(6).labelled_set(held).items,
        prompts: part(7).prompts(section.reviews),
        prompts_held_out: part(8).prompts(eval_prompts),
        demonstrations,
        oracle: true,
        derived_rankings: false,
        no_rankings: None,
    }
}

fn from_files(section: &DataSection, loaded: Loaded, seed: u64) -> Result<Corpus> {
    let mut c = Corpus::default();
    match loaded {
        Loaded::Labelled(set) => labelled(&mut c, section, set, seed)?,
        Loaded::Demonstrations(set) => {
            let split = set.split(section.held_out, seed)?;
            c.prompts = split.train.items.iter().map(|d| d.prompt.clone()).collect();
            c.prompts_held_out = split.held_out.items.iter().map(|d| d.prompt.clone()).collect();
            c.pretrain = split.train.items.iter().map(|d| format!("{} {}", d.prompt, d.completion)).collect();
            c.demonstrations = split.train.items;
        }
        Loaded::Ranked(set) => {
            let split = set.split(section.held_out, seed)?;
            c.prompts = split.train.items.iter().map(|r| r.prompt.clone()).collect();
            c.prompts_held_out = split.held_out.items.iter().map(|r| r.prompt.clone()).collect();
            let chosen =
                |r: &Ranked| Demonstration { prompt: r.prompt.clone(), completion: r.chosen.clone() };
            c.demonstrations = split.train.items.iter().map(chosen).collect();
            c.pretrain = split.train.items.iter().map(|r| format!("{} {}", r.prompt, r.chosen)).collect();
            c.rankings = split.train.items;
            c.rankings_held_out = split.held_out.items;
        }
        Loaded::Texts(_) => {
            let problem = "holds plain text only; give labelled texts, demonstrations or rankings";
            return Err(Error::config("data.path", problem));
        }
    }
    if let Some(path) = &section.rankings {
        let set = data::load(path, &LoadOptions::default())?.ranked()?;
        let split = set.split(section.held_out, seed)?;
        (c.rankings, c.rankings_held_out) = (split.train.items, split.held_out.items);
        c.derived_rankings = false;
    }
    if let Some(path) = &section.plain_text {
        let set = data::load(path, &LoadOptions::default())?.texts()?;
        let split = set.split(0.02f64.min(section.held_out), seed)?;
        c.pretrain.extend(split.train.items);
        c.plain_held_out = split.held_out.items;
    }
    if c.prompts.iter().all(String::is_empty) {
        return Err(Error::config(
            "data.path",
            "gave no prompts; set data.prompt_words or give a `prompt` column",
        ));
    }
    Ok(c)
}

fn labelled(c: &mut Corpus, section: &DataSection, set: Dataset<Labelled>, seed: u64) -> Result<()> {
    let split = set.split(section.held_out, seed)?;
    let (train, held) = (split.train.items, split.held_out.items);
    let cut = |l: &Labelled| split_words(&l.text, section.prompt_words);
    let long = |d: &Demonstration| !d.completion.is_empty();
    c.demonstrations = train.iter().map(cut).filter(long).collect();
    c.prompts = c.demonstrations.iter().map(|d| d.prompt.clone()).collect();
    c.prompts_held_out = held.iter().map(cut).filter(long).map(|d| d.prompt).collect();
    c.pretrain = train.iter().map(|l| l.text.clone()).collect();
    let rated = |items: &[Labelled]| items.iter().all(|l| l.rating.is_some());
    let held_pairs = ((section.pairs as f64 * section.held_out) as usize).max(1);
    if rated(&train) && rated(&held) {
        let derive = |items: &[Labelled], n| data::pairs_from_ratings(items, section.min_rating_gap, n, seed);
        match derive(&train, section.pairs).and_then(|t| Ok((t, derive(&held, held_pairs)?))) {
            Ok(pairs) => (c.rankings, c.rankings_held_out) = pairs,
            Err(e) => c.no_rankings = Some(format!("{e} (data.min_rating_gap)")),
        }
    } else {
        c.rankings = pairs_from_labels(&train, section.pairs, seed);
        c.rankings_held_out = pairs_from_labels(&held, held_pairs, seed);
    }
    c.derived_rankings = true;
    (c.labelled, c.labelled_held_out) = (train, held);
    Ok(())
}

/// Pairs of a positive and a negative text.
fn pairs_from_labels(items: &[Labelled], n: usize, seed: u64) -> Vec<Ranked> {
    let of = |label: Label| items.iter().filter(move |l| l.label == label).collect::<Vec<_>>();
    let (positive, negative) = (of(Label::Positive), of(Label::Negative));
    if positive.is_empty() || negative.is_empty() {
        return Vec::new();
    }
    let mut rng = data::Rng::new(seed);
    let mut pair = || Ranked {
        prompt: String::new(),
        chosen: positive[rng.below(positive.len())].text.clone(),
        rejected: negative[rng.below(negative.len())].text.clone(),
    };
    (0..n).map(|_| pair()).collect()
}

/// The first `words` words as the prompt, the rest as the completion.
fn split_words(text: &str, words: usize) -> Demonstration {
    let all: Vec<&str> = text.split_whitespace().collect();
    let at = words.min(all.len());
    Demonstration { prompt: all[..at].join(" "), completion: all[at..].join(" ") }
}
