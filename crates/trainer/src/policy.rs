//! The PPO stage: the policy against the reward, evaluated on held-out prompts before and after.

use crate::{
    checkpoint::{self, Checkpoint},
    corpus::Corpus,
    error::{Error, Result},
    evaluate::{self, Evaluation},
    merge, models,
    ppo::{Iteration, Ppo, PpoState},
    progress::Progress,
    ranks,
    reward::RewardModel,
    room,
    run::Run,
    supervised::pick,
    text::Text,
};
use rl::{Alarms, Observation};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{path::Path, time::Instant};

/// What a PPO checkpoint holds besides tensors.
#[derive(Serialize, Deserialize)]
struct StageState {
    ppo: PpoState,
    alarms: Alarms,
    best: Best,
    first_ratio: (f32, f32),
    /// Distinct-2 of the first iteration's rollouts, which are the reference model's own.
    reference_distinct_2: Option<f64>,
    before: Evaluation,
}

/// The iteration with the best mean score whose KL was within twice the target.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Best {
    iteration: usize,
    score: f64,
}

/// Everything the stage works with.
struct Stage {
    ppo: Ppo,
    reward: RewardModel,
    text: Text,
    prompts: Vec<Vec<u32>>,
    held_out: Vec<Vec<u32>>,
}

fn open(run: &Run, corpus: &Corpus) -> Result<Stage> {
    let c = &run.config;
    let (mut model, text) = models::load(&run.device, &run.dir.path("sft"), models::policy_precision(run))?;
    model.attach_lora(&c.lora, c.run.seed);
    let settings = rl::PpoConfig { seed: c.run.seed ^ c.ppo.seed, ..c.ppo.clone() };
    let mut ppo = Ppo::new(model, settings)?;
    ppo.model.checkpointing = c.memory.gradient_checkpointing;
    ppo.sequences = c.memory.sequences;
    ppo.dense_rewards = c.rollout.dense_rewards;
    ppo.mesh = run.mesh.clone();
    let prompts = text.prompts(&corpus.prompts, c.ppo.response_length)?;
    let held = &corpus.prompts_held_out[..corpus.prompts_held_out.len().min(c.eval.prompts)];
    let held_out = text.prompts(held, c.ppo.response_length)?;
    if prompts.is_empty() || held_out.is_empty() {
        return Err(Error::config(
            "data",
            "PPO needs prompts to train on and held-out prompts; the data gives none",
        ));
    }
    Ok(Stage { reward: RewardModel::load(run)?, ppo, text, prompts, held_out })
}

/// Runs PPO and writes the adapter to `DIR/adapter`.
///
/// # Errors
/// With the iteration; on an alarm, after restoring the best checkpoint as the adapter.
pub fn train(run: &mut Run, corpus: &Corpus) -> Result<Value> {
    let mut s = open(run, corpus)?;
    let total = run.config.rollout.iterations;
    let path = run.dir.checkpoint();
    let best_path = run.dir.path("best.safetensors");
    let mut first = 0;
    let mut state = match Checkpoint::load(&path)?.filter(|c| c.stage == "ppo") {
        Some(c) => {
            first = c.step;
            let state: StageState = serde_json::from_value(c.state.clone())
                .map_err(|e| Error::RunDir { dir: path.clone(), problem: format!("PPO state: {e}") })?;
            c.restore(&mut s.ppo.model.params, Some(&mut s.ppo.optimizer))?;
            s.ppo.state = state.ppo.clone();
            state
        }
        None => StageState {
            ppo: s.ppo.state.clone(),
            alarms: Alarms::new(run.config.ppo.target, run.config.rollout.thresholds),
            best: Best { iteration: 0, score: f64::NEG_INFINITY },
            first_ratio: (1.0, 0.0),
            reference_distinct_2: None,
            before: evaluate::evaluate(&s.ppo, &s.reward, &s.text, &s.held_out, corpus, true)?,
        },
    };
    run.writer.truncate_after("ppo", first)?;
    let mut progress = Progress::new("ppo", first, total, run.quiet);
    let mut saved = Instant::now();
    let mut seconds = [0.0; 3];
    let mut tokens = 0;
    for i in first..total {
        let prompts: Vec<Vec<u32>> = pick(
            s.prompts.len(),
            run.config.ppo.batch_size / run.config.ppo.num_generations,
            run.config.run.seed ^ 5,
            i,
        )
        .into_iter()
        .map(|p| s.prompts[p].clone())
        .collect();
        s.ppo.lr_factor = run.config.rollout.factor(i);
        let it = match s.ppo.iteration(i as u64, &prompts, &s.reward, s.text.tokenizer.eos()) {
            Ok(it) => it,
            Err(e) => return Err(e.at("ppo", i + 1)),
        };
        if i == 0 {
            state.first_ratio = it.first_ratio;
        }
        tokens += it.tokens;
        seconds.iter_mut().zip(it.seconds).for_each(|(a, b)| *a += b);
        log(run, i + 1, &it)?;
        progress.step(i + 1, it.tokens, &message(&it));
        let step = i + 1;
        state.ppo = s.ppo.state.clone();
        let kl = it.metric("objective/kl");
        let score = it.metric("ppo/mean_scores");
        if score > state.best.score && kl <= 2.0 * run.config.ppo.target {
            state.best = Best { iteration: step, score };
            run.write(|| {
                checkpoint::save(&best_path, "best", step, &s.ppo.model.params, None, &Value::Null)
            })?;
        }
        let alarm = state.alarms.observe(&observation(&it, step as u64, &mut state.reference_distinct_2));
        let (stop, save) = run.pause(saved)?;
        if save || step == total {
            let value = serde_json::to_value(&state).expect("numbers");
            // Rows first: a kill in between leaves rows too many, which a resume drops, never too few.
            run.writer.flush()?;
            run.write(|| {
                checkpoint::save(&path, "ppo", step, &s.ppo.model.params, Some(&s.ppo.optimizer), &value)
            })?;
            saved = Instant::now();
        }
        if let Some(alarm) = alarm.filter(|_| run.config.rollout.alarms) {
            return stop_on_alarm(run, &mut s, &best_path, alarm.message, step, state.best.iteration);
        }
        if stop {
            return Err(Error::Interrupted { stage: "ppo", step });
        }
    }
    progress.finish();
    run.write(|| save_adapter(run, &s))?;
    let after = evaluate::evaluate(&s.ppo, &s.reward, &s.text, &s.held_out, corpus, false)?;
    let rate = |t: f64| if t > 0.0 { tokens as f64 / t } else { 0.0 };
    Ok(json!({
        "before": state.before, "after": after, "first_ratio": state.first_ratio.0,
        "first_ratio_variance": state.first_ratio.1, "best_iteration": state.best.iteration,
        "tokens_per_second": { "rollout": rate(seconds[0]), "train": rate(seconds[2]) },
        "seconds": { "rollout": seconds[0], "score": seconds[1], "train": seconds[2] },
    }))
}

fn message(it: &Iteration) -> String {
    format!("score {:+.2}  kl {:.2}", it.metric("ppo/mean_scores"), it.metric("objective/kl"))
}

fn log(run: &mut Run, step: usize, it: &Iteration) -> Result<()> {
    let mut row = it.metrics.clone();
    row.push(("val/first_ratio", it.first_ratio.0.into()));
    row.push(("time/rollout", it.seconds[0]));
    row.push(("time/score", it.seconds[1]));
    row.push(("time/train", it.seconds[2]));
    row.push(("rollout/distinct_2", distinct(it)));
    run.writer.log("ppo", step, &row)
}

fn distinct(it: &Iteration) -> f64 {
    evaluate::distinct_2(it.completions.iter().map(|c| c.tokens.as_slice()))
}

fn observation<'a>(it: &Iteration, iteration: u64, reference: &mut Option<f64>) -> Observation<'a> {
    let distinct_2 = distinct(it);
    Observation {
        iteration,
        kl: it.metric("objective/kl"),
        entropy: it.metric("policy/entropy_avg"),
        distinct_2: Some(distinct_2),
        reference_distinct_2: Some(*reference.get_or_insert(distinct_2)),
        ..Observation::default()
    }
}

fn stop_on_alarm(
    run: &Run,
    s: &mut Stage,
    best: &Path,
    alarm: String,
    step: usize,
    at: usize,
) -> Result<Value> {
    if let Some(c) = Checkpoint::load(best)? {
        c.restore(&mut s.ppo.model.params, None)?;
        run.write(|| save_adapter(run, s))?;
    }
    Err(Error::Alarm { step, alarm, best: at })
}

/// Writes adapters and value head, and the adapters once more as PEFT reads them.
fn save_adapter(run: &Run, s: &Stage) -> Result<()> {
    let (dir, base) = (run.dir.path("adapter"), run.dir.path("sft"));
    std::fs::create_dir_all(&dir).map_err(Error::io(&dir))?;
    let path = dir.join("trained.safetensors");
    let (steps, model) = (run.config.rollout.iterations, &s.ppo.model);
    checkpoint::save(&path, "adapter", steps, &model.params, None, &Value::Null)?;
    let base = base.canonicalize().unwrap_or(base);
    Ok(formats::peft::save(&dir, &model.config, &base.to_string_lossy(), &model.adapters())?)
}

/// Merges `DIR/adapter` into the full-precision base and writes `DIR/merged`.
///
/// # Errors
/// Names the file and tensor.
pub fn merge(run: &mut Run, corpus: &Corpus) -> Result<Value> {
    let (base, adapter, out) = (run.dir.path("sft"), run.dir.path("adapter"), run.dir.path("merged"));
    if !adapter.join(formats::peft::CONFIG).exists() {
        return Err(Error::RunDir {
            dir: adapter,
            problem: "holds no adapter; run the ppo stage first".into(),
        });
    }
    run.write(|| merge::write(&base, Some(&adapter), &out, formats::Storage::F32).map(drop))?;
    // In f32, where merging changes nothing but roundings, if that fits.
    let precision = match room::fits_in_f32(run, &formats::Folder::open(&base)?.config) {
        true => model::Precision::F32,
        false => models::policy_precision(run),
    };
    let pass = model::Pass::default();
    let (before, with_adapter, held) = {
        let (mut model, text) = models::load(&run.device, &base, precision)?;
        model.attach_adapters(&formats::peft::load(&adapter, &model.config)?);
        let held = text.held_out(&corpus.plain_held_out)?;
        let perplexity = |pass| ranks::perplexity(&run.mesh, &model, &held, 2048, pass);
        (perplexity(model::Pass::REFERENCE)?, perplexity(pass)?, held)
    };
    let (merged, _) = models::load(&run.device, &out, precision)?;
    let after = ranks::perplexity(&run.mesh, &merged, &held, 2048, pass)?;
    Ok(json!({
        "held_out_perplexity": { "sft": before, "adapter": with_adapter, "merged": after },
    }))
}
