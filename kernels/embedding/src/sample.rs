//! Drawing tokens.
//!
//! What makes it fast: the normaliser's two passes leave the probability mass of every chunk of the
//! vocabulary behind, so inverting the cumulative distribution looks at one chunk only; top-k and top-p
//! select, they do not sort. A draw depends on (seed, stream, position) and the row, on nothing else.

use crate::{
    nucleus::{self, Scratch},
    philox::{domain, key, philox4x32, uniform},
};
use kernel_abi::{ArgError, Cost, In, Kernel, Out, expect_len};
use loss::{CHUNK, RowSoftmax, row_softmax};
use std::cell::RefCell;

/// One token per row from softmax(logits / temperature), restricted to the `top_k` most likely tokens and
/// then to the smallest set of them that holds `top_p` of their probability.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// Rows.
    pub rows: usize,
    /// Logits per row.
    pub vocab: usize,
    /// Softmax temperature; 0 takes the first of the largest logits (and reports its log-probability at
    /// temperature 1).
    pub temperature: f32,
    /// Tokens kept; 0 = all. Ties with the last one are kept too.
    pub top_k: usize,
    /// Probability kept; 1 = all. At least one token stays.
    pub top_p: f32,
    /// Seed.
    pub seed: u64,
}

/// Arguments of [`Sample`].
pub struct SampleArgs<'a> {
    /// `[rows, vocab]`.
    pub logits: In<'a>,
    /// `[rows]`: number of the sequence.
    pub stream: In<'a, u32>,
    /// `[rows]`: position of the token drawn, within its sequence.
    pub position: In<'a, u32>,
    /// `[rows]`.
    pub token: Out<'a, u32>,
    /// `[rows]`: under the temperature-scaled distribution before top-k and top-p; the bits are those of
    /// [`loss::LmLogProb`] with `inv_temperature = 1.0 / temperature` on the same logits. NaN when the row
    /// holds a NaN; the token is then the first of the largest.
    pub logprob: Out<'a>,
}

thread_local! {
    static DRAWN: RefCell<Vec<(u32, f32)>> = const { RefCell::new(Vec::new()) };
    static SUMS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch::default());
}

impl Kernel for Sample {
    type Args<'a> = SampleArgs<'a>;
    const NAME: &'static str = "sample";

    fn check(&self, args: &SampleArgs<'_>) -> Result<(), ArgError> {
        let bad = |arg, problem| Err(ArgError { kernel: Self::NAME, arg, problem });
        if !(self.temperature >= 0.0 && (self.temperature == 0.0 || (1.0 / self.temperature).is_normal())) {
            return bad("temperature", format!("is {}, expected 0 or a positive number", self.temperature));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return bad("top_p", format!("is {}, expected a probability above 0, at most 1", self.top_p));
        }
        if self.vocab == 0 && self.rows > 0 {
            return bad("logits", "has rows without a single token".into());
        }
        expect_len(Self::NAME, "logits", args.logits.len(), self.rows * self.vocab)?;
        expect_len(Self::NAME, "stream", args.stream.len(), self.rows)?;
        expect_len(Self::NAME, "position", args.position.len(), self.rows)?;
        expect_len(Self::NAME, "token", args.token.len(), self.rows)?;
        expect_len(Self::NAME, "logprob", args.logprob.len(), self.rows)
    }

    fn cost(&self) -> Cost {
        let (rows, n) = (self.rows as u64, (self.rows * self.vocab) as u64);
        Cost { bytes_read: 4 * (n + 2 * rows), bytes_written: 8 * rows, flops: 4 * n, int8_ops: 0 }
    }

    fn cpu(&self, args: SampleArgs<'_>) {
        let (logits, stream, position) = (args.logits.host(), args.stream.host(), args.position.host());
        let mut drawn = DRAWN.take();
        drawn.clear();
        drawn.resize(self.rows, (0, 0.0));
        cpu::par_rows(&mut drawn, 1, 1, 16 * self.vocab, |i, out| {
            out[0] = self.draw(&logits[i * self.vocab..][..self.vocab], stream[i], position[i]);
        });
        let (token, logprob) = (args.token.host(), args.logprob.host());
        for (i, (t, p)) in drawn.iter().enumerate() {
            (token[i], logprob[i]) = (*t, *p);
        }
        DRAWN.set(drawn);
    }
}

impl Sample {
    fn draw(&self, row: &[f32], stream: u32, position: u32) -> (u32, f32) {
        let inv_temperature = if self.temperature == 0.0 { 1.0 } else { 1.0 / self.temperature };
        let mut sums = SUMS.take();
        sums.resize(row.len().div_ceil(CHUNK), 0.0);
        let softmax = row_softmax(row, inv_temperature, Some(&mut sums));
        let token = if self.temperature == 0.0 || softmax.lse.is_nan() {
            largest(row)
        } else {
            let w = philox4x32([position, stream, 0, domain::SAMPLE], key(self.seed));
            let u = uniform(w[0], w[1]);
            let top_k = if self.top_k == 0 { row.len() } else { self.top_k };
            if top_k >= row.len() && self.top_p >= 1.0 {
                invert(row, inv_temperature, softmax, &sums, u)
            } else {
                SCRATCH.with_borrow_mut(|s| {
                    nucleus::draw(row, inv_temperature, softmax, top_k, self.top_p, u, s)
                })
            }
        };
        SUMS.set(sums);
        (token as u32, row[token] * inv_temperature - softmax.lse)
    }
}

/// Index of the first of the largest logits; 0 when all are NaN.
fn largest(row: &[f32]) -> usize {
    let max = largest_value(row);
    row.iter().position(|x| *x == max).unwrap_or(0)
}

cpu::simd_fn! {
    fn largest_value(row: &[f32]) -> f32 { cpu::max(row) }
}

/// The token where the cumulative distribution passes `u`: first its chunk, then within it.
fn invert(row: &[f32], inv_temperature: f32, s: RowSoftmax, sums: &[f32], u: f64) -> usize {
    let mut left = u * s.sum;
    // Rounding can carry `left` past the end: then the last token with any probability is meant.
    let mut last = 0;
    for (chunk, sum) in sums.iter().enumerate().filter(|(_, sum)| **sum > 0.0) {
        let sum = f64::from(*sum);
        last = chunk;
        if left < sum {
            break;
        }
        left -= sum;
    }
    let first = last * CHUNK;
    let mut token = first;
    for (i, x) in row[first..].iter().take(CHUNK).enumerate() {
        let e = f64::from(cpu::exp(*x * inv_temperature - s.max));
        if e > 0.0 {
            token = first + i;
            if left < e {
                break;
            }
            left -= e;
        }
    }
    token
}
