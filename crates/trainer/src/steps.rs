//! The loop that all supervised stages share: schedule, optimiser, metrics, checkpoints, stop requests.

use crate::{
    checkpoint::{self, Checkpoint},
    config::LoopConfig,
    error::{Error, Result},
    optimizer::Optimizer,
    progress::Progress,
    ranks,
    run::Run,
};
use autograd::Grads;
use model::Model;
use serde_json::Value;
use std::time::Instant;

/// What one step reports: this rank's part, the ranks' parts add up to the batch's numbers.
pub struct StepReport {
    /// Tokens processed.
    pub tokens: usize,
    /// The loss; checked for NaN before the optimiser moves.
    pub loss: f64,
    /// Further metrics by name; the same names on all ranks.
    pub metrics: Vec<(&'static str, f64)>,
}

/// Runs `config.steps` steps from wherever the stage's checkpoint stands. `step` adds gradients for step
/// number `i` (from 0) and must derive everything random from `i`; with several ranks, its own part of the batch's gradients.
/// Returns tokens per second.
///
/// # Errors
/// With the stage and step; the checkpoint before the failing step is kept.
pub fn train(
    run: &mut Run,
    stage: &'static str,
    model: &mut Model,
    config: &LoopConfig,
    mut step: impl FnMut(&Model, usize, &mut Grads) -> Result<StepReport>,
) -> Result<f64> {
    let mut optimizer = Optimizer::new(&model.params, config.adam);
    let mut first = 0;
    let path = run.dir.checkpoint();
    if let Some(c) = Checkpoint::load(&path)?.filter(|c| c.stage == stage) {
        first = c.step;
        c.restore(&mut model.params, Some(&mut optimizer))?;
    }
    run.writer.truncate_after(stage, first)?;
    let mut progress = Progress::new(stage, first, config.steps, run.quiet);
    let mut grads = Grads::new();
    let mut saved = Instant::now();
    for i in first..config.steps {
        let mut one = || -> Result<(StepReport, f32, f32)> {
            let report = whole(run, step(model, i, &mut grads))?;
            if !report.loss.is_finite() {
                return Err(Error::NotFinite {
                    what: "the loss".into(),
                    whence: "sum over the batch".into(),
                });
            }
            ranks::sum_gradients(&run.mesh, &model.params, &mut grads)?;
            let lr = config.learning_rate * config.factor(i);
            let norm = optimizer.step(&mut model.params, &mut grads, lr, 1.0)?;
            Ok((report, lr, norm))
        };
        let result = one();
        let (report, lr, norm) = match result {
            Ok(r) => r,
            Err(e) => {
                // The weights still stand at the end of step i: keep them.
                run.writer.flush()?;
                if run.mesh.leads() {
                    checkpoint::save(&path, stage, i, &model.params, Some(&optimizer), &Value::Null)?;
                }
                return Err(e.at(stage, i + 1));
            }
        };
        let mut row =
            vec![("loss", report.loss), ("learning_rate", f64::from(lr)), ("grad_norm", f64::from(norm))];
        row.extend(report.metrics.iter().copied());
        run.writer.log(stage, i + 1, &row)?;
        progress.step(i + 1, report.tokens, &format!("loss {:.4}", report.loss));
        let (stop, save) = run.pause(saved)?;
        if save {
            // Rows first: a kill in between leaves rows too many, which a resume drops, never too few.
            run.writer.flush()?;
            run.write(|| {
                checkpoint::save(&path, stage, i + 1, &model.params, Some(&optimizer), &Value::Null)
            })?;
            saved = Instant::now();
        }
        if stop {
            return Err(Error::Interrupted { stage, step: i + 1 });
        }
    }
    let speed = progress.tokens_per_second();
    progress.finish();
    Ok(speed)
}

/// The whole batch's report, from all ranks' parts.
fn whole(run: &Run, own: Result<StepReport>) -> Result<StepReport> {
    let mut names: Vec<&'static str> = Vec::new();
    let numbers = own.map(|r| {
        names = r.metrics.iter().map(|(name, _)| *name).collect();
        [r.tokens as f64, r.loss].into_iter().chain(r.metrics.into_iter().map(|(_, v)| v)).collect()
    });
    let all = ranks::sums(&run.mesh, numbers)?;
    let metrics = names.into_iter().zip(all[2..].iter().copied()).collect();
    Ok(StepReport { tokens: all[0] as usize, loss: all[1], metrics })
}
