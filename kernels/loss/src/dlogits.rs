//! The gradient of [`crate::LmLogProb`] on the GPU.
//!
//! As on the CPU: the logits of a block of rows and of the vocabulary become their own gradient in workspace, and both
//! products take it from there, so the matrix of all logits never exists. A block is larger than the CPU's (it has to
//! fill a GPU) and small enough to stay in a large second-level cache; the vocabulary is cut at the same places whatever
//! the number of rows, so a row's gradient does not depend on its batch.

use crate::{
    LmLogProbBackward, LmLogProbBackwardArgs,
    head::{self, FEW_ROWS, Operands},
    ptx,
};
use kernel_abi::{DevicePtr, In, Kernel, Launch, LaunchError, Launcher, Out, optional};
use matmul::{Bf16LinearBackward, Bf16LinearBackwardArgs, Matmul, MatmulArgs, Packed};

/// Vocabulary per block: whole tiles of the products.
const VOCAB: usize = 63 * 128;

/// A block of rows and of the vocabulary.
#[derive(Clone, Copy)]
struct Block {
    first: usize,
    rows: usize,
    column: usize,
    columns: usize,
    /// `[rows, columns]`.
    dlogits: DevicePtr,
}

/// The PTX face of [`LmLogProbBackward`].
pub(crate) fn backward(
    shape: &LmLogProbBackward,
    mut args: LmLogProbBackwardArgs<'_>,
    on: &mut dyn Launcher,
) -> Result<(), LaunchError> {
    let LmLogProbBackward { rows, hidden, vocab, .. } = *shape;
    let width = VOCAB.min(vocab);
    let height = head::rows_per_block(4 * VOCAB).min(rows);
    let dlogits = on.workspace(4 * height * width)?;
    let operands = match args.logits {
        None if rows > FEW_ROWS => {
            Some(Operands::new(args.head_packed, (rows, hidden), args.x.device(), on)?)
        }
        _ => None,
    };
    for first in (0..rows).step_by(height.max(1)) {
        for column in (0..vocab).step_by(VOCAB) {
            let (rows, columns) = (height.min(rows - first), VOCAB.min(vocab - column));
            let block = Block { first, rows, column, columns, dlogits };
            match operands {
                Some(operands) => block.computed(shape, &args, operands.skip(first, column), on)?,
                None => block.gradient(shape, &args, on)?,
            }
            block.add_dx(hidden, &mut args, on)?;
            block.add_dhead(hidden, &mut args, on)?;
        }
    }
    Ok(())
}

impl Block {
    /// `targets`, `lse`, `entropy`, `dlogprob` and `dentropy` of the block's rows.
    fn row_values(&self, args: &LmLogProbBackwardArgs<'_>, launch: Launch) -> Launch {
        let row = |at: DevicePtr| if at == DevicePtr::NULL { at } else { at.offset(4 * self.first) };
        // Both or none: without a gradient of the entropy its value is not needed.
        let entropy = args.dentropy.and(args.entropy);
        let launch = launch.arg(row(args.targets.device())).arg(row(args.lse.device()));
        let launch = launch.arg(row(optional(entropy))).arg(row(args.dlogprob.device()));
        launch.arg(row(optional(args.dentropy)))
    }

    /// The gradient from logits that are made again.
    fn computed(
        &self,
        shape: &LmLogProbBackward,
        args: &LmLogProbBackwardArgs<'_>,
        o: Operands,
        on: &mut dyn Launcher,
    ) -> Result<(), LaunchError> {
        let Block { rows, column, columns, dlogits, .. } = *self;
        let launch = Launch::new(&ptx::DLOGITS, format_args!("dlogits_{}", o.element))
            .grid(rows.div_ceil(128) * columns.div_ceil(128), 1, 1)
            .block(256);
        let launch = self.row_values(args, launch.arg(o.x).arg(o.head).arg(dlogits));
        let launch = launch.dim(rows).dim(column).dim(columns).dim(o.words);
        on.launch(launch.arg(shape.inv_temperature).arg(o.wide()))
    }

    /// The gradient from kept logits, or from those of a few rows.
    fn gradient(
        &self,
        shape: &LmLogProbBackward,
        args: &LmLogProbBackwardArgs<'_>,
        on: &mut dyn Launcher,
    ) -> Result<(), LaunchError> {
        let Block { first, rows, column, columns, dlogits } = *self;
        let LmLogProbBackward { hidden, vocab, inv_temperature, .. } = *shape;
        let (from, from_row) = match args.logits {
            Some(all) => (all.device().offset(4 * (first * vocab + column)), vocab),
            None => {
                let x = args.x.device().offset(4 * first * hidden);
                let head = args.head_packed.outputs(column, columns, hidden);
                head::product(head, (rows, columns, hidden), x, dlogits, on)?;
                (dlogits, columns)
            }
        };
        let aligned = (from.0 | dlogits.0).is_multiple_of(16) && (from_row | columns).is_multiple_of(4);
        let launch = Launch::new(&ptx::DLOGITS, format_args!("dlogits_v{}", if aligned { 4 } else { 1 }))
            .grid(rows, columns.div_ceil(2048), 1)
            .block(256);
        let launch = self.row_values(args, launch.arg(from).arg(dlogits));
        let launch = launch.arg(from_row as u64).arg(columns as u64);
        on.launch(launch.dim(column).dim(columns).arg(inv_temperature))
    }

    /// dx (+)= dlogits head.
    fn add_dx(
        &self,
        hidden: usize,
        args: &mut LmLogProbBackwardArgs<'_>,
        on: &mut dyn Launcher,
    ) -> Result<(), LaunchError> {
        let Block { first, rows, column, columns, dlogits } = *self;
        let dx = Out::Device(args.dx.device().offset(4 * first * hidden), rows * hidden);
        let dy = In::Device(dlogits, rows * columns);
        let accumulate = column > 0;
        match (args.head_packed, args.head) {
            (Packed::F32(_), Some(head)) => {
                let head = head.skip(column * hidden);
                matmul((rows, hidden, columns), accumulate).ptx(MatmulArgs { a: dy, b: head, c: dx }, on)
            }
            (packed, _) => {
                let Packed::Bf16(packed) = packed.outputs(column, columns, hidden) else {
                    unreachable!("an f32 head comes with its rows")
                };
                let product = Bf16LinearBackward { m: rows, n: columns, k: hidden, accumulate };
                product.ptx(Bf16LinearBackwardArgs { dy, packed, dx }, on)
            }
        }
    }

    /// dhead += dlogits^T x.
    fn add_dhead(
        &self,
        hidden: usize,
        args: &mut LmLogProbBackwardArgs<'_>,
        on: &mut dyn Launcher,
    ) -> Result<(), LaunchError> {
        let Block { first, rows, column, columns, dlogits } = *self;
        let Some(dhead) = &mut args.dhead else { return Ok(()) };
        let product = Matmul { ta: true, lda: columns, ..matmul((columns, hidden, rows), true) };
        let a = In::Device(dlogits, rows * columns);
        let (b, c) = (args.x.skip(first * hidden), dhead.again().skip(column * hidden));
        product.ptx(MatmulArgs { a, b, c }, on)
    }
}

/// C (+)= A B of row-major matrices without gaps.
fn matmul((m, n, k): (usize, usize, usize), accumulate: bool) -> Matmul {
    Matmul { m, n, k, ta: false, tb: false, lda: k, ldb: n, ldc: n, alpha: 1.0, accumulate }
}
