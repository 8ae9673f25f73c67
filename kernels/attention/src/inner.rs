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

/// Scores of a group of queries, `line` apart in `out`, against two blocks of keys.
#[inline(always)]
fn group_products_of_two(q: [&[f32]; GROUP], blocks: &[f32], out: &mut [f32], line: usize) {
    let d = q[0].len();
    let q = q.map(|q| &q[..d]);
    let (first, second) = blocks[..2 * d * LANES].split_at(d * LANES);
    let (mut a, mut b) = ([[0.0f32; LANES]; GROUP], [[0.0f32; LANES]; GROUP]);
    let (first, second) = (first.as_chunks::<LANES>().0, second.as_chunks::<LANES>().0);
    for (t, (x, y)) in first.iter().zip(second).enumerate() {
        for i in 0..GROUP {
            let c = q[i][t];
            for l in 0..LANES {
                a[i][l] = c.mul_add(x[l], a[i][l]);
            }
            for l in 0..LANES {
                b[i][l] = c.mul_add(y[l], b[i][l]);
            }
        }
    }
    for i in 0..GROUP {
        let (to_a, to_b) = out[i * line..][..2 * LANES].split_at_mut(LANES);
        to_a.copy_from_slice(&a[i]);
        to_b.copy_from_slice(&b[i]);
    }
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

/// Queries that share their loads of keys and values.
pub(crate) const GROUP: usize = 4;

cpu::simd_fn! {
    /// As [`products`] for a group of queries against `count` blocks; query i's scores begin at `i * line`.
    pub(crate) fn group_products(q: [&[f32]; GROUP], blocks: &[f32], count: usize, out: &mut [f32], line: usize) {
        let size = q[0].len() * LANES;
        let mut b = 0;
        while b < count {
            let (from, to) = (&blocks[b * size..], &mut out[b * LANES..]);
            if count - b >= 2 {
                group_products_of_two(q, from, to, line);
                b += 2;
                continue;
            }
            for i in 0..GROUP {
                products_of::<1>(q[i], from, &mut to[i * line..][..LANES]);
            }
            b += 1;
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

/// out[j][..W] += sum_t c(j, t) * rows[t * stride..][..W], ascending t, for `J` rows j of `out`, `d` apart:
/// `J * W` chains in registers. c(j, t) lies at `t * line + j`, or when `BY_ROW` at `j * line + t`.
#[inline(always)]
fn strip<const J: usize, const W: usize, const BY_ROW: bool>(
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
    let by_row: [&[f32]; J] =
        std::array::from_fn(|j| if BY_ROW { &coefficients[j * line..][..count] } else { &[] });
    for t in 0..count {
        let row: &[f32; W] = rows[t * stride..t * stride + W].try_into().expect("a strip of the row");
        let c: [f32; J] = match BY_ROW {
            true => std::array::from_fn(|j| by_row[j][t]),
            false => coefficients[t * line..t * line + J].try_into().expect("J coefficients"),
        };
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
fn strips<const J: usize, const BY_ROW: bool>(
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
                strip::<J, $width, BY_ROW>(coefficients, line, count, rows, stride, out, d);
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
            strips::<1, false>(p, 1, p.len(), rows, stride, out, out.len());
        }
    }
}

cpu::simd_fn! {
    /// As [`weighted_rows`] for a group: query i has weights `p[i * line..]` on rows 0..n + i, its sums are
    /// `out[i * d..]`. The rows that all see are read once.
    pub(crate) fn group_weighted_rows(
        p: &[f32],
        line: usize,
        n: usize,
        rows: &[f32],
        stride: usize,
        out: &mut [f32],
        d: usize,
    ) {
        strips::<GROUP, true>(p, line, n, rows, stride, out, d);
        for i in 1..GROUP {
            strips::<1, false>(&p[i * line + n..], 1, i, &rows[n * stride..], stride, &mut out[i * d..], d);
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
        let grouped = n / GROUP * GROUP;
        for j in (0..grouped).step_by(GROUP) {
            strips::<GROUP, false>(&coefficients[j..], line, count, rows, stride, &mut out[j * d..], d);
        }
        for j in grouped..n {
            strips::<1, false>(&coefficients[j..], line, count, rows, stride, &mut out[j * d..], d);
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

/// As [`attend`] for a group of queries, of which query i sees keys 0..n + i; `scores` holds a `line` for each,
/// `out` their rows of `d` one after the other. The bits are those of each query alone.
#[inline]
pub(crate) fn attend_group(
    q: [&[f32]; GROUP],
    key_blocks: &[f32],
    values: &[f32],
    stride: usize,
    n: usize,
    scale: f32,
    scores: &mut [f32],
    out: &mut [f32],
) -> [f32; GROUP] {
    let (line, d) = (scores.len() / GROUP, q[0].len());
    group_products(q, key_blocks, (n + GROUP - 1).div_ceil(LANES), scores, line);
    let stats: [(f32, f32); GROUP] =
        std::array::from_fn(|i| softmax(&mut scores[i * line..][..n + i], scale));
    out.fill(0.0);
    group_weighted_rows(scores, line, n, values, stride, out, d);
    for (out, (_, sum)) in out.chunks_exact_mut(d).zip(stats) {
        let inverse = 1.0 / sum;
        out.iter_mut().for_each(|o| *o *= inverse);
    }
    stats.map(|(max, sum)| max + cpu::ln(sum))
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
