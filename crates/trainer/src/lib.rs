//! Supervised fine-tuning, reward models and PPO.
