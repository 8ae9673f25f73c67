//! What the integration tests share.

/// Settings that make a whole run take seconds.
pub const TINY: &[&str] = &[
    "model.hidden=32",
    "model.layers=2",
    "model.heads=2",
    "model.intermediate=64",
    "model.vocab=400",
    "model.context=128",
    "data.reviews=300",
    "data.pairs=100",
    "pretrain.train.steps=30",
    "sft.train.steps=8",
    "reward.train.steps=8",
    "rollout.iterations=3",
    "ppo.batch_size=8",
    "ppo.mini_batch_size=4",
    "ppo.response_length=12",
    "eval.prompts=8",
    "eval.samples=2",
    "run.checkpoint_seconds=0",
];
