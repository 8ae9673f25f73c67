//! The real binary on several ranks: the numbers of one rank, kills, interrupts, mistakes.

use serde_json::Value;
use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant, SystemTime},
};

mod support;
use support::{Temp, check_fails, metrics, run, summary, text, train};

/// Twenty steps of every supervised stage, an odd batch.
const TWENTY: [&str; 10] = [
    "--set",
    "pretrain.train.steps=20",
    "--set",
    "sft.train.steps=20",
    "--set",
    "reward.train.steps=20",
    "--set",
    "sft.train.batch_size=7",
    "--set",
    "reward.train.batch_size=3",
];

/// The largest relative difference of a metric between two runs of the same stages.
fn difference(a: &Path, b: &Path, metric: &str) -> f64 {
    let (a, b) = (metrics(a), metrics(b));
    assert_eq!(a.len(), b.len());
    let mut worst = 0f64;
    for (a, b) in a.iter().zip(&b) {
        assert_eq!((&a["stage"], &a["step"]), (&b["stage"], &b["step"]));
        if let (Some(x), Some(y)) = (a[metric].as_f64(), b[metric].as_f64()) {
            worst = worst.max((x - y).abs() / x.abs());
        }
    }
    worst
}

/// When a file was last written; none while there is no such file.
fn written(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|m| m.modified()).ok()
}

/// Waits until a file is written that was last written at `before`.
fn wait_for(path: &Path, before: Option<SystemTime>) {
    let start = Instant::now();
    while written(path) == before && start.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(written(path).is_some(), "{}", path.display());
}

/// The processes that `parent` has started, the oldest first.
fn children(parent: u32) -> Vec<u32> {
    let mut found: Vec<u32> = std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .filter(|pid: &u32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            // PID (NAME) STATE PARENT ...
            stat.rsplit(')').next().and_then(|s| s.split_whitespace().nth(1)) == Some(&parent.to_string())
        })
        .collect();
    found.sort_unstable();
    found
}

fn signal(name: &str, pid: u32) {
    assert!(Command::new("kill").args([name, &pid.to_string()]).status().unwrap().success());
}

/// A pre-training on two ranks that would take long, and has begun.
fn begun(out: &Path) -> Child {
    let long = ["-q", "--dp", "2", "--set", "pretrain.train.steps=100000", "--stage", "pretrain"];
    let child = train(out, &long).stderr(Stdio::piped()).spawn().unwrap();
    wait_for(&out.join("checkpoint.safetensors"), None);
    child
}

#[test]
fn two_ranks_give_the_losses_of_one_and_repeat_themselves_to_the_bit() {
    let t = Temp::new();
    let (one, two, again) = (t.path("one"), t.path("two"), t.path("again"));
    for (out, dp) in [(&one, "1"), (&two, "2"), (&again, "2")] {
        let o = run(out, &[&["-q", "--dp", dp][..], &TWENTY].concat());
        assert!(o.status.success(), "{}", text(&o.stderr));
    }
    assert_eq!(metrics(&two), metrics(&again));
    for (metric, most) in [("loss", 1e-6), ("grad_norm", 1e-5), ("accuracy", 0.0)] {
        let difference = difference(&one, &two, metric);
        assert!(difference <= most, "{metric}: {difference}");
    }
    // Rollouts are drawn from nearly equal weights, the advantages whitened over the answers of both ranks.
    let ppo = |out: &Path| metrics(out).into_iter().filter(|r| r["stage"] == "ppo").collect::<Vec<_>>();
    for (a, b) in ppo(&one).iter().zip(&ppo(&two)) {
        assert_eq!(
            (&b["val/first_ratio"], &a["tokens/responses_len_mean"]),
            (&Value::from(1.0), &b["tokens/responses_len_mean"])
        );
        for metric in ["env/reward_mean", "loss/value_avg", "policy/entropy_avg", "objective/kl_coef"] {
            let (x, y) = (a[metric].as_f64().unwrap(), b[metric].as_f64().unwrap());
            assert!((x - y).abs() <= 1e-3 * x.abs(), "{metric}: {x} {y}");
        }
    }
    for path in ["/reward/after", "/pair_accuracy", "/perplexity_under_sft/after", "/merge/merged"] {
        let get = |out| summary(out).pointer(path).and_then(Value::as_f64).unwrap();
        let (x, y) = (get(&one), get(&two));
        assert!((x - y).abs() <= 1e-3 * x.abs().max(0.1), "{path}: {x} {y}");
    }
}

#[test]
fn more_ranks_than_sequences_and_a_classifier() {
    let t = Temp::new();
    let (one, three) = (t.path("one"), t.path("three"));
    // Shares of minibatches of two answers are empty on one of three ranks.
    let sets = [
        "ppo.mini_batch_size=2",
        "sft.train.batch_size=2",
        "reward.kind=classifier",
        "ppo.num_generations=2",
    ];
    let sets: Vec<&str> = sets.iter().flat_map(|s| ["--set", s]).collect();
    for (out, dp) in [(&one, "1"), (&three, "3")] {
        let o = run(out, &[&["-q", "--dp", dp][..], &sets].concat());
        assert!(o.status.success(), "{}", text(&o.stderr));
    }
    assert!(difference(&one, &three, "loss") < 1e-6);
    assert!(difference(&one, &three, "loss/value_avg") < 1e-3);
}

#[test]
fn mpi_gives_the_bits_of_our_own_processes() {
    let t = Temp::new();
    let (local, mpi) = (t.path("local"), t.path("mpi"));
    let o = run(&local, &["-q", "--dp", "2"]);
    assert!(o.status.success(), "{}", text(&o.stderr));
    let ours = train(&mpi, &["-q"]);
    let mut command = Command::new("mpirun.openmpi");
    command
        .args(["--allow-run-as-root", "--oversubscribe", "-n", "2"])
        .arg(ours.get_program())
        .args(ours.get_args());
    let Ok(o) = command.output() else {
        return println!("skipped: mpirun.openmpi is not installed (Debian: openmpi-bin)");
    };
    assert!(o.status.success(), "{}", text(&o.stderr));
    assert_eq!(metrics(&local), metrics(&mpi));
    command.args(["--dp", "3", "--resume"]);
    let o = command.output().unwrap();
    assert!(
        !o.status.success() && text(&o.stderr).contains("2 processes were started"),
        "{}",
        text(&o.stderr)
    );
}

#[cfg(target_os = "linux")]
#[test]
fn a_rank_that_dies_ends_the_others_and_the_run_goes_on_with_the_numbers_of_an_unbroken_one() {
    let t = Temp::new();
    let (whole, broken) = (t.path("whole"), t.path("broken"));
    assert!(run(&whole, &["-q", "--dp", "2"]).status.success());
    for victim in [1, 0] {
        let args = ["-q", "--dp", "2", "--resume", "--set", "run.checkpoint_seconds=0"];
        let checkpoint = broken.join("checkpoint.safetensors");
        let before = written(&checkpoint);
        let child = train(&broken, &args).stderr(Stdio::piped()).spawn().unwrap();
        wait_for(&checkpoint, before);
        let ranks = children(child.id());
        assert_eq!(ranks.len(), 2, "{ranks:?}");
        signal("-KILL", ranks[victim]);
        let o = child.wait_with_output().unwrap();
        let said = text(&o.stderr);
        assert_eq!(o.status.code(), Some(1), "{said}");
        for words in [&format!("rank {victim} was killed")[..], &format!("rank {victim} has ended")] {
            assert!(said.contains(words), "{words}: {said}");
        }
    }
    // The directory and the settings are those of two ranks.
    check_fails(&broken, &["-q", "--dp", "3", "--resume"], "was begun with `dp = 2`");
    let o = run(&broken, &["-q", "--resume"]);
    assert!(o.status.success(), "{}", text(&o.stderr));
    assert_eq!(metrics(&broken), metrics(&whole));
}

#[cfg(target_os = "linux")]
#[test]
fn an_interrupt_reaches_all_ranks_and_they_end_with_their_starter() {
    let t = Temp::new();
    let out = t.path("a");
    let child = begun(&out);
    signal("-INT", child.id());
    let o = child.wait_with_output().unwrap();
    assert_eq!(o.status.code(), Some(130), "{}", text(&o.stderr));
    assert!(text(&o.stderr).contains("continue with --resume"), "{}", text(&o.stderr));
    let mut child = begun(&t.path("b"));
    let ranks = children(child.id());
    child.kill().unwrap();
    child.wait().unwrap();
    let start = Instant::now();
    let alive = |pid: &u32| Path::new(&format!("/proc/{pid}")).exists();
    while ranks.iter().any(alive) && start.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(!ranks.iter().any(alive), "{ranks:?}");
}

#[test]
fn mistakes_of_ranks_are_named() {
    let t = Temp::new();
    check_fails(&t.path("a"), &["--dp", "0"], "parallel.dp");
    check_fails(&t.path("b"), &["--dp", "2", "--engine", "mpi"], "mpirun -n N");
    // A rank's error is every rank's, told once by each.
    let wild = ["--set", "pretrain.train.learning_rate=1e30", "--set", "pretrain.train.adam.max_grad_norm=0"];
    let o = run(&t.path("c"), &[&["-q", "--dp", "2"][..], &wild].concat());
    let said = text(&o.stderr);
    assert_eq!(o.status.code(), Some(1), "{said}");
    assert!(said.contains("stage `pretrain`, step") && said.contains("is not finite"), "{said}");
    assert!(t.path("c").join("checkpoint.safetensors").exists());
}
