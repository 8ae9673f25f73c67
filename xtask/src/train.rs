//! `cargo xtask train`.

use crate::{device, fail, hub, ranks};
use parallel::{Role, World, follow_starter};
use std::path::PathBuf;
use trainer::{
    config::Config,
    error::Error,
    interrupt,
    pipeline::{self, Done, Request, STAGE_NAMES},
};

/// Run the pipeline: pretrain (when no model is given), sft, reward, ppo, merge, report.
///
/// Settings come from the preset, then --config FILE (TOML), then --set section.field=value. With no option
/// it trains a small model on generated movie reviews to write positive ones.
#[derive(clap::Args)]
pub struct Args {
    /// Run directory.
    #[arg(long, value_name = "DIR", default_value = "runs/default")]
    out: PathBuf,
    /// Continue the run in the directory: finished stages are kept, the one in progress goes on.
    #[arg(long)]
    resume: bool,
    /// Settings to start from [default: embedded; with --resume, the run's own].
    #[arg(long, value_parser = ["embedded", "movie-reviews", "smollm2"])]
    preset: Option<String>,
    /// A TOML file over the preset.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// One setting over all others, e.g. --set ppo.init_kl_coef=0.1 (repeatable).
    #[arg(long, value_name = "SECTION.FIELD=VALUE")]
    set: Vec<String>,
    /// What to fine-tune: a Hugging Face folder (GPT-NeoX, GPT-2, Llama), a .gguf file, or a model's name on the hub.
    #[arg(long, value_name = "DIR|FILE.gguf|ORG/NAME")]
    model: Option<PathBuf>,
    /// Labelled texts, demonstrations or rankings: IMDb folder, CSV, TSV, JSONL or parquet.
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,
    /// Where `cargo xtask data` put its files.
    #[arg(long, value_name = "DIR", default_value = "data")]
    data_dir: PathBuf,
    #[command(flatten)]
    device: device::Choice,
    #[command(flatten)]
    ranks: ranks::Choice,
    /// Run one stage only.
    #[arg(long, value_parser = STAGE_NAMES)]
    stage: Option<String>,
    /// Seed of everything random.
    #[arg(long)]
    seed: Option<u64>,
    /// Threads; 0 = all cores. Results do not depend on it.
    #[arg(long)]
    threads: Option<usize>,
    /// Print all settings as TOML and exit.
    #[arg(long)]
    print_config: bool,
    /// No progress output.
    #[arg(long, short)]
    quiet: bool,
}

fn config(args: &Args) -> trainer::error::Result<Config> {
    let begun = args.out.join("config.toml");
    let mut config = match &args.preset {
        Some(name) => Config::preset(name, &args.data_dir)?,
        None if args.resume && begun.exists() => {
            // The file holds every setting; an optional one that it leaves out is off.
            let mut config = Config::default();
            config.overlay(&begun)?;
            config
        }
        None => Config::embedded(),
    };
    if let Some(path) = &args.config {
        config.overlay(path)?;
    }
    if let Some(path) = &args.model {
        let path = hub::resolve(path, &args.data_dir)
            .map_err(|e| Error::Config { field: "--model".into(), problem: e })?;
        config.model.path = Some(path);
    }
    if let Some(path) = &args.data {
        config.data.path = Some(path.clone());
    }
    if let Some(seed) = args.seed {
        config.run.seed = seed;
    }
    if let Some(threads) = args.threads {
        config.run.threads = threads;
    }
    args.ranks.overlay(&mut config.parallel);
    for assignment in &args.set {
        config.set(assignment)?;
    }
    config.validate()?;
    Ok(config)
}

/// Runs the subcommand and gives its exit code.
pub fn run(args: Args) -> i32 {
    let config = match config(&args) {
        Ok(c) => c,
        Err(e) => return fail(e),
    };
    if args.print_config {
        print!("{}", config.to_toml());
        return 0;
    }
    let world = match args.ranks.role(&config.parallel) {
        Ok(Role::Rank(world)) => world,
        Ok(Role::Starter(size)) => return ranks::start(size),
        Err(e) => return fail(e),
    };
    if !follow_starter(stop) {
        let _ = ctrlc::set_handler(stop);
    } else {
        // The starter hears the terminal and passes it on.
        let _ = ctrlc::set_handler(|| {});
    }
    let rank = world.link.rank();
    match rank_of(world, config, &args) {
        Ok(done) if rank == 0 => {
            println!("{}", done.table);
            println!("run directory: {}", args.out.display());
            0
        }
        Ok(_) => 0,
        Err(e) => {
            // What another rank said is shown once, by rank 0.
            match rank {
                0 => drop(fail(&e)),
                _ if e.is_of_peer() => {}
                _ => eprintln!("rank {rank}: error: {e}"),
            }
            e.exit_code()
        }
    }
}

/// Ctrl-C: the first one ends the run after its step, the second one at once.
fn stop() {
    if interrupt::requested() {
        std::process::exit(130);
    }
    if std::env::var_os("FERROTUNE_RANK").is_none_or(|rank| rank == "0") {
        eprintln!("stopping after this step (again to stop at once)");
    }
    interrupt::request();
}

/// Runs this process's part of the job.
fn rank_of(world: World, config: Config, args: &Args) -> trainer::error::Result<Done> {
    let refused = |problem: String| Error::Config { field: "--device".into(), problem };
    let device = args.device.open_for(world.local_rank).map_err(refused)?;
    let mesh = args.ranks.mesh(&world, &config.parallel, &device, args.device.is_gpu(&device))?;
    let request = Request {
        config,
        device,
        mesh,
        out: &args.out,
        resume: args.resume,
        stage: args.stage.as_deref(),
        quiet: args.quiet,
    };
    pipeline::train(request)
}
