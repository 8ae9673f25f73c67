//! Fused log-probabilities, PPO losses and Bradley-Terry.
