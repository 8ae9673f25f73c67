//! Causal attention over a ragged batch; one task per sequence and key/value head.

use crate::inner::{GROUP, LANES, attend, attend_group, blocks_len, put_all, with_scratch};
use crate::launch::{F32_SIZES, MMA_SIZES, TILE, padded, scale2, stride, total, wide};
use crate::ptx;
use kernel_abi::{
    ArgError, Cost, Float, Half, In, Kernel, Launch, LaunchError, Launcher, Out, expect_len, narrow, typed,
    widen,
};

/// out = softmax(q k^T / sqrt(head_dim), causal) v for every sequence and head.
#[derive(Debug, Clone, Copy)]
pub struct AttentionForward {
    /// Token rows of all sequences together.
    pub rows: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; divides `heads` (grouped-query attention, arXiv 2305.13245).
    pub kv_heads: usize,
    /// Elements per head.
    pub head_dim: usize,
}

/// Arguments of [`AttentionForward`].
pub struct AttentionForwardArgs<'a, T = f32> {
    /// `[rows, (heads + 2 kv_heads) head_dim]`: query heads, key heads, value heads.
    pub qkv: In<'a, T>,
    /// `[sequences + 1]` offsets of the sequences' first rows.
    pub starts: In<'a, u32>,
    /// `[rows, heads head_dim]`.
    pub out: Out<'a, T>,
    /// `[rows, heads]` log-sum-exp of the scaled scores.
    pub lse: Out<'a>,
}

/// The columns of q, k and v in a fused row.
#[derive(Clone, Copy)]
pub(crate) struct Columns {
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
}

impl Columns {
    pub fn width(self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }
    pub fn q(self, head: usize) -> usize {
        head * self.head_dim
    }
    pub fn k(self, kv: usize) -> usize {
        (self.heads + kv) * self.head_dim
    }
    pub fn v(self, kv: usize) -> usize {
        (self.heads + self.kv_heads + kv) * self.head_dim
    }
    /// Query heads that share key/value head `kv`.
    pub fn group(self, kv: usize) -> std::ops::Range<usize> {
        let g = self.heads / self.kv_heads;
        kv * g..(kv + 1) * g
    }
    pub fn scale(self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }
}

/// Checks head counts and that `starts` ascends from 0 to `rows`.
pub(crate) fn check_shape(
    kernel: &'static str,
    c: Columns,
    rows: usize,
    starts: In<'_, u32>,
) -> Result<(), ArgError> {
    if c.kv_heads == 0 || !c.heads.is_multiple_of(c.kv_heads) || c.head_dim == 0 {
        let problem =
            format!("{} query heads over {} key/value heads of {}", c.heads, c.kv_heads, c.head_dim);
        return Err(ArgError { kernel, arg: "heads", problem });
    }
    if let In::Host(s) = starts {
        let ascends = s.windows(2).all(|w| w[0] <= w[1]);
        if s.first() != Some(&0) || s.last() != Some(&(rows as u32)) || !ascends {
            let problem = format!("must ascend from 0 to {rows} rows");
            return Err(ArgError { kernel, arg: "starts", problem });
        }
    }
    Ok(())
}

/// Scalar operations of an average task, for the decision to share work.
pub(crate) fn task_work(rows: usize, sequences: usize, c: Columns) -> usize {
    let len = rows / sequences.max(1);
    len * len * c.head_dim * (c.heads / c.kv_heads) / 8
}

impl Kernel for AttentionForward {
    type Args<'a> = AttentionForwardArgs<'a>;
    const NAME: &'static str = "attention_forward";

    fn check(&self, args: &AttentionForwardArgs<'_>) -> Result<(), ArgError> {
        self.check_args(args)
    }

    /// Without the sequence lengths, one sequence is assumed: an upper bound of the operations.
    fn cost(&self) -> Cost {
        let (t, h, d) = (self.rows as u64, self.heads as u64, self.head_dim as u64);
        let width = (self.heads + 2 * self.kv_heads) as u64 * d;
        Cost {
            bytes_read: 4 * t * width,
            bytes_written: 4 * t * h * (d + 1),
            flops: 2 * t * (t + 1) * h * d,
            ..Cost::default()
        }
    }

    fn cpu(&self, args: AttentionForwardArgs<'_>) {
        let AttentionForward { rows, heads, kv_heads, head_dim: d } = *self;
        let c = Columns { heads, kv_heads, head_dim: d };
        let (qkv, starts, width) = (args.qkv.host(), args.starts.host(), c.width());
        let (out, lse) = (cpu::Shared::new(args.out.host()), cpu::Shared::new(args.lse.host()));
        let sequences = starts.len() - 1;
        cpu::par_for(sequences * kv_heads, task_work(rows, sequences, c), |task| {
            let (s, kv) = (task / kv_heads, task % kv_heads);
            let (first, n) = (starts[s] as usize, (starts[s + 1] - starts[s]) as usize);
            let line = n.next_multiple_of(LANES);
            with_scratch(blocks_len(n, d) + GROUP * (line + d), |scratch| {
                let (keys, rest) = scratch.split_at_mut(blocks_len(n, d));
                let (scores, rows_out) = rest.split_at_mut(GROUP * line);
                if n > 0 {
                    put_all(keys, n, &qkv[first * width + c.k(kv)..], width, d);
                }
                let values = &qkv[(first * width + c.v(kv)).min(qkv.len())..];
                for head in c.group(kv) {
                    let query = |i: usize| &qkv[(first + i) * width + c.q(head)..][..d];
                    // SAFETY: this task alone writes its sequence's rows of its group's heads.
                    let put = |i: usize, o: &[f32], l: f32| unsafe {
                        let at = (first + i) * heads + head;
                        out.slice(at * d, d).copy_from_slice(o);
                        lse.slice(at, 1)[0] = l;
                    };
                    let grouped = n / GROUP * GROUP;
                    for i in (0..grouped).step_by(GROUP) {
                        let q = std::array::from_fn(|g| query(i + g));
                        let l = attend_group(q, keys, values, width, i + 1, c.scale(), scores, rows_out);
                        for (g, o) in rows_out.chunks_exact(d).enumerate() {
                            put(i + g, o, l[g]);
                        }
                    }
                    for i in grouped..n {
                        let o = &mut rows_out[..d];
                        let l = attend(query(i), keys, values, width, i + 1, c.scale(), scores, o);
                        put(i, o, l);
                    }
                }
            });
        });
    }

    fn ptx(&self, args: AttentionForwardArgs<'_>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        self.launch(&args, on)
    }
}

impl AttentionForward {
    fn check_args<T>(&self, args: &AttentionForwardArgs<'_, T>) -> Result<(), ArgError> {
        let AttentionForward { rows, heads, kv_heads, head_dim } = *self;
        let c = Columns { heads, kv_heads, head_dim };
        expect_len(Self::NAME, "qkv", args.qkv.len(), rows * c.width())?;
        expect_len(Self::NAME, "out", args.out.len(), rows * heads * head_dim)?;
        expect_len(Self::NAME, "lse", args.lse.len(), rows * heads)?;
        check_shape(Self::NAME, c, rows, args.starts)
    }

    fn launch<T: Float>(
        &self,
        args: &AttentionForwardArgs<'_, T>,
        on: &mut dyn Launcher,
    ) -> Result<(), LaunchError> {
        let AttentionForward { rows, heads, kv_heads, head_dim: d } = *self;
        let (c, sequences) = (Columns { heads, kv_heads, head_dim: d }, args.starts.len().saturating_sub(1));
        if rows == 0 || sequences == 0 {
            return Ok(());
        }
        let (tiles, bytes) = (rows / TILE + sequences, size_of::<T>());
        let (module, sizes) =
            if bytes == 4 { (&ptx::FORWARD, F32_SIZES) } else { (&ptx::MMA_FORWARD, MMA_SIZES) };
        let dp = padded(Self::NAME, d, sizes)?;
        let (qkv, out) = (args.qkv.device(), args.out.device());
        let launch = Launch::new(module, format_args!("attention_forward_{}_{dp}", T::NAME))
            .grid(tiles, heads, 1)
            .block(128)
            .shared(tile_bytes(dp, bytes));
        let launch = launch.arg(qkv).arg(args.starts.device()).arg(out).arg(args.lse.device());
        let launch = if bytes == 4 { launch } else { launch.arg(total(on, tiles * heads, dp, rows)?) };
        let launch = launch.dim(sequences).dim(rows).dim(heads / kv_heads).dim(d);
        on.launch(launch.arg(wide(d, bytes, &[qkv, out])).arg(scale2(c)))
    }
}

/// Shared memory of a tile of queries: in f32 queries, keys, values and probabilities; in 16 bits keys and values.
pub(crate) fn tile_bytes(dp: usize, bytes: usize) -> usize {
    2 * TILE * stride(dp, bytes) + if bytes == 4 { TILE * 160 } else { 0 }
}

typed!(
    /// [`AttentionForward`] over 16-bit elements; sums and the log-sum-exp are f32.
    AttentionForwardOf,
    AttentionForward
);

impl<T: Half> Kernel for AttentionForwardOf<T> {
    type Args<'a> = AttentionForwardArgs<'a, T>;
    const NAME: &'static str = "attention_forward";

    fn check(&self, args: &AttentionForwardArgs<'_, T>) -> Result<(), ArgError> {
        self.kernel.check_args(args)
    }

    fn cost(&self) -> Cost {
        let (c, lse) = (self.kernel.cost(), 4 * (self.kernel.rows * self.kernel.heads) as u64);
        Cost { bytes_read: c.bytes_read / 2, bytes_written: (c.bytes_written - lse) / 2 + lse, ..c }
    }

    fn cpu(&self, args: AttentionForwardArgs<'_, T>) {
        let out = args.out.host();
        let (qkv, mut o) = (widen(args.qkv.host()), vec![0.0; out.len()]);
        let (starts, lse) = (args.starts, args.lse);
        self.kernel.cpu(AttentionForwardArgs { qkv: (&qkv).into(), starts, out: (&mut o).into(), lse });
        narrow(&o, out);
    }

    fn ptx(&self, args: AttentionForwardArgs<'_, T>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        self.kernel.launch(&args, on)
    }
}
