//! The real binary on a tiny run: the whole pipeline, kills, resumes, mistakes.

use serde_json::Value;
use std::{
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

mod support;
use support::{TINY, Temp, check_fails, metrics, run, summary, text, train};

#[test]
fn the_whole_pipeline_runs_and_reports_what_it_promises() {
    let t = Temp::new();
    let out = t.path("a");
    let o = run(&out, &[]);
    assert!(o.status.success(), "{}", text(&o.stderr));
    let s = summary(&out);
    for path in [
        "/stages/pretrain/seconds",
        "/stages/sft/seconds",
        "/stages/reward/seconds",
        "/stages/ppo/seconds",
        "/stages/merge/seconds",
        "/reward/before",
        "/reward/after",
        "/positive_share/before",
        "/positive_share/after",
        "/kl",
        "/distinct_2/sft",
        "/distinct_2/after",
        "/perplexity_under_sft/sft",
        "/perplexity_under_sft/after",
        "/pair_accuracy",
        "/peak_memory_bytes",
        "/tokens_per_second/rollout",
        "/tokens_per_second/train",
        "/plain_perplexity/before",
        "/plain_perplexity/after",
    ] {
        assert!(s.pointer(path).is_some_and(Value::is_number), "{path} in {s:#}");
    }
    assert_eq!((s["first_ratio"].as_f64(), s["first_ratio_variance"].as_f64()), (Some(1.0), Some(0.0)));
    let merged = (s["merge"]["adapter"].as_f64().unwrap(), s["merge"]["merged"].as_f64().unwrap());
    assert!((merged.0 - merged.1).abs() < 1e-3 * merged.0, "merging changed the model: {merged:?}");
    let shown = text(&o.stdout);
    assert!(shown.contains("before") && shown.contains("after") && shown.contains("KL per token"), "{shown}");
    for file in ["merged/model.safetensors", "merged/config.json", "merged/tokenizer.json", "report.html"] {
        assert!(out.join(file).exists(), "{file}");
    }
    // The names that dashboards know.
    let last = metrics(&out).into_iter().rfind(|r| r["stage"] == "ppo").unwrap();
    for name in
        ["objective/kl", "objective/entropy", "policy/approxkl_avg", "policy/clipfrac_avg", "val/ratio"]
    {
        assert!(last[name].is_number(), "{name}");
    }
    // Every adapter and the value head learn: B after the first step, A from the second.
    assert_eq!(last["ppo/weights_without_gradient"], 0.0);
    // A second run in the same place is refused; --resume finds everything done.
    check_fails(&out, &[], "--resume");
    check_fails(&out, &["--resume", "--seed", "99"], "was begun with");
    assert!(run(&out, &["--resume"]).status.success());
    // The merged model is a model folder like any other.
    let again = t.path("b");
    let merged = out.join("merged");
    let o = run(&again, &["--model", merged.to_str().unwrap(), "--stage", "sft"]);
    assert!(o.status.success(), "{}", text(&o.stderr));
    // Bad model folders.
    let weights = merged.join("model.safetensors");
    let whole = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &whole[..whole.len() / 2]).unwrap();
    check_fails(&t.path("c"), &["--model", merged.to_str().unwrap()], "model.safetensors");
    std::fs::write(&weights, &whole).unwrap();
    let config = merged.join("config.json");
    let json = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, json.replace("\"hidden_size\": 32", "\"hidden_size\": 64")).unwrap();
    check_fails(&t.path("d"), &["--model", merged.to_str().unwrap()], "config.json asks for");
    std::fs::write(&config, json.replace("gpt_neox", "mamba")).unwrap();
    check_fails(&t.path("e"), &["--model", merged.to_str().unwrap()], "mamba");
}

#[test]
fn one_thread_a_kill_and_an_interrupt_give_the_numbers_of_an_unbroken_run() {
    let t = Temp::new();
    let whole = t.path("whole");
    assert!(run(&whole, &["-q", "--threads", "2"]).status.success());
    // Killed again and again at arbitrary moments, on one thread.
    let broken = t.path("broken");
    let one_thread = ["-q", "--resume", "--threads", "1"];
    let mut kills = 0;
    for wait in (0..40).map(|i| 150 + 90 * i) {
        let quiet = Stdio::null;
        let mut child = train(&broken, &one_thread).stdout(quiet()).stderr(quiet()).spawn().unwrap();
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(wait) && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(10));
        }
        if child.try_wait().unwrap().is_some_and(|s| s.success()) {
            break;
        }
        let _ = child.kill();
        let _ = child.wait();
        kills += 1;
    }
    assert!(kills > 0 && broken.join("summary.json").exists(), "{kills} kills");
    assert_eq!(metrics(&broken), metrics(&whole), "after {kills} kills");
    let numbers = |p: &Path| {
        let s = summary(p);
        [s["reward"].clone(), s["kl"].clone(), s["distinct_2"].clone(), s["merge"].clone()]
    };
    assert_eq!(numbers(&broken), numbers(&whole));
}

#[cfg(unix)]
#[test]
fn ctrl_c_finishes_the_step_and_exits_130() {
    let t = Temp::new();
    let out = t.path("a");
    let long = ["-q", "--set", "pretrain.train.steps=100000", "--stage", "pretrain"];
    let child = train(&out, &long).stderr(Stdio::piped()).spawn().unwrap();
    let checkpoint = out.join("checkpoint.safetensors");
    let start = Instant::now();
    while !checkpoint.exists() && start.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(20));
    }
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
    let o = child.wait_with_output().unwrap();
    assert_eq!(o.status.code(), Some(130), "{}", text(&o.stderr));
    assert!(text(&o.stderr).contains("continue with --resume"));
    assert!(checkpoint.exists());
}

#[test]
fn mistakes_are_named_before_anything_is_trained() {
    let t = Temp::new();
    let file = |name: &str, content: &str| {
        let path = t.path(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_string()
    };
    let out = t.path("out");
    check_fails(&out, &["--set", "ppo.top_k=10"], "KL");
    check_fails(&out, &["--set", "ppo.min_length=4"], "KL");
    check_fails(&out, &["--set", "lora.dropout=0.5"], "lora.dropout");
    check_fails(&out, &["--set", "ppo.bach_size=1"], "bach_size");
    check_fails(
        &out,
        &["--preset", "movie-reviews", "--data-dir", "nowhere"],
        "cargo xtask data movie-reviews",
    );
    check_fails(&out, &["--stage", "ppo"], "needs stage `reward`");
    let empty = file("empty.jsonl", "");
    check_fails(&t.path("1"), &["--data", &empty], "empty.jsonl");
    let one = file("one.jsonl", "{\"text\":\"good\",\"label\":1}\n{\"text\":\"fine\",\"label\":1}\n");
    check_fails(&t.path("2"), &["--data", &one], "one");
    check_fails(&t.path("3"), &["--data", "missing.csv"], "missing.csv");
    check_fails(&t.path("4"), &["--model", "missing-folder"], "missing-folder");
    let unknown = file("bad.toml", "[ppo]\nclip_range = 0.2\n");
    check_fails(&t.path("5"), &["--config", &unknown], "clip_range");
}

#[test]
fn a_loss_that_is_not_a_number_is_traced_and_the_last_checkpoint_kept() {
    let t = Temp::new();
    let out = t.path("a");
    // Steps so large that the weights leave the numbers after a few of them.
    let wild = ["pretrain.train.learning_rate=1e30", "pretrain.train.adam.max_grad_norm=0"];
    let o = run(&out, &["-q", "--set", wild[0], "--set", wild[1]]);
    let err = text(&o.stderr);
    assert_eq!(o.status.code(), Some(1), "{err}");
    for word in ["stage `pretrain`, step", "is not finite", "checkpoint"] {
        assert!(err.contains(word), "{word}: {err}");
    }
    assert!(out.join("checkpoint.safetensors").exists());
}

#[test]
fn an_alarm_stops_the_run_and_keeps_the_best_adapter() {
    let t = Temp::new();
    let out = t.path("a");
    // Any entropy is below ten times the first.
    let o = run(&out, &["-q", "--set", "rollout.thresholds.entropy_fraction=10"]);
    let err = text(&o.stderr);
    assert_eq!(o.status.code(), Some(1), "{err}");
    assert!(err.contains("entropy") && err.contains("best checkpoint (iteration"), "{err}");
    assert!(out.join("adapter/trained.safetensors").exists());
}

#[test]
fn a_tokenizer_with_more_tokens_than_the_model_is_refused() {
    let t = Temp::new();
    let out = t.path("a");
    assert!(run(&out, &["-q", "--stage", "pretrain"]).status.success());
    let path = out.join("base/tokenizer.json");
    let mut json: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    json["model"]["vocab"]["overmuch"] = 4000.into();
    std::fs::write(&path, json.to_string()).unwrap();
    check_fails(&t.path("b"), &["--model", out.join("base").to_str().unwrap()], "different models");
}

#[test]
fn a_prompt_longer_than_the_context_is_named() {
    let t = Temp::new();
    let path = t.path("long.jsonl");
    let row = |i: usize| {
        let prompt = "a long long story ".repeat(60);
        format!("{{\"prompt\":\"{prompt}{i}\",\"chosen\":\"good film {i}\",\"rejected\":\"bad film {i}\"}}\n")
    };
    std::fs::write(&path, (0..40).map(row).collect::<String>()).unwrap();
    check_fails(&t.path("a"), &["--data", path.to_str().unwrap()], "context");
}

#[cfg(unix)]
#[test]
fn a_disk_that_takes_no_more_loses_nothing() {
    let t = Temp::new();
    let out = t.path("a");
    // A file-size limit stands in for a full disk: the write of the model fails part-way.
    let mut args = vec!["train".to_string(), "--out".into(), out.display().to_string(), "-q".into()];
    TINY.iter().for_each(|s| args.extend(["--set".to_string(), (*s).to_string()]));
    let quoted: Vec<String> = args.iter().map(|a| format!("'{a}'")).collect();
    let script =
        format!("trap '' XFSZ; ulimit -f 40; exec {} {}", env!("CARGO_BIN_EXE_xtask"), quoted.join(" "));
    let o = Command::new("bash").args(["-c", &script]).output().unwrap();
    let err = text(&o.stderr);
    assert_eq!(o.status.code(), Some(1), "{err}");
    assert!(err.contains("could not write") && err.contains("untouched"), "{err}");
    let parts = std::fs::read_dir(&out)
        .unwrap()
        .flatten()
        .filter(|e| e.file_name().to_string_lossy().ends_with(".part"));
    assert_eq!(parts.count(), 0);
    // With room again the same directory goes on.
    assert!(run(&out, &["-q", "--resume"]).status.success());
}

#[test]
fn a_classifier_on_the_imdb_layout_serves_as_the_reward() {
    let t = Temp::new();
    for (folder, word) in [("pos", "lovely"), ("neg", "dreadful")] {
        let dir = t.path("imdb/train").join(folder);
        std::fs::create_dir_all(&dir).unwrap();
        for i in 0..40 {
            let text = format!("we saw film number {i} last week and it was {word} from start to end.");
            std::fs::write(dir.join(format!("{i}_7.txt")), text).unwrap();
        }
    }
    let out = t.path("a");
    let imdb = t.path("imdb");
    let o = run(&out, &["-q", "--data", imdb.to_str().unwrap(), "--set", "reward.kind=classifier"]);
    assert!(o.status.success(), "{}", text(&o.stderr));
    // No two of these ratings differ, so a ranking reward has nothing to learn from and says so.
    check_fails(&t.path("b"), &["-q", "--data", imdb.to_str().unwrap()], "no two of the");
    let s = summary(&out);
    for path in ["/sign_accuracy", "/reward/after", "/positive_share/after"] {
        assert!(s.pointer(path).is_some_and(Value::is_number), "{path} in {s:#}");
    }
}

#[test]
fn checkpointing_changes_memory_only_and_other_settings_run() {
    let t = Temp::new();
    let out = t.path("a");
    assert!(run(&out, &["-q"]).status.success());
    let ppo = |dir: &Path| -> Vec<Value> {
        metrics(dir).into_iter().filter(|r| r["stage"] == "ppo").collect::<Vec<_>>()
    };
    let plain = ppo(&out);
    // From the same SFT and reward model, with one setting changed.
    let with = |name: &str, sets: &[&str]| {
        let dir = t.path(name);
        for sub in ["base", "sft", "reward"] {
            std::fs::create_dir_all(dir.join(sub)).unwrap();
            for f in std::fs::read_dir(out.join(sub)).unwrap().flatten() {
                std::fs::copy(f.path(), dir.join(sub).join(f.file_name())).unwrap();
            }
        }
        let mut state: Value =
            serde_json::from_slice(&std::fs::read(out.join("state.json")).unwrap()).unwrap();
        state.as_object_mut().unwrap().retain(|k, _| k != "ppo" && k != "merge");
        std::fs::write(dir.join("state.json"), state.to_string()).unwrap();
        let more: Vec<&str> = sets.iter().flat_map(|s| ["--set", *s]).chain(["-q", "--resume"]).collect();
        let printed = train(&dir, &more).arg("--print-config").output().unwrap();
        std::fs::write(dir.join("config.toml"), printed.stdout).unwrap();
        let o = run(&dir, &more);
        assert!(o.status.success(), "{sets:?}: {}", text(&o.stderr));
        ppo(&dir)
    };
    assert_eq!(with("b", &["memory.gradient_checkpointing=true"]), plain);
    let accumulated = with("c", &["ppo.mini_batch_size=2", "ppo.gradient_accumulation_steps=2"]);
    assert_eq!(accumulated[0]["val/first_ratio"], 1.0);
    for (i, sets) in [
        ["ppo.kl_penalty=full", "rollout.dense_rewards=false"],
        ["ppo.kl_estimator=k3", "ppo.whiten_rewards=true"],
        ["ppo.advantage_estimator=rloo", "ppo.num_generations=2"],
        ["ppo.early_stopping=true", "ppo.adap_kl_ctrl=false"],
        ["model.precision=f32", "ppo.kl_penalty=mse"],
    ]
    .iter()
    .enumerate()
    {
        let rows = with(&format!("d{i}"), sets);
        assert_eq!((rows.len(), &rows[0]["val/first_ratio"]), (3, &Value::from(1.0)), "{sets:?}");
    }
}

#[test]
fn printed_settings_can_be_read_back() {
    let t = Temp::new();
    let printed =
        Command::new(env!("CARGO_BIN_EXE_xtask")).args(["train", "--print-config"]).output().unwrap();
    let path = t.path("all.toml");
    std::fs::write(&path, &printed.stdout).unwrap();
    let again = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(["train", "--print-config", "--config", path.to_str().unwrap()])
        .output()
        .unwrap();
    assert!(!printed.stdout.is_empty());
    assert_eq!(text(&again.stdout), text(&printed.stdout));
}
