//! summary.json and the closing table.

use crate::{error::Result, metrics::number, pipeline::STAGE_NAMES, run::Run};
use serde_json::{Map, Value, json};

/// Writes summary.json from the stages' results, and returns it.
///
/// # Errors
/// When a file cannot be written.
pub fn write(run: &mut Run) -> Result<Value> {
    let result = |stage: &str| run.dir.result(stage).cloned().unwrap_or(Value::Null);
    let mut stages = Map::new();
    for name in STAGE_NAMES {
        let r = result(name);
        if !r.is_null() {
            stages.insert(
                name.into(),
                json!({ "seconds": r["seconds"], "peak_device_bytes": r["peak_memory_bytes"] }),
            );
        }
    }
    let (ppo, reward, merge) = (result("ppo"), result("reward"), result("merge"));
    let (before, after) = (&ppo["before"], &ppo["after"]);
    let both = |field: &str| json!({ "before": before[field], "after": after[field] });
    // The target is per answer: spread over the tokens of an answer as the SFT model writes them.
    let target = run.config.ppo.target / before["length"].as_f64().unwrap_or(f64::NAN);
    let summary = json!({
        "stages": stages,
        "reward": both("reward"),
        "positive_share": both("positive_share"),
        "kl": after["kl_per_token"],
        "kl_per_answer": after["kl"],
        "kl_target_per_token": number(target),
        "distinct_2": { "sft": before["distinct_2"], "after": after["distinct_2"] },
        "perplexity_under_sft": { "sft": before["perplexity_under_sft"], "after": after["perplexity_under_sft"] },
        "plain_perplexity": both("plain_perplexity"),
        "pair_accuracy": reward["pair_accuracy"],
        "sign_accuracy": reward["sign_accuracy"],
        "baseline_sign_accuracy": reward["baseline_sign_accuracy"],
        "int8_perplexity": int8_perplexity(after, &merge["held_out_perplexity"]),
        "first_ratio": ppo["first_ratio"],
        "first_ratio_variance": ppo["first_ratio_variance"],
        "merge": merge["held_out_perplexity"],
        "peak_memory_bytes": peak_rss(),
        "tokens_per_second": ppo["tokens_per_second"],
        "seed": run.config.run.seed,
    });
    run.dir.write("summary.json", &serde_json::to_vec_pretty(&summary).expect("JSON of JSON"))?;
    Ok(summary)
}

/// Perplexity on held-out plain text of policy and adapter as trained (over int8, unless `model.precision` says
/// otherwise), and with the same adapter over f32 weights.
fn int8_perplexity(after: &Value, merge: &Value) -> Value {
    match (after["plain_perplexity"].as_f64(), merge["adapter"].as_f64()) {
        (Some(int8), Some(f32)) => json!({ "int8": int8, "f32": f32, "change": int8 / f32 - 1.0 }),
        _ => Value::Null,
    }
}

/// Peak resident memory of this process, where the system tells.
fn peak_rss() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// The closing table: held-out prompts with answers before and after, then the numbers.
pub fn table(run: &Run, summary: &Value) -> String {
    let ppo = run.dir.result("ppo").cloned().unwrap_or(Value::Null);
    let mut out = String::new();
    let list = |when: &str| ppo[when]["samples"].as_array().cloned().unwrap_or_default();
    for (b, a) in list("before").iter().zip(list("after")).take(run.config.eval.samples) {
        let text = |v: &Value, f: &str| v[f].as_str().unwrap_or("").to_string();
        out += &format!("prompt  {}\n", text(b, "prompt"));
        out +=
            &format!("before  {:+.2}  {}\n", b["reward"].as_f64().unwrap_or(f64::NAN), text(b, "completion"));
        out += &format!(
            "after   {:+.2}  {}\n\n",
            a["reward"].as_f64().unwrap_or(f64::NAN),
            text(&a, "completion")
        );
    }
    let show = |v: &Value| v.as_f64().map_or("-".to_string(), |x| format!("{x:.3}"));
    let rows = [
        ("mean reward", &summary["reward"]["before"], &summary["reward"]["after"]),
        ("positive share", &summary["positive_share"]["before"], &summary["positive_share"]["after"]),
        ("distinct-2", &summary["distinct_2"]["sft"], &summary["distinct_2"]["after"]),
        (
            "perplexity under SFT",
            &summary["perplexity_under_sft"]["sft"],
            &summary["perplexity_under_sft"]["after"],
        ),
        (
            "plain-text perplexity",
            &summary["plain_perplexity"]["before"],
            &summary["plain_perplexity"]["after"],
        ),
    ];
    out += &format!("{:<24}{:>10}{:>10}\n", "held-out prompts", "before", "after");
    for (name, before, after) in rows {
        out += &format!("{name:<24}{:>10}{:>10}\n", show(before), show(after));
    }
    out += &format!(
        "{:<24}{:>20}\n",
        "KL per token (target)",
        format!("{} ({})", show(&summary["kl"]), show(&summary["kl_target_per_token"]))
    );
    out += &format!("{:<24}{:>20}\n", "first ratio", show(&summary["first_ratio"]));
    out += &format!("{:<24}{:>20}\n", "reward pair accuracy", show(&summary["pair_accuracy"]));
    out += &format!("{:<24}{:>20}\n", "sentiment accuracy", show(&summary["sign_accuracy"]));
    out += &format!("{:<24}{:>20}\n", "  of word pairs alone", show(&summary["baseline_sign_accuracy"]));
    if let Some(change) = summary["int8_perplexity"]["change"].as_f64() {
        let of = show(&summary["int8_perplexity"]["int8"]);
        out +=
            &format!("{:<24}{:>20}\n", "int8 perplexity", format!("{of} ({:+.2} % of f32)", 100.0 * change));
    }
    for (name, stage) in summary["stages"].as_object().into_iter().flatten() {
        out += &format!("{:<24}{:>18} s\n", format!("time {name}"), show(&stage["seconds"]));
    }
    if let Some(bytes) = summary["peak_memory_bytes"].as_f64() {
        out += &format!("{:<24}{:>18.0} MB\n", "peak memory", bytes / 1e6);
    }
    out
}
