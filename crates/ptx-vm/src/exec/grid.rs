//! A grid: the launch is checked, its blocks are handed to threads, their counts are added up.
//!
//! Blocks that cannot notice each other are taken by any thread from a common counter. Blocks that can (strong
//! accesses, atomics whose order shows) all run on one thread, in a fixed order and for a quantum each, so that a
//! spinning block lets the one it waits for run and the outcome is the same every time.
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::block::{Block, Progress};
use super::context::{Context, Rng};
use super::tally::Tally;
use crate::counters::Counters;
use crate::launch::{Checks, Launch, Options};
use crate::memory::Memory;
use crate::module::{Kernel, Loaded};
use crate::strict::Fault;
use crate::strict::global_race::GlobalRaces;

/// Instructions a block executes before another one has its turn, where blocks can notice each other.
const QUANTUM: u64 = 1 << 17;

fn check(kernel: &Kernel, launch: &Launch, options: &Options) -> Result<(), Fault> {
    let refuse = |detail: String| Err(Fault::bad_launch(&kernel.name, detail));
    let device = &options.device;
    let threads: u64 = launch.block.iter().map(|&n| u64::from(n)).product();
    if threads == 0 || launch.grid.contains(&0) {
        return refuse(format!("grid {:?} of blocks {:?}: no extent may be 0", launch.grid, launch.block));
    }
    let most =
        u64::from(kernel.max_threads.unwrap_or(device.threads_per_block).min(device.threads_per_block));
    if threads > most {
        return refuse(format!("{threads} threads in a block, {most} are possible"));
    }
    if let Some(block) = kernel.required_block
        && block != launch.block
    {
        return refuse(format!("the kernel requires blocks of {block:?}, not {:?}", launch.block));
    }
    if launch.params.len() != kernel.param_bytes {
        return refuse(format!(
            "{} bytes of parameters, {} are needed",
            launch.params.len(),
            kernel.param_bytes
        ));
    }
    let shared = kernel.static_shared as u64 + u64::from(launch.shared_bytes);
    if shared > u64::from(device.shared_per_block) {
        return refuse(format!("{shared} bytes of shared memory, {} are there", device.shared_per_block));
    }
    Ok(())
}

/// The order in which blocks begin: as numbered, or under a seed reversed or shuffled.
fn order(blocks: u64, seed: Option<u64>) -> Box<dyn Fn(u64) -> u64 + Sync> {
    match seed {
        None => Box::new(|i| i),
        Some(s) if s % 2 == 1 => Box::new(move |i| blocks - 1 - i),
        Some(s) => {
            let mut rng = Rng::new(s);
            let mut all: Vec<u64> = (0..blocks).collect();
            for i in (1..all.len()).rev() {
                all.swap(i, rng.below(i as u64 + 1) as usize);
            }
            Box::new(move |i| all[i as usize])
        }
    }
}

/// Runs a launch.
pub(crate) fn run(
    memory: &Memory,
    loaded: &Loaded,
    kernel: &str,
    launch: &Launch,
    options: &Options,
) -> Result<Counters, Fault> {
    let module = loaded.module();
    let Some(kernel) = module.kernel(kernel) else {
        let names: Vec<&str> = module.kernels().map(|k| k.name.as_str()).collect();
        let detail = format!("module {} has no such kernel, only: {}", module.name(), names.join(", "));
        return Err(Fault::bad_launch(kernel, detail));
    };
    check(kernel, launch, options)?;
    if options.checks == Checks::Off {
        memory.forget_unwritten();
    }
    let blocks: u64 = launch.grid.iter().map(|&n| u64::from(n)).product();
    let snapshot = memory.snapshot();
    let races = match options.checks {
        Checks::All => {
            let map = memory.race_map().map_err(|e| Fault::bad_launch(&kernel.name, e.to_string()))?;
            Some(GlobalRaces::new(map, blocks))
        }
        _ => None,
    };
    let budget = AtomicU64::new(options.instruction_budget.unwrap_or(u64::MAX));
    let printed = Mutex::new(Vec::new());
    let ctx = Context {
        program: &module.program,
        module: module.name(),
        source: module.source(),
        kernel: &kernel.name,
        entry: kernel.function,
        view: memory.view(&snapshot),
        launch,
        device: &options.device,
        checks: options.checks,
        seed: options.seed,
        noise: options.seed.map_or(0, |s| s | 1),
        constants: loaded.constants(kernel),
        shared_bytes: kernel.static_shared + launch.shared_bytes as usize,
        threads: launch.block.iter().product(),
        races: races.as_ref(),
        budget: &budget,
        printed: &printed,
    };
    let order = order(blocks, options.seed);
    let communicates = launch.cooperative || module.communicates(kernel);
    let result = if communicates {
        together(&ctx, blocks, &order, launch.cooperative)
    } else {
        apart(&ctx, blocks, &order, options.threads.max(1))
    };
    let mut lines = printed.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some(races) = races {
        memory.keep_race_map(races.into_map());
    }
    lines.sort_by_key(|(block, _)| *block);
    lines.iter().for_each(|(_, text)| print!("{text}"));
    result
}

/// Blocks that know nothing of each other.
fn apart(
    ctx: &Context,
    blocks: u64,
    order: &(dyn Fn(u64) -> u64 + Sync),
    threads: usize,
) -> Result<Counters, Fault> {
    let next = AtomicU64::new(0);
    // The first fault in the order of the blocks, and where to stop because of it.
    let first: Mutex<Option<(u64, Fault)>> = Mutex::new(None);
    let stop = AtomicU64::new(u64::MAX);
    let total: Mutex<Counters> = Mutex::new(Counters::default());
    let worker = || {
        let mut tally = Tally::new(ctx.program.code.len());
        let mut old = None;
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= blocks || i > stop.load(Ordering::Relaxed) {
                break;
            }
            let mut block = Block::new(order(i), ctx, old.take());
            let result = loop {
                match block.run(ctx, &mut tally, u64::MAX) {
                    Ok(Progress::Done) => break Ok(()),
                    Ok(Progress::Yield) => {}
                    Err(fault) => break Err(fault),
                }
            };
            if let Err(fault) = result {
                let mut first = first.lock().unwrap_or_else(PoisonError::into_inner);
                if first.as_ref().is_none_or(|(at, _)| i < *at) {
                    *first = Some((i, fault));
                }
                stop.fetch_min(i, Ordering::Relaxed);
                break;
            }
            old = Some(block);
        }
        total.lock().unwrap_or_else(PoisonError::into_inner).add(&tally.finish(ctx.program));
    };
    let threads = threads.min(usize::try_from(blocks).unwrap_or(usize::MAX));
    if threads == 1 {
        worker();
    } else {
        std::thread::scope(|s| {
            for _ in 0..threads {
                s.spawn(worker);
            }
        });
    }
    match first.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some((_, fault)) => Err(fault),
        None => Ok(total.into_inner().unwrap_or_else(PoisonError::into_inner)),
    }
}

/// Blocks that may wait for each other: as many as the device holds at once take turns.
fn together(ctx: &Context, blocks: u64, order: &dyn Fn(u64) -> u64, all: bool) -> Result<Counters, Fault> {
    let mut tally = Tally::new(ctx.program.code.len());
    let room = if all { blocks } else { u64::from(ctx.device.sm_count * ctx.device.blocks_per_sm).max(1) };
    let mut resident: VecDeque<Block> = VecDeque::new();
    let (mut next, mut old) = (0, None);
    loop {
        // A block is started when the running ones have had their turn and there is room.
        let mut block = if next < blocks && (resident.len() as u64) < room {
            next += 1;
            Block::new(order(next - 1), ctx, old.take())
        } else {
            match resident.pop_front() {
                Some(block) => block,
                None => return Ok(tally.finish(ctx.program)),
            }
        };
        match block.run(ctx, &mut tally, QUANTUM)? {
            Progress::Done => old = Some(block),
            Progress::Yield => resident.push_back(block),
        }
    }
}
