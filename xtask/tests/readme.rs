//! Every command of the README runs.
//!
//! Training commands run with the tiny settings of the pipeline tests put over them and in a temporary directory;
//! `cargo xtask train` alone, the main job, is what `cargo xtask test` itself ends with.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

mod support;
use support::TINY;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// The commands in the README's `sh` blocks, one a line.
fn commands() -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(root().join("README.md")).unwrap();
    let blocks = text.split("```").skip(1).step_by(2).filter_map(|b| b.strip_prefix("sh\n"));
    let lines = blocks.flat_map(str::lines).map(|l| l.split('#').next().unwrap_or("").trim());
    lines.filter(|l| !l.is_empty()).map(|l| l.split_whitespace().map(String::from).collect()).collect()
}

/// The real binary in `dir`; its output with the arguments, for messages.
fn xtask(dir: &Path, args: &[String]) -> (bool, String) {
    let o = Command::new(env!("CARGO_BIN_EXE_xtask")).args(args).current_dir(dir).output().unwrap();
    let all =
        format!("{args:?}\n{}{}", String::from_utf8_lossy(&o.stdout), String::from_utf8_lossy(&o.stderr));
    (o.status.success(), all)
}

fn cargo(args: &[&str]) {
    let o = Command::new(env!("CARGO")).args(args).current_dir(root()).output().unwrap();
    assert!(o.status.success(), "{args:?}: {}", String::from_utf8_lossy(&o.stderr));
}

#[test]
fn every_command_of_the_readme_runs() {
    let dir = tempfile::tempdir().unwrap();
    let mut ran = 0;
    let mut offline = false;
    for words in commands() {
        let line = words.join(" ");
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let args: Vec<String> = match words.as_slice() {
            // This very check, and what it ends with.
            ["cargo", "xtask", "test"] | ["cargo", "xtask", "train"] => continue,
            // tests/vm.rs runs it; every family's counted tests are among its tests.
            ["cargo", "xtask", "train", "--device", "vm", ..] | ["cargo", "xtask", "bench", "counters"] => {
                continue;
            }
            ["cargo", "xtask", "train", rest @ ..] => {
                if offline && rest.contains(&"--preset") {
                    println!("skipped: no data: {line}");
                    continue;
                }
                let tiny = TINY.iter().flat_map(|s| ["--set", *s]);
                ["train"].iter().chain(rest).copied().chain(tiny).map(String::from).collect()
            }
            // The reader's program: any will do.
            ["cargo", "xtask", "vm", "--", _] => ["vm", "--", "true"].map(String::from).to_vec(),
            ["cargo", "xtask", rest @ ..] => rest.iter().map(|s| (*s).to_string()).collect(),
            ["cargo", "run", "--release", "-p", "ferrotune", "--example", name] => {
                cargo(&["run", "--release", "-q", "-p", "ferrotune", "--example", name]);
                ran += 1;
                continue;
            }
            // Each benchmark once.
            ["cargo", "bench", "-p", package] => {
                cargo(&["bench", "-q", "-p", package, "--benches", "--", "--test"]);
                ran += 1;
                continue;
            }
            _ => panic!("the README has a command that no test runs: {line}"),
        };
        let (ok, output) = xtask(dir.path(), &args);
        if !ok && args[0] == "data" {
            println!("skipped: the package registries cannot be reached: {line}\n{output}");
            offline = true;
            continue;
        }
        assert!(ok, "{output}");
        ran += 1;
    }
    assert!(ran >= 4, "only {ran} commands found");
}
