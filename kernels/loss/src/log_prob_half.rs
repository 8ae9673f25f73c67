//! [`LmLogProb`] over 16-bit hidden states and head, as inference engines hold them.

use crate::{
    LmLogProb, LmLogProbArgs, check,
    head::{Operands, rows_per_block},
    tiles::{RowResults, RowTiles, TILE},
};
use kernel_abi::{
    ArgError, Cost, DevicePtr, Half, In, Kernel, LaunchError, Launcher, Out, expect_len, optional_out, typed,
    widen,
};
use matmul::{PackWeight, PackWeightArgs, packed_len};

typed!(
    /// [`LmLogProb`] over 16-bit elements: their products are exact in f32, sums and results are f32.
    ///
    /// The head is row-major, not packed. On the GPU both operands are 4-byte aligned.
    LmLogProbOf,
    LmLogProb
);

/// Arguments of [`LmLogProbOf`].
pub struct LmLogProbHalfArgs<'a, T> {
    /// `[rows, hidden]`, `hidden` even.
    pub x: In<'a, T>,
    /// `[vocab, hidden]`.
    pub head: In<'a, T>,
    /// `[rows]`, each below `vocab`; on the GPU, where nobody checks, another one gives NaN.
    pub targets: In<'a, u32>,
    /// `[rows]`, natural logarithms.
    pub logprob: Out<'a>,
    /// `[rows]`: log-sum-exp of the scaled logits.
    pub lse: Out<'a>,
    /// `[rows]`, in nats.
    pub entropy: Option<Out<'a>>,
}

impl<T: Half> Kernel for LmLogProbOf<T> {
    type Args<'a> = LmLogProbHalfArgs<'a, T>;
    const NAME: &'static str = "lm_log_prob";

    fn check(&self, args: &LmLogProbHalfArgs<'_, T>) -> Result<(), ArgError> {
        let LmLogProb { rows, hidden, vocab, inv_temperature } = self.kernel;
        check::inv_temperature(Self::NAME, inv_temperature)?;
        if hidden % 2 != 0 {
            let problem = format!("has rows of {hidden} elements, expected an even number");
            return Err(ArgError { kernel: Self::NAME, arg: "x", problem });
        }
        expect_len(Self::NAME, "x", args.x.len(), rows * hidden)?;
        expect_len(Self::NAME, "head", args.head.len(), vocab * hidden)?;
        check::targets(Self::NAME, args.targets, rows, vocab)?;
        expect_len(Self::NAME, "logprob", args.logprob.len(), rows)?;
        expect_len(Self::NAME, "lse", args.lse.len(), rows)?;
        expect_len(Self::NAME, "entropy", args.entropy.as_ref().map_or(rows, Out::len), rows)
    }

    fn cost(&self) -> Cost {
        let LmLogProb { rows, hidden, vocab, .. } = self.kernel;
        let operands = (2 * (rows + vocab) * hidden) as u64;
        Cost { bytes_read: operands + 4 * rows as u64, ..self.kernel.cost() }
    }

    fn cpu(&self, args: LmLogProbHalfArgs<'_, T>) {
        let LmLogProb { hidden, vocab, .. } = self.kernel;
        let (x, head) = (widen(args.x.host()), widen(args.head.host()));
        let mut packed = vec![0.0; packed_len(vocab, hidden)];
        PackWeight { n: vocab, k: hidden }
            .cpu(PackWeightArgs { w: (&head).into(), packed: (&mut packed).into() });
        self.kernel.cpu(LmLogProbArgs {
            x: (&x).into(),
            head_packed: (&packed).into(),
            targets: args.targets,
            logprob: args.logprob,
            lse: args.lse,
            entropy: args.entropy,
            logits: None,
        });
    }

    fn ptx(&self, args: LmLogProbHalfArgs<'_, T>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        let LmLogProb { rows, hidden, vocab, inv_temperature } = self.kernel;
        let (x, head) = (args.x.device(), args.head.device());
        if !(x.0 | head.0).is_multiple_of(4) {
            let problem = "x and head have to be 4-byte aligned".into();
            return Err(LaunchError { kernel: Self::NAME.into(), problem });
        }
        let words = hidden / 2;
        let operands =
            Operands { x, head, words, element: T::NAME }.indexed_by_32_bits(rows * words, vocab * words)?;
        let entropy = args.entropy.is_some();
        let block = rows_per_block(if entropy { 12 } else { 8 } * vocab.div_ceil(TILE)).min(rows);
        let tiles = RowTiles::new((block, vocab), inv_temperature, entropy, on)?;
        for first in (0..rows).step_by(block.max(1)) {
            let tiles = tiles.of_rows(block.min(rows - first));
            let row = |at: DevicePtr| if at == DevicePtr::NULL { at } else { at.offset(4 * first) };
            let targets = row(args.targets.device());
            tiles.multiply(operands.skip(first, 0), targets, DevicePtr::NULL, on)?;
            let to = RowResults {
                lse: row(args.lse.device()),
                top: DevicePtr::NULL,
                logprob: row(args.logprob.device()),
                entropy: row(optional_out(&args.entropy)),
            };
            tiles.merge(targets, to, on)?;
        }
        Ok(())
    }
}
