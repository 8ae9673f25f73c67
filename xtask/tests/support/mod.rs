//! What the integration tests share.
// Each test program uses a part of this.
#![allow(dead_code)]

use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

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

/// `cargo xtask train` with the tiny settings.
pub fn train(out: &Path, more: &[&str]) -> Command {
    let mut c = Command::new(env!("CARGO_BIN_EXE_xtask"));
    c.arg("train").arg("--out").arg(out);
    for s in TINY {
        c.args(["--set", s]);
    }
    c.args(more);
    c
}

/// Runs it.
pub fn run(out: &Path, more: &[&str]) -> Output {
    train(out, more).output().unwrap()
}

/// What a process wrote.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The run must fail with code 1 and say `needle`.
pub fn check_fails(out: &Path, more: &[&str], needle: &str) {
    let o = run(out, more);
    let err = text(&o.stderr);
    assert_eq!(o.status.code(), Some(1), "{more:?}: {err}");
    assert!(err.contains(needle), "{more:?} should say {needle:?}: {err}");
}

/// summary.json.
pub fn summary(out: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(out.join("summary.json")).unwrap()).unwrap()
}

/// metrics.jsonl without the times, which differ from run to run.
pub fn metrics(out: &Path) -> Vec<Value> {
    let rows = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    let mut rows: Vec<Value> = rows.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    for r in &mut rows {
        r.as_object_mut().unwrap().retain(|k, _| !k.starts_with("time/"));
    }
    rows
}

/// A folder that goes with it.
pub struct Temp(tempfile::TempDir);

impl Temp {
    /// An empty one.
    pub fn new() -> Self {
        Temp(tempfile::tempdir().unwrap())
    }
    /// A path inside.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}
