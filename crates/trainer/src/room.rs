//! Refuses a stage that will not fit, before a weight is read: its plan, made of the run's own settings and longest texts,
//! against what the device has free.

use crate::{
    corpus::Corpus,
    error::{Error, Result},
    memory, models,
    plan::{Job, StagePlan, Tuning},
    plan_fit::Fixed,
    plan_table, reward,
    run::Run,
    supervised,
    text::Text,
};
use device::Device;
use formats::{Folder, Gguf, ModelConfig};
use std::path::Path;

/// Of so many of a set's longest texts (in characters) the tokens are counted.
const LONGEST: usize = 32;

/// An error when the stage takes more than there is; nothing is known of `merge`, which takes little.
///
/// # Errors
/// [`Error::DoesNotFit`] with the plan; or when the model's header cannot be read.
pub(crate) fn check(run: &Run, corpus: &Corpus, stage: &'static str) -> Result<()> {
    let Some((room, words)) = room(run) else { return Ok(()) };
    let Some(job) = job(run, corpus, stage)? else { return Ok(()) };
    let size = |s: &StagePlan| size(&run.device, s);
    let plan = match job.stage(planned_as(stage))? {
        Some(plan) if size(&plan) > room => plan,
        _ => return Ok(()),
    };
    let (fitted, plans) = job.clone().fit(&[planned_as(stage)], room, Fixed::default(), size)?;
    let advice = match plans.iter().all(|s| size(s) <= room) {
        true => format!("it fits with: {}", fitted.settings(Some(&job))),
        false => plan_table::why_not(&plans, room),
    };
    let need = plan_table::size(size(&plan));
    Err(Error::DoesNotFit { stage, need, room: words, table: plan_table::memory(&[plan]), advice })
}

/// Whether a stage of this run's model in f32 would fit: what a measurement that can do without asks.
pub(crate) fn fits_in_f32(run: &Run, config: &ModelConfig) -> bool {
    let Some((room, _)) = room(run) else { return true };
    4 * weights(config) < room
}

/// Elements of the weights.
fn weights(c: &ModelConfig) -> usize {
    let up = if c.act == formats::Act::SwiGlu { 3 } else { 2 };
    let block = c.hidden * (2 * c.heads + 2 * c.kv_heads) * c.head_dim + up * c.hidden * c.intermediate;
    c.layers * block + (2 - usize::from(c.tie_embeddings)) * c.vocab * c.hidden
}

/// Pre-training is a fine-tuning of all weights.
fn planned_as(stage: &str) -> &str {
    if stage == "pretrain" { "sft" } else { stage }
}

/// Bytes that the stage will take: on a GPU with its allocator's rounding.
fn size(device: &Device, s: &StagePlan) -> usize {
    if device.runs_on_host() { s.exact } else { s.peak.bytes }
}

/// What a stage may take, in bytes and in words; none = no limit, or the system does not say.
fn room(run: &Run) -> Option<(usize, String)> {
    match run.config.memory.limit.as_str() {
        "off" => None,
        "free" => {
            // On the host, all ranks draw on the same memory.
            let sharing = if run.device.runs_on_host() { run.mesh.size() } else { 1 };
            let free = run.device.free_bytes()? / sharing;
            let each = if sharing > 1 { " for each rank" } else { "" };
            Some((free, format!("{} has {} free{each}", run.device.description(), plan_table::size(free))))
        }
        limit => {
            let bytes = memory::bytes(limit)?;
            Some((bytes, format!("memory.limit is {}", plan_table::size(bytes))))
        }
    }
}

/// The stage with the run's settings and its longest texts.
fn job(run: &Run, corpus: &Corpus, stage: &str) -> Result<Option<Job>> {
    let c = &run.config;
    let base = c.model.path.clone().unwrap_or_else(|| run.dir.path("base"));
    let (model, lengths) = match stage {
        "pretrain" => (supervised::small_neox(c, c.model.vocab), (1, c.pretrain.sequence_length - 1)),
        "sft" => {
            let (config, text) = header(&base)?;
            (config, (1, demonstration(&text, corpus)?))
        }
        "reward" => {
            let (config, text) = header(&run.dir.path("sft"))?;
            (config, (1, judged(run, &text, corpus)?))
        }
        "ppo" => {
            let (config, text) = header(&run.dir.path("sft"))?;
            let prompt = longest(&corpus.prompts, |p| p.len(), |p| Ok(text.prompt(p)?.len()))?;
            (config, (prompt, c.ppo.response_length))
        }
        _ => return Ok(None),
    };
    // A rank's share of a batch.
    let share = |n: usize| n.div_ceil(c.parallel.dp);
    let policy = models::policy_precision(run);
    let tuning = |full: bool, precision, adapters| match full {
        true => Tuning::Full,
        false => Tuning::Lora(precision, adapters),
    };
    Ok(Some(Job {
        precision: policy,
        lora: c.lora.clone(),
        sft: tuning(
            stage == "pretrain" || c.sft.method == "full",
            supervised::precision(run),
            c.sft.adapters(&c.lora),
        ),
        reward_model: Some(model.clone()),
        reward: tuning(c.reward.method == "full", reward::precision(run), c.reward.adapters(&c.lora)),
        pairs: match c.reward.kind.as_str() {
            "classifier" => share(c.reward.train.batch_size).div_ceil(2),
            _ => share(c.reward.train.batch_size),
        },
        prompt: lengths.0,
        response: lengths.1,
        batch: share(c.ppo.batch_size),
        mini_batch: share(c.ppo.mini_batch_size),
        sequences: c.memory.sequences,
        micro_tokens: c.memory.micro_tokens.min(match stage {
            "pretrain" => share(c.pretrain.train.batch_size) * c.pretrain.sequence_length,
            _ => share(c.sft.train.batch_size) * (lengths.0 + lengths.1),
        }),
        checkpointing: c.memory.gradient_checkpointing,
        model,
    }))
}

/// A model's shape and tokenizer, without its weights.
fn header(path: &Path) -> Result<(ModelConfig, Text)> {
    let (config, tokenizer) = if path.extension().is_some_and(|e| e == "gguf") {
        let file = Gguf::open(path)?;
        (file.config.clone(), file.tokenizer()?)
    } else {
        let folder = Folder::open(path)?;
        (folder.config.clone(), folder.tokenizer()?)
    };
    let context = config.max_positions;
    Ok((config, Text::new(tokenizer, context)))
}

/// Tokens of the longest demonstration after its first.
fn demonstration(text: &Text, corpus: &Corpus) -> Result<usize> {
    let tokens = longest(
        &corpus.demonstrations,
        |d| d.prompt.len() + d.completion.len(),
        |d| Ok(text.prompt(&d.prompt)?.len() + text.completion(&d.completion)?.len()),
    )?;
    Ok(tokens.min(text.context).max(2) - 1)
}

/// Tokens of the longest text that the reward model is trained on, after its first.
fn judged(run: &Run, text: &Text, corpus: &Corpus) -> Result<usize> {
    let question = text.encode(&run.config.reward.question)?.len();
    let tokens = match run.config.reward.kind.as_str() {
        "classifier" => longest(&corpus.labelled, |l| l.text.len(), |l| Ok(text.encode(&l.text)?.len()))?,
        _ => longest(
            &corpus.rankings,
            |r| r.prompt.len() + r.chosen.len().max(r.rejected.len()),
            |r| {
                let side = |s: &str| text.completion(s).map(|ids| ids.len());
                Ok(text.encode(&r.prompt)?.len() + side(&r.chosen)?.max(side(&r.rejected)?))
            },
        )?,
    };
    Ok((tokens + question + 1).min(text.context).max(2) - 1)
}

/// The most tokens among the longest items.
fn longest<T>(
    items: &[T],
    characters: impl Fn(&T) -> usize,
    tokens: impl Fn(&T) -> Result<usize>,
) -> Result<usize> {
    let mut order: Vec<&T> = items.iter().collect();
    order.sort_by_key(|i| std::cmp::Reverse(characters(i)));
    order.into_iter().take(LONGEST).try_fold(1, |most, item| Ok(most.max(tokens(item)?)))
}
