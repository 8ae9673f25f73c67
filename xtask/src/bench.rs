//! `cargo xtask bench`.

use crate::fail;
use model::Precision;
use serde_json::json;
use std::process::Command;

/// Time this engine.
///
/// `pipeline` runs the workloads that public Python stacks are quoted for, on random weights, and prints JSON: a
/// training step on 8 x 128 tokens, generation of 16 x 48 tokens, one PPO iteration of 32 x (8 + 32) tokens, one
/// int8 linear layer. Every time is the median, least and most of `--runs` runs after one that is not counted.
/// `peak_rss_mb` is the process's: give `--part` to know a part's.
///
/// `kernels` runs the kernels' criterion benches; `cargo bench -p matmul` runs one family's CPU twins, `cargo bench -p
/// ferrotune --bench gpu` all on a GPU where there is one.
///
/// `counters` runs the GPU kernels on the PTX VM and prints what they do: bytes against the least, sector efficiency, bank
/// conflicts, instructions per matrix instruction. It fails when a kernel misses its bar.
///
/// Times depend on what else the machine does: compare two programs by running them in turn, several times.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  cargo xtask bench pipeline --shape small --part ppo\n  \
    cargo xtask bench pipeline --part generate --precision f32 --runs 20\n  cargo xtask bench kernels\n  \
    cargo xtask bench counters")]
pub struct Args {
    /// What to time.
    #[arg(value_parser = ["pipeline", "kernels", "counters"])]
    what: String,
    /// tiny: h128 L4 V512 (0.9 M weights); small: h512 L6 V50304 (70 M).
    #[arg(long, default_value = "tiny", value_parser = ["tiny", "small"])]
    shape: String,
    /// Only this part of the pipeline.
    #[arg(long, value_parser = ["step", "generate", "ppo", "int8"])]
    part: Option<String>,
    /// int8: frozen LLM.int8 base with a bf16 output layer, what PPO runs by default; f32: dense.
    #[arg(long, default_value = "int8", value_parser = ["int8", "f32"])]
    precision: String,
    /// Counted runs of each.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
}

/// Runs the subcommand and gives its exit code.
pub fn run(args: Args) -> i32 {
    if args.what == "kernels" {
        let status = Command::new(env!("CARGO")).args(["bench", "--workspace", "--benches"]).status();
        return status.ok().and_then(|s| s.code()).unwrap_or(1);
    }
    if args.what == "counters" {
        return i32::from(!COUNTED.iter().all(count));
    }
    match pipeline(&args) {
        Ok(v) => {
            println!("{v:#}");
            0
        }
        Err(e) => fail(e),
    }
}

/// The tests that hold kernels to counted bars, and print the counts: package, test program, filter.
const COUNTED: &[[&str; 3]] = &[
    ["attention", "counters", ""],
    ["elementwise", "ptx", "moves_no_byte_twice"],
    ["embedding", "ptx", "moves_no_byte_twice"],
    ["int8-matmul", "ptx_counted", ""],
    ["lora", "counted", ""],
    ["loss", "ptx_counts", ""],
    ["matmul", "counted", ""],
    ["norm-gelu", "ptx", "counted"],
    ["optim", "ptx", "moves_no_byte_twice"],
    ["optim", "adamw8", "moves_sixteen_bytes_a_weight"],
];

fn count([package, test, filter]: &[&str; 3]) -> bool {
    println!("\n{package}");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["test", "--release", "--quiet", "--package", package, "--test", test, "--"]);
    cargo.args(["--nocapture", "--test-threads=1"]).args(Some(filter).filter(|f| !f.is_empty()));
    cargo.status().is_ok_and(|s| s.success())
}

fn pipeline(args: &Args) -> trainer::error::Result<serde_json::Value> {
    let config = trainer::bench::shape(&args.shape).expect("clap allows known shapes only");
    let precision = if args.precision == "f32" { Precision::F32 } else { Precision::INT8 };
    let runs = args.runs as usize;
    let wanted = |part: &str| args.part.as_deref().is_none_or(|p| p == part);
    let mut results = json!({ "size": args.shape, "precision": args.precision });
    if wanted("step") {
        results["step"] = trainer::bench::step_times(&config, precision, runs)?;
    }
    if wanted("generate") {
        results["generate"] = trainer::bench::generate_times(&config, precision, runs)?;
    }
    if wanted("ppo") {
        results["ppo"] = trainer::bench::ppo_times(&config, precision, runs)?;
    }
    if wanted("int8") {
        results["int8"] = trainer::bench::int8_times(runs)?;
    }
    Ok(json!({
        "script": "bench pipeline", "threads": cpu::threads(), "peak_rss_mb": peak_rss_mb(), "results": results,
    }))
}

/// The largest resident set of this process so far, in MiB; null where the system does not tell.
fn peak_rss_mb() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse::<f64>().ok().map(|kib| kib / 1024.0)
}
