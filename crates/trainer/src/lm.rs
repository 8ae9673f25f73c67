//! The language-model loss: next-token cross-entropy on chosen tokens.

use crate::error::{Error, Result};
use autograd::{Grads, Tape, Var};
use device::Buffer;
use model::{Batch, Model, Pass};
use std::rc::Rc;

/// Most bytes of logits at a time when their gradient is needed too.
pub const KEEP_LOGITS: usize = 64 << 20;

/// A token sequence and the first token that the loss counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// Token ids.
    pub tokens: Vec<u32>,
    /// Index of the first predicted token; at least 1, since the first token has nothing to be predicted from.
    pub loss_from: usize,
}

impl Example {
    /// All tokens after the first are predicted.
    pub fn whole(tokens: Vec<u32>) -> Self {
        Example { tokens, loss_from: 1 }
    }

    /// Only the completion is predicted.
    pub fn completion(prompt: &[u32], completion: &[u32]) -> Self {
        let tokens = [prompt, completion].concat();
        Example { tokens, loss_from: prompt.len().max(1) }
    }

    /// Number of predicted tokens.
    pub fn predicted(&self) -> usize {
        self.tokens.len().saturating_sub(self.loss_from.max(1))
    }
}

/// The rows that predict the examples' counted tokens, and those tokens.
pub(crate) fn predictions(batch: &Batch, examples: &[&Example]) -> (Vec<u32>, Vec<u32>) {
    let (mut rows, mut targets) = (Vec::new(), Vec::new());
    for (i, e) in examples.iter().enumerate() {
        for t in e.loss_from.max(1)..e.tokens.len() {
            rows.push((batch.start(i) + t - 1) as u32);
            targets.push(e.tokens[t]);
        }
    }
    (rows, targets)
}

/// Final hidden states of the rows that predict the examples' counted tokens, and those tokens.
fn predicting_rows<'p>(
    tape: &mut Tape<'p>,
    model: &'p Model,
    examples: &[&Example],
    pass: Pass,
) -> (Var, Buffer<u32>) {
    let device = model.device().clone();
    let sequences: Vec<&[u32]> = examples.iter().map(|e| e.tokens.as_slice()).collect();
    let batch = Batch::new(&device, &sequences);
    let (rows, targets) = predictions(&batch, examples);
    let hidden = model.hidden(tape, &batch, pass);
    let picked = tape.gather(hidden, &Rc::new(device.upload(&rows)));
    tape.release(hidden);
    (picked, device.upload(&targets))
}

/// Summed negative log-likelihood of the counted tokens and their number. With `grads`, also adds the
/// gradient of `scale *` that sum.
///
/// # Errors
/// When the loss is not finite: names the layer, token and tensor where it first went wrong.
pub fn loss(
    model: &Model,
    examples: &[&Example],
    pass: Pass,
    grads: Option<(&mut Grads, f32)>,
) -> Result<(f64, usize)> {
    let mut tape = if grads.is_some() { Tape::new(&model.params) } else { Tape::inference(&model.params) };
    let (picked, targets) = predicting_rows(&mut tape, model, examples, pass);
    let n = targets.len();
    let logprobs = match grads {
        Some((grads, scale)) => {
            let (lp, dx) = tape.token_loss(picked, model.head(), &targets, -scale, KEEP_LOGITS, grads);
            if lp.iter().all(|v| v.is_finite()) {
                tape.backward(vec![(picked, dx)], grads);
            }
            lp
        }
        None => {
            let (lp, _) = tape.log_prob(picked, model.head(), &Rc::new(targets), 1.0, false, 0);
            tape.value(lp).to_vec()
        }
    };
    let nll = -logprobs.iter().map(|v| f64::from(*v)).sum::<f64>();
    if !nll.is_finite() {
        return Err(Error::NotFinite {
            what: "the loss".into(),
            whence: first_non_finite(model, examples, pass),
        });
    }
    Ok((nll, n))
}

/// Runs the forward pass again and reports the first NaN by layer, tensor and token.
fn first_non_finite(model: &Model, examples: &[&Example], pass: Pass) -> String {
    let mut tape = Tape::inference(&model.params);
    tape.trace_non_finite();
    let (picked, targets) = predicting_rows(&mut tape, model, examples, pass);
    tape.log_prob(picked, model.head(), &Rc::new(targets), 1.0, false, 0);
    match tape.first_non_finite() {
        Some(at) => at.to_string(),
        None => "no single tensor (the sum overflowed)".into(),
    }
}

/// Perplexity over the counted tokens, in batches of at most `batch_tokens`; none when nothing is counted.
pub fn perplexity(
    model: &Model,
    examples: &[Example],
    batch_tokens: usize,
    pass: Pass,
) -> Result<Option<f64>> {
    let (nll, n) = nll(model, examples, batch_tokens, pass)?;
    Ok((n > 0).then(|| (nll / n as f64).exp()))
}

/// Summed negative log-likelihood of the counted tokens and their number, in batches of at most `batch_tokens`.
pub(crate) fn nll(
    model: &Model,
    examples: &[Example],
    batch_tokens: usize,
    pass: Pass,
) -> Result<(f64, usize)> {
    let (mut nll, mut n) = (0.0, 0);
    for group in by_tokens(examples, batch_tokens) {
        let (l, k) = loss(model, &group, pass, None)?;
        nll += l;
        n += k;
    }
    Ok((nll, n))
}

/// Consecutive examples in groups of at most `tokens` tokens (at least one example each).
pub(crate) fn by_tokens(examples: &[Example], tokens: usize) -> Vec<Vec<&Example>> {
    let mut groups: Vec<Vec<&Example>> = Vec::new();
    let mut room = 0;
    for e in examples {
        if e.tokens.len() > room || groups.is_empty() {
            groups.push(Vec::new());
            room = tokens;
        }
        room = room.saturating_sub(e.tokens.len());
        groups.last_mut().expect("just pushed").push(e);
    }
    groups
}
