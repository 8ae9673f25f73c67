//! The only task runner: `cargo xtask --help`.
mod bench;
mod data_sets;
mod device;
mod eval;
mod hub;
mod main_job;
mod merge;
mod parity;
mod plan;
mod ptx;
mod ranks;
mod test;
mod tidy;
mod tools;
mod train;
mod vm;

use clap::{Parser, Subcommand};

/// RLHF fine-tuning of language models: train, test, bench.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "Examples:
  cargo xtask train                         the whole pipeline on generated reviews, minutes on two cores
  cargo xtask train --preset movie-reviews  the same on real sentences with human ratings
  cargo xtask train --out runs/a --resume   continue after a kill
  cargo xtask plan                          what fine-tuning GPT-NeoX-20B takes on a 24 GB GPU
  cargo xtask vm -- ./my-cuda-program       a CUDA program with no GPU, its kernels checked and counted
  cargo xtask test                          every test and check";

#[derive(Subcommand)]
enum Command {
    /// Run SFT, reward model and PPO.
    Train(train::Args),
    /// Bring data sets and models: movie-reviews, plain-text, smollm2, gpt2-bpe.
    Data(data_sets::Args),
    /// Perplexity of a model on plain text, f32 against int8.
    Eval(eval::Args),
    /// Merge a PEFT adapter into its base model, or convert a model.
    Merge(merge::Args),
    /// Compare with transformers, peft and bitsandbytes in both directions.
    Parity(parity::Args),
    /// Plan the memory of a fine-tuning job on a GPU.
    Plan(plan::Args),
    /// Time this engine: the pipeline's workloads, or the kernels' criterion benches.
    Bench(bench::Args),
    /// Run a CUDA program with no GPU: its kernels execute on the PTX VM.
    Vm(vm::Args),
    /// Check, run and count PTX files on the VM.
    Ptx(ptx::Args),
    /// Install the optional tools that tests use: ptxas, NVRTC, Triton, NVIDIA's Python bindings.
    Tools(tools::Args),
    /// Format, lints, house rules, all tests.
    Test(test::Args),
    /// Check the house rules: file length, unsafe comments, no leftovers.
    Tidy,
}

fn main() {
    let code = match Cli::parse().command {
        Command::Train(args) => train::run(args),
        Command::Data(args) => data_sets::run(args),
        Command::Eval(args) => eval::run(args),
        Command::Merge(args) => merge::run(args),
        Command::Parity(args) => parity::run(args),
        Command::Plan(args) => plan::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Vm(args) => vm::run(args),
        Command::Ptx(args) => ptx::run(args),
        Command::Tools(args) => tools::run(args),
        Command::Test(args) => test::run(args),
        Command::Tidy => tidy::run(),
    };
    std::process::exit(code);
}

/// Prints an error and gives the exit code 1.
fn fail(e: impl std::fmt::Display) -> i32 {
    eprintln!("error: {e}");
    1
}
