//! How much memory a fine-tuning job takes on a GPU: the real stages, run on a device that allocates shapes and computes
//! nothing.

use crate::{
    error::Result,
    lm::{self, Example},
    optimizer::{AdamConfig, Optimizer},
    ppo::{Ppo, Reward},
    reward::{self, RewardModel},
    supervised::lm_step,
};
use autograd::Grads;
use device::{Cost, Device, Peak};
use formats::ModelConfig;
use model::{Completion, LoraConfig, Model, Pass, Precision, Sampling};

/// How a supervised stage trains.
#[derive(Debug, Clone, PartialEq)]
pub enum Tuning {
    /// All weights, in f32.
    Full,
    /// Adapters over frozen weights.
    Lora(Precision, LoraConfig),
}

impl Tuning {
    /// How the weights are held.
    pub fn precision(&self) -> Precision {
        match self {
            Tuning::Full => Precision::F32,
            Tuning::Lora(precision, _) => *precision,
        }
    }
}

/// A job.
#[derive(Debug, Clone)]
pub struct Job {
    /// The policy's architecture.
    pub model: ModelConfig,
    /// The frozen base.
    pub precision: Precision,
    /// Its adapters.
    pub lora: LoraConfig,
    /// How it is fine-tuned on demonstrations before.
    pub sft: Tuning,
    /// The reward model's architecture; none = one that lives elsewhere.
    pub reward_model: Option<ModelConfig>,
    /// How the reward model is trained.
    pub reward: Tuning,
    /// Pairs of texts of a step of the reward model.
    pub pairs: usize,
    /// Prompt tokens of a rollout.
    pub prompt: usize,
    /// Tokens of an answer.
    pub response: usize,
    /// Answers of a PPO iteration.
    pub batch: usize,
    /// Answers of a minibatch.
    pub mini_batch: usize,
    /// Answers generated at once.
    pub sequences: usize,
    /// Most tokens of a forward and backward pass in supervised fine-tuning.
    pub micro_tokens: usize,
    /// Compute blocks again in the backward pass.
    pub checkpointing: bool,
}

/// What a stage takes.
#[derive(Debug, Clone)]
pub struct StagePlan {
    /// sft, reward or ppo.
    pub stage: &'static str,
    /// Memory at its fullest, loading included.
    pub peak: Peak,
    /// Bytes of live buffers at the fullest, without the allocator's rounding: what other devices report as their peak.
    pub exact: usize,
    /// Work of one step (for ppo: one iteration), loading not included.
    pub step: Cost,
    /// Kernel launches of one step.
    pub launches: usize,
    /// Tokens of one step.
    pub tokens: usize,
}

/// Bytes of a tensor that no allocation on this machine backs: pages of zeros that nobody reads.
fn zeros(device: &Device, config: &ModelConfig, precision: Precision) -> Model {
    let mut source =
        |_: &str, rows: usize, cols: usize| Ok::<_, std::convert::Infallible>(vec![0.0; rows * cols]);
    match Model::from_source(device, config.clone(), precision, &mut source) {
        Ok(model) => model,
        Err(never) => match never {},
    }
}

/// The reward of a job whose reward model lives elsewhere.
struct Elsewhere;

impl Reward for Elsewhere {
    fn score(&self, _: &[Vec<u32>], completions: &[Completion]) -> Result<Vec<f32>> {
        Ok(vec![0.0; completions.len()])
    }
}

impl Job {
    fn load(&self, device: &Device, config: &ModelConfig, precision: Precision) -> Model {
        let mut model = zeros(device, config, precision);
        model.checkpointing = self.checkpointing;
        model
    }

    /// The stages of the job on a device that computes nothing, each from loading to the end of a step. A stage can also be
    /// run for real, on blank weights, to compare.
    ///
    /// # Errors
    /// When a setting is refused.
    pub fn stages(&self) -> Result<Vec<StagePlan>> {
        ["sft", "reward", "ppo"].into_iter().filter_map(|s| self.stage(s).transpose()).collect()
    }

    /// One of them by name; none when the job has no such stage.
    ///
    /// # Errors
    /// As [`Job::stages`].
    pub fn stage(&self, name: &str) -> Result<Option<StagePlan>> {
        let device = Device::meta();
        match (name, &self.reward_model) {
            ("sft", _) => self.sft(&device).map(Some),
            ("reward", Some(config)) => self.reward(&device, config).map(Some),
            ("ppo", _) => self.ppo(&device).map(Some),
            _ => Ok(None),
        }
    }

    /// One step, with AdamW, of as many tokens as one pass takes.
    ///
    /// # Errors
    /// As [`Job::stages`].
    pub fn sft(&self, device: &Device) -> Result<StagePlan> {
        let mut model = self.load(device, &self.model, self.sft.precision());
        match &self.sft {
            Tuning::Full => model.train_all(),
            Tuning::Lora(_, adapters) => {
                model.attach_lora(adapters, 0);
                model.train_adapters();
            }
        }
        let mut optimizer = Optimizer::new(&model.params, AdamConfig::default());
        let mut grads = Grads::new();
        let length = self.prompt + self.response;
        let examples: Vec<Example> =
            (0..(self.micro_tokens / length).max(1)).map(|_| Example::whole(vec![0; length])).collect();
        let step = Meter::start(device);
        let batch: Vec<&Example> = examples.iter().collect();
        lm_step(&model, &batch, 0..batch.len(), &mut grads, self.micro_tokens)?;
        optimizer.step(&mut model.params, &mut grads, 1e-4, 1.0)?;
        Ok(step.stage("sft", examples.len() * length))
    }

    /// One step of the reward model and its head on pairs of whole texts.
    ///
    /// # Errors
    /// As [`Job::stages`].
    pub fn reward(&self, device: &Device, config: &ModelConfig) -> Result<StagePlan> {
        let mut model = self.load(device, config, self.reward.precision());
        let head = model.add_head("score", 1, 0.0, 0);
        if let Tuning::Lora(_, adapters) = &self.reward {
            model.attach_lora(adapters, 0);
        }
        reward::train_what(&mut model, self.reward == Tuning::Full);
        let mut optimizer = Optimizer::new(&model.params, AdamConfig::default());
        let mut grads = Grads::new();
        let length = self.prompt + self.response;
        let step = Meter::start(device);
        reward::blank_step(&model, &head, self.pairs, length, &mut grads)?;
        optimizer.step(&mut model.params, &mut grads, 1e-4, 1.0)?;
        Ok(step.stage("reward", 2 * self.pairs * length))
    }

    /// One whole iteration: rollout, reference and reward, and every optimiser step.
    ///
    /// # Errors
    /// As [`Job::stages`].
    pub fn ppo(&self, device: &Device) -> Result<StagePlan> {
        let mut model = self.load(device, &self.model, self.precision);
        model.attach_lora(&self.lora, 0);
        let judge: Box<dyn Reward> = match &self.reward_model {
            Some(config) => {
                let mut model = self.load(device, config, self.reward.precision());
                let head = model.add_head("score", 1, 0.0, 0);
                Box::new(RewardModel::bare(model, head))
            }
            None => Box::new(Elsewhere),
        };
        let settings = rl::PpoConfig {
            batch_size: self.batch,
            mini_batch_size: self.mini_batch,
            response_length: self.response,
            ..rl::PpoConfig::default()
        };
        let mut ppo = Ppo::new(model, settings)?;
        ppo.sequences = self.sequences;
        ppo.dense_rewards = self.reward_model.is_some();
        let prompts = vec![vec![0; self.prompt]; self.batch];
        let step = Meter::start(device);
        ppo.iteration(0, &prompts, &*judge, None)?;
        Ok(step.stage("ppo", self.batch * (self.prompt + self.response)))
    }
}

/// Kernel launches of one transformer block: forward in training, forward in decoding, and backward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockLaunches {
    /// Forward, over whole sequences.
    pub forward: usize,
    /// Forward of one token a sequence, over the key-value cache.
    pub decode: usize,
    /// Backward, without recomputation.
    pub backward: usize,
}

impl Job {
    /// Launches of a block of the policy, adapters on: what two blocks take more than one.
    ///
    /// # Errors
    /// As [`Job::stages`].
    pub fn block_launches(&self) -> Result<BlockLaunches> {
        let (two, one) = (self.launches(2)?, self.launches(1)?);
        let [forward, step, decode] = [0, 1, 2].map(|i| two[i] - one[i]);
        Ok(BlockLaunches { forward, decode, backward: step - forward })
    }

    /// Launches with so many layers: loss without gradients, loss with gradients, one decode step.
    fn launches(&self, layers: usize) -> Result<[usize; 3]> {
        let device = Device::meta();
        let mut model = zeros(&device, &ModelConfig { layers, ..self.model.clone() }, self.precision);
        model.attach_lora(&self.lora, 0);
        model.train_adapters();
        let example = Example::whole(vec![0; self.prompt + self.response]);
        let mut grads = Grads::new();
        let count = |work: &mut dyn FnMut() -> Result<()>| {
            let before = device.launches();
            work().map(|()| device.launches() - before)
        };
        let forward = count(&mut || lm::loss(&model, &[&example], Pass::default(), None).map(|_| ()))?;
        let step = count(&mut || {
            lm::loss(&model, &[&example], Pass::default(), Some((&mut grads, 1.0))).map(|_| ())
        })?;
        let generate = |tokens: usize| {
            let sampling = Sampling { max_new_tokens: tokens, ..Sampling::default() };
            model.generate(&[vec![0; self.prompt]], &[0], &sampling, Pass::default(), None, &|_| {});
            Ok(())
        };
        let decode = count(&mut || generate(3))? - count(&mut || generate(2))?;
        Ok([forward, step, decode])
    }
}

/// Measures a step on a dry-run device.
struct Meter {
    device: Device,
    cost: Cost,
    launches: usize,
}

impl Meter {
    fn start(device: &Device) -> Meter {
        Meter { cost: device.cost(), launches: device.launches(), device: device.clone() }
    }

    fn stage(self, stage: &'static str, tokens: usize) -> StagePlan {
        let (now, before) = (self.device.cost(), self.cost);
        let step = Cost {
            bytes_read: now.bytes_read - before.bytes_read,
            bytes_written: now.bytes_written - before.bytes_written,
            flops: now.flops - before.flops,
            half_flops: now.half_flops - before.half_flops,
            int8_ops: now.int8_ops - before.int8_ops,
        };
        StagePlan {
            stage,
            peak: self.device.peak(),
            exact: self.device.peak_bytes(),
            step,
            launches: self.device.launches() - self.launches,
            tokens,
        }
    }
}
