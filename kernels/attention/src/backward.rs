//! Gradients of causal attention, with the probabilities computed again from the log-sum-exp
//! (FlashAttention, arXiv 2205.14135, algorithm 4): nothing of size rows x rows is stored.
//!
//! For query i and key j: p = exp(s - lse_i), dv_j += p do_i, dp = do_i . v_j, ds = p (dp - do_i . o_i),
//! dq_i += ds k_j, dk_j += ds q_i, times the scale. One task owns a sequence's key/value head, so dk and dv
//! are added in ascending query order without atomics, a block of queries at a time: its p and ds stay in
//! scratch, and a few rows of dk and dv stay in registers while the block's queries pass by.

use crate::{
    forward::{Columns, check_shape, task_work},
    inner::{
        GROUP, LANES, blocks_len, group_products, group_weighted_rows, products, put_all, transposed_rows,
        weighted_rows, with_scratch,
    },
    launch::{F32_SIZES, MMA_SIZES, padded, stride, wide},
    ptx,
};
use kernel_abi::{
    ArgError, Cost, Float, Half, In, Kernel, Launch, LaunchError, Launcher, Out, expect_len, narrow, typed,
    widen,
};

/// Queries per block.
const QUERIES: usize = 16;

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
pub struct AttentionBackwardArgs<'a, T = f32> {
    /// As in the forward pass.
    pub qkv: In<'a, T>,
    /// As in the forward pass.
    pub starts: In<'a, u32>,
    /// The forward pass's output.
    pub out: In<'a, T>,
    /// The forward pass's log-sum-exp.
    pub lse: In<'a>,
    /// `[rows, heads head_dim]`.
    pub dout: In<'a, T>,
    /// Like qkv; overwritten.
    pub dqkv: Out<'a, T>,
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
    fn inner_product(a: &[f32], b: &[f32]) -> f32 {
        cpu::dot(a, b)
    }
}

impl Kernel for AttentionBackward {
    type Args<'a> = AttentionBackwardArgs<'a>;
    const NAME: &'static str = "attention_backward";

    fn check(&self, args: &AttentionBackwardArgs<'_>) -> Result<(), ArgError> {
        self.check_args(args)
    }

    fn cost(&self) -> Cost {
        let (t, h, d) = (self.rows as u64, self.heads as u64, self.head_dim as u64);
        let width = (self.heads + 2 * self.kv_heads) as u64 * d;
        Cost {
            bytes_read: 4 * t * (width + 2 * h * d + h),
            bytes_written: 4 * t * width,
            flops: 5 * t * (t + 1) * h * d,
            ..Cost::default()
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
            with_scratch(2 * blocks + 2 * QUERIES * line + 2 * n * d + GROUP * d, |scratch| {
                let (keys, rest) = scratch.split_at_mut(blocks);
                let (values, rest) = rest.split_at_mut(blocks);
                let (p, rest) = rest.split_at_mut(QUERIES * line);
                let (ds, rest) = rest.split_at_mut(QUERIES * line);
                let (dk, rest) = rest.split_at_mut(n * d);
                let (dv, rows_out) = rest.split_at_mut(n * d);
                dk.fill(0.0);
                dv.fill(0.0);
                if n > 0 {
                    put_all(keys, n, &qkv[first * width + c.k(kv)..], width, d);
                    put_all(values, n, &qkv[first * width + c.v(kv)..], width, d);
                }
                for head in c.group(kv) {
                    for i0 in (0..n).step_by(QUERIES) {
                        let count = QUERIES.min(n - i0);
                        let query = |i: usize| &qkv[(first + i) * width + c.q(head)..][..d];
                        let slope = |i: usize| &dout[((first + i) * heads + head) * d..][..d];
                        let grouped = i0 + count / GROUP * GROUP;
                        for i in (i0..grouped).step_by(GROUP) {
                            let (at, blocks) = ((i - i0) * line, (i + GROUP).div_ceil(LANES));
                            let q = std::array::from_fn(|g| query(i + g));
                            group_products(q, keys, blocks, &mut p[at..], line);
                            let do_ = std::array::from_fn(|g| slope(i + g));
                            group_products(do_, values, blocks, &mut ds[at..], line);
                        }
                        for i in grouped..i0 + count {
                            let (at, lanes) = ((i - i0) * line, (i + 1).next_multiple_of(LANES));
                            products(query(i), keys, &mut p[at..at + lanes]);
                            products(slope(i), values, &mut ds[at..at + lanes]);
                        }
                        for i in i0..i0 + count {
                            let row = first + i;
                            let delta = inner_product(slope(i), &out[(row * heads + head) * d..][..d]);
                            let lse = lse[row * heads + head];
                            let p = &mut p[(i - i0) * line..][..line];
                            let ds = &mut ds[(i - i0) * line..][..line];
                            differentiate(&mut p[..i + 1], &mut ds[..i + 1], c.scale(), lse, delta);
                            // Later keys are hidden from this query.
                            p[i + 1..].fill(0.0);
                            ds[i + 1..].fill(0.0);
                        }
                        let all_keys = &qkv[first * width + c.k(kv)..];
                        // SAFETY: this task alone writes its group's query columns of its sequence's rows.
                        let dq = |i: usize| unsafe { dqkv.slice((first + i) * width + c.q(head), d) };
                        for i in (i0..grouped).step_by(GROUP) {
                            let ds = &ds[(i - i0) * line..];
                            rows_out.fill(0.0);
                            group_weighted_rows(ds, line, i + 1, all_keys, width, rows_out, d);
                            for (g, o) in rows_out.chunks_exact(d).enumerate() {
                                dq(i + g).copy_from_slice(o);
                            }
                        }
                        for i in grouped..i0 + count {
                            dq(i).fill(0.0);
                            weighted_rows(&ds[(i - i0) * line..][..i + 1], all_keys, width, dq(i));
                        }
                        let q = &qkv[(first + i0) * width + c.q(head)..];
                        let do_ = &dout[((first + i0) * heads + head) * d..];
                        let seen = (i0 + count) * d;
                        transposed_rows(ds, line, count, q, width, &mut dk[..seen], d);
                        transposed_rows(p, line, count, do_, heads * d, &mut dv[..seen], d);
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

    fn ptx(&self, args: AttentionBackwardArgs<'_>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        self.launch(&args, on)
    }
}

impl AttentionBackward {
    fn check_args<T>(&self, args: &AttentionBackwardArgs<'_, T>) -> Result<(), ArgError> {
        let AttentionBackward { rows, heads, kv_heads, head_dim } = *self;
        let c = Columns { heads, kv_heads, head_dim };
        expect_len(Self::NAME, "qkv", args.qkv.len(), rows * c.width())?;
        expect_len(Self::NAME, "out", args.out.len(), rows * heads * head_dim)?;
        expect_len(Self::NAME, "lse", args.lse.len(), rows * heads)?;
        expect_len(Self::NAME, "dout", args.dout.len(), rows * heads * head_dim)?;
        expect_len(Self::NAME, "dqkv", args.dqkv.len(), rows * c.width())?;
        check_shape(Self::NAME, c, rows, args.starts)
    }

    fn launch<T: Float>(
        &self,
        args: &AttentionBackwardArgs<'_, T>,
        on: &mut dyn Launcher,
    ) -> Result<(), LaunchError> {
        let AttentionBackward { rows, heads, kv_heads, head_dim: d } = *self;
        let (c, sequences) = (Columns { heads, kv_heads, head_dim: d }, args.starts.len().saturating_sub(1));
        if rows == 0 || sequences == 0 {
            return Ok(());
        }
        let (bytes, f32s) = (size_of::<T>(), size_of::<T>() == 4);
        let (module, sizes) =
            if f32s { (&ptx::BACKWARD, F32_SIZES) } else { (&ptx::MMA_BACKWARD, MMA_SIZES) };
        let dp = padded(Self::NAME, d, sizes)?;
        // Rows of a tile, rows that pass by it at a time.
        let (tile, pass) = match (f32s, dp) {
            (true, ..=64) => (64, 32),
            (true, _) => (32, 32),
            (false, ..=80) => (64, 64),
            (false, _) => (64, 32),
        };
        // f32 holds coefficients too; in 16 bits the tile's rows have no gap where they are turned.
        let shared = match f32s {
            true => 2 * (tile + pass) * stride(dp, 4) + tile * 160,
            false => 2 * pass * stride(dp, 2) + 2 * tile * (2 * dp + if dp % 64 == 0 { 0 } else { 16 }),
        };
        let (qkv, out, dout) = (args.qkv.device(), args.out.device(), args.dout.device());
        let dqkv = args.dqkv.device();
        // dq first: it leaves the log-sum-exp and delta = dout . out, by head, for dkv.
        let stats = on.workspace(8 * rows * heads)?;
        for (what, y) in [("dq", heads), ("dkv", kv_heads)] {
            let launch = Launch::new(module, format_args!("attention_{what}_{}_{dp}", T::NAME))
                .grid(rows / tile + sequences, y, 1)
                .block(128)
                .shared(shared);
            let launch = launch.arg(qkv).arg(args.starts.device()).arg(out).arg(args.lse.device());
            let launch = launch.arg(dout).arg(dqkv).arg(stats).dim(sequences).dim(rows).dim(heads);
            let launch = launch.dim(heads / kv_heads).dim(d).arg(wide(d, bytes, &[qkv, out, dout, dqkv]));
            on.launch(launch.arg(c.scale()))?;
        }
        Ok(())
    }
}

typed!(
    /// [`AttentionBackward`] over 16-bit elements; sums and the log-sum-exp are f32.
    AttentionBackwardOf,
    AttentionBackward
);

impl<T: Half> Kernel for AttentionBackwardOf<T> {
    type Args<'a> = AttentionBackwardArgs<'a, T>;
    const NAME: &'static str = "attention_backward";

    fn check(&self, args: &AttentionBackwardArgs<'_, T>) -> Result<(), ArgError> {
        self.kernel.check_args(args)
    }

    fn cost(&self) -> Cost {
        let (c, lse) = (self.kernel.cost(), 4 * (self.kernel.rows * self.kernel.heads) as u64);
        Cost { bytes_read: (c.bytes_read - lse) / 2 + lse, bytes_written: c.bytes_written / 2, ..c }
    }

    fn cpu(&self, args: AttentionBackwardArgs<'_, T>) {
        let dqkv = args.dqkv.host();
        let (qkv, out) = (widen(args.qkv.host()), widen(args.out.host()));
        let (dout, mut d) = (widen(args.dout.host()), vec![0.0; dqkv.len()]);
        self.kernel.cpu(AttentionBackwardArgs {
            qkv: (&qkv).into(),
            starts: args.starts,
            out: (&out).into(),
            lse: args.lse,
            dout: (&dout).into(),
            dqkv: (&mut d).into(),
        });
        narrow(&d, dqkv);
    }

    fn ptx(&self, args: AttentionBackwardArgs<'_, T>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        self.kernel.launch(&args, on)
    }
}
