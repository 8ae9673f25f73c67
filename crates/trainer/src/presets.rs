//! Named settings to start from: the embedded example and real data.

use crate::{
    config::{Config, DataSection, LoopConfig, ModelSection, RewardSection},
    error::{Error, Result},
};
use model::{LoraConfig, Target};
use std::path::{Path, PathBuf};

impl Config {
    /// The embedded example: a small model and generated reviews, minutes on two cores.
    pub fn embedded() -> Self {
        let mut c = Config::small();
        c.model.vocab = 2048;
        c.data = DataSection { reviews: 8000, pairs: 20_000, ..c.data };
        c.pretrain.sequence_length = 128;
        c.pretrain.train = LoopConfig { steps: 700, batch_size: 16, ..c.pretrain.train };
        c.sft.train.steps = 150;
        c.reward.train = LoopConfig { steps: 1200, learning_rate: 1e-3, ..c.reward.train };
        // A million weights have no direction "positive" for queries and values to turn to: with these two alone
        // the policy reaches less reward at a higher KL, by repeating itself (docs/embedded.md).
        c.lora.targets = vec![Target::QueryKeyValue, Target::AttnOut, Target::MlpUp, Target::MlpDown];
        c.ppo = rl::PpoConfig {
            learning_rate: 3e-3,
            batch_size: 128,
            mini_batch_size: 32,
            ppo_epochs: 2,
            init_kl_coef: 0.2,
            target: 6.0,
            lam: 0.9,
            vf_coef: 0.5,
            ..c.ppo
        };
        c.rollout.iterations = 140;
        c
    }

    /// What the presets have in common.
    fn small() -> Self {
        let ppo = rl::PpoConfig {
            learning_rate: 1e-3,
            batch_size: 64,
            mini_batch_size: 32,
            ppo_epochs: 4,
            response_length: 48,
            init_kl_coef: 0.05,
            target: 8.0,
            horizon: 2000.0,
            use_score_scaling: true,
            use_score_norm: true,
            score_clip: Some(4.0),
            missing_eos_penalty: Some(1.0),
            ..rl::PpoConfig::default()
        };
        Config { ppo, ..Config::default() }
    }

    /// A named preset; real-data presets expect the files of `cargo xtask data` in `data_dir`.
    ///
    /// # Errors
    /// For an unknown name, or when the preset's files are not there.
    pub fn preset(name: &str, data_dir: &Path) -> Result<Self> {
        let need = |file: &str, command: &str| {
            let path = data_dir.join(file);
            match path.exists() {
                true => Ok(path),
                false => {
                    let problem =
                        format!("{} is missing; run `cargo xtask data {command}` first", path.display());
                    Err(Error::config("--preset", problem))
                }
            }
        };
        match name {
            "embedded" => Ok(Config::embedded()),
            "movie-reviews" => Ok(Config::movie_reviews(
                need("movie-reviews.tsv", "movie-reviews")?,
                need("brown.txt", "plain-text")?,
            )),
            "smollm2" => Ok(Config::smollm2(
                need("movie-reviews.tsv", "movie-reviews")?,
                need("brown.txt", "plain-text")?,
                need("SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2")?,
            )),
            other => Err(Error::config(
                "--preset",
                format!("\"{other}\" is unknown; use embedded, movie-reviews or smollm2"),
            )),
        }
    }

    /// Real sentences with human ratings; a small base model from scratch.
    fn movie_reviews(reviews: PathBuf, plain: PathBuf) -> Self {
        let mut c = Config::small();
        c.data.path = Some(reviews);
        c.data.plain_text = Some(plain);
        c.data.pairs = 12_000;
        c.model = ModelSection {
            hidden: 192,
            layers: 4,
            heads: 6,
            intermediate: 768,
            context: 128,
            vocab: 4096,
            ..c.model
        };
        c.pretrain.train =
            LoopConfig { steps: 1200, batch_size: 32, learning_rate: 2e-3, ..c.pretrain.train };
        c.sft.train = LoopConfig { steps: 400, learning_rate: 5e-4, ..c.sft.train };
        c.reward.train = LoopConfig { steps: 600, batch_size: 16, learning_rate: 3e-4, ..c.reward.train };
        // As in the embedded example, and for the same reasons; a noisier reward wants a slower rate.
        c.lora.targets = vec![Target::QueryKeyValue, Target::AttnOut, Target::MlpUp, Target::MlpDown];
        c.ppo = rl::PpoConfig {
            learning_rate: 1.5e-3,
            batch_size: 128,
            mini_batch_size: 32,
            ppo_epochs: 2,
            response_length: 24,
            init_kl_coef: 0.2,
            target: 4.0,
            lam: 0.9,
            vf_coef: 0.5,
            missing_eos_penalty: None,
            ..c.ppo
        };
        c.rollout.iterations = 150;
        c
    }

    /// The same with a real pre-trained model, fine-tuned through adapters.
    fn smollm2(reviews: PathBuf, plain: PathBuf, model: PathBuf) -> Self {
        let mut c = Config::movie_reviews(reviews, plain);
        c.data.plain_held_out = 200;
        c.model.path = Some(model);
        // Its activations have few elements above 6 and most of their weight far below: under the paper's
        // threshold what lies between is rounded away, and perplexity rises by more than a hundredth.
        c.model.int8_threshold = 1.5;
        c.sft.method = "lora".into();
        c.sft.train = LoopConfig { steps: 60, batch_size: 16, learning_rate: 5e-4, ..c.sft.train };
        c.reward = RewardSection {
            kind: "classifier".into(),
            method: "lora".into(),
            question: "\nSentiment:".into(),
            first_layer: 15,
            validation: 0.06,
            train: LoopConfig {
                steps: 600,
                batch_size: 16,
                learning_rate: 5e-4,
                warmup: 40,
                ..c.reward.train
            },
            ..c.reward
        };
        c.ppo = rl::PpoConfig {
            learning_rate: 5e-4,
            batch_size: 16,
            mini_batch_size: 8,
            ppo_epochs: 2,
            response_length: 20,
            missing_eos_penalty: None,
            // So few iterations need a controller that moves within them.
            init_kl_coef: 0.2,
            horizon: 50.0,
            ..Config::small().ppo
        };
        c.lora.targets = LoraConfig::default().targets;
        c.rollout.iterations = 32;
        c.eval.prompts = 32;
        c
    }
}
