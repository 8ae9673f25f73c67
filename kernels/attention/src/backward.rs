//! Gradients of causal attention, with the probabilities computed again from the log-sum-exp
//! (FlashAttention, arXiv 2205.14135, algorithm 4): nothing of size rows x rows is stored.
//!
//! For query i and key j: p = exp(s - lse_i), dv_j += p do_i, dp = do_i . v_j, ds = p (dp - do_i . o_i),
//! dq_i += ds k_j, dk_j += ds q_i, times the scale. One task owns a sequence's key/value head, so dk and dv
//! are added in ascending query order without atomics.

use crate::{
    forward::{Columns, check_shape, task_work},
    inner::{LANES, blocks_len, products, put, weighted_rows, with_scratch},
};
use kernel_abi::{ArgError, Cost, In, Kernel, Out, expect_len};

/// Gradient of [`crate::AttentionForward`].
#[derive(Debug, Clone, Copy)]
pub struct AttentionBackward {
    /// Token rows of all sequences together.
    pub rows: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Elements per head.
    pub head_dim: usize,
}

/// Arguments of [`AttentionBackward`].
pub struct AttentionBackwardArgs<'a> {
    /// As in the forward pass.
    pub qkv: In<'a>,
    /// As in the forward pass.
    pub starts: In<'a, u32>,
    /// The forward pass's output.
    pub out: In<'a>,
    /// The forward pass's log-sum-exp.
    pub lse: In<'a>,
    /// `[rows, heads head_dim]`.
    pub dout: In<'a>,
    /// Like qkv; overwritten.
    pub dqkv: Out<'a>,
}

cpu::simd_fn! {
    /// scores -> probabilities p; dp -> ds = p (dp - delta) scale.
    fn differentiate(scores: &mut [f32], dp: &mut [f32], scale: f32, lse: f32, delta: f32) {
        for (s, dp) in scores.iter_mut().zip(dp) {
            *s = cpu::exp(s.mul_add(scale, -lse));
            *dp = *s * (*dp - delta) * scale;
        }
    }
}

cpu::simd_fn! {
    /// rows[j] += f[j] * x for all j.
    fn outer_add(f: &[f32], x: &[f32], rows: &mut [f32]) {
        for (f, row) in f.iter().zip(rows.chunks_exact_mut(x.len())) {
            for (r, x) in row.iter_mut().zip(x) {
                *r = f.mul_add(*x, *r);
            }
        }
    }
}

cpu::simd_fn! {
    fn inner_product(a: &[f32], b: &[f32]) -> f32 {
        cpu::dot(a, b)
    }
}

impl Kernel for AttentionBackward {
    type Args<'a> = AttentionBackwardArgs<'a>;
    const NAME: &'static str = "attention_backward";

    fn check(&self, args: &AttentionBackwardArgs<'_>) -> Result<(), ArgError> {
        let AttentionBackward { rows, heads, kv_heads, head_dim } = *self;
        let c = Columns { heads, kv_heads, head_dim };
        expect_len(Self::NAME, "qkv", args.qkv.len(), rows * c.width())?;
        expect_len(Self::NAME, "out", args.out.len(), rows * heads * head_dim)?;
        expect_len(Self::NAME, "lse", args.lse.len(), rows * heads)?;
        expect_len(Self::NAME, "dout", args.dout.len(), rows * heads * head_dim)?;
        expect_len(Self::NAME, "dqkv", args.dqkv.len(), rows * c.width())?;
        check_shape(Self::NAME, c, rows, args.starts)
    }

    fn cost(&self) -> Cost {
        let (t, h, d) = (self.rows as u64, self.heads as u64, self.head_dim as u64);
        let width = (self.heads + 2 * self.kv_heads) as u64 * d;
        Cost {
            bytes_read: 4 * t * (width + 2 * h * d + h),
            bytes_written: 4 * t * width,
            flops: 5 * t * (t + 1) * h * d,
            int8_ops: 0,
        }
    }

    fn cpu(&self, args: AttentionBackwardArgs<'_>) {
        let AttentionBackward { rows, heads, kv_heads, head_dim: d } = *self;
        let c = Columns { heads, kv_heads, head_dim: d };
        let (qkv, starts, width) = (args.qkv.host(), args.starts.host(), c.width());
        let (out, lse, dout) = (args.out.host(), args.lse.host(), args.dout.host());
        let dqkv = cpu::Shared::new(args.dqkv.host());
        let sequences = starts.len() - 1;
        cpu::par_for(sequences * kv_heads, 3 * task_work(rows, sequences, c), |task| {
            let (s, kv) = (task / kv_heads, task % kv_heads);
            let (first, n) = (starts[s] as usize, (starts[s + 1] - starts[s]) as usize);
            let (blocks, line) = (blocks_len(n, d), n.next_multiple_of(LANES));
            with_scratch(2 * blocks + 2 * line + 2 * n * d, |scratch| {
                let (keys, rest) = scratch.split_at_mut(blocks);
                let (values, rest) = rest.split_at_mut(blocks);
                let (p, rest) = rest.split_at_mut(line);
                let (ds, rest) = rest.split_at_mut(line);
                let (dk, dv) = rest.split_at_mut(n * d);
                dk.fill(0.0);
                dv.fill(0.0);
                for j in 0..n {
                    let row = &qkv[(first + j) * width..];
                    put(keys, j, &row[c.k(kv)..][..d]);
                    put(values, j, &row[c.v(kv)..][..d]);
                }
                for head in c.group(kv) {
                    for i in 0..n {
                        let row = first + i;
                        let q = &qkv[row * width + c.q(head)..][..d];
                        let at = (row * heads + head) * d..(row * heads + head + 1) * d;
                        let (o, do_) = (&out[at.clone()], &dout[at]);
                        let lanes = (i + 1).next_multiple_of(LANES);
                        products(q, keys, &mut p[..lanes]);
                        products(do_, values, &mut ds[..lanes]);
                        let delta = inner_product(do_, o);
                        let (p, ds) = (&mut p[..i + 1], &mut ds[..i + 1]);
                        differentiate(p, ds, c.scale(), lse[row * heads + head], delta);
                        // SAFETY: this task alone writes its group's query columns of its sequence's rows.
                        let dq = unsafe { dqkv.slice(row * width + c.q(head), d) };
                        dq.fill(0.0);
                        weighted_rows(ds, &qkv[first * width + c.k(kv)..], width, dq);
                        outer_add(ds, q, dk);
                        outer_add(p, do_, dv);
                    }
                }
                for j in 0..n {
                    let row = (first + j) * width;
                    // SAFETY: this task alone writes its key/value head's columns of its sequence's rows.
                    unsafe {
                        dqkv.slice(row + c.k(kv), d).copy_from_slice(&dk[j * d..(j + 1) * d]);
                        dqkv.slice(row + c.v(kv), d).copy_from_slice(&dv[j * d..(j + 1) * d]);
                    }
                }
            });
        });
    }
}
