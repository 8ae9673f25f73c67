//! Next-token cross-entropy with its gradient in one pass over the logits.

use crate::{
    params::{Grads, ParamId},
    tape::{Tape, Var},
};
use device::Buffer;
use loss::{LmLogProb, LmLogProbArgs, LmLogProbBackward, LmLogProbBackwardArgs};

impl Tape<'_> {
    /// Log-probabilities of `targets` under softmax(x head^T), and the gradient `[rows, cols]` of x when that of
    /// every log-probability is `d`: the seed for [`Tape::backward`]. Adds the head's gradient if it trains.
    ///
    /// Because `d` is known beforehand, the logits of some rows become their gradient before the next rows'
    /// logits are computed: at most `keep_bytes` of them exist, and none is computed twice.
    pub fn token_loss(
        &self,
        x: Var,
        head: ParamId,
        targets: &Buffer<u32>,
        d: f32,
        keep_bytes: usize,
        grads: &mut Grads,
    ) -> (Vec<f32>, Buffer) {
        let (rows, hidden, vocab) = (self.rows(x), self.cols(x), self.params.get(head).rows);
        let block = (keep_bytes / (vocab * size_of::<f32>()).max(1)).clamp(1, rows.max(1));
        // Blocks of nearly equal height.
        let block = rows.div_ceil(rows.div_ceil(block).max(1)).max(1);
        let logits_label = device::label("logits", "token_loss");
        let mut logits = self.device.alloc(block * vocab);
        drop(logits_label);
        let mut logprob = self.device.alloc::<f32>(rows);
        let mut lse = self.device.alloc::<f32>(block);
        let dlogprob = self.device.upload(&vec![d; block]);
        let mut dx = self.device.alloc(rows * hidden);
        let value = self.value(x);
        let packed = self.params.packed(head);
        for first in (0..rows).step_by(block) {
            let n = block.min(rows - first);
            let part = first * hidden..(first + n) * hidden;
            let args = LmLogProbArgs {
                x: value.range(part.clone()),
                head_packed: packed,
                targets: targets.range(first..first + n),
                logprob: logprob.range_mut(first..first + n),
                lse: lse.range_mut(0..n),
                entropy: None,
                logits: Some(logits.range_mut(0..n * vocab)),
            };
            self.device.run(&LmLogProb { rows: n, hidden, vocab, inv_temperature: 1.0 }, args);
            let dhead = self.trains(head).then(|| grads.entry(self.params, head).arg_mut());
            let args = LmLogProbBackwardArgs {
                x: value.range(part.clone()),
                head: self.params.dense(head).map(Buffer::arg),
                head_packed: packed,
                targets: targets.range(first..first + n),
                lse: lse.range(0..n),
                entropy: None,
                logits: Some(logits.range(0..n * vocab)),
                dlogprob: dlogprob.range(0..n),
                dentropy: None,
                dx: dx.range_mut(part),
                dhead,
            };
            self.device.run(&LmLogProbBackward { rows: n, hidden, vocab, inv_temperature: 1.0 }, args);
        }
        (logprob.to_vec(), dx)
    }
}
