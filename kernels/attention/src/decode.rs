//! Attention over a key-value cache that the rows are appended to: prefill and decode in one kernel.
//!
//! Keys lie in the blocks that the inner product wants, values as rows, per slot and head; nothing is
//! repacked when a token is added. One task per (slot of this batch, key/value head).

use crate::{
    forward::Columns,
    inner::{LANES, attend, blocks_len, put, with_scratch},
};
use kernel_abi::{ArgError, Cost, In, Kernel, Out, expect_len};

/// Elements of the key cache, and of the value cache.
pub fn cache_len(slots: usize, capacity: usize, kv_heads: usize, head_dim: usize) -> usize {
    slots * kv_heads * blocks_len(capacity, head_dim)
}

/// Appends rows to the cache and attends each to its slot's positions 0..=position.
#[derive(Debug, Clone, Copy)]
pub struct AttentionExtend {
    /// Rows in this call.
    pub rows: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Elements per head.
    pub head_dim: usize,
    /// Slots of the cache.
    pub slots: usize,
    /// Positions per slot.
    pub capacity: usize,
}

/// Arguments of [`AttentionExtend`].
pub struct AttentionExtendArgs<'a> {
    /// `[rows, (heads + 2 kv_heads) head_dim]`, rotated.
    pub qkv: In<'a>,
    /// `[rows]` slot of each row; a slot's rows are consecutive.
    pub slot: In<'a, u32>,
    /// `[rows]` position of each row in its slot; ascending within a slot.
    pub position: In<'a, u32>,
    /// Keys, `cache_len` elements.
    pub k_cache: Out<'a>,
    /// Values, `cache_len` elements.
    pub v_cache: Out<'a>,
    /// `[rows, heads head_dim]`.
    pub out: Out<'a>,
}

impl Kernel for AttentionExtend {
    type Args<'a> = AttentionExtendArgs<'a>;
    const NAME: &'static str = "attention_extend";

    fn check(&self, args: &AttentionExtendArgs<'_>) -> Result<(), ArgError> {
        let AttentionExtend { rows, heads, kv_heads, head_dim, slots, capacity } = *self;
        let c = Columns { heads, kv_heads, head_dim };
        let cache = cache_len(slots, capacity, kv_heads, head_dim);
        expect_len(Self::NAME, "qkv", args.qkv.len(), rows * c.width())?;
        expect_len(Self::NAME, "slot", args.slot.len(), rows)?;
        expect_len(Self::NAME, "position", args.position.len(), rows)?;
        expect_len(Self::NAME, "k_cache", args.k_cache.len(), cache)?;
        expect_len(Self::NAME, "v_cache", args.v_cache.len(), cache)?;
        expect_len(Self::NAME, "out", args.out.len(), rows * heads * head_dim)?;
        if let (In::Host(slot), In::Host(position)) = (args.slot, args.position) {
            let bad = |arg, problem| Err(ArgError { kernel: Self::NAME, arg, problem });
            if let Some(s) = slot.iter().find(|s| **s as usize >= slots) {
                return bad("slot", format!("slot {s} of {slots}"));
            }
            if let Some(p) = position.iter().find(|p| **p as usize >= capacity) {
                return bad("position", format!("position {p}, the cache holds {capacity}"));
            }
        }
        Ok(())
    }

    /// Without the positions, a full cache is assumed: an upper bound.
    fn cost(&self) -> Cost {
        let (t, h, d, cap) =
            (self.rows as u64, self.heads as u64, self.head_dim as u64, self.capacity as u64);
        let cache = cap * self.kv_heads as u64 * d * self.rows.min(self.slots) as u64;
        Cost {
            bytes_read: 4 * (t * h * d + 2 * cache),
            bytes_written: 4 * t * (h + 2 * self.kv_heads as u64) * d,
            flops: 4 * t * cap * h * d,
            int8_ops: 0,
        }
    }

    fn cpu(&self, args: AttentionExtendArgs<'_>) {
        let AttentionExtend { rows, heads, kv_heads, head_dim: d, capacity, .. } = *self;
        let c = Columns { heads, kv_heads, head_dim: d };
        let (qkv, slot, position, width) =
            (args.qkv.host(), args.slot.host(), args.position.host(), c.width());
        let per_head = blocks_len(capacity, d);
        let (k, v) = (cpu::Shared::new(args.k_cache.host()), cpu::Shared::new(args.v_cache.host()));
        let out = cpu::Shared::new(args.out.host());
        // First row of each run of rows that share a slot.
        let runs = |r: usize| r == 0 || slot[r] != slot[r - 1];
        let longest = position.iter().max().map_or(0, |p| *p as usize + 1);
        let work = longest * d * (heads / kv_heads) / 8;
        cpu::par_for(rows * kv_heads, work, |task| {
            let (start, kv) = (task / kv_heads, task % kv_heads);
            if !runs(start) {
                return;
            }
            let base = (slot[start] as usize * kv_heads + kv) * per_head;
            // SAFETY: one task owns this slot's head: slots' runs are consecutive, so a slot starts once.
            let (keys, values) = unsafe { (k.slice(base, per_head), v.slice(base, per_head)) };
            with_scratch(capacity.next_multiple_of(LANES), |scores| {
                let run = (start..rows).take_while(|r| *r == start || !runs(*r));
                for row in run {
                    let p = position[row] as usize;
                    let fused = &qkv[row * width..][..width];
                    put(keys, p, &fused[c.k(kv)..][..d]);
                    values[p * d..(p + 1) * d].copy_from_slice(&fused[c.v(kv)..][..d]);
                    for head in c.group(kv) {
                        // SAFETY: this task alone writes this row's group of heads.
                        let o = unsafe { out.slice((row * heads + head) * d, d) };
                        attend(&fused[c.q(head)..][..d], keys, values, d, p + 1, c.scale(), scores, o);
                    }
                }
            });
        });
    }
}
