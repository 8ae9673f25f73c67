//! The sentiment classifier: two outputs at the last token of a text, or of a question after it.
//!
//! Where texts carry ratings, the target of a text is not its class but how sure the raters were of it:
//! the positive class gets `sigmoid(rating_scale * rating)`. A text that people rated -0.1 then teaches next to
//! nothing, instead of teaching noise as firmly as one rated -3.5.

use crate::{
    error::{Error, Result},
    reward::{Judged, Question, Tokens, forward, whole},
    run::Run,
    steps::{self, StepReport},
    supervised::pick,
    text::Text,
};
use autograd::{Grads, Tape};
use data::Labelled;
use loss::{SoftmaxCrossEntropy, SoftmaxCrossEntropyArgs};
use model::{Head, Model};

/// A text to learn from.
struct Example {
    text: Tokens,
    /// Its class.
    class: u32,
    /// The target probability of that class.
    sure: f32,
}

fn examples(text: &Text, question: &Question, set: &[Labelled], rating_scale: f32) -> Result<Vec<Example>> {
    let one = |l: &Labelled| {
        let sure = match l.rating {
            Some(rating) if rating_scale > 0.0 => 1.0 / (1.0 + (-rating_scale * rating.abs()).exp()),
            _ => 1.0,
        };
        Ok(Example { text: whole(text, question, "", &l.text)?, class: l.label.index() as u32, sure })
    };
    set.iter().map(one).collect()
}

/// Trains `model` and `head` on labelled texts; returns tokens per second.
///
/// # Errors
/// When only one class is there; with the stage and step.
pub(crate) fn train(
    run: &mut Run,
    model: &mut Model,
    head: &Head,
    text: &Text,
    question: &Question,
    set: &[Labelled],
) -> Result<f64> {
    let c = run.config.clone();
    let classes = set.iter().map(|l| l.label.index()).collect::<std::collections::BTreeSet<_>>().len();
    if classes < 2 {
        let problem = format!("a classifier needs labelled texts of both classes, the data has {classes}");
        return Err(Error::config("reward.kind", problem));
    }
    let examples = examples(text, question, set, c.reward.rating_scale)?;
    let mesh = run.mesh.clone();
    steps::train(run, "reward", model, &c.reward.train, |model, i, grads| {
        let picked = pick(examples.len(), c.reward.train.batch_size, c.run.seed ^ 3, i);
        let mine = picked[mesh.dp.share(picked.len())].iter().map(|i| &examples[*i]).collect::<Vec<_>>();
        step(model, head, &mine, picked.len(), &Judged::new(&c.reward, c.run.seed, i), grads)
    })
}

/// Gradients of the mean loss over a batch of `all` texts: the part that `batch` has in it.
fn step(
    model: &Model,
    head: &Head,
    batch: &[&Example],
    all: usize,
    judged: &Judged,
    grads: &mut Grads,
) -> Result<StepReport> {
    if batch.is_empty() {
        return Ok(StepReport { tokens: 0, loss: 0.0, metrics: vec![("accuracy", 0.0)] });
    }
    let share = batch.len() as f64 / all as f64;
    let (device, each) = (model.device(), judged.each());
    let rows = batch.len() * each;
    let sequences: Vec<Vec<u32>> = batch.iter().map(|e| e.text.ids.clone()).collect();
    let at: Vec<Vec<usize>> = batch.iter().map(|e| judged.positions(&e.text)).collect();
    let classes = batch.iter().flat_map(|e| std::iter::repeat_n(e.class, each));
    let targets = device.upload(&classes.collect::<Vec<_>>());
    let mut tape = Tape::new(&model.params);
    let logits = forward(&mut tape, model, head, &sequences, &at);
    let (mut loss, mut probs, mut d) =
        (device.alloc::<f32>(rows), device.alloc::<f32>(2 * rows), device.alloc::<f32>(2 * rows));
    device.run(
        &SoftmaxCrossEntropy { rows, classes: 2 },
        SoftmaxCrossEntropyArgs {
            logits: tape.value(logits).arg(),
            targets: targets.arg(),
            loss: loss.arg_mut(),
            probs: probs.arg_mut(),
            dlogits: d.arg_mut(),
        },
    );
    let (mut losses, mut d) = (loss.to_vec(), d.to_vec());
    for (row, z) in tape.value(logits).to_vec().chunks(2).enumerate() {
        // Cross-entropy is linear in the target: the share that the other class gets moves the loss by the
        // margin between the two, and the gradient by that share.
        let (e, own) = (batch[row / each], batch[row / each].class as usize);
        let rest = 1.0 - e.sure;
        losses[row] += rest * (z[own] - z[1 - own]);
        d[2 * row + own] += rest / rows as f32;
        d[2 * row + 1 - own] -= rest / rows as f32;
    }
    judged.weigh(&mut d, 2, share as f32);
    tape.backward(vec![(logits, device.upload(&d))], grads);
    let positive: Vec<f32> = probs.to_vec().chunks(2).map(|p| p[1] - p[0]).collect();
    let right = judged.ends(&positive).zip(batch).filter(|(p, e)| (*p > 0.0) == (e.class == 1)).count();
    let tokens = sequences.iter().map(Vec::len).sum();
    let mean = rl::mean(&judged.ends(&losses).collect::<Vec<_>>());
    let accuracy = right as f64 / all as f64;
    Ok(StepReport { tokens, loss: share * mean, metrics: vec![("accuracy", accuracy)] })
}
