//! The stages in order, and what a run leaves behind.

use crate::{
    config::Config,
    corpus::Corpus,
    error::{Error, Result},
    policy, ranks, report, reward, room,
    run::Run,
    summary, supervised,
};
use device::{Device, DeviceError};
use parallel::{CommError, Mesh};
use serde_json::{Value, json};
use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::Path,
    time::Instant,
};

/// A stage: its name, and what it does.
struct Stage {
    name: &'static str,
    needs: Option<&'static str>,
    run: fn(&mut Run, &Corpus) -> Result<Value>,
}

const STAGES: [Stage; 5] = [
    Stage { name: "pretrain", needs: None, run: supervised::pretrain },
    Stage { name: "sft", needs: None, run: supervised::sft },
    Stage { name: "reward", needs: Some("sft"), run: reward::train },
    Stage { name: "ppo", needs: Some("reward"), run: policy::train },
    Stage { name: "merge", needs: Some("ppo"), run: policy::merge },
];

/// The stages' names, in order; `report` writes the summary and the report again.
pub const STAGE_NAMES: [&str; 6] = ["pretrain", "sft", "reward", "ppo", "merge", "report"];

/// How a run is asked for.
pub struct Request<'a> {
    /// Settings.
    pub config: Config,
    /// Where tensors live and kernels run.
    pub device: Device,
    /// The ranks that work on it: [`Mesh::alone`] for one process.
    pub mesh: Mesh,
    /// Run directory.
    pub out: &'a Path,
    /// Continue what is there.
    pub resume: bool,
    /// Only this stage.
    pub stage: Option<&'a str>,
    /// No progress output.
    pub quiet: bool,
}

/// What a run ends with.
pub struct Done {
    /// summary.json.
    pub summary: Value,
    /// The closing table.
    pub table: String,
}

/// Runs all stages that are not done yet (or one), and writes summary and report. Returns the summary (on the rank that leads;
/// every rank calls this with the same settings).
///
/// # Errors
/// With the stage and step, and what to do.
pub fn train(request: Request<'_>) -> Result<Done> {
    if let Some(stage) = request.stage
        && !STAGE_NAMES.contains(&stage)
    {
        return Err(Error::config("--stage", format!("\"{stage}\" is none of {}", STAGE_NAMES.join(", "))));
    }
    let Request { config, device, mesh, out, resume, quiet, .. } = request;
    match config.run.threads {
        // Ranks of one machine share its cores.
        0 if mesh.local_size > 1 => {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            cpu::set_threads((cores / mesh.local_size).max(1));
        }
        threads => cpu::set_threads(threads),
    }
    let mut run = Run::open(config, device, mesh, out, resume, quiet)?;
    let c = &run.config;
    let corpus = Corpus::load(&c.data, c.run.seed, c.eval.prompts)?;
    for stage in STAGES {
        let wanted = request.stage.is_none_or(|s| s == stage.name);
        let given = stage.name == "pretrain" && run.config.model.path.is_some();
        if !wanted || given {
            continue;
        }
        if run.dir.result(stage.name).is_some() {
            run.say(&format!("{:>9} is done", stage.name));
            continue;
        }
        if let Some(needs) = stage.needs.filter(|n| run.dir.result(n).is_none()) {
            let problem = format!("stage `{}` needs stage `{needs}`, which has not run here", stage.name);
            return Err(Error::RunDir { dir: out.to_path_buf(), problem });
        }
        ranks::agree(&run.mesh, room::check(&run, &corpus, stage.name))?;
        run_stage(&mut run, &stage, &corpus)?;
    }
    if !run.mesh.leads() {
        return Ok(Done { summary: Value::Null, table: String::new() });
    }
    let summary = summary::write(&mut run)?;
    report::write(&mut run, &summary)?;
    let table = summary::table(&run, &summary);
    Ok(Done { summary, table })
}

fn run_stage(run: &mut Run, stage: &Stage, corpus: &Corpus) -> Result<()> {
    let start = Instant::now();
    run.device.reset_peak();
    let mut result = catch(stage.name, || (stage.run)(run, corpus))?;
    // After a resume only this process's share of the time is known.
    result["seconds"] = json!(start.elapsed().as_secs_f64());
    // Of the rank that needs most.
    let peaks = run.mesh.world.gather(&[run.device.peak_bytes() as u64])?;
    result["peak_memory_bytes"] = json!(peaks.into_iter().max());
    run.writer.flush()?;
    run.device.trim();
    let written = if run.mesh.leads() { run.dir.finish(stage.name, result.clone()) } else { Ok(()) };
    ranks::agree(&run.mesh, written)?;
    if !run.mesh.leads() {
        run.dir.finish(stage.name, result)?;
    }
    Ok(())
}

/// Runs a stage. A GPU that fails in it unwinds with a [`DeviceError`], a collective between ops with a [`CommError`]; any other
/// panic goes on.
fn catch<T>(stage: &'static str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    // What the stage was changing is not looked at again: the process ends with the error.
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|payload| {
        let payload = match payload.downcast::<DeviceError>() {
            Ok(source) => return Err(Error::Device { stage, source: *source }),
            Err(other) => other,
        };
        match payload.downcast::<CommError>() {
            Ok(e) => Err(Error::Ranks(*e)),
            Err(other) => resume_unwind(other),
        }
    })
}
