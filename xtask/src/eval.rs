//! `cargo xtask eval`.

use crate::{device, fail, hub};
use ::device::Device;
use data::LoadOptions;
use model::{Pass, Precision};
use std::{path::PathBuf, time::Instant};
use trainer::{lm, models};

/// Perplexity of a model on plain text, in f32 and with the blocks' linear layers in LLM.int8.
#[derive(clap::Args)]
pub struct Args {
    /// A Hugging Face folder (GPT-NeoX, GPT-2, Llama), a .gguf file, or a model's name on the hub.
    #[arg(long, value_name = "DIR|FILE.gguf|ORG/NAME")]
    model: PathBuf,
    /// Plain text, one passage a line.
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// Lines read, from the start of the file.
    #[arg(long, default_value_t = 200)]
    lines: usize,
    /// Where models from the hub are kept.
    #[arg(long, value_name = "DIR", default_value = "data")]
    data_dir: PathBuf,
    /// LLM.int8 outlier threshold; 0 = no decomposition.
    #[arg(long, default_value_t = 6.0)]
    threshold: f32,
    #[command(flatten)]
    device: device::Choice,
}

/// Runs the subcommand and gives its exit code.
pub fn run(args: Args) -> i32 {
    let device = match args.device.open() {
        Ok(device) => device,
        Err(e) => return fail(e),
    };
    let args = match hub::resolve(&args.model, &args.data_dir) {
        Ok(model) => Args { model, ..args },
        Err(e) => return fail(e),
    };
    match eval(&args, &device) {
        Ok(()) => 0,
        Err(e) => fail(e),
    }
}

fn eval(args: &Args, device: &Device) -> trainer::error::Result<()> {
    let mut texts = data::load(&args.text, &LoadOptions::default())?.texts()?.items;
    texts.truncate(args.lines);
    let int8 = Precision::Int8 { threshold_milli: (args.threshold * 1000.0).round() as u32 };
    let mut first = None;
    for (name, precision) in [("f32", Precision::F32), ("int8", int8)] {
        let (model, text) = models::load(device, &args.model, precision)?;
        let examples = text.held_out(&texts)?;
        let tokens: usize = examples.iter().map(|e| e.predicted()).sum();
        let start = Instant::now();
        let p = lm::perplexity(&model, &examples, 2048, Pass::default())?.unwrap_or(f64::NAN);
        let change =
            first.map_or(String::new(), |f: f64| format!("  {:+.3} % against f32", (p / f - 1.0) * 100.0));
        let speed = tokens as f64 / start.elapsed().as_secs_f64();
        println!("{name:>5}  perplexity {p:.4} over {tokens} tokens  {speed:.0} tok/s{change}");
        first.get_or_insert(p);
    }
    Ok(())
}
