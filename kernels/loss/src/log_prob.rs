//! Log-probabilities of target tokens from hidden states, fused with the output head.
//!
//! What makes it lean: logits exist for a few rows at a time, in scratch that is used again, and their
//! statistics are taken while they are still in the cache. Rows are independent, so the blocks do not show
//! in the result.

use crate::{
    check,
    head::{self, FEW_ROWS, Operands},
    softmax,
    tiles::{RowResults, RowTiles, TILE},
};
use kernel_abi::{
    ArgError, Cost, DevicePtr, In, Kernel, LaunchError, Launcher, Out, expect_len, optional_out,
};
use matmul::Packed;
use std::cell::RefCell;

/// log p(target) under softmax(x head^T * `inv_temperature`).
#[derive(Debug, Clone, Copy)]
pub struct LmLogProb {
    /// Rows of x.
    pub rows: usize,
    /// Columns of x.
    pub hidden: usize,
    /// Rows of the head.
    pub vocab: usize,
    /// 1 / temperature.
    pub inv_temperature: f32,
}

/// Arguments of [`LmLogProb`].
pub struct LmLogProbArgs<'a> {
    /// `[rows, hidden]`.
    pub x: In<'a>,
    /// The packed `[vocab, hidden]` head.
    pub head_packed: Packed<'a>,
    /// `[rows]`, each below `vocab`; on the GPU, where nobody checks, another one gives NaN.
    pub targets: In<'a, u32>,
    /// `[rows]`, natural logarithms.
    pub logprob: Out<'a>,
    /// `[rows]`: log-sum-exp of the scaled logits.
    pub lse: Out<'a>,
    /// `[rows]`, in nats.
    pub entropy: Option<Out<'a>>,
    /// `[rows, vocab]`, before the temperature: kept when the backward pass shall not compute it again.
    pub logits: Option<Out<'a>>,
}

thread_local! {
    static LOGITS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    static STATS: RefCell<Vec<[f32; 3]>> = const { RefCell::new(Vec::new()) };
}

/// Rows whose logits exist at the same time: about 20 MB, in whole register tiles of the matrix product.
pub(crate) fn rows_per_block(vocab: usize) -> usize {
    (5_000_000 / vocab.max(1)).clamp(12, 384) / 12 * 12
}

/// The first `len` elements of `v`, grown when necessary; their contents are arbitrary.
pub(crate) fn at_least(v: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if v.len() < len {
        v.resize(len, 0.0);
    }
    &mut v[..len]
}

impl Kernel for LmLogProb {
    type Args<'a> = LmLogProbArgs<'a>;
    const NAME: &'static str = "lm_log_prob";

    fn check(&self, args: &LmLogProbArgs<'_>) -> Result<(), ArgError> {
        let LmLogProb { rows, hidden, vocab, inv_temperature } = *self;
        check::inv_temperature(Self::NAME, inv_temperature)?;
        expect_len(Self::NAME, "x", args.x.len(), rows * hidden)?;
        args.head_packed.expect(Self::NAME, "head_packed", vocab, hidden)?;
        check::targets(Self::NAME, args.targets, rows, vocab)?;
        expect_len(Self::NAME, "logprob", args.logprob.len(), rows)?;
        expect_len(Self::NAME, "lse", args.lse.len(), rows)?;
        expect_len(Self::NAME, "entropy", args.entropy.as_ref().map_or(rows, Out::len), rows)?;
        let n = rows * vocab;
        expect_len(Self::NAME, "logits", args.logits.as_ref().map_or(n, Out::len), n)
    }

    fn cost(&self) -> Cost {
        let (m, n, k) = (self.rows as u64, self.vocab as u64, self.hidden as u64);
        Cost {
            bytes_read: 4 * (m * k + n * k + m),
            bytes_written: 8 * m,
            flops: 2 * m * n * k + 4 * m * n,
            ..Cost::default()
        }
    }

    fn cpu(&self, args: LmLogProbArgs<'_>) {
        let LmLogProb { rows, hidden, vocab, inv_temperature } = *self;
        let (x, head, targets) = (args.x.host(), args.head_packed, args.targets.host());
        let (logprob, lse) = (args.logprob.host(), args.lse.host());
        let (mut entropy, mut kept) = (args.entropy.map(Out::host), args.logits.map(Out::host));
        let (mut scratch, mut stats) = (LOGITS.take(), STATS.take());
        let block = rows_per_block(vocab);
        for first in (0..rows).step_by(block) {
            let n = block.min(rows - first);
            let logits = match &mut kept {
                Some(all) => &mut all[first * vocab..][..n * vocab],
                None => at_least(&mut scratch, n * vocab),
            };
            head.product(n, vocab, hidden, &x[first * hidden..][..n * hidden], logits);
            let logits = &*logits;
            stats.resize(n.max(stats.len()), [0.0; 3]);
            cpu::par_rows(&mut stats[..n], 1, 1, 16 * vocab, |i, out| {
                let row = &logits[i * vocab..][..vocab];
                let target = row[targets[first + i] as usize] * inv_temperature;
                let (s, h) = match entropy.is_some() {
                    true => softmax::with_entropy(row, inv_temperature),
                    false => (softmax::row_softmax(row, inv_temperature, None), 0.0),
                };
                out[0] = [target - s.lse, s.lse, h];
            });
            for (i, [p, l, h]) in stats[..n].iter().enumerate() {
                (logprob[first + i], lse[first + i]) = (*p, *l);
                if let Some(entropy) = &mut entropy {
                    entropy[first + i] = *h;
                }
            }
        }
        LOGITS.set(scratch);
        STATS.set(stats);
    }

    fn ptx(&self, args: LmLogProbArgs<'_>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        let LmLogProb { rows, hidden, vocab, inv_temperature } = *self;
        let (entropy, kept) = (args.entropy.is_some(), optional_out(&args.logits));
        let cell = if entropy { 12 } else { 8 };
        let block = head::rows_per_block(cell * vocab.div_ceil(TILE)).min(rows);
        let few = if rows <= FEW_ROWS && args.logits.is_none() { rows } else { 0 };
        let logits = if few > 0 { on.workspace(4 * few * vocab)? } else { kept };
        let tiles = RowTiles::new((block, vocab), inv_temperature, entropy, on)?;
        for first in (0..rows).step_by(block.max(1)) {
            let n = block.min(rows - first);
            let row =
                |at: DevicePtr, bytes| if at == DevicePtr::NULL { at } else { at.offset(bytes * first) };
            let (x, targets) = (row(args.x.device(), 4 * hidden), row(args.targets.device(), 4));
            let (tiles, logits) = (tiles.of_rows(n), row(logits, 4 * vocab));
            if rows <= FEW_ROWS {
                head::product(args.head_packed, (n, vocab, hidden), x, logits, on)?;
                tiles.read(logits, targets, on)?;
            } else {
                let operands = Operands::new(args.head_packed, (n, hidden), x, on)?;
                tiles.multiply(operands, targets, logits, on)?;
            }
            let to = RowResults {
                lse: row(args.lse.device(), 4),
                top: DevicePtr::NULL,
                logprob: row(args.logprob.device(), 4),
                entropy: row(optional_out(&args.entropy), 4),
            };
            tiles.merge(targets, to, on)?;
        }
        Ok(())
    }
}
