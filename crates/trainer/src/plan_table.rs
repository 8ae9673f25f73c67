//! A plan as text.

use crate::plan::StagePlan;
use device::Peak;
use std::fmt::Write;

/// Bytes of a GiB.
pub const GIB: f64 = (1u64 << 30) as f64;
const MIB: f64 = (1u64 << 20) as f64;

/// `1.25 GiB`, `13.0 MiB`.
pub fn size(bytes: usize) -> String {
    let gib = bytes as f64 / GIB;
    if gib >= 1.0 { format!("{gib:.2} GiB") } else { format!("{:.1} MiB", bytes as f64 / MIB) }
}

/// One line a category of memory, one column a stage; then each stage's largest tensors.
pub fn memory(stages: &[StagePlan]) -> String {
    let most = stages.iter().map(|s| s.peak.bytes).max().unwrap_or(0);
    let (unit, bytes) = if most as f64 >= GIB { ("GiB", GIB) } else { ("MiB", MIB) };
    let mut out = format!("{:<28}{}\n", format!("memory at its fullest, {unit}"), names(stages));
    let mut categories: Vec<&str> = Vec::new();
    for (category, _) in stages.iter().flat_map(|s| &s.peak.categories) {
        if !categories.contains(category) {
            categories.push(category);
        }
    }
    let of =
        |peak: &Peak, name: &str| peak.categories.iter().find(|(c, _)| *c == name).map_or(0, |(_, b)| *b);
    for category in categories {
        out += &row(category, stages, |s| of(&s.peak, category) as f64 / bytes);
    }
    out += &row("all", stages, |s| s.peak.bytes as f64 / bytes);
    out += "\nlargest tensors\n";
    for s in stages {
        for (label, size, count) in s.peak.largest.iter().take(4) {
            let times = if *count > 1 { format!(" x {count}") } else { String::new() };
            let mib = *size as f64 / MIB;
            writeln!(out, "{:>8}  {mib:>9.1} MiB{times}  {} {}", s.stage, label.category, label.name)
                .expect("text");
        }
    }
    out
}

/// The stages' names, a column each.
pub fn names(stages: &[StagePlan]) -> String {
    stages.iter().map(|s| format!("{:>12}", s.stage)).collect()
}

/// A line of numbers, a column a stage.
pub fn row(name: &str, stages: &[StagePlan], value: impl Fn(&StagePlan) -> f64) -> String {
    let cells = stages.iter().map(|s| format!("{:>12}", number(value(s)))).collect::<String>();
    format!("{name:<28}{cells}\n")
}

fn number(x: f64) -> String {
    match x {
        _ if x >= 1000.0 => format!("{x:.0}"),
        _ if x >= 10.0 || x.fract() == 0.0 => format!("{x:.1}"),
        _ => format!("{x:.3}"),
    }
}

/// How much the fullest stage takes beyond `room`, and what could be done.
pub fn why_not(stages: &[StagePlan], room: usize) -> String {
    let worst = stages.iter().max_by_key(|s| s.peak.bytes).expect("a job has stages");
    let over = worst.peak.bytes.saturating_sub(room);
    let weights = worst.peak.categories.iter().filter(|(c, _)| *c == "weights").map(|(_, b)| *b);
    format!(
        "{} too much in stage {}: {} of it are weights; use a larger GPU, a smaller model, int8, \
         adapters instead of all weights, shorter texts, or a smaller reward model",
        size(over),
        worst.stage,
        size(weights.sum()),
    )
}
