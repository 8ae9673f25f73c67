//! What a simple classifier reaches: logistic regression on bags of words and word pairs.

use std::collections::HashMap;

use crate::{Dataset, Label, Labelled, Rng};

/// Lower-case words without punctuation, apostrophes kept.
pub(crate) fn words(text: &str) -> Vec<String> {
    let split = |c: char| !c.is_alphanumeric() && c != '\'';
    text.to_lowercase()
        .split(split)
        .map(|w| w.trim_matches('\''))
        .filter(|w| !w.is_empty())
        .map(String::from)
        .collect()
}

/// How [`Baseline::train`] learns; the defaults suit some thousands of sentences.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BaselineOptions {
    /// Passes over the training set.
    pub epochs: usize,
    /// First step size; falls linearly to nothing.
    pub learning_rate: f32,
    /// Weight of the squared-norm penalty, per step.
    pub l2: f32,
    /// Terms seen in fewer texts are left out.
    pub min_count: usize,
    /// Order of the texts.
    pub seed: u64,
}

impl Default for BaselineOptions {
    fn default() -> BaselineOptions {
        BaselineOptions { epochs: 20, learning_rate: 1.0, l2: 1e-5, min_count: 1, seed: 0 }
    }
}

/// A trained logistic regression: the probability that a text is positive.
///
/// Features are the words and neighbouring word pairs a text holds, each once, scaled to a vector of length 1.
#[derive(Clone, Debug)]
pub struct Baseline {
    terms: HashMap<String, usize>,
    weights: Vec<f32>,
    bias: f32,
}

impl Baseline {
    /// Stochastic gradient descent on the mean log loss plus `l2 / 2 * |w|^2`.
    pub fn train(set: &Dataset<Labelled>, options: BaselineOptions) -> Baseline {
        let terms = vocabulary(set, options.min_count);
        let mut model = Baseline { weights: vec![0.0; terms.len()], terms, bias: 0.0 };
        let examples: Vec<(Vec<usize>, f32)> =
            set.items.iter().map(|item| (model.features(&item.text), item.label.index() as f32)).collect();
        let (mut rng, mut order) = (Rng::new(options.seed), (0..examples.len()).collect::<Vec<_>>());
        let (steps, mut step) = ((options.epochs * examples.len()).max(1) as f32, 0.0);
        // decay is applied to one common scale, so that a step touches only the terms of its text
        let mut scale = 1.0f32;
        for _ in 0..options.epochs {
            rng.shuffle(&mut order);
            for &i in &order {
                let (features, target) = &examples[i];
                let rate = options.learning_rate * (1.0 - step / steps);
                step += 1.0;
                let norm = norm(features);
                let dot: f32 = features.iter().map(|&f| model.weights[f]).sum::<f32>() * scale * norm;
                let error = sigmoid(dot + model.bias) - target;
                scale *= 1.0 - rate * options.l2;
                let push = rate * error * norm / scale;
                features.iter().for_each(|&f| model.weights[f] -= push);
                model.bias -= rate * error * 0.1;
            }
        }
        model.weights.iter_mut().for_each(|w| *w *= scale);
        model
    }

    /// Probability that `text` is positive.
    pub fn probability(&self, text: &str) -> f32 {
        let features = self.features(text);
        sigmoid(features.iter().map(|&f| self.weights[f]).sum::<f32>() * norm(&features) + self.bias)
    }

    /// Share of the texts classified rightly; 0 for an empty set.
    pub fn accuracy(&self, set: &Dataset<Labelled>) -> f64 {
        let right =
            |item: &&Labelled| (self.probability(&item.text) > 0.5) == (item.label == Label::Positive);
        set.items.iter().filter(right).count() as f64 / set.len().max(1) as f64
    }

    /// How many different terms it knows.
    pub fn terms(&self) -> usize {
        self.terms.len()
    }

    fn features(&self, text: &str) -> Vec<usize> {
        let mut found: Vec<usize> = terms(text).iter().filter_map(|t| self.terms.get(t).copied()).collect();
        found.sort_unstable();
        found.dedup();
        found
    }
}

/// Words and word pairs.
fn terms(text: &str) -> Vec<String> {
    let mut terms = words(text);
    let pairs: Vec<String> = terms.windows(2).map(|w| w.join(" ")).collect();
    terms.extend(pairs);
    terms
}

fn vocabulary(set: &Dataset<Labelled>, min_count: usize) -> HashMap<String, usize> {
    let mut counts: HashMap<String, usize> = HashMap::new();
    for item in &set.items {
        let mut all = terms(&item.text);
        all.sort_unstable();
        all.dedup();
        all.into_iter().for_each(|term| *counts.entry(term).or_default() += 1);
    }
    // sorted, so that the numbering and with it every sum is the same in each run
    let mut kept: Vec<String> =
        counts.into_iter().filter(|(_, n)| *n >= min_count).map(|(term, _)| term).collect();
    kept.sort_unstable();
    kept.into_iter().enumerate().map(|(i, term)| (term, i)).collect()
}

fn norm(features: &[usize]) -> f32 {
    1.0 / (features.len().max(1) as f32).sqrt()
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reviews::Reviews;

    #[test]
    fn learns_what_words_tell_and_repeats_exactly() {
        let split = Reviews::new(1).labelled_set(4000).split(0.2, 1).unwrap();
        let model = Baseline::train(&split.train, BaselineOptions::default());
        let accuracy = model.accuracy(&split.held_out);
        assert!((0.6..0.95).contains(&accuracy), "{accuracy}");
        let again = Baseline::train(&split.train, BaselineOptions::default());
        assert_eq!(model.weights, again.weights);
        assert!(model.terms() > 1000);
    }

    #[test]
    fn no_texts_no_opinion() {
        let model = Baseline::train(&Dataset::new(Vec::new()), BaselineOptions::default());
        assert_eq!(model.probability("anything"), 0.5);
        assert_eq!(model.accuracy(&Dataset::new(Vec::new())), 0.0);
    }
}
