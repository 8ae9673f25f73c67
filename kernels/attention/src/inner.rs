//! The inner functions that forward, backward and decode share.
//!
//! Keys are held in blocks of [`LANES`] keys, `[block][head_dim][LANES]`: a query's scores against a block
//! are `head_dim` fused steps over one vector of keys, with no horizontal sum.

use std::cell::RefCell;

/// Keys per block.
pub(crate) const LANES: usize = 16;

/// Elements of the blocks for `keys` keys.
pub(crate) fn blocks_len(keys: usize, head_dim: usize) -> usize {
    keys.next_multiple_of(LANES) * head_dim
}

/// Writes key (or value) number `j` into its block.
#[inline(always)]
pub(crate) fn put(blocks: &mut [f32], j: usize, row: &[f32]) {
    let base = (j / LANES) * row.len() * LANES + j % LANES;
    for (d, v) in row.iter().enumerate() {
        blocks[base + d * LANES] = *v;
    }
}

cpu::simd_fn! {
    /// As [`put`] for keys 0..n, of which key j is the first `d` elements of `rows[j * stride..]`.
    pub(crate) fn put_all(blocks: &mut [f32], n: usize, rows: &[f32], stride: usize, d: usize) {
        const SIDE: usize = 8;
        let whole = if d.is_multiple_of(SIDE) { n / SIDE * SIDE } else { 0 };
        for j in (0..whole).step_by(SIDE) {
            let base = (j / LANES) * d * LANES + j % LANES;
            for first in (0..d).step_by(SIDE) {
                // A square at a time, turned in registers.
                let from: [[f32; SIDE]; SIDE] = std::array::from_fn(|i| {
                    let at = (j + i) * stride + first;
                    rows[at..at + SIDE].try_into().expect("a row of the square")
                });
                for k in 0..SIDE {
                    let column: [f32; SIDE] = std::array::from_fn(|i| from[i][k]);
                    blocks[base + (first + k) * LANES..][..SIDE].copy_from_slice(&column);
                }
            }
        }
        for j in whole..n {
            put(blocks, j, &rows[j * stride..][..d]);
        }
    }
}

/// Scores of one query against `B` blocks of keys: `B * LANES` chains side by side.
#[inline(always)]
fn products_of<const B: usize>(q: &[f32], blocks: &[f32], out: &mut [f32]) {
    let size = q.len() * LANES;
    let keys: [&[f32]; B] = std::array::from_fn(|b| &blocks[b * size..][..size]);
    let mut acc = [[0.0f32; LANES]; B];
    for (d, q) in q.iter().enumerate() {
        for b in 0..B {
            let keys = &keys[b][d * LANES..][..LANES];
            for l in 0..LANES {
                acc[b][l] = q.mul_add(keys[l], acc[b][l]);
            }
        }
    }
    out.copy_from_slice(acc.as_flattened());
}

cpu::simd_fn! {
    /// out[j] = q . key_j for whole blocks, each one chain over ascending head elements; several blocks at
    /// once, since one block's chains alone would wait for each other's results.
    pub(crate) fn products(q: &[f32], blocks: &[f32], out: &mut [f32]) {
        let size = q.len() * LANES;
        let count = out.len() / LANES;
        let mut b = 0;
        while b < count {
            let (from, to) = (&blocks[b * size..], &mut out[b * LANES..]);
            b += match count - b {
                4.. => { products_of::<4>(q, from, &mut to[..4 * LANES]); 4 }
                2.. => { products_of::<2>(q, from, &mut to[..2 * LANES]); 2 }
                _ => { products_of::<1>(q, from, &mut to[..LANES]); 1 }
            };
        }
    }
}

cpu::simd_fn! {
    /// scores -> exp(scores * scale - max); returns (max, sum).
    pub(crate) fn softmax(scores: &mut [f32], scale: f32) -> (f32, f32) {
        let max = cpu::max(scores) * scale;
        for s in scores.iter_mut() {
            *s = cpu::exp(s.mul_add(scale, -max));
        }
        (max, cpu::sum(scores))
    }
}

/// out[j][..W] += sum_t coefficients[t * line + j] * rows[t * stride..][..W], ascending t, for `J` rows j of
/// `out`, `d` apart: `J * W` chains in registers.
#[inline(always)]
fn strip<const J: usize, const W: usize>(
    coefficients: &[f32],
    line: usize,
    count: usize,
    rows: &[f32],
    stride: usize,
    out: &mut [f32],
    d: usize,
) {
    let mut acc: [[f32; W]; J] =
        std::array::from_fn(|j| out[j * d..j * d + W].try_into().expect("a strip of the row"));
    for t in 0..count {
        let row: &[f32; W] = rows[t * stride..t * stride + W].try_into().expect("a strip of the row");
        let c: &[f32; J] = coefficients[t * line..t * line + J].try_into().expect("J coefficients");
        for j in 0..J {
            for l in 0..W {
                acc[j][l] = c[j].mul_add(row[l], acc[j][l]);
            }
        }
    }
    for j in 0..J {
        out[j * d..j * d + W].copy_from_slice(&acc[j]);
    }
}

/// As [`strip`] over whole rows of `d` elements, widest strips first.
#[inline(always)]
fn strips<const J: usize>(
    coefficients: &[f32],
    line: usize,
    count: usize,
    rows: &[f32],
    stride: usize,
    out: &mut [f32],
    d: usize,
) {
    let mut first = 0;
    macro_rules! take {
        ($width:literal) => {
            while d - first >= $width {
                let (rows, out) = (&rows[first..], &mut out[first..]);
                strip::<J, $width>(coefficients, line, count, rows, stride, out, d);
                first += $width;
            }
        };
    }
    if J == 1 {
        take!(64);
    }
    take!(32);
    take!(16);
    take!(8);
    take!(1);
}

cpu::simd_fn! {
    /// out += sum_j p[j] * rows[j], ascending j; row j starts at `j * stride`.
    pub(crate) fn weighted_rows(p: &[f32], rows: &[f32], stride: usize, out: &mut [f32]) {
        if !p.is_empty() {
            strips::<1>(p, 1, p.len(), rows, stride, out, out.len());
        }
    }
}

cpu::simd_fn! {
    /// out[j] += sum_t coefficients[t * line + j] * rows[t], ascending t, for all rows j of `out`, `d` long; row t
    /// starts at `t * stride`.
    pub(crate) fn transposed_rows(
        coefficients: &[f32],
        line: usize,
        count: usize,
        rows: &[f32],
        stride: usize,
        out: &mut [f32],
        d: usize,
    ) {
        let n = out.len() / d;
        let pairs = n / 2 * 2;
        for j in (0..pairs).step_by(2) {
            strips::<2>(&coefficients[j..], line, count, rows, stride, &mut out[j * d..], d);
        }
        if pairs < n {
            strips::<1>(&coefficients[pairs..], line, count, rows, stride, &mut out[pairs * d..], d);
        }
    }
}

/// One query against keys 0..n: out = softmax(q K^T * scale) V; returns the log-sum-exp.
#[inline]
pub(crate) fn attend(
    q: &[f32],
    key_blocks: &[f32],
    values: &[f32],
    stride: usize,
    n: usize,
    scale: f32,
    scores: &mut [f32],
    out: &mut [f32],
) -> f32 {
    products(q, key_blocks, &mut scores[..n.next_multiple_of(LANES)]);
    let (max, sum) = softmax(&mut scores[..n], scale);
    out.fill(0.0);
    weighted_rows(&scores[..n], values, stride, out);
    let inverse = 1.0 / sum;
    out.iter_mut().for_each(|o| *o *= inverse);
    max + cpu::ln(sum)
}

thread_local! {
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Lends a scratch of `len` elements of unspecified content.
pub(crate) fn with_scratch<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut scratch = SCRATCH.take();
    if scratch.len() < len {
        scratch.resize(len, 0.0);
    }
    let r = f(&mut scratch[..len]);
    SCRATCH.set(scratch);
    r
}
