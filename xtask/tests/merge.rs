//! The real binary: what a run leaves behind, merged and converted from the command line.

use std::{
    path::Path,
    process::{Command, Output},
};

mod support;
use support::TINY;

fn xtask(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_xtask")).args(args).output().unwrap()
}

fn ok(args: &[&str]) -> String {
    let o = xtask(args);
    assert!(o.status.success(), "{args:?}: {}", String::from_utf8_lossy(&o.stderr));
    String::from_utf8_lossy(&o.stdout).into_owned()
}

#[track_caller]
fn fails(args: &[&str], needles: &[&str]) {
    let o = xtask(args);
    let err = String::from_utf8_lossy(&o.stderr).into_owned();
    assert_eq!(o.status.code(), Some(1), "{err}");
    assert!(needles.iter().all(|n| err.contains(n)), "{err}");
}

/// Differences from f32 of a report's line.
fn numbers(table: &str, line: &str) -> Vec<f64> {
    let line = table.lines().find_map(|l| l.strip_prefix(line)).unwrap_or_else(|| panic!("{line}: {table}"));
    line.split_whitespace().map(|n| n.parse().unwrap()).collect()
}

#[test]
fn a_runs_adapter_is_merged_reported_and_quantised() {
    let temp = tempfile::tempdir().unwrap();
    let path = |name: &str| temp.path().join(name).to_str().unwrap().to_string();
    let mut train = vec!["train".to_string(), "-q".into(), "--out".into(), path("run")];
    train.extend(TINY.iter().flat_map(|s| ["--set".to_string(), (*s).into()]));
    ok(&train.iter().map(String::as_str).collect::<Vec<_>>());
    let (base, adapter, merged) = (path("run/sft"), path("run/adapter"), path("merged"));
    let given = ["--model", &base, "--adapter", &adapter, "--out"];
    let table = ok(&[&["merge"], &given[..], &[&merged, "--report"]].concat());
    let weights = |dir: &str| std::fs::read(Path::new(dir).join("model.safetensors")).unwrap();
    assert!(weights(&merged) == weights(&path("run/merged")), "the same as the run's own merge stage");
    assert!(weights(&merged) != weights(&base), "the adapter changed something");
    assert_eq!(numbers(&table, "f32, merged")[..2], [0.0, 0.0]);
    let of = |line: &str| numbers(&table, line)[1];
    let (bf16, f16, int8) = (of("bf16, merged"), of("f16, merged"), of("merged, requantised to int8"));
    assert!(0.0 < f16 && f16 < bf16 && bf16 < int8, "{table}");

    let int8 = path("int8");
    ok(&[&["merge"], &given[..], &[&int8, "--int8"]].concat());
    assert!(weights(&int8).len() < weights(&merged).len() / 2);
    let text = path("text.txt");
    std::fs::write(&text, "A quiet film with a good story.\nThe music was dull and the ending was late.\n")
        .unwrap();
    assert!(ok(&["eval", "--model", &int8, "--text", &text]).contains("perplexity"));

    let reward = path("run/reward");
    fails(
        &["merge", "--model", &base, "--adapter", &reward, "--out", &path("x")],
        &["holds no adapter_config.json"],
    );
    fails(&[&["merge"], &given[..], &[&base]].concat(), &["choose another --out"]);
    fails(&["merge", "--model", "org/model", "--out", &path("x")], &["`org/model` is no path here"]);
}
