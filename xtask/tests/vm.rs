//! The whole pipeline on the GPU kernels, strictly checked on the VM, against the CPU device.

use serde_json::Value;
use std::{path::Path, process::Command};

mod support;
use support::TINY;

fn train(device: &str, out: &Path) {
    let mut c = Command::new(env!("CARGO_BIN_EXE_xtask"));
    c.args(["train", "--device", device, "--out"]).arg(out).env("FERROTUNE_VM_CHECKS", "all");
    // Strictly checked kernels take their time: a second for some hundred tokens.
    let fewer = [
        "data.reviews=100",
        "pretrain.train.steps=20",
        "pretrain.train.batch_size=3",
        "sft.train.steps=4",
        "sft.train.batch_size=6",
        "reward.train.steps=4",
        "reward.train.batch_size=4",
        "rollout.iterations=2",
        "eval.prompts=4",
        "data.plain_held_out=20",
    ];
    for s in TINY.iter().chain(&fewer) {
        c.args(["--set", s]);
    }
    let o = c.output().unwrap();
    assert!(o.status.success(), "--device {device}: {}", String::from_utf8_lossy(&o.stderr));
}

/// The values of a metric in a stage, in order.
fn metric(out: &Path, stage: &str, name: &str) -> Vec<f64> {
    let rows = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    let rows = rows.lines().map(|l| serde_json::from_str::<Value>(l).unwrap());
    let values: Vec<f64> = rows.filter(|r| r["stage"] == stage).filter_map(|r| r[name].as_f64()).collect();
    assert!(!values.is_empty(), "{stage} has no {name}");
    values
}

#[test]
fn the_gpu_kernels_train_as_the_cpu_does() {
    let dir = tempfile::tempdir().unwrap();
    let (cpu, vm) = (dir.path().join("cpu"), dir.path().join("vm"));
    train("cpu", &cpu);
    train("vm", &vm);
    let worst = |stage: &str, name: &str| {
        let pairs = metric(&cpu, stage, name).into_iter().zip(metric(&vm, stage, name));
        pairs.map(|(a, b)| (a - b).abs() / a.abs().max(1e-3)).fold(0.0, f64::max)
    };
    // Twenty steps and more in f32 from the same random weights; then stages that begin where they left off.
    for (stage, name, limit) in [
        ("pretrain", "loss", 1e-6),
        ("sft", "loss", 1e-6),
        ("reward", "loss", 1e-5),
        // int8 weights: a number on the border between two of the 255 falls either way.
        ("ppo", "policy/entropy_avg", 1e-2),
    ] {
        let worst = worst(stage, name);
        println!("{stage} {name}: at most {worst:.1e} apart");
        assert!(worst <= limit, "{stage} {name}: {worst:e} apart");
    }
    // One engine generates and trains here, too: bit-equal log-probabilities.
    assert_eq!(metric(&vm, "ppo", "val/first_ratio"), vec![1.0; 2]);
}
