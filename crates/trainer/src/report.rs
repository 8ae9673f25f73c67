//! report.html and TensorBoard events, from what a run left.

use crate::{error::Result, run::Run};
use serde_json::Value;
use track::{Bar, Card, EventFile, Report, Sample, Series, render};

/// Curves on the page: stage, metric, title.
const CURVES: [(&str, &str, &str); 13] = [
    ("ppo", "env/reward_mean", "Reward (mean score)"),
    ("ppo", "objective/kl", "KL to the reference, nats per answer"),
    ("ppo", "policy/entropy_avg", "Entropy, nats per token"),
    ("ppo", "policy/clipfrac_avg", "Clip fraction"),
    ("ppo", "loss/policy_avg", "Policy loss"),
    ("ppo", "loss/value_avg", "Value loss"),
    ("ppo", "objective/kl_coef", "KL coefficient"),
    ("ppo", "tokens/responses_len_mean", "Answer length, tokens"),
    ("ppo", "rollout/distinct_2", "Distinct-2 of rollouts"),
    ("pretrain", "loss", "Pre-training loss"),
    ("sft", "loss", "SFT loss"),
    ("reward", "loss", "Reward model loss"),
    ("reward", "accuracy", "Reward model training accuracy"),
];

/// Writes report.html and events/events.out.tfevents.
///
/// # Errors
/// With the file's name.
pub fn write(run: &mut Run, summary: &Value) -> Result<()> {
    let rows = run.writer.rows()?;
    let report = Report {
        facts: facts(run, summary),
        cards: cards(summary),
        series: CURVES.iter().filter_map(|c| series(run, &rows, c)).collect(),
        charts: verdict(run),
        samples: samples(run),
        times: times(summary),
        config: run.config.to_toml(),
    };
    run.dir.write("report.html", render(&report).as_bytes())?;
    let dir = run.dir.path("events");
    std::fs::create_dir_all(&dir).map_err(crate::error::Error::io(&dir))?;
    run.dir.write("events/events.out.tfevents.0.ferrotune", &events(&rows))
}

fn facts(run: &Run, s: &Value) -> Vec<(String, String)> {
    let c = &run.config;
    let path =
        |p: &Option<std::path::PathBuf>, or: &str| p.as_ref().map_or(or.into(), |p| p.display().to_string());
    vec![
        ("model".into(), path(&c.model.path, "GPT-NeoX from scratch")),
        ("data".into(), path(&c.data.path, "generated reviews")),
        ("base".into(), c.model.precision.clone()),
        ("LoRA rank".into(), c.lora.rank.to_string()),
        ("seed".into(), s["seed"].to_string()),
        ("device".into(), run.device.name().into()),
    ]
}

fn cards(s: &Value) -> Vec<Card> {
    let n = |p: &str| s.pointer(p).and_then(Value::as_f64);
    let show = |v: Option<f64>| v.map_or("-".into(), |v| format!("{v:.3}"));
    let card = |name: &str, value: Option<f64>, note: String, passes: Option<bool>| Card {
        name: name.into(),
        value: show(value),
        note,
        passes: value.and(passes),
    };
    let before = |p: &str| format!("before: {}", show(n(p)));
    let less = |a: Option<f64>, b: Option<f64>| a.zip(b).map(|(a, b)| a <= b);
    let twice = n("/perplexity_under_sft/sft").map(|v| 2.0 * v);
    let share = n("/distinct_2/sft").map(|v| 0.6 * v);
    vec![
        card(
            "Mean reward",
            n("/reward/after"),
            before("/reward/before"),
            less(n("/reward/before"), n("/reward/after")),
        ),
        card("Positive share", n("/positive_share/after"), before("/positive_share/before"), None),
        card(
            "KL per token",
            n("/kl"),
            format!("target: {}", show(n("/kl_target_per_token"))),
            less(n("/kl"), n("/kl_target_per_token")),
        ),
        card(
            "Distinct-2",
            n("/distinct_2/after"),
            format!("SFT: {}; at least 60 % of it", show(n("/distinct_2/sft"))),
            less(share, n("/distinct_2/after")),
        ),
        card(
            "Perplexity under SFT",
            n("/perplexity_under_sft/after"),
            format!("SFT's own: {}; at most twice", show(n("/perplexity_under_sft/sft"))),
            less(n("/perplexity_under_sft/after"), twice),
        ),
        card("Reward pair accuracy", n("/pair_accuracy"), "held-out pairs".into(), None),
        card(
            "Sentiment accuracy",
            n("/sign_accuracy"),
            format!("logistic regression on word pairs: {}", show(n("/baseline_sign_accuracy"))),
            None,
        ),
        card(
            "int8 perplexity",
            n("/int8_perplexity/int8"),
            format!("same adapter over f32: {}; within 1 % of it", show(n("/int8_perplexity/f32"))),
            n("/int8_perplexity/change").map(|c| c.abs() <= 0.01),
        ),
        card(
            "First ratio",
            n("/first_ratio"),
            "exactly 1: one engine".into(),
            n("/first_ratio").map(|r| r == 1.0),
        ),
        card("Plain-text perplexity", n("/plain_perplexity/after"), before("/plain_perplexity/before"), None),
        Card {
            name: "Peak memory".into(),
            value: n("/peak_memory_bytes").map_or("-".into(), |b| format!("{:.0} MB", b / 1e6)),
            ..Card::default()
        },
        Card {
            name: "Tokens per second".into(),
            value: n("/tokens_per_second/rollout").map_or("-".into(), |v| format!("{v:.0}")),
            note: n("/tokens_per_second/train").map_or(String::new(), |v| format!("rollout; train {v:.0}")),
            ..Card::default()
        },
    ]
}

fn series(run: &Run, rows: &[Value], (stage, metric, title): &(&str, &str, &str)) -> Option<Series> {
    let points: Vec<(f64, f64)> = rows
        .iter()
        .filter(|r| r["stage"] == *stage)
        .filter_map(|r| Some((r["step"].as_f64()?, r[*metric].as_f64().unwrap_or(f64::NAN))))
        .collect();
    let level = (*metric == "objective/kl").then(|| (run.config.ppo.target, "target".to_string()));
    let unit = if *stage == "ppo" { "iteration" } else { "step" };
    (!points.is_empty()).then(|| Series { title: (*title).into(), unit: unit.into(), points, level })
}

fn verdict(run: &Run) -> Vec<(String, String, Vec<Bar>)> {
    let v = run.dir.result("reward").map_or(Value::Null, |r| r["verdict"].clone());
    let list = |name: &str| v[name].as_array().cloned().unwrap_or_default();
    let num = |b: &Value, f: &str| b[f].as_f64().unwrap_or(0.0);
    let margins: Vec<Bar> =
        list("histogram").iter().map(|b| (format!("{:.1}", num(b, "low")), num(b, "count"), None)).collect();
    let calibration: Vec<Bar> = list("calibration")
        .iter()
        .filter(|b| num(b, "count") > 0.0)
        .map(|b| (format!("{:.2}", num(b, "low")), num(b, "accuracy"), Some(num(b, "confidence"))))
        .collect();
    if margins.is_empty() {
        return Vec::new();
    }
    vec![
        ("Margins: chosen minus rejected".into(), "margin".into(), margins),
        ("Calibration: accuracy (bar) against confidence (dashes)".into(), "confidence".into(), calibration),
    ]
}

fn samples(run: &Run) -> Vec<Sample> {
    let ppo = run.dir.result("ppo").cloned().unwrap_or(Value::Null);
    let list = |when: &str| ppo[when]["samples"].as_array().cloned().unwrap_or_default();
    let text = |v: &Value, f: &str| v[f].as_str().unwrap_or("").to_string();
    let answer = |v: &Value| (text(v, "completion"), v["reward"].as_f64().unwrap_or(f64::NAN));
    let pairs = list("before").into_iter().zip(list("after"));
    pairs
        .take(3 * run.config.eval.samples)
        .map(|(b, a)| Sample { prompt: text(&b, "prompt"), before: answer(&b), after: answer(&a) })
        .collect()
}

fn times(s: &Value) -> Vec<(String, f64)> {
    let stages = s["stages"].as_object().into_iter().flatten();
    stages.map(|(n, v)| (n.clone(), v["seconds"].as_f64().unwrap_or(f64::NAN))).collect()
}

/// Steps stand in for the clock, so that equal runs give equal files.
fn events(rows: &[Value]) -> Vec<u8> {
    let mut file = EventFile::default();
    for r in rows {
        let (stage, step) = (r["stage"].as_str().unwrap_or(""), r["step"].as_u64().unwrap_or(0));
        for (name, value) in r.as_object().into_iter().flatten().filter(|(n, _)| *n != "step") {
            if let Some(v) = value.as_f64() {
                file.scalar(step as f64, step, &format!("{stage}/{name}"), v as f32);
            }
        }
    }
    file.into_bytes()
}
