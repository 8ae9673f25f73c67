//! Supervised fine-tuning, reward models and PPO.
pub mod error;
pub mod interrupt;
pub mod lm;
pub mod optimizer;
pub mod ppo;
pub mod bench;
