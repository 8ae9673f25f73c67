//! The gradient of [`crate::LmLogProb`].
//!
//! What makes it lean: the normaliser is known, so logits are needed only one block of the vocabulary at a
//! time, and that block is turned into its own gradient in place and used for both products while it is in
//! the cache. The matrix of all logits never exists; the head is read once per row block. The head's gradient
//! takes the block transposed, so that its product reads along cache lines too.

use crate::{check, log_prob::at_least};
use kernel_abi::{ArgError, Cost, In, Kernel, LaunchError, Launcher, Out, expect_len};
use matmul::{Matmul, MatmulArgs, Packed};
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
    /// `[vocab, hidden]`; needed when the packed head is f32.
    pub head: Option<In<'a>>,
    /// The packed head.
    pub head_packed: Packed<'a>,
    /// `[rows]`; on the GPU one beyond the vocabulary gives a gradient without the target's term.
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
    /// `[vocab, hidden]`, added to; none when the head is frozen, as it is in bf16.
    pub dhead: Option<Out<'a>>,
}

thread_local! {
    static PAIRS: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
    static LINE: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    static BLOCK: RefCell<[Vec<f32>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
}

impl Kernel for LmLogProbBackward {
    type Args<'a> = LmLogProbBackwardArgs<'a>;
    const NAME: &'static str = "lm_log_prob_backward";

    fn check(&self, args: &LmLogProbBackwardArgs<'_>) -> Result<(), ArgError> {
        let LmLogProbBackward { rows, hidden, vocab, inv_temperature } = *self;
        check::inv_temperature(Self::NAME, inv_temperature)?;
        expect_len(Self::NAME, "x", args.x.len(), rows * hidden)?;
        args.head_packed.expect(Self::NAME, "head_packed", vocab, hidden)?;
        let read = if matches!(args.head_packed, Packed::F32(_)) { vocab * hidden } else { 0 };
        expect_len(Self::NAME, "head", args.head.map_or(0, |h| h.len()).min(read), read)?;
        if matches!(args.head_packed, Packed::Bf16(_)) && args.dhead.is_some() {
            let problem = "is wanted, but a head in bf16 is frozen".into();
            return Err(ArgError { kernel: Self::NAME, arg: "dhead", problem });
        }
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
            ..Cost::default()
        }
    }

    fn cpu(&self, args: LmLogProbBackwardArgs<'_>) {
        let LmLogProbBackward { rows, hidden, vocab, .. } = *self;
        let rows_in = Rows {
            shape: *self,
            x: args.x.host(),
            head: args.head_packed,
            logits: args.logits.map(In::host),
            targets: args.targets.host(),
            lse: args.lse.host(),
            entropy: args.entropy.map(In::host),
            dlogprob: args.dlogprob.host(),
            dentropy: args.dentropy.map(In::host),
        };
        let dx = args.dx.host();
        let mut dhead = args.dhead.map(Out::host);
        if vocab == 0 || hidden == 0 {
            return dx.fill(0.0);
        }
        let (mut scratch, mut pairs) = (BLOCK.take(), PAIRS.take());
        for r0 in (0..rows).step_by(ROWS) {
            let r = r0..(r0 + ROWS).min(rows);
            let part = r.start * hidden..r.end * hidden;
            for v0 in (0..vocab).step_by(VOCAB) {
                let v = v0..(v0 + VOCAB).min(vocab);
                let dx = &mut dx[part.clone()];
                match (rows_in.head, args.head) {
                    (Packed::F32(_), Some(head)) => {
                        let [dlogits, transposed] = &mut scratch;
                        let dlogits = at_least(dlogits, r.len() * v.len());
                        rows_in.dlogits(r.clone(), v.clone(), dlogits);
                        let head = &head.host()[v0 * hidden..];
                        dx_product(dlogits, r.len(), v.len(), hidden, head, dx, v0 > 0);
                        if let Some(dhead) = &mut dhead {
                            let dhead = &mut dhead[v0 * hidden..v.end * hidden];
                            let t = at_least(transposed, dlogits.len());
                            transpose(dlogits, v.len(), t);
                            dhead_product(t, r.len(), v.len(), hidden, &rows_in.x[part.clone()], dhead);
                        }
                    }
                    (head, _) => {
                        let len = r.len() * matmul::row_pairs(v.len());
                        pairs.resize(len.max(pairs.len()), 0);
                        rows_in.dlogit_pairs(r.clone(), v.clone(), &mut pairs[..len], &mut scratch[0]);
                        let Packed::Bf16(head) = head.outputs(v0, v.len(), hidden) else {
                            unreachable!("an f32 head comes with its rows")
                        };
                        let pack = |first: usize, panel: &mut [u32]| {
                            matmul::bf16_columns(head.host(), v.len(), hidden, first, panel)
                        };
                        matmul::times_pairs(&pairs[..len], (r.len(), v.len(), hidden), pack, dx, v0 > 0);
                    }
                }
            }
        }
        BLOCK.set(scratch);
        PAIRS.set(pairs);
    }

    fn ptx(&self, args: LmLogProbBackwardArgs<'_>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        crate::dlogits::backward(self, args, on)
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
    head: Packed<'a>,
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
        self.logits(r.clone(), v.clone(), out);
        cpu::par_rows(out, v.len(), 8, 16 * v.len(), |first, block| {
            for (i, row) in (r.start + first..).zip(block.chunks_exact_mut(v.len())) {
                if let Some(all) = self.logits {
                    row.copy_from_slice(&all[i * self.shape.vocab + v.start..][..v.len()]);
                }
                self.gradient(i, &v, row);
            }
        });
    }

    /// As [`Rows::dlogits`] in bf16 pairs, rows [`matmul::row_pairs`] apart.
    fn dlogit_pairs(&self, r: Range<usize>, v: Range<usize>, out: &mut [u32], scratch: &mut Vec<f32>) {
        let computed = if self.logits.is_none() { r.len() * v.len() } else { 0 };
        let computed = at_least(scratch, computed);
        self.logits(r.clone(), v.clone(), computed);
        let (from, row, start) = match self.logits {
            Some(all) => (all, self.shape.vocab, r.start * self.shape.vocab + v.start),
            None => (&*computed, v.len(), 0),
        };
        cpu::par_rows(out, matmul::row_pairs(v.len()), 8, 16 * v.len(), |first, block| {
            let mut line = LINE.take();
            for (i, out) in (first..).zip(block.chunks_exact_mut(matmul::row_pairs(v.len()))) {
                line.clear();
                line.extend_from_slice(&from[start + i * row..][..v.len()]);
                self.gradient(r.start + i, &v, &mut line);
                matmul::pairs(&line, None, out);
            }
            LINE.set(line);
        });
    }

    /// Computes the logits again, unless they were kept.
    fn logits(&self, r: Range<usize>, v: Range<usize>, out: &mut [f32]) {
        if self.logits.is_none() {
            let hidden = self.shape.hidden;
            let x = &self.x[r.start * hidden..r.end * hidden];
            // A block starts at a whole panel, and panels follow one another.
            self.head.outputs(v.start, v.len(), hidden).product(r.len(), v.len(), hidden, x, out);
        }
    }

    /// The logits of row `i` and vocabulary `v` to their gradient, in place.
    fn gradient(&self, i: usize, v: &Range<usize>, row: &mut [f32]) {
        let inv_temperature = self.shape.inv_temperature;
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
