//! Every setting of a run: a TOML file over these defaults, flags over the file.

use crate::{
    error::{Error, Result},
    memory::MemorySection,
    optimizer::AdamConfig,
    ranks::ParallelSection,
};
use model::{LoraConfig, Target};
use optim::Schedule;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// All settings. Unknown fields are errors; what a file leaves out keeps its default.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The run as a whole.
    pub run: RunSection,
    /// The base model.
    pub model: ModelSection,
    /// Data sets.
    pub data: DataSection,
    /// Pre-training, when no model is given.
    pub pretrain: PretrainSection,
    /// Supervised fine-tuning.
    pub sft: SftSection,
    /// The reward.
    pub reward: RewardSection,
    /// Adapters of the policy.
    pub lora: LoraConfig,
    /// PPO's settings, under TRL's names.
    pub ppo: rl::PpoConfig,
    /// How long PPO runs and when it is stopped.
    pub rollout: RolloutSection,
    /// Held-out evaluation.
    pub eval: EvalSection,
    /// What is kept in memory at a time.
    pub memory: MemorySection,
    /// Ranks.
    pub parallel: ParallelSection,
}

/// The run as a whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunSection {
    /// Seed of everything random.
    pub seed: u64,
    /// Threads; 0 = all cores.
    pub threads: usize,
    /// Seconds between checkpoints.
    pub checkpoint_seconds: f64,
}

impl Default for RunSection {
    fn default() -> Self {
        RunSection { seed: 17, threads: 0, checkpoint_seconds: 30.0 }
    }
}

/// The base model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelSection {
    /// A Hugging Face folder (GPT-NeoX, GPT-2, Llama) or a .gguf file; none = pre-train a small GPT-NeoX.
    pub path: Option<PathBuf>,
    /// Width, when pre-training.
    pub hidden: usize,
    /// Blocks, when pre-training.
    pub layers: usize,
    /// Heads, when pre-training.
    pub heads: usize,
    /// MLP width, when pre-training.
    pub intermediate: usize,
    /// Longest sequence, when pre-training.
    pub context: usize,
    /// Most tokens of the byte-level BPE, when pre-training.
    pub vocab: usize,
    /// The policy's frozen base: "int8" (LLM.int8) or "f32".
    pub precision: String,
    /// LLM.int8 outlier threshold.
    pub int8_threshold: f32,
}

impl Default for ModelSection {
    fn default() -> Self {
        ModelSection {
            path: None,
            hidden: 128,
            layers: 4,
            heads: 4,
            intermediate: 512,
            context: 256,
            vocab: 1024,
            precision: "int8".into(),
            int8_threshold: 6.0,
        }
    }
}

/// Where data comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataSection {
    /// Labelled or rated texts (IMDb folder, CSV, TSV, JSONL, parquet), demonstrations or rankings; none = the
    /// embedded review generator.
    pub path: Option<PathBuf>,
    /// Rankings (prompt, chosen, rejected), when they are in a file of their own.
    pub rankings: Option<PathBuf>,
    /// Plain text, one passage a line, for pre-training and for watching what is forgotten.
    pub plain_text: Option<PathBuf>,
    /// Column names of a table without a header row, in order.
    pub column_names: Option<Vec<String>>,
    /// Reviews from the embedded generator.
    pub reviews: usize,
    /// Ranked pairs, generated or derived from ratings.
    pub pairs: usize,
    /// Words of a text that become the prompt, when texts have no prompt of their own.
    pub prompt_words: usize,
    /// Least difference of ratings in a derived pair.
    pub min_rating_gap: f32,
    /// Share of each set that is held out.
    pub held_out: f64,
    /// Most passages of held-out plain text that are measured; a large model takes its time over each.
    pub plain_held_out: usize,
}

impl Default for DataSection {
    fn default() -> Self {
        DataSection {
            path: None,
            rankings: None,
            plain_text: None,
            column_names: None,
            reviews: 6000,
            pairs: 3000,
            prompt_words: 4,
            min_rating_gap: 1.0,
            held_out: 0.1,
            plain_held_out: 2000,
        }
    }
}

/// The loop that supervised stages share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoopConfig {
    /// Optimiser steps.
    pub steps: usize,
    /// Sequences (or pairs) per step.
    pub batch_size: usize,
    /// Peak learning rate.
    pub learning_rate: f32,
    /// Rising steps.
    pub warmup: usize,
    /// "constant", "linear" or "cosine".
    pub schedule: String,
    /// Optimiser.
    pub adam: AdamConfig,
}

impl Default for LoopConfig {
    fn default() -> Self {
        LoopConfig {
            steps: 200,
            batch_size: 32,
            learning_rate: 1e-3,
            warmup: 20,
            schedule: "cosine".into(),
            adam: AdamConfig::default(),
        }
    }
}

/// The names of the schedules: a constant learning rate, one that falls to zero in a line, or one that falls to a
/// tenth along half a cosine.
const SCHEDULES: [(&str, Schedule); 3] =
    [("constant", Schedule::Constant), ("linear", Schedule::Linear), ("cosine", Schedule::Cosine)];

fn schedule(field: &str, name: &str) -> Result<Schedule> {
    let found = SCHEDULES.iter().find(|(n, _)| *n == name).map(|(_, s)| *s);
    found.ok_or_else(|| Error::config(field, format!("is \"{name}\"; use constant, linear or cosine")))
}

impl LoopConfig {
    /// The learning-rate factor at step `i`.
    pub fn factor(&self, i: usize) -> f32 {
        schedule("schedule", &self.schedule).unwrap_or_default().factor(i, self.warmup, self.steps)
    }

    fn validate(&self, section: &str) -> Result<()> {
        let bad = |field: &str, problem: String| Err(Error::config(&format!("{section}.{field}"), problem));
        schedule(&format!("{section}.schedule"), &self.schedule)?;
        if self.batch_size == 0 {
            return bad("batch_size", "is 0; use at least 1".into());
        }
        if !(self.learning_rate > 0.0 && self.learning_rate.is_finite()) {
            return bad("learning_rate", format!("is {}; use a positive number", self.learning_rate));
        }
        Ok(())
    }
}

/// Pre-training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PretrainSection {
    /// Tokens per sequence.
    pub sequence_length: usize,
    /// The loop.
    pub train: LoopConfig,
}

impl Default for PretrainSection {
    fn default() -> Self {
        let train = LoopConfig { steps: 500, batch_size: 24, learning_rate: 3e-3, ..LoopConfig::default() };
        PretrainSection { sequence_length: 64, train }
    }
}

/// Supervised fine-tuning.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SftSection {
    /// Train all weights ("full") or adapters that are then merged ("lora").
    pub method: String,
    /// With "lora", where the adapters sit.
    pub targets: Vec<Target>,
    /// The loop.
    pub train: LoopConfig,
}

impl Default for SftSection {
    fn default() -> Self {
        let train = LoopConfig { steps: 150, ..LoopConfig::default() };
        SftSection { method: "full".into(), targets: every_layer(), train }
    }
}

impl SftSection {
    /// The adapters of method "lora".
    pub fn adapters(&self, lora: &LoraConfig) -> LoraConfig {
        LoraConfig { targets: self.targets.clone(), first_layer: 0, ..lora.clone() }
    }
}

/// Every linear layer of the blocks.
fn every_layer() -> Vec<Target> {
    vec![Target::QueryKeyValue, Target::AttnOut, Target::MlpUp, Target::MlpDown]
}

/// The reward.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RewardSection {
    /// "ranking" (a scalar head under the Bradley-Terry loss) or "classifier" (a sentiment classifier).
    pub kind: String,
    /// Train all weights ("full") or adapters over `model.precision` weights ("lora").
    pub method: String,
    /// With "lora", where the adapters sit.
    pub targets: Vec<Target>,
    /// What follows a text before it is scored, such as "Sentiment:"; empty = scored at its last token.
    pub question: String,
    /// With "lora", adapt this block and those above it; the blocks below only run forward.
    pub first_layer: usize,
    /// Where texts have ratings, the classifier's target is sigmoid(rating_scale * rating); 0 = the class.
    pub rating_scale: f32,
    /// Share of the labelled training texts set aside to choose settings by.
    pub validation: f64,
    /// Random earlier places of each answer that are judged along with its end, so that the model can tell of an
    /// unfinished answer where it is heading (dense rewards are paid by that).
    pub prefixes: usize,
    /// What the earlier places weigh against the end; 0 = judge ends only.
    pub prefix_weight: f32,
    /// The loop; a step of "ranking" takes `batch_size` pairs.
    pub train: LoopConfig,
}

impl Default for RewardSection {
    fn default() -> Self {
        let train = LoopConfig { steps: 150, batch_size: 16, learning_rate: 5e-4, ..LoopConfig::default() };
        RewardSection {
            kind: "ranking".into(),
            method: "full".into(),
            targets: every_layer(),
            question: String::new(),
            first_layer: 0,
            rating_scale: 1.5,
            validation: 0.0,
            prefixes: 4,
            prefix_weight: 1.0,
            train,
        }
    }
}

impl RewardSection {
    /// The adapters of method "lora".
    pub fn adapters(&self, lora: &LoraConfig) -> LoraConfig {
        LoraConfig { targets: self.targets.clone(), first_layer: self.first_layer, ..lora.clone() }
    }
}

/// How long PPO runs and when it is stopped.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RolloutSection {
    /// Iterations; one is `ppo.batch_size` answers and their optimiser steps.
    pub iterations: usize,
    /// The learning rate over the iterations: "constant", "linear" or "cosine". Late steps that shrink let the noise
    /// of the early ones average out, which is KL saved.
    pub schedule: String,
    /// Pay an answer's score token by token as the reward model sees it earned (potential-based shaping), instead
    /// of all of it at the last token. The same best policy, found with far fewer answers.
    pub dense_rewards: bool,
    /// Stop when an alarm rings (KL running away, entropy collapse, repetition).
    pub alarms: bool,
    /// When the alarms ring.
    pub thresholds: rl::AlarmThresholds,
}

impl Default for RolloutSection {
    fn default() -> Self {
        let thresholds = rl::AlarmThresholds::default();
        let (dense_rewards, alarms) = (true, true);
        let schedule = "linear".into();
        RolloutSection { iterations: 60, schedule, dense_rewards, alarms, thresholds }
    }
}

impl RolloutSection {
    /// The learning-rate factor at iteration `i`.
    pub fn factor(&self, i: usize) -> f32 {
        schedule("schedule", &self.schedule).unwrap_or_default().factor(i, 0, self.iterations)
    }
}

/// Held-out evaluation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvalSection {
    /// Held-out prompts.
    pub prompts: usize,
    /// Samples shown in the table and the report.
    pub samples: usize,
}

impl Default for EvalSection {
    fn default() -> Self {
        EvalSection { prompts: 200, samples: 8 }
    }
}

impl Config {
    /// Puts a TOML file's values over these.
    ///
    /// # Errors
    /// Names the file and the line or field.
    pub fn overlay(&mut self, path: &Path) -> Result<()> {
        let bad = |e: toml::de::Error| Error::config(&path.display().to_string(), e.to_string());
        let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
        let over: toml::Table = text.parse().map_err(bad)?;
        let mut base = toml::Value::try_from(&*self).expect("the settings are TOML");
        merge(&mut base, toml::Value::Table(over));
        *self = base.try_into().map_err(bad)?;
        Ok(())
    }

    /// The settings as a TOML file.
    pub fn to_toml(&self) -> String {
        let mut value = toml::Value::try_from(self).expect("the settings are TOML");
        shorten(&mut value);
        toml::to_string(&value).expect("the settings are TOML")
    }

    /// Sets one field, `section.field=value`, the value in TOML (bare words are strings).
    ///
    /// # Errors
    /// Names the field.
    pub fn set(&mut self, assignment: &str) -> Result<()> {
        let (key, value) = assignment
            .split_once('=')
            .ok_or_else(|| Error::config(assignment, "expected section.field=value"))?;
        let parsed = format!("v = {value}").parse::<toml::Table>().ok().and_then(|mut t| t.remove("v"));
        let mut over = parsed.unwrap_or_else(|| toml::Value::String(value.to_string()));
        for part in key.split('.').rev() {
            over = toml::Value::Table([(part.to_string(), over)].into_iter().collect());
        }
        let mut base = toml::Value::try_from(&*self).expect("the settings are TOML");
        merge(&mut base, over);
        *self = base.try_into().map_err(|e: toml::de::Error| Error::config(key, e.to_string()))?;
        Ok(())
    }

    /// Checks every section.
    ///
    /// # Errors
    /// Names the field, what is wrong and what to do.
    pub fn validate(&self) -> Result<()> {
        self.ppo.validate().map_err(|e| Error::config("ppo", e.to_string()))?;
        self.pretrain.train.validate("pretrain.train")?;
        self.sft.train.validate("sft.train")?;
        self.reward.train.validate("reward.train")?;
        schedule("rollout.schedule", &self.rollout.schedule)?;
        let choices = [
            ("model.precision", &self.model.precision, ["int8", "f32"]),
            ("sft.method", &self.sft.method, ["full", "lora"]),
            ("reward.method", &self.reward.method, ["full", "lora"]),
            ("reward.kind", &self.reward.kind, ["ranking", "classifier"]),
        ];
        for (field, value, allowed) in choices {
            if !allowed.contains(&value.as_str()) {
                return Err(Error::config(
                    field,
                    format!("is \"{value}\"; use {} or {}", allowed[0], allowed[1]),
                ));
            }
        }
        self.memory.validate(&self.sft.method)?;
        self.parallel.validate()?;
        let m = &self.model;
        if m.heads == 0 || !m.hidden.is_multiple_of(m.heads) || !(m.hidden / m.heads).is_multiple_of(8) {
            let problem = format!("{} over {} heads: heads must be a multiple of 8 wide", m.hidden, m.heads);
            return Err(Error::config("model.hidden", problem));
        }
        if !(self.reward.prefix_weight >= 0.0 && self.reward.prefix_weight.is_finite()) {
            let problem = format!("is {}; use 0 or more", self.reward.prefix_weight);
            return Err(Error::config("reward.prefix_weight", problem));
        }
        if !(0.0..1.0).contains(&self.reward.validation) {
            let problem = format!("is {}; use 0 or more and less than 1", self.reward.validation);
            return Err(Error::config("reward.validation", problem));
        }
        let targets = [&self.lora.targets, &self.sft.targets, &self.reward.targets];
        if self.lora.rank == 0 || targets.iter().any(|t| t.is_empty()) {
            let problem = "needs a rank of at least 1, and everywhere at least one target";
            return Err(Error::config("lora.rank, lora.targets, sft.targets, reward.targets", problem));
        }
        if self.lora.dropout != 0.0 {
            let why = "must be 0: with dropout the log-probabilities of rollout and training would differ";
            return Err(Error::config("lora.dropout", why));
        }
        if self.eval.prompts == 0 {
            return Err(Error::config(
                "eval.prompts",
                "is 0; at least 1 is needed to compare before and after",
            ));
        }
        Ok(())
    }
}

/// Writes numbers that are f32 with the digits an f32 needs: 0.003 rather than 0.003000000026077032.
fn shorten(value: &mut toml::Value) {
    match value {
        toml::Value::Float(v) if f64::from(*v as f32) == *v => {
            *v = (*v as f32).to_string().parse().expect("digits of a number");
        }
        toml::Value::Table(t) => t.iter_mut().for_each(|(_, v)| shorten(v)),
        _ => {}
    }
}

/// Puts `over`'s values over `base`'s, table by table.
fn merge(base: &mut toml::Value, over: toml::Value) {
    match (base, over) {
        (toml::Value::Table(base), toml::Value::Table(over)) => {
            for (key, value) in over {
                match base.get_mut(&key) {
                    Some(slot) => merge(slot, value),
                    None => drop(base.insert(key, value)),
                }
            }
        }
        (base, over) => *base = over,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_survive_toml_and_flags_override_them() {
        let mut c = Config::embedded();
        c.validate().unwrap();
        let back: Config = toml::from_str(&c.to_toml()).unwrap();
        assert_eq!(back, c);
        c.set("ppo.batch_size=32").unwrap();
        c.set("reward.kind=classifier").unwrap();
        assert_eq!((c.ppo.batch_size, c.reward.kind.as_str()), (32, "classifier"));
    }

    #[test]
    fn mistakes_name_the_field() {
        let check = |assignment: &str, needle: &str| {
            let mut c = Config::embedded();
            let e = c.set(assignment).and_then(|()| c.validate()).unwrap_err().to_string();
            assert!(e.contains(needle), "{assignment}: {e}");
        };
        check("ppo.batchsize=32", "batchsize");
        check("ppo.top_k=5", "top_k");
        check("ppo.min_length=3", "min_length");
        check("lora.dropout=0.1", "lora.dropout");
        check("model.precision=int4", "model.precision");
        check("sft.train.schedule=magic", "sft.train.schedule");
        check("nothing", "section.field=value");
    }
}
