//! The gradient of [`crate::LmLogProb`].
//!
//! What makes it lean: the normaliser is known, so logits are needed only one block of the vocabulary at a
//! time, and that block is turned into its own gradient in place and used for both products while it is in
//! the cache. The matrix of all logits never exists; the head is read once per row block. The head's gradient
//! takes the block transposed, so that its product reads along cache lines too.

use crate::{
    check,
    log_prob::{at_least, linear},
};
use kernel_abi::{ArgError, Cost, In, Kernel, Out, expect_len};
use matmul::{Matmul, MatmulArgs, packed_len};
use std::{cell::RefCell, ops::Range};

/// Rows per block.
const ROWS: usize = 512;
/// Vocabulary per block: whole panels of the packed head, and a row length of 126 cache lines rather than a
/// power of two, so that the rows of a block do not compete for the same cache sets.
const VOCAB: usize = 2016;

/// dx and dhead from the gradients of log-probability and entropy.
#[derive(Debug, Clone, Copy)]
pub struct LmLogProbBackward {
    /// Rows of x.
    pub rows: usize,
    /// Columns of x.
    pub hidden: usize,
    /// Rows of the head.
    pub vocab: usize,
    /// 1 / temperature, as in the forward pass.
    pub inv_temperature: f32,
}

/// Arguments of [`LmLogProbBackward`].
pub struct LmLogProbBackwardArgs<'a> {
    /// `[rows, hidden]`.
    pub x: In<'a>,
    /// `[vocab, hidden]`.
    pub head: In<'a>,
    /// The head packed by [`matmul::PackWeight`].
    pub head_packed: In<'a>,
    /// `[rows]`.
    pub targets: In<'a, u32>,
    /// `[rows]`, from the forward pass.
    pub lse: In<'a>,
    /// `[rows]`, from the forward pass; needed with `dentropy`.
    pub entropy: Option<In<'a>>,
    /// `[rows, vocab]`, from the forward pass; computed again when absent.
    pub logits: Option<In<'a>>,
    /// `[rows]`.
    pub dlogprob: In<'a>,
    /// `[rows]`.
    pub dentropy: Option<In<'a>>,
    /// `[rows, hidden]`, overwritten.
    pub dx: Out<'a>,
    /// `[vocab, hidden]`, added to; none when the head is frozen.
    pub dhead: Option<Out<'a>>,
}

thread_local! {
    static BLOCK: RefCell<[Vec<f32>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
}

impl Kernel for LmLogProbBackward {
    type Args<'a> = LmLogProbBackwardArgs<'a>;
    const NAME: &'static str = "lm_log_prob_backward";

    fn check(&self, args: &LmLogProbBackwardArgs<'_>) -> Result<(), ArgError> {
        let LmLogProbBackward { rows, hidden, vocab, inv_temperature } = *self;
        check::inv_temperature(Self::NAME, inv_temperature)?;
        expect_len(Self::NAME, "x", args.x.len(), rows * hidden)?;
        expect_len(Self::NAME, "head", args.head.len(), vocab * hidden)?;
        expect_len(Self::NAME, "head_packed", args.head_packed.len(), packed_len(vocab, hidden))?;
        check::targets(Self::NAME, args.targets, rows, vocab)?;
        expect_len(Self::NAME, "lse", args.lse.len(), rows)?;
        // Without a gradient of the entropy its value is not needed; with one it is.
        let entropy = args.entropy.map_or(if args.dentropy.is_some() { 0 } else { rows }, |e| e.len());
        expect_len(Self::NAME, "entropy", entropy, rows)?;
        let n = rows * vocab;
        expect_len(Self::NAME, "logits", args.logits.map_or(n, |l| l.len()), n)?;
        expect_len(Self::NAME, "dlogprob", args.dlogprob.len(), rows)?;
        expect_len(Self::NAME, "dentropy", args.dentropy.map_or(rows, |d| d.len()), rows)?;
        expect_len(Self::NAME, "dx", args.dx.len(), rows * hidden)?;
        let n = vocab * hidden;
        expect_len(Self::NAME, "dhead", args.dhead.as_ref().map_or(n, Out::len), n)
    }

    fn cost(&self) -> Cost {
        let (m, n, k) = (self.rows as u64, self.vocab as u64, self.hidden as u64);
        Cost {
            bytes_read: 4 * (m * k + n * k + 3 * m),
            bytes_written: 4 * m * k,
            flops: 4 * m * n * k + 4 * m * n,
            int8_ops: 0,
        }
    }

    fn cpu(&self, args: LmLogProbBackwardArgs<'_>) {
        let LmLogProbBackward { rows, hidden, vocab, .. } = *self;
        let rows_in = Rows {
            shape: *self,
            x: args.x.host(),
            packed: args.head_packed.host(),
            logits: args.logits.map(In::host),
            targets: args.targets.host(),
            lse: args.lse.host(),
            entropy: args.entropy.map(In::host),
            dlogprob: args.dlogprob.host(),
            dentropy: args.dentropy.map(In::host),
        };
        let (head, dx) = (args.head.host(), args.dx.host());
        let mut dhead = args.dhead.map(Out::host);
        if vocab == 0 || hidden == 0 {
            return dx.fill(0.0);
        }
        let [mut scratch, mut transposed] = BLOCK.take();
        for r0 in (0..rows).step_by(ROWS) {
            let r = r0..(r0 + ROWS).min(rows);
            for v0 in (0..vocab).step_by(VOCAB) {
                let v = v0..(v0 + VOCAB).min(vocab);
                let dlogits = at_least(&mut scratch, r.len() * v.len());
                rows_in.dlogits(r.clone(), v.clone(), dlogits);
                let part = r.start * hidden..r.end * hidden;
                dx_product(
                    dlogits,
                    r.len(),
                    v.len(),
                    hidden,
                    &head[v0 * hidden..],
                    &mut dx[part.clone()],
                    v0 > 0,
                );
                if let Some(dhead) = &mut dhead {
                    let dhead = &mut dhead[v0 * hidden..v.end * hidden];
                    let t = at_least(&mut transposed, dlogits.len());
                    transpose(dlogits, v.len(), t);
                    dhead_product(t, r.len(), v.len(), hidden, &rows_in.x[part], dhead);
                }
            }
        }
        BLOCK.set([scratch, transposed]);
    }
}

/// dx (+)= dlogits head.
fn dx_product(d: &[f32], rows: usize, vocab: usize, hidden: usize, head: &[f32], dx: &mut [f32], add: bool) {
    let product = Matmul {
        m: rows,
        n: hidden,
        k: vocab,
        ta: false,
        tb: false,
        lda: vocab,
        ldb: hidden,
        ldc: hidden,
        alpha: 1.0,
        accumulate: add,
    };
    product.cpu(MatmulArgs { a: d.into(), b: head.into(), c: dx.into() });
}

/// out = d^T for d with `cols` columns.
fn transpose(d: &[f32], cols: usize, out: &mut [f32]) {
    // One cache line of every row of d at a time.
    const STEP: usize = 16;
    let rows = d.len() / cols;
    cpu::par_rows(out, rows, STEP, 2 * rows, |first, out| {
        for (i, row) in d.chunks_exact(cols).enumerate() {
            for (out, x) in out.chunks_exact_mut(rows).zip(&row[first..]) {
                out[i] = *x;
            }
        }
    });
}

/// dhead += dlogits^T x, from the transpose `t`.
fn dhead_product(t: &[f32], rows: usize, vocab: usize, hidden: usize, x: &[f32], dhead: &mut [f32]) {
    let product = Matmul {
        m: vocab,
        n: hidden,
        k: rows,
        ta: false,
        tb: false,
        lda: rows,
        ldb: hidden,
        ldc: hidden,
        alpha: 1.0,
        accumulate: true,
    };
    product.cpu(MatmulArgs { a: t.into(), b: x.into(), c: dhead.into() });
}

/// What a block of dlogits is computed from.
struct Rows<'a> {
    shape: LmLogProbBackward,
    x: &'a [f32],
    packed: &'a [f32],
    logits: Option<&'a [f32]>,
    targets: &'a [u32],
    lse: &'a [f32],
    entropy: Option<&'a [f32]>,
    dlogprob: &'a [f32],
    dentropy: Option<&'a [f32]>,
}

impl Rows<'_> {
    /// The gradient of the logits for rows `r` and vocabulary `v`, `[r.len(), v.len()]`.
    fn dlogits(&self, r: Range<usize>, v: Range<usize>, out: &mut [f32]) {
        let LmLogProbBackward { hidden, vocab, inv_temperature, .. } = self.shape;
        if self.logits.is_none() {
            let x = &self.x[r.start * hidden..r.end * hidden];
            // A block starts at a whole panel, and panels follow one another.
            let packed = &self.packed[v.start * hidden..][..packed_len(v.len(), hidden)];
            linear(r.len(), v.len(), hidden, x, packed, out);
        }
        cpu::par_rows(out, v.len(), 8, 16 * v.len(), |first, block| {
            for (i, row) in (r.start + first..).zip(block.chunks_exact_mut(v.len())) {
                if let Some(all) = self.logits {
                    row.copy_from_slice(&all[i * vocab + v.start..][..v.len()]);
                }
                let d = self.dlogprob[i];
                match (self.dentropy, self.entropy) {
                    (Some(dh), Some(h)) if dh[i] != 0.0 => {
                        gradient_with_entropy(row, inv_temperature, self.lse[i], d, dh[i], h[i]);
                    }
                    _ => gradient(row, inv_temperature, self.lse[i], d),
                }
                let target = self.targets[i] as usize;
                if v.contains(&target) {
                    row[target - v.start] += inv_temperature * d;
                }
            }
        });
    }
}

cpu::simd_fn! {
    /// Logits to -d p * inv_temperature, in place.
    fn gradient(row: &mut [f32], inv_temperature: f32, lse: f32, d: f32) {
        let factor = -(d * inv_temperature);
        for x in row {
            *x = factor * cpu::exp(*x * inv_temperature - lse);
        }
    }
}

cpu::simd_fn! {
    /// Logits to -p (d + dh (ln p + h)) * inv_temperature, in place: dH/dz = -p (ln p + H).
    fn gradient_with_entropy(row: &mut [f32], inv_temperature: f32, lse: f32, d: f32, dh: f32, h: f32) {
        for x in row {
            let ln_p = *x * inv_temperature - lse;
            let p = cpu::exp(ln_p);
            let slope = -inv_temperature * dh.mul_add(ln_p + h, d);
            *x = if p == 0.0 { 0.0 } else { p * slope };
        }
    }
}
