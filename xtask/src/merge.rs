//! `cargo xtask merge`.

use crate::{fail, hub};
use formats::Storage;
use std::{fs, path::PathBuf};
use trainer::merge::{Merged, Row, write};

/// Sentences of common words, for a report when no text is given.
const TEXT: &str = "\
The ship left the harbour before sunrise, and by noon the coast was a thin grey line behind it.
She opened the letter twice, read it slowly, and put it back into the drawer without a word.
Water boils at a lower temperature in the mountains, because the air above it weighs less.
The committee met on Tuesday to discuss the budget, but the budget had already been spent.
He said that the film was long, that the ending was weak, and that he would see it again.
In the old town the streets are narrow, and every house leans a little towards its neighbour.
A good tool does one thing well, and its user need not know how.
When the rain stopped, the children ran out to look for frogs between the stones.";

const HELP: &str = "\
Adapters are in PEFT's format, as `cargo xtask train` leaves them in DIR/adapter and as peft saves them. One tensor at a
time is in memory.

Examples:
  cargo xtask merge --model runs/a/sft --adapter runs/a/adapter --out merged --dtype bf16
  cargo xtask merge --model runs/a/sft --adapter runs/a/adapter --out merged --report --text book.txt
  cargo xtask merge --model pythia-410m --out pythia-int8 --int8       no adapter: convert";

/// Merge a PEFT adapter into its base model, or convert a model.
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// The base: a Hugging Face folder (GPT-NeoX, GPT-2, Llama), or a model's name on the hub.
    #[arg(long, value_name = "DIR|ORG/NAME")]
    model: PathBuf,
    /// The adapter: a folder with adapter_config.json and adapter_model.safetensors.
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// Where the merged folder goes.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Where models from the hub are kept.
    #[arg(long, value_name = "DIR", default_value = "data")]
    data_dir: PathBuf,
    /// Element type of the weights.
    #[arg(long, value_parser = ["f32", "f16", "bf16"], default_value = "f32")]
    dtype: String,
    /// Store the blocks' linear layers in int8 as bitsandbytes does, the rest in f16.
    #[arg(long, conflicts_with = "dtype")]
    int8: bool,
    /// Compare ways to hold the merged model with f32: logits and perplexity.
    #[arg(long)]
    report: bool,
    /// Plain text for the report, one passage a line; its first 1024 tokens are used [default: eight sentences].
    #[arg(long, value_name = "FILE", requires = "report")]
    text: Option<PathBuf>,
}

/// Runs the subcommand and gives its exit code.
pub fn run(args: Args) -> i32 {
    match merge(&args) {
        Ok(()) => 0,
        Err(e) => fail(e),
    }
}

fn merge(args: &Args) -> Result<(), String> {
    let storage = match args.dtype.as_str() {
        _ if args.int8 => Storage::Int8,
        "f16" => Storage::F16,
        "bf16" => Storage::BF16,
        _ => Storage::F32,
    };
    let words = |e: trainer::error::Error| e.to_string();
    let model = hub::resolve(&args.model, &args.data_dir)?;
    write(&model, args.adapter.as_deref(), &args.out, storage).map_err(words)?;
    println!("{}", args.out.display());
    if !args.report {
        return Ok(());
    }
    let text = match &args.text {
        Some(path) => fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?,
        None => TEXT.to_string(),
    };
    let lines: Vec<String> =
        text.lines().map(str::trim).filter(|l| !l.is_empty()).map(String::from).collect();
    let merged = Merged::open(&model, args.adapter.as_deref()).map_err(words)?;
    print!("{}", table(&merged.report(&lines).map_err(words)?));
    Ok(())
}

fn table(rows: &[Row]) -> String {
    let mut out = format!("{:32}{:>14}{:>14}{:>14}\n", "", "max |logit|", "mean |logit|", "perplexity");
    for r in rows {
        out += &format!("{:32}{:>14.2e}{:>14.2e}{:>14.4}\n", r.name, r.max, r.mean, r.perplexity);
    }
    out + "max, mean: difference of a logit from f32\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_a_line_a_row() {
        let row = Row { name: "f32, merged", max: 0.0, mean: 0.0, perplexity: 12.5 };
        let text = table(&[row]);
        assert!(text.contains("perplexity\nf32, merged") && text.contains("12.5000\n"), "{text}");
    }
}
