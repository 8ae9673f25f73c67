//! Shapes, the f64 reference and the CPU twin's forward pass.
#![allow(dead_code)] // each test file uses its part

use attention::*;
use kernel_abi::Kernel;
use proptest::prelude::*;

#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub heads: usize,
    pub kv: usize,
    pub d: usize,
}

impl Shape {
    pub fn width(self) -> usize {
        (self.heads + 2 * self.kv) * self.d
    }
    pub fn forward(self, rows: usize) -> AttentionForward {
        AttentionForward { rows, heads: self.heads, kv_heads: self.kv, head_dim: self.d }
    }
    pub fn backward(self, rows: usize) -> AttentionBackward {
        AttentionBackward { rows, heads: self.heads, kv_heads: self.kv, head_dim: self.d }
    }
    pub fn extend(self, rows: usize, slots: usize, capacity: usize) -> AttentionExtend {
        AttentionExtend { rows, heads: self.heads, kv_heads: self.kv, head_dim: self.d, slots, capacity }
    }
}

pub fn shape(most: usize) -> impl Strategy<Value = Shape> {
    (1usize..3, 1usize..4, 1usize..most).prop_map(|(kv, group, d)| Shape { heads: kv * group, kv, d })
}

pub fn starts_of(lengths: &[usize]) -> Vec<u32> {
    let mut starts = vec![0u32];
    lengths.iter().for_each(|l| starts.push(starts.last().unwrap() + *l as u32));
    starts
}

/// Forward pass and gradients in f64.
pub struct Reference {
    pub out: Vec<f64>,
    pub lse: Vec<f64>,
}

pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Calls `f(row i, head, first row of its sequence, key/value head)` for every row and head.
pub fn each(s: Shape, starts: &[u32], mut f: impl FnMut(usize, usize, usize, usize)) {
    for seq in starts.windows(2) {
        for i in seq[0] as usize..seq[1] as usize {
            (0..s.heads).for_each(|h| f(i, h, seq[0] as usize, h / (s.heads / s.kv)));
        }
    }
}

pub fn reference(s: Shape, qkv: &[f64], starts: &[u32]) -> Reference {
    let (w, d) = (s.width(), s.d);
    let rows = qkv.len() / w;
    let (mut out, mut lse) = (vec![0.0; rows * s.heads * d], vec![0.0; rows * s.heads]);
    each(s, starts, |i, h, first, kv| {
        let q = &qkv[i * w + h * d..][..d];
        let k = |j: usize| &qkv[j * w + (s.heads + kv) * d..][..d];
        let v = |j: usize| &qkv[j * w + (s.heads + s.kv + kv) * d..][..d];
        let scores: Vec<f64> = (first..i + 1).map(|j| dot(q, k(j)) / (d as f64).sqrt()).collect();
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = scores.iter().map(|x| (x - max).exp()).sum();
        lse[i * s.heads + h] = max + total.ln();
        for (j, x) in (first..).zip(&scores) {
            let p = (x - max).exp() / total;
            for t in 0..d {
                out[(i * s.heads + h) * d + t] += p * v(j)[t];
            }
        }
    });
    Reference { out, lse }
}

/// Gradient of sum(out dout) by qkv in f64, by the formulas.
pub fn reference_gradient(s: Shape, qkv: &[f64], starts: &[u32], dout: &[f64]) -> Vec<f64> {
    let (w, d) = (s.width(), s.d);
    let Reference { out, lse } = reference(s, qkv, starts);
    let scale = 1.0 / (d as f64).sqrt();
    let mut grad = vec![0.0; qkv.len()];
    each(s, starts, |i, h, first, kv| {
        let at = (i * s.heads + h) * d;
        let (o, slope) = (&out[at..at + d], &dout[at..at + d]);
        let delta = dot(o, slope);
        let (qi, ki, vi) = (h * d, (s.heads + kv) * d, (s.heads + s.kv + kv) * d);
        for j in first..i + 1 {
            let q = &qkv[i * w + qi..][..d];
            let k = &qkv[j * w + ki..][..d];
            let p = (dot(q, k) * scale - lse[i * s.heads + h]).exp();
            let ds = p * (dot(slope, &qkv[j * w + vi..][..d]) - delta) * scale;
            for t in 0..d {
                grad[i * w + qi + t] += ds * k[t];
                grad[j * w + ki + t] += ds * q[t];
                grad[j * w + vi + t] += p * slope[t];
            }
        }
    });
    grad
}

/// The CPU twin's output and log-sum-exp.
pub fn forward(s: Shape, qkv: &[f32], starts: &[u32]) -> (Vec<f32>, Vec<f32>) {
    let rows = qkv.len() / s.width();
    let (mut out, mut lse) = (vec![f32::NAN; rows * s.heads * s.d], vec![f32::NAN; rows * s.heads]);
    s.forward(rows).cpu(AttentionForwardArgs {
        qkv: qkv.into(),
        starts: starts.into(),
        out: (&mut out).into(),
        lse: (&mut lse).into(),
    });
    (out, lse)
}

/// The rows of one step through the cache: the next `chunks[i]` rows of each sequence i, which lives in the slot
/// `slots - 1 - i`.
pub struct Chunk<T> {
    pub x: Vec<T>,
    pub slot: Vec<u32>,
    pub position: Vec<u32>,
    /// Rows of the whole batch.
    pub from: Vec<usize>,
}

impl<T: Copy> Chunk<T> {
    pub fn new(
        chunks: &[usize],
        done: &mut [usize],
        starts: &[u32],
        slots: usize,
        w: usize,
        qkv: &[T],
    ) -> Self {
        let mut c = Chunk { x: Vec::new(), slot: Vec::new(), position: Vec::new(), from: Vec::new() };
        for (seq, n) in chunks.iter().enumerate() {
            for p in done[seq]..done[seq] + n {
                let row = starts[seq] as usize + p;
                c.x.extend_from_slice(&qkv[row * w..(row + 1) * w]);
                c.slot.push((slots - 1 - seq) as u32);
                c.position.push(p as u32);
                c.from.push(row);
            }
            done[seq] += n;
        }
        c
    }
}
