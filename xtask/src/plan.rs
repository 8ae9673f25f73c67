//! `cargo xtask plan`: does a job fit a GPU, and with which settings.

use crate::fail;
use device::Peak;
use formats::{Act, Arch, Folder, Gguf, ModelConfig};
use model::{LoraConfig, Precision, Target};
use ptx_vm::gpu::{GPUS, Gpu};
use std::path::Path;
use trainer::{
    bench::neox,
    plan::{BlockLaunches, Job, StagePlan},
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

const GIB: f64 = (1u64 << 30) as f64;

/// Bytes of `24GiB`, `24G`, `500MiB`, or a GPU's memory.
fn size(text: &str) -> Result<usize, String> {
    if let Some(gpu) = Gpu::named(text) {
        return Ok(gpu.memory_bytes as usize);
    }
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "g" | "gib" => 1 << 30,
        "m" | "mib" => 1 << 20,
        "gb" => 1_000_000_000,
        "mb" => 1_000_000,
        "" => 1,
        _ => 0,
    };
    match digits.parse::<f64>() {
        Ok(n) if unit > 0 && n >= 0.0 => Ok((n * unit as f64) as usize),
        _ => {
            let known: Vec<&str> = GPUS.iter().map(|g| g.key).collect();
            Err(format!("{text}: want a size such as 24GiB, or one of {}", known.join(", ")))
        }
    }
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
    let job = Job {
        model,
        precision,
        lora,
        reward_model,
        prompt: args.prompt,
        response: args.response,
        batch: args.batch,
        mini_batch: args.mini_batch,
        sequences: args.sequences.unwrap_or(args.batch),
        micro_tokens: args.micro_tokens.unwrap_or(2048),
        checkpointing: false,
    };
    describe(&args.model, &job);
    let (job, stages) = fit(args, job, room)?;
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
        println!("{}", why_not(&stages, room));
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

/// The job with the first settings under which it fits: as asked for, then with recomputation, then with ever fewer
/// answers and tokens at a time (those that were not fixed by an option).
fn fit(args: &Args, mut job: Job, room: usize) -> Result<(Job, Vec<StagePlan>), String> {
    loop {
        let stages = job.stages().map_err(|e| e.to_string())?;
        let over = |name: &str| stages.iter().any(|s| s.stage == name && s.peak.bytes > room);
        if !over("sft") && !over("reward") && !over("ppo") {
            return Ok((job, stages));
        }
        let before = job.clone();
        if !job.checkpointing && !args.no_checkpointing {
            job.checkpointing = true;
        } else {
            let length = job.prompt + job.response;
            if over("ppo") && args.sequences.is_none() && job.sequences > 1 {
                job.sequences /= 2;
            }
            if (over("sft") || over("reward")) && args.micro_tokens.is_none() && job.micro_tokens > 2 * length
            {
                job.micro_tokens /= 2;
            }
        }
        let same = |a: &Job, b: &Job| {
            (a.checkpointing, a.sequences, a.micro_tokens) == (b.checkpointing, b.sequences, b.micro_tokens)
        };
        if same(&before, &job) {
            return Ok((job, stages));
        }
    }
}

/// One line a category, one column a stage; then the largest tensors; then work and predicted times.
fn show(stages: &[StagePlan], launches: BlockLaunches) {
    let names = stages.iter().map(|s| format!("{:>12}", s.stage)).collect::<String>();
    println!("{:<28}{names}", "memory at its fullest, GiB");
    let mut categories: Vec<&str> = Vec::new();
    for (category, _) in stages.iter().flat_map(|s| &s.peak.categories) {
        if !categories.contains(category) {
            categories.push(category);
        }
    }
    let of =
        |peak: &Peak, name: &str| peak.categories.iter().find(|(c, _)| *c == name).map_or(0, |(_, b)| *b);
    for category in categories {
        row(category, stages, |s| of(&s.peak, category) as f64 / GIB);
    }
    row("all", stages, |s| s.peak.bytes as f64 / GIB);
    println!("\nlargest tensors");
    for s in stages {
        for (label, bytes, count) in s.peak.largest.iter().take(4) {
            let times = if *count > 1 { format!(" x {count}") } else { String::new() };
            println!(
                "{:>8}  {:>9.1} MiB{times}  {} {}",
                s.stage,
                *bytes as f64 / 1048576.0,
                label.category,
                label.name
            );
        }
    }
    println!("\n{:<28}{names}", "work of a step");
    row("tokens", stages, |s| s.tokens as f64);
    row("kernel launches", stages, |s| s.launches as f64);
    row("Tflop", stages, |s| s.step.flops as f64 / 1e12);
    row("int8 Top", stages, |s| s.step.int8_ops as f64 / 1e12);
    row("GB moved at least", stages, |s| (s.step.bytes_read + s.step.bytes_written) as f64 / 1e9);
    let b = launches;
    println!(
        "a block with its adapters: {} launches forward, {} decoding, {} backward",
        b.forward, b.decode, b.backward
    );
    println!("predicted seconds of a step (roofline: data-sheet rates, nothing measured)");
    for gpu in GPUS {
        row(&format!("  {}", gpu.name), stages, |s| seconds(gpu, s));
    }
}

fn row(name: &str, stages: &[StagePlan], value: impl Fn(&StagePlan) -> f64) {
    let cells = stages.iter().map(|s| format!("{:>12}", number(value(s)))).collect::<String>();
    println!("{name:<28}{cells}");
}

fn number(x: f64) -> String {
    match x {
        _ if x >= 1000.0 => format!("{x:.0}"),
        _ if x >= 10.0 || x.fract() == 0.0 => format!("{x:.1}"),
        _ => format!("{x:.3}"),
    }
}

/// The slowest of memory, int8 and f32 work, as if each were the only one.
fn seconds(gpu: &Gpu, s: &StagePlan) -> f64 {
    let moved = (s.step.bytes_read + s.step.bytes_written) as f64 / gpu.bandwidth;
    let compute = s.step.flops as f64 / gpu.peak.f32 + s.step.int8_ops as f64 / gpu.peak.mma_i8;
    moved.max(compute)
}

fn settings(job: &Job) -> String {
    format!(
        "settings: --set memory.gradient_checkpointing={} --set memory.sequences={} --set memory.micro_tokens={} --set \
         sft.method=lora --set memory.sft_precision=int8 --set reward.method=lora --set lora.rank={} --set \
         ppo.batch_size={} --set ppo.mini_batch_size={} --set ppo.response_length={}",
        job.checkpointing,
        job.sequences,
        job.micro_tokens,
        job.lora.rank,
        job.batch,
        job.mini_batch,
        job.response
    )
}

fn why_not(stages: &[StagePlan], room: usize) -> String {
    let worst = stages.iter().max_by_key(|s| s.peak.bytes).expect("a job has stages");
    let over = (worst.peak.bytes - room.min(worst.peak.bytes)) as f64 / GIB;
    let fixed = worst
        .peak
        .categories
        .iter()
        .filter(|(c, _)| *c == "weights")
        .map(|(_, b)| *b as f64 / GIB)
        .sum::<f64>();
    format!(
        "{:.2} GiB too much in stage {}: {fixed:.2} GiB of it are weights; use a larger GPU, a smaller model, int8, shorter \
         answers, or a reward model that lives elsewhere (--reward-model none)",
        over, worst.stage
    )
}
