//! What will not fit is refused before anything is loaded, and what is advised instead fits.

use serde_json::Value;
use std::{
    path::Path,
    process::{Command, Output},
};

mod support;
use support::TINY;

fn train(out: &Path, more: &[&str]) -> Command {
    let mut c = Command::new(env!("CARGO_BIN_EXE_xtask"));
    c.args(["train", "--quiet", "--out"]).arg(out).args(more);
    TINY.iter().for_each(|s| _ = c.args(["--set", s]));
    c
}

fn error(o: &Output) -> String {
    assert_eq!(o.status.code(), Some(1));
    String::from_utf8_lossy(&o.stderr).into_owned()
}

#[test]
fn a_stage_that_will_not_fit_is_refused_with_its_plan_and_the_settings_advised_fit() {
    let dir = tempfile::tempdir().unwrap();
    let limit = 7 << 20;
    let mut more = vec!["--set".to_string(), "memory.limit=7MiB".to_string()];
    // Every stage has its say; what it advises comes to what was advised before.
    for attempt in 0..4 {
        let out = dir.path().join(attempt.to_string());
        let o = train(&out, &more.iter().map(String::as_str).collect::<Vec<_>>()).output().unwrap();
        if o.status.success() {
            assert!(attempt > 0, "7 MiB are enough without advice");
            let state: Value =
                serde_json::from_slice(&std::fs::read(out.join("state.json")).unwrap()).unwrap();
            for stage in ["pretrain", "sft", "reward", "ppo"] {
                let peak = state[stage]["peak_memory_bytes"].as_u64().unwrap();
                assert!(peak <= limit, "{stage}: {peak}");
            }
            return;
        }
        let e = error(&o);
        for part in ["does not fit: ", "memory.limit is 7.0 MiB", "activations", "largest tensors"] {
            assert!(e.contains(part), "{part}: {e}");
        }
        if attempt == 0 {
            assert!(e.contains("stage `pretrain`"), "{e}");
            assert_eq!(
                std::fs::metadata(out.join("metrics.jsonl")).unwrap().len(),
                0,
                "something was trained"
            );
        }
        let advice = e.lines().find_map(|l| l.strip_prefix("it fits with: ")).unwrap();
        more.extend(advice.split(' ').map(str::to_string));
    }
    panic!("the advice does not fit: {more:?}");
}

#[test]
fn a_gpu_with_too_little_memory_says_so_before_it_is_used() {
    let dir = tempfile::tempdir().unwrap();
    let o = train(dir.path(), &["--device", "vm"]).env("FERROTUNE_VM_MEMORY", "4M").output().unwrap();
    let e = error(&o);
    assert!(e.contains("stage `pretrain` does not fit: ") && e.contains(" free\n"), "{e}");
    assert!(e.contains("memory.limit = \"off\" tries it all the same"), "{e}");
}
