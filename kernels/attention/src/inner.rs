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
    /// out[j] = q . key_j for whole blocks, each one chain over ascending head elements.
    pub(crate) fn products(q: &[f32], blocks: &[f32], out: &mut [f32]) {
        let d = q.len();
        for (out, block) in out.chunks_exact_mut(LANES).zip(blocks.chunks_exact(d * LANES)) {
            let mut acc = [0.0f32; LANES];
            for (q, keys) in q.iter().zip(block.chunks_exact(LANES)) {
                for l in 0..LANES {
                    acc[l] = q.mul_add(keys[l], acc[l]);
                }
            }
            out.copy_from_slice(&acc);
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

cpu::simd_fn! {
    /// out += sum_j p[j] * rows[j], ascending j; row j starts at `j * stride`.
    pub(crate) fn weighted_rows(p: &[f32], rows: &[f32], stride: usize, out: &mut [f32]) {
        let d = out.len();
        let mut first = 0;
        // Registers hold a strip of the output over all keys.
        while first + 16 <= d {
            let mut acc = [0.0f32; 16];
            acc.copy_from_slice(&out[first..first + 16]);
            for (j, p) in p.iter().enumerate() {
                let row = &rows[j * stride + first..][..16];
                for l in 0..16 {
                    acc[l] = p.mul_add(row[l], acc[l]);
                }
            }
            out[first..first + 16].copy_from_slice(&acc);
            first += 16;
        }
        for (j, p) in p.iter().enumerate() {
            for (o, v) in out[first..].iter_mut().zip(&rows[j * stride + first..]) {
                *o = p.mul_add(*v, *o);
            }
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
