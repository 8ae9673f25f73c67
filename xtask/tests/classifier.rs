//! The real binary with a classifier as the reward: rated sentences, a question after each, adapters over int8.

use serde_json::Value;
use std::process::Command;

mod support;
use support::TINY;

/// Rated sentences as `cargo xtask data movie-reviews` brings them: number, rating, text.
fn sentences() -> String {
    let film = ["story", "cast", "music", "camera", "ending"];
    let line = |i: usize| {
        let (word, rating) = if i.is_multiple_of(2) { ("lovely", 2.5) } else { ("dreadful", -2.5) };
        let rating = rating + 0.01 * (i % 7) as f64;
        format!("{i}\t{rating}\tWe found number {i} a {word} piece of {} from start to end.\n", film[i % 5])
    };
    (0..240).map(line).collect()
}

#[test]
fn a_question_is_asked_of_rated_sentences_and_pays_for_prefixes() {
    let dir = tempfile::tempdir().unwrap();
    let (data, out) = (dir.path().join("rated.tsv"), dir.path().join("run"));
    std::fs::write(&data, sentences()).unwrap();
    let mut c = Command::new(env!("CARGO_BIN_EXE_xtask"));
    c.args(["train", "-q", "--data"]).arg(&data).arg("--out").arg(&out);
    let more = [
        "reward.kind=classifier",
        "reward.method=lora",
        "reward.question=\"\\nSentiment:\"",
        "reward.first_layer=0",
        "reward.validation=0.2",
        "reward.train.steps=250",
        "reward.train.learning_rate=0.003",
        "data.prompt_words=4",
        "data.min_rating_gap=1",
    ];
    for s in TINY.iter().chain(&more) {
        c.args(["--set", s]);
    }
    let o = c.output().unwrap();
    assert!(o.status.success(), "{}", String::from_utf8_lossy(&o.stderr));
    let read =
        |name: &str| -> Value { serde_json::from_slice(&std::fs::read(out.join(name)).unwrap()).unwrap() };
    let (summary, reward) = (read("summary.json"), read("state.json")["reward"].clone());
    for field in ["validation_accuracy", "sign_accuracy", "baseline_sign_accuracy"] {
        assert!(reward[field].as_f64().unwrap() > 0.9, "{field}: {reward}");
    }
    assert_eq!(summary["first_ratio"], 1.0);
    // The policy's frozen weights are int8: the same adapter over f32 weights says what that costs.
    let change = summary["int8_perplexity"]["change"].as_f64();
    assert!(change.is_none_or(|c| c.abs() < 0.01), "{summary}");
    let table = String::from_utf8_lossy(&o.stdout).into_owned();
    assert!(table.contains("sentiment accuracy") && table.contains("of word pairs alone"), "{table}");
}
