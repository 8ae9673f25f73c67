//! Evaluation on held-out prompts.

use crate::{
    corpus::Corpus,
    error::Result,
    lm::{self, Example},
    ppo::{Ppo, Reward},
    ranks,
    text::Text,
};
use data::reviews::{self};
use model::{Completion, Pass, Sampling};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;

/// A held-out prompt and an answer to it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Sample {
    /// The prompt.
    pub prompt: String,
    /// The answer.
    pub completion: String,
    /// Its reward.
    pub reward: f32,
}

/// What is measured on held-out prompts.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Evaluation {
    /// Mean reward.
    pub reward: f64,
    /// Share of positive answers: by the generator's oracle, else by the reward being above zero.
    pub positive_share: f64,
    /// Mean KL to the reference per token, nats.
    pub kl_per_token: f64,
    /// Mean KL to the reference per answer, nats.
    pub kl: f64,
    /// Distinct token bigrams over all token bigrams of the answers.
    pub distinct_2: f64,
    /// Perplexity of the answers under the SFT model.
    pub perplexity_under_sft: f64,
    /// Perplexity on held-out plain text: what is forgotten.
    pub plain_perplexity: Option<f64>,
    /// Mean answer length in tokens.
    pub length: f64,
    /// All answers.
    pub samples: Vec<Sample>,
}

/// Distinct bigrams over all bigrams of the answers.
pub(crate) fn distinct_2<'a>(answers: impl Iterator<Item = &'a [u32]>) -> f64 {
    let (mut seen, mut all) = (HashSet::new(), 0usize);
    for a in answers {
        for w in a.windows(2) {
            seen.insert((w[0], w[1]));
            all += 1;
        }
    }
    if all == 0 { 0.0 } else { seen.len() as f64 / all as f64 }
}

/// Answers every held-out prompt with the policy (or, with `reference`, with the adapter off) and measures.
///
/// # Errors
/// When a score or perplexity cannot be computed.
pub fn evaluate(
    ppo: &Ppo,
    reward: &dyn Reward,
    text: &Text,
    prompts: &[Vec<u32>],
    corpus: &Corpus,
    reference: bool,
) -> Result<Evaluation> {
    let pass = if reference { Pass::REFERENCE } else { Pass::default() };
    let sampling = Sampling {
        slots: ppo.sequences,
        max_new_tokens: ppo.config.response_length,
        temperature: ppo.config.temperature,
        eos: text.tokenizer.eos(),
        seed: 0x6576_616c,
        ..Sampling::default()
    };
    // Each rank answers its share, and then knows all answers.
    let (mesh, mine) = (&ppo.mesh, ppo.mesh.dp.share(prompts.len()));
    let streams: Vec<u32> = mine.clone().map(|i| i as u32).collect();
    let own = ppo.model.generate(&prompts[mine.clone()], &streams, &sampling, pass, None, &|_| {});
    let rewards = ranks::agree(mesh, reward.score(&prompts[mine.clone()], &own))?;
    let examples: Vec<Example> =
        prompts[mine].iter().zip(&own).map(|(p, a)| Example::completion(p, &a.tokens)).collect();
    let of_own = log_likelihood(ppo, &examples, pass)
        .and_then(|own| Ok(vec![own, log_likelihood(ppo, &examples, Pass::REFERENCE)?]));
    let [own_likelihood, sft] = ranks::sums(mesh, of_own)?[..] else { unreachable!("two numbers") };
    let (answers, rewards) = (ranks::gather_completions(&mesh.dp, own)?, mesh.dp.gather(&rewards)?);
    let tokens = answers.iter().map(|a| a.tokens.len()).sum::<usize>().max(1) as f64;
    let samples: Vec<Sample> = prompts
        .iter()
        .zip(&answers)
        .zip(&rewards)
        .map(|((p, a), r)| Sample {
            prompt: text.tokenizer.decode(p).trim().to_string(),
            completion: text.tokenizer.decode(&a.tokens).trim().to_string(),
            reward: *r,
        })
        .collect();
    let positive = |s: &&Sample| match corpus.oracle {
        true => reviews::oracle(&s.completion).opinion == reviews::Opinion::Positive,
        false => s.reward > 0.0,
    };
    let held = text.held_out(&corpus.plain_held_out)?;
    Ok(Evaluation {
        reward: rewards.iter().map(|r| f64::from(*r)).sum::<f64>() / rewards.len().max(1) as f64,
        positive_share: samples.iter().filter(positive).count() as f64 / samples.len().max(1) as f64,
        kl_per_token: (own_likelihood - sft) / tokens,
        kl: (own_likelihood - sft) / answers.len().max(1) as f64,
        distinct_2: distinct_2(answers.iter().map(|a: &Completion| a.tokens.as_slice())),
        perplexity_under_sft: (-sft / tokens).exp(),
        plain_perplexity: ranks::perplexity(mesh, &ppo.model, &held, 2048, pass)?,
        length: tokens / answers.len().max(1) as f64,
        samples,
    })
}

/// Summed log-probability of the answers.
fn log_likelihood(ppo: &Ppo, examples: &[Example], pass: Pass) -> Result<f64> {
    let mut total = 0.0;
    for group in lm::by_tokens(examples, 2048) {
        total -= lm::loss(&ppo.model, &group, pass, None)?.0;
    }
    Ok(total)
}
