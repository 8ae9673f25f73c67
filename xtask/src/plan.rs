//! `cargo xtask plan`: does a job fit a GPU, and with which settings.

use crate::fail;
use formats::{Act, Arch, Folder, Gguf, ModelConfig};
use model::{LoraConfig, Precision, Target};
use ptx_vm::gpu::{GPUS, Gpu};
use std::path::Path;
use trainer::{
    bench::neox,
    config::RewardSection,
    memory,
    plan::{BlockLaunches, Job, StagePlan, Tuning},
    plan_fit::Fixed,
    plan_table::{self, GIB, row},
};

const HELP: &str = "\
The plan runs the trainer's own stages on a device that allocates shapes and computes nothing: weights, adapters,
optimiser, activations, key-value cache and each kernel's workspace are counted as a GPU's caching allocator would hold
them, loading included. Times are roofline predictions from data-sheet rates, not measurements.

Models by name: gpt-neox-20b, pythia-70m ... pythia-12b; or a Hugging Face folder or .gguf file.

Examples:
  cargo xtask plan                                     GPT-NeoX-20B in int8 with LoRA on one 24 GB GPU
  cargo xtask plan --model pythia-6.9b --gpu 16GiB
  cargo xtask plan --model runs/a/sft --batch 64 --response 128";

/// Plan the memory of a fine-tuning job: what fits, what does not, and which settings make it fit.
#[derive(clap::Args)]
#[command(after_help = HELP)]
pub struct Args {
    /// A name, a Hugging Face folder or a .gguf file.
    #[arg(long, default_value = "gpt-neox-20b", value_name = "NAME|DIR|FILE.gguf")]
    model: String,
    /// Device memory, such as 24GiB, or a GPU: rtx3090, rtx4090, l4, a100, h100.
    #[arg(long, default_value = "24GiB", value_name = "SIZE|NAME")]
    gpu: String,
    /// Device memory that the driver, its context and the display take.
    #[arg(long, default_value = "1GiB", value_name = "SIZE")]
    reserve: String,
    /// How the frozen base is held.
    #[arg(long, default_value = "int8", value_parser = ["int8", "f32"])]
    precision: String,
    /// Rank of the adapters on query and value.
    #[arg(long, default_value_t = 16)]
    lora_rank: usize,
    /// The reward model's architecture, which PPO keeps beside the policy; `none` = it lives elsewhere.
    #[arg(long, default_value = "pythia-160m", value_name = "NAME|DIR|FILE.gguf|none")]
    reward_model: String,
    /// Answers of a PPO iteration.
    #[arg(long, default_value_t = 64)]
    batch: usize,
    /// Answers of a minibatch.
    #[arg(long, default_value_t = 4)]
    mini_batch: usize,
    /// Tokens of a prompt.
    #[arg(long, default_value_t = 16)]
    prompt: usize,
    /// Tokens of an answer.
    #[arg(long, default_value_t = 48)]
    response: usize,
    /// Answers generated at once (memory.sequences) [default: the most that fit, at most the batch].
    #[arg(long)]
    sequences: Option<usize>,
    /// Tokens of a pass in the supervised stages (memory.micro_tokens) [default: the most that fit, at most 2048].
    #[arg(long)]
    micro_tokens: Option<usize>,
    /// Keep all activations even where computing them again would make the job fit.
    #[arg(long)]
    no_checkpointing: bool,
}

/// Sizes by name: hidden, layers, heads, vocabulary, context. All GPT-NeoX with an MLP of four times the width.
const NAMED: &[(&str, [usize; 5])] = &[
    ("gpt-neox-20b", [6144, 44, 64, 50432, 2048]),
    ("pythia-70m", [512, 6, 8, 50304, 2048]),
    ("pythia-160m", [768, 12, 12, 50304, 2048]),
    ("pythia-410m", [1024, 24, 16, 50304, 2048]),
    ("pythia-1b", [2048, 16, 8, 50304, 2048]),
    ("pythia-1.4b", [2048, 24, 16, 50304, 2048]),
    ("pythia-2.8b", [2560, 32, 32, 50304, 2048]),
    ("pythia-6.9b", [4096, 32, 32, 50432, 2048]),
    ("pythia-12b", [5120, 36, 40, 50688, 2048]),
];

fn architecture(name: &str) -> Result<ModelConfig, String> {
    if let Some((_, [hidden, layers, heads, vocab, context])) = NAMED.iter().find(|(n, _)| *n == name) {
        return Ok(neox(*hidden, *layers, *heads, 4 * hidden, *vocab, *context));
    }
    let path = Path::new(name);
    if path.extension().is_some_and(|e| e == "gguf") {
        return Gguf::open(path).map(|g| g.config.clone()).map_err(|e| e.to_string());
    }
    if path.is_dir() {
        return Folder::open(path).map(|f| f.config.clone()).map_err(|e| e.to_string());
    }
    let known: Vec<&str> = NAMED.iter().map(|(n, _)| *n).collect();
    Err(format!("--model {name}: no such folder or .gguf file, and none of {}", known.join(", ")))
}

/// Bytes of `24GiB`, `24G`, `500MiB`, or a GPU's memory.
fn size(text: &str) -> Result<usize, String> {
    let gpu = Gpu::named(text).map(|gpu| gpu.memory_bytes as usize);
    gpu.or_else(|| memory::bytes(text)).ok_or_else(|| {
        let known: Vec<&str> = GPUS.iter().map(|g| g.key).collect();
        format!("{text}: want a size such as 24GiB, or one of {}", known.join(", "))
    })
}

/// Runs the subcommand and gives its exit code: 1 when the job does not fit.
pub fn run(args: Args) -> i32 {
    match plan(&args) {
        Ok(true) => 0,
        Ok(false) => 1,
        Err(e) => fail(e),
    }
}

fn plan(args: &Args) -> Result<bool, String> {
    let (memory, reserve) = (size(&args.gpu)?, size(&args.reserve)?);
    let room = memory.saturating_sub(reserve);
    let model = architecture(&args.model)?;
    let reward_model = match args.reward_model.as_str() {
        "none" => None,
        name => Some(architecture(name)?),
    };
    let precision = if args.precision == "int8" { Precision::INT8 } else { Precision::F32 };
    let lora = LoraConfig {
        rank: args.lora_rank,
        targets: vec![Target::Query, Target::Value],
        ..LoraConfig::default()
    };
    let micro_tokens = args.micro_tokens.unwrap_or(2048);
    let everywhere = RewardSection::default().adapters(&lora);
    let job = Job {
        model,
        precision,
        sft: Tuning::Lora(precision, lora.clone()),
        lora,
        reward_model,
        reward: Tuning::Lora(precision, everywhere),
        pairs: (micro_tokens / (2 * (args.prompt + args.response))).max(1),
        prompt: args.prompt,
        response: args.response,
        batch: args.batch,
        mini_batch: args.mini_batch,
        sequences: args.sequences.unwrap_or(args.batch),
        micro_tokens,
        checkpointing: false,
    };
    describe(&args.model, &job);
    let fixed = Fixed {
        checkpointing: args.no_checkpointing,
        sequences: args.sequences.is_some(),
        micro_tokens: args.micro_tokens.is_some(),
    };
    let (job, stages) =
        job.fit(&["sft", "reward", "ppo"], room, fixed, |s| s.peak.bytes).map_err(|e| e.to_string())?;
    show(&stages, job.block_launches().map_err(|e| e.to_string())?);
    let peak = stages.iter().map(|s| s.peak.bytes).max().unwrap_or(0);
    let fits = peak <= room;
    println!(
        "\n{}: {:.2} GiB at most, of {:.2} GiB ({:.2} GiB less {:.2} GiB for the driver)",
        if fits { "fits" } else { "does not fit" },
        peak as f64 / GIB,
        room as f64 / GIB,
        memory as f64 / GIB,
        reserve as f64 / GIB,
    );
    if fits {
        println!("{}", settings(&job));
    } else {
        println!("{}", plan_table::why_not(&stages, room));
    }
    Ok(fits)
}

fn describe(name: &str, job: &Job) {
    let c = &job.model;
    let kind = match c.arch {
        Arch::GptNeox => "GPT-NeoX",
        Arch::Gpt2 => "GPT-2",
        Arch::Llama => "Llama",
    };
    let up = if c.act == Act::SwiGlu { 3 } else { 2 };
    let block = c.hidden * (2 * c.heads + 2 * c.kv_heads) * c.head_dim + up * c.hidden * c.intermediate;
    let tables = if c.tie_embeddings { 1 } else { 2 };
    let weights = (c.layers * block + tables * c.vocab * c.hidden) as f64;
    println!(
        "{name}: {kind}, {} layers of {}, {:.2} G weights; prompts of {} and answers of {} tokens\n",
        c.layers,
        c.hidden,
        weights / 1e9,
        job.prompt,
        job.response
    );
}

/// Memory; then work and predicted times.
fn show(stages: &[StagePlan], launches: BlockLaunches) {
    print!("{}", plan_table::memory(stages));
    let row = |name: &str, value: &dyn Fn(&StagePlan) -> f64| print!("{}", row(name, stages, value));
    println!("\n{:<28}{}", "work of a step", plan_table::names(stages));
    row("tokens", &|s| s.tokens as f64);
    row("kernel launches", &|s| s.launches as f64);
    row("f32 Tflop", &|s| s.step.flops as f64 / 1e12);
    row("bf16 Tflop", &|s| s.step.half_flops as f64 / 1e12);
    row("int8 Top", &|s| s.step.int8_ops as f64 / 1e12);
    row("GB moved at least", &|s| (s.step.bytes_read + s.step.bytes_written) as f64 / 1e9);
    let b = launches;
    println!(
        "a block with its adapters: {} launches forward, {} decoding, {} backward",
        b.forward, b.decode, b.backward
    );
    println!("predicted seconds of a step (roofline: data-sheet rates, nothing measured)");
    for gpu in GPUS {
        row(&format!("  {}", gpu.name), &|s| seconds(gpu, s));
    }
}

/// The slower of memory and arithmetic, each kind of arithmetic at its own rate.
fn seconds(gpu: &Gpu, s: &StagePlan) -> f64 {
    let moved = (s.step.bytes_read + s.step.bytes_written) as f64 / gpu.bandwidth;
    let compute = s.step.flops as f64 / gpu.peak.f32
        + s.step.half_flops as f64 / gpu.peak.mma_f16
        + s.step.int8_ops as f64 / gpu.peak.mma_i8;
    moved.max(compute)
}

fn settings(job: &Job) -> String {
    format!(
        "settings: {} --set sft.method=lora --set memory.sft_precision=int8 --set 'sft.targets=[\"query\", \"value\"]' \
         --set reward.method=lora --set lora.rank={} --set ppo.batch_size={} --set ppo.mini_batch_size={} --set \
         ppo.response_length={}",
        job.settings(None),
        job.lora.rank,
        job.batch,
        job.mini_batch,
        job.response
    )
}
