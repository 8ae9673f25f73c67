//! `cargo xtask bench`.

use crate::fail;
use model::Precision;
use serde_json::json;
use std::process::Command;

/// Time this engine.
///
/// `pipeline` runs the workloads that public Python stacks are quoted for (training step, generation, one PPO
/// iteration) on random weights and prints JSON; `kernels` runs the kernels' criterion benches.
#[derive(clap::Args)]
pub struct Args {
    /// What to time.
    #[arg(value_parser = ["pipeline", "kernels"])]
    what: String,
    /// tiny: h128 L4 (0.9 M weights); small: h512 L6 V50304 (70 M).
    #[arg(long, default_value = "tiny", value_parser = ["tiny", "small"])]
    shape: String,
    /// Only this part of the pipeline.
    #[arg(long, value_parser = ["step", "generate", "ppo"])]
    part: Option<String>,
    /// Counted runs of each.
    #[arg(long, default_value_t = 5)]
    runs: usize,
}

/// Runs the subcommand and gives its exit code.
pub fn run(args: Args) -> i32 {
    if args.what == "kernels" {
        let status = Command::new(env!("CARGO")).args(["bench", "--workspace", "--benches"]).status();
        return status.ok().and_then(|s| s.code()).unwrap_or(1);
    }
    match pipeline(&args) {
        Ok(v) => {
            println!("{v:#}");
            0
        }
        Err(e) => fail(e),
    }
}

fn pipeline(args: &Args) -> trainer::error::Result<serde_json::Value> {
    let config = trainer::bench::shape(&args.shape).expect("clap allows known shapes only");
    let wanted = |part: &str| args.part.as_deref().is_none_or(|p| p == part);
    let mut results = json!({ "size": args.shape });
    if wanted("step") {
        results["step"] = trainer::bench::step_times(&config, args.runs)?;
    }
    if wanted("generate") {
        results["generate"] = trainer::bench::generate_times(&config, args.runs)?;
    }
    if wanted("ppo") {
        for (name, precision) in [("ppo_int8", Precision::INT8), ("ppo_f32", Precision::F32)] {
            results[name] = trainer::bench::ppo_times(&config, precision, args.runs)?;
        }
    }
    let threads = cpu::threads();
    Ok(json!({ "script": "bench pipeline", "threads": threads, "results": results }))
}
