//! KL(policy || reference) over the whole vocabulary, from the hidden states of both under one head.
//!
//! As in the log-probability kernel, logits exist for a block of rows only; on the GPU, for more than a few rows, in
//! registers only.

use crate::{
    check,
    head::{self, FEW_ROWS, Operands},
    log_prob::{at_least, rows_per_block},
    ptx,
    softmax::{CHUNK, log_sum_exp},
    tiles::TILE,
};
use kernel_abi::{ArgError, Cost, DevicePtr, In, Kernel, Launch, LaunchError, Launcher, Out, expect_len};
use matmul::Packed;
use std::cell::RefCell;

/// sum_v p_v ln(p_v / q_v) per row, p the policy's distribution and q the reference's.
#[derive(Debug, Clone, Copy)]
pub struct FullKl {
    /// Rows.
    pub rows: usize,
    /// Columns of the hidden states.
    pub hidden: usize,
    /// Rows of the head.
    pub vocab: usize,
    /// 1 / temperature, for both.
    pub inv_temperature: f32,
}

/// Arguments of [`FullKl`].
pub struct FullKlArgs<'a> {
    /// `[rows, hidden]`.
    pub x_policy: In<'a>,
    /// `[rows, hidden]`.
    pub x_ref: In<'a>,
    /// The `[vocab, hidden]` head packed by [`matmul::PackWeight`].
    pub head_packed: Packed<'a>,
    /// `[rows]`, in nats.
    pub kl: Out<'a>,
}

thread_local! {
    static LOGITS: RefCell<[Vec<f32>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
}

impl Kernel for FullKl {
    type Args<'a> = FullKlArgs<'a>;
    const NAME: &'static str = "full_kl";

    fn check(&self, args: &FullKlArgs<'_>) -> Result<(), ArgError> {
        let FullKl { rows, hidden, vocab, inv_temperature } = *self;
        check::inv_temperature(Self::NAME, inv_temperature)?;
        expect_len(Self::NAME, "x_policy", args.x_policy.len(), rows * hidden)?;
        expect_len(Self::NAME, "x_ref", args.x_ref.len(), rows * hidden)?;
        args.head_packed.expect(Self::NAME, "head_packed", vocab, hidden)?;
        expect_len(Self::NAME, "kl", args.kl.len(), rows)
    }

    fn cost(&self) -> Cost {
        let (m, n, k) = (self.rows as u64, self.vocab as u64, self.hidden as u64);
        Cost {
            bytes_read: 4 * (2 * m * k + n * k),
            bytes_written: 4 * m,
            flops: 4 * m * n * k + 10 * m * n,
            ..Cost::default()
        }
    }

    fn cpu(&self, args: FullKlArgs<'_>) {
        let FullKl { rows, hidden, vocab, inv_temperature } = *self;
        let (xp, xq) = (args.x_policy.host(), args.x_ref.host());
        let (head, kl) = (args.head_packed, args.kl.host());
        let [mut p, mut q] = LOGITS.take();
        let block = rows_per_block(vocab);
        for first in (0..rows).step_by(block) {
            let n = block.min(rows - first);
            let part = first * hidden..(first + n) * hidden;
            let (p, q) = (at_least(&mut p, n * vocab), at_least(&mut q, n * vocab));
            head.product(n, vocab, hidden, &xp[part.clone()], p);
            head.product(n, vocab, hidden, &xq[part], q);
            let (p, q) = (&*p, &*q);
            cpu::par_rows(&mut kl[first..first + n], 1, 1, 32 * vocab, |i, out| {
                let row = i * vocab..(i + 1) * vocab;
                out[0] = divergence(&p[row.clone()], &q[row], inv_temperature);
            });
        }
        LOGITS.set([p, q]);
    }

    fn ptx(&self, args: FullKlArgs<'_>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        let FullKl { rows, hidden, vocab, .. } = *self;
        let tiles = vocab.div_ceil(TILE);
        let block = head::rows_per_block(20 * tiles).min(rows);
        let (part, cross) = (on.workspace(16 * block * tiles)?, on.workspace(4 * block * tiles)?);
        let statistics = Statistics { part, cross };
        let few = if rows <= FEW_ROWS { 4 * rows * vocab } else { 0 };
        let logits = [on.workspace(few)?, on.workspace(few)?];
        for first in (0..rows).step_by(block.max(1)) {
            let n = block.min(rows - first);
            let x = [args.x_policy, args.x_ref].map(|x| x.device().offset(4 * first * hidden));
            match rows <= FEW_ROWS {
                true => self.read(args.head_packed, x, logits, statistics, on)?,
                false => self.multiply(args.head_packed, n, x, statistics, on)?,
            }
            let launch = Launch::new(&ptx::FULL_KL, format_args!("full_kl_merge"))
                .grid(n.div_ceil(4), 1, 1)
                .block(256);
            let kl = args.kl.device().offset(4 * first);
            on.launch(launch.arg(part).arg(cross).arg(kl).dim(n).dim(tiles))?;
        }
        Ok(())
    }
}

/// Workspace for the statistics of a block of rows.
#[derive(Clone, Copy)]
struct Statistics {
    /// `[tiles, rows]` of the maxima and sums of both.
    part: DevicePtr,
    /// `[tiles, rows]`.
    cross: DevicePtr,
}

impl FullKl {
    /// Statistics of a few rows from logits in memory.
    fn read(
        &self,
        head: Packed<'_>,
        x: [DevicePtr; 2],
        logits: [DevicePtr; 2],
        to: Statistics,
        on: &mut dyn Launcher,
    ) -> Result<(), LaunchError> {
        let FullKl { rows, hidden, vocab, inv_temperature } = *self;
        for (x, logits) in x.into_iter().zip(logits) {
            head::product(head, (rows, vocab, hidden), x, logits, on)?;
        }
        let (tiles, wide) = (vocab.div_ceil(TILE), if vocab.is_multiple_of(4) { 4 } else { 1 });
        let launch = Launch::new(&ptx::FULL_KL, format_args!("full_kl_tiles_v{wide}"))
            .grid(rows, tiles.div_ceil(32).max(1), 1)
            .block(256);
        let launch = launch.arg(logits[0]).arg(logits[1]).arg(to.part).arg(to.cross);
        on.launch(launch.dim(rows).dim(vocab).dim(tiles).arg(inv_temperature))
    }

    /// Statistics of `rows` rows without their logits in memory.
    fn multiply(
        &self,
        head: Packed<'_>,
        rows: usize,
        x: [DevicePtr; 2],
        to: Statistics,
        on: &mut dyn Launcher,
    ) -> Result<(), LaunchError> {
        let FullKl { hidden, vocab, inv_temperature, .. } = *self;
        let (p, q) =
            (Operands::new(head, (rows, hidden), x[0], on)?, Operands::new(head, (rows, hidden), x[1], on)?);
        let launch = Launch::new(&ptx::FULL_KL, format_args!("full_kl_{}", p.element))
            .grid(rows.div_ceil(64) * vocab.div_ceil(TILE), 1, 1)
            .block(256);
        let launch = launch.arg(p.x).arg(q.x).arg(p.head).arg(to.part).arg(to.cross);
        let launch = launch.dim(rows).dim(vocab).dim(p.words).arg(inv_temperature);
        on.launch(launch.arg(p.wide() & q.wide()))
    }
}

/// Rounding can leave the sum of a few 1e-8 below zero when the distributions agree: it is kept, so that
/// means over many rows are not biased.
fn divergence(p: &[f32], q: &[f32], inv_temperature: f32) -> f32 {
    let (lp, lq) = (log_sum_exp(p, inv_temperature), log_sum_exp(q, inv_temperature));
    weighted_difference(p, q, inv_temperature, lp, lq)
}

cpu::simd_fn! {
    fn weighted_difference(p: &[f32], q: &[f32], inv_temperature: f32, lp: f32, lq: f32) -> f32 {
        const LANES: usize = 16;
        let term = |p: f32, q: f32| {
            let ln_p = p * inv_temperature - lp;
            let weight = cpu::exp(ln_p);
            let t = weight * (ln_p - (q * inv_temperature - lq));
            if weight == 0.0 { 0.0 } else { t }
        };
        let mut total = 0.0f64;
        for (p, q) in p.chunks(CHUNK).zip(q.chunks(CHUNK)) {
            let mut acc = [0.0f32; LANES];
            let (mut ps, mut qs) = (p.chunks_exact(LANES), q.chunks_exact(LANES));
            for (p, q) in (&mut ps).zip(&mut qs) {
                for i in 0..LANES {
                    acc[i] += term(p[i], q[i]);
                }
            }
            for ((a, p), q) in acc.iter_mut().zip(ps.remainder()).zip(qs.remainder()) {
                *a += term(*p, *q);
            }
            total += f64::from(cpu::sum(&acc));
        }
        total as f32
    }
}
