//! Drawing tokens.
//!
//! What makes it fast: the normaliser's two passes leave the probability mass of every chunk of the
//! vocabulary behind, so inverting the cumulative distribution looks at one chunk only; top-k and top-p
//! select, they do not sort. A draw depends on (seed, stream, position) and the row, on nothing else.

use crate::ptx;
use crate::{
    nucleus::{self, Scratch},
    philox::{domain, key, philox4x32, uniform},
};
use kernel_abi::{ArgError, Cost, DevicePtr, In, Kernel, Launch, LaunchError, Launcher, Out, expect_len};
use loss::{CHUNK, RowResults, RowSoftmax, RowTiles, TILE, row_softmax};
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
        Cost { bytes_read: 4 * (n + 2 * rows), bytes_written: 8 * rows, flops: 4 * n, ..Cost::default() }
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

    fn ptx(&self, args: SampleArgs<'_>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        let Sample { rows, vocab, .. } = *self;
        if rows == 0 {
            return Ok(());
        }
        let logits = args.logits.device();
        // The normaliser first, by the launches that score tokens later.
        let stats = RowTiles::new((rows, vocab), self.inv_temperature(), false, on)?;
        let (lse, top) = (on.workspace(4 * rows)?, on.workspace(4 * rows)?);
        stats.read(logits, DevicePtr::NULL, on)?;
        stats.merge(DevicePtr::NULL, RowResults { lse, top, ..RowResults::default() }, on)?;
        let part = stats.part();
        if self.temperature == 0.0 {
            let launch = Launch::new(&ptx::SAMPLE, format_args!("sample_largest")).grid(rows, 1, 1).block(32);
            let launch = launch.arg(logits).arg(part).arg(lse).arg(top);
            let launch = launch.arg(args.token.device()).arg(args.logprob.device());
            let launch = launch.dim(rows).dim(vocab).dim(vocab.div_ceil(TILE));
            return on.launch(launch.arg(self.inv_temperature()));
        }
        self.draw_on(args, part, (lse, top), on)
    }
}

impl Sample {
    fn inv_temperature(&self) -> f32 {
        if self.temperature == 0.0 { 1.0 } else { 1.0 / self.temperature }
    }

    /// The launches of a draw, after those of the statistics.
    fn draw_on(
        &self,
        args: SampleArgs<'_>,
        part: DevicePtr,
        (lse, top): (DevicePtr, DevicePtr),
        on: &mut dyn Launcher,
    ) -> Result<(), LaunchError> {
        let Sample { rows, vocab, top_k, top_p, seed, .. } = *self;
        let (logits, inv_temperature) = (args.logits.device(), self.inv_temperature());
        let by_k = top_k > 0 && top_k < vocab;
        let chunks = vocab.div_ceil(CHUNK);
        // With top-k the mass of the whole vocabulary is nobody's business.
        let mut sums = DevicePtr::NULL;
        if !by_k {
            sums = on.workspace(4 * rows * chunks)?;
            let launch = Launch::new(&ptx::SAMPLE, format_args!("chunk_sums"))
                .grid(rows, chunks.div_ceil(16), 1)
                .block(256);
            let launch = launch.arg(logits).arg(top).arg(sums).dim(vocab).dim(chunks);
            on.launch(launch.arg(inv_temperature))?;
        }
        let filtered = by_k || top_p < 1.0;
        let launch = match filtered {
            true => Launch::new(&ptx::SAMPLE_FILTERED, format_args!("sample_filtered")).block(512),
            false => Launch::new(&ptx::SAMPLE, format_args!("sample_all")).block(32),
        };
        let launch = launch.grid(rows, 1, 1);
        let launch = launch.arg(logits).arg(part).arg(sums).arg(lse).arg(top);
        let launch = launch.arg(args.stream.device()).arg(args.position.device());
        let launch = if filtered { launch.arg(on.workspace(8 * rows * vocab)?) } else { launch };
        let launch = launch.arg(args.token.device()).arg(args.logprob.device());
        let launch = launch.dim(rows).dim(vocab).dim(vocab.div_ceil(TILE)).dim(chunks);
        let launch = match filtered {
            false => launch.arg(inv_temperature),
            true => {
                let top_k = if by_k { top_k } else { 0 };
                // Integer masses of a whole row stay below 2^63.
                let unit = f64::from(62 - vocab.next_power_of_two().trailing_zeros()).exp2();
                launch.dim(top_k).arg(inv_temperature).arg(top_p).arg(unit)
            }
        };
        on.launch(launch.arg(seed))
    }

    fn draw(&self, row: &[f32], stream: u32, position: u32) -> (u32, f32) {
        let inv_temperature = self.inv_temperature();
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
