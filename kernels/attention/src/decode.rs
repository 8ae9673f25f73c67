//! Attention over a key-value cache that the rows are appended to: prefill and decode in one kernel.
//!
//! Keys lie in the blocks that the inner product wants, values as rows, per slot and head; nothing is
//! repacked when a token is added. The PTX keeps keys as rows too: a cache belongs to the device that fills it. One task per (slot of this batch, key/value head).

use crate::{
    forward::{Columns, tile_bytes},
    inner::{LANES, attend, blocks_len, put, with_scratch},
    launch::{F32_SIZES, MMA_SIZES, SPAN, TILE, padded, scale2, stride, total, wide},
    ptx,
};
use kernel_abi::{
    ArgError, Cost, DevicePtr, Float, Half, In, Kernel, Launch, LaunchError, Launcher, Out, expect_len,
    narrow, typed, widen,
};

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
pub struct AttentionExtendArgs<'a, T = f32> {
    /// `[rows, (heads + 2 kv_heads) head_dim]`, rotated.
    pub qkv: In<'a, T>,
    /// `[rows]` slot of each row; a slot's rows are consecutive.
    pub slot: In<'a, u32>,
    /// `[rows]` position of each row in its slot; ascending within a slot.
    pub position: In<'a, u32>,
    /// Keys, `cache_len` elements.
    pub k_cache: Out<'a, T>,
    /// Values, `cache_len` elements.
    pub v_cache: Out<'a, T>,
    /// `[rows, heads head_dim]`.
    pub out: Out<'a, T>,
}

impl Kernel for AttentionExtend {
    type Args<'a> = AttentionExtendArgs<'a>;
    const NAME: &'static str = "attention_extend";

    fn check(&self, args: &AttentionExtendArgs<'_>) -> Result<(), ArgError> {
        self.check_args(args)
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
            ..Cost::default()
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

    fn ptx(&self, args: AttentionExtendArgs<'_>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        self.launches(&args, on)
    }
}

impl AttentionExtend {
    fn check_args<T>(&self, args: &AttentionExtendArgs<'_, T>) -> Result<(), ArgError> {
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

    fn launches<T: Float>(
        &self,
        args: &AttentionExtendArgs<'_, T>,
        on: &mut dyn Launcher,
    ) -> Result<(), LaunchError> {
        if self.rows == 0 {
            return Ok(());
        }
        on.launch(self.append(args))?;
        // More rows than slots: some slot gets several, which share its keys as a tile.
        if self.rows > self.slots { self.tiles(args, on) } else { self.single_rows(args, on) }
    }

    /// Positions that a head of a slot has room for.
    fn room(&self) -> usize {
        self.capacity.next_multiple_of(LANES)
    }

    fn columns(&self) -> Columns {
        Columns { heads: self.heads, kv_heads: self.kv_heads, head_dim: self.head_dim }
    }

    /// The launch that copies keys and values to the cache.
    fn append<T>(&self, args: &AttentionExtendArgs<'_, T>) -> Launch {
        let AttentionExtend { rows, heads, kv_heads, head_dim: d, slots, capacity } = *self;
        let (qkv, k, v, bytes) =
            (args.qkv.device(), args.k_cache.device(), args.v_cache.device(), size_of::<T>());
        let unit = if wide(d, bytes, &[qkv, k, v]) == 1 { 16 } else { bytes };
        let (width, dim) = ((heads + 2 * kv_heads) * d * bytes / unit, d * bytes / unit);
        let launch = Launch::new(&ptx::APPEND, format_args!("append_{unit}"))
            .grid((2 * kv_heads * dim).div_ceil(128), rows.min(65535), 1)
            .block(128);
        let launch = launch.arg(qkv).arg(args.slot.device()).arg(args.position.device()).arg(k).arg(v);
        let launch = launch.dim(rows).dim(width).dim(heads * dim).dim(kv_heads).dim(dim);
        launch.dim(slots).dim(capacity).dim(self.room())
    }

    /// Attention by tiles of rows that continue a slot.
    fn tiles<T: Float>(
        &self,
        args: &AttentionExtendArgs<'_, T>,
        on: &mut dyn Launcher,
    ) -> Result<(), LaunchError> {
        let AttentionExtend { rows, heads, kv_heads, head_dim: d, slots, capacity } = *self;
        let (windows, bytes) = (rows.div_ceil(TILE), size_of::<T>());
        let (module, sizes) =
            if bytes == 4 { (&ptx::FORWARD, F32_SIZES) } else { (&ptx::MMA_FORWARD, MMA_SIZES) };
        let dp = padded(Self::NAME, d, sizes)?;
        let (qkv, k, v) = (args.qkv.device(), args.k_cache.device(), args.v_cache.device());
        let out = args.out.device();
        let launch = Launch::new(module, format_args!("attention_extend_{}_{dp}", T::NAME))
            .grid(windows, heads, 1)
            .block(128)
            .shared(tile_bytes(dp, bytes));
        let launch =
            launch.arg(qkv).arg(args.slot.device()).arg(args.position.device()).arg(k).arg(v).arg(out);
        let launch = if bytes == 4 { launch } else { launch.arg(total(on, windows * heads, dp, capacity)?) };
        let launch = launch.dim(slots).dim(capacity).dim(self.room()).dim(rows).dim(heads / kv_heads).dim(d);
        on.launch(launch.arg(wide(d, bytes, &[qkv, k, v, out])).arg(scale2(self.columns())))
    }

    /// Attention row by row, long contexts in spans side by side.
    fn single_rows<T: Float>(
        &self,
        args: &AttentionExtendArgs<'_, T>,
        on: &mut dyn Launcher,
    ) -> Result<(), LaunchError> {
        let AttentionExtend { rows, heads, kv_heads, head_dim: d, slots, capacity } = *self;
        let (group, spans, bytes) = (heads / kv_heads, capacity.div_ceil(SPAN), size_of::<T>());
        let (qkv, k, v) = (args.qkv.device(), args.k_cache.device(), args.v_cache.device());
        let (out, slot, position) = (args.out.device(), args.slot.device(), args.position.device());
        let f32s = bytes == 4;
        let dp = padded(Self::NAME, d, if f32s { &[32, 64, 128] } else { MMA_SIZES })?;
        // Query heads of a block, floats of a partial result, bytes of shared memory.
        let (g, size, shared) = match (f32s, group) {
            (true, 1) => (1, d.next_multiple_of(8) + 8, f32_decode_bytes(1, dp)),
            (true, _) => (4, d.next_multiple_of(8) + 8, f32_decode_bytes(4, dp)),
            (false, _) => (16, dp + 8, 272 * stride(dp, 2) + 16 * 144 + 256 + 1024),
        };
        let partial = match spans {
            1 => DevicePtr::NULL,
            _ => on.workspace(4 * spans * rows * heads * size)?,
        };
        let launch = if f32s {
            Launch::new(&ptx::DECODE, format_args!("attention_decode_f32_{g}_{dp}"))
        } else {
            Launch::new(&ptx::MMA_DECODE, format_args!("attention_decode_{}_{dp}", T::NAME))
        };
        let launch = launch.grid(rows, kv_heads * group.div_ceil(g), spans).block(128).shared(shared);
        let launch = launch.arg(qkv).arg(slot).arg(position).arg(k).arg(v).arg(out).arg(partial).dim(heads);
        let launch = launch.dim(group).dim(d).dim(slots).dim(capacity).dim(self.room());
        on.launch(launch.arg(wide(d, bytes, &[qkv, k, v, out])).arg(scale2(self.columns())))?;
        if spans == 1 {
            return Ok(());
        }
        let launch = Launch::new(&ptx::MERGE, format_args!("attention_merge_{}", T::NAME));
        let launch = launch.grid(rows * heads, 1, 1).block(128).arg(slot).arg(position).arg(partial).arg(out);
        on.launch(launch.dim(rows).dim(heads).dim(d).dim(size).dim(slots).dim(capacity))
    }
}

/// Shared memory of `decode.ptx`: two stages a warp, then queries, p, maxima and sums of `g` heads.
fn f32_decode_bytes(g: usize, dp: usize) -> usize {
    8 * 32 * 36 * 4 + g * (dp * 4 + 512 + 32)
}

typed!(
    /// [`AttentionExtend`] over a 16-bit cache; sums are f32.
    AttentionExtendOf,
    AttentionExtend
);

impl<T: Half> Kernel for AttentionExtendOf<T> {
    type Args<'a> = AttentionExtendArgs<'a, T>;
    const NAME: &'static str = "attention_extend";

    fn check(&self, args: &AttentionExtendArgs<'_, T>) -> Result<(), ArgError> {
        self.kernel.check_args(args)
    }

    fn cost(&self) -> Cost {
        let c = self.kernel.cost();
        Cost { bytes_read: c.bytes_read / 2, bytes_written: c.bytes_written / 2, ..c }
    }

    fn cpu(&self, args: AttentionExtendArgs<'_, T>) {
        let (k, v, out) = (args.k_cache.host(), args.v_cache.host(), args.out.host());
        let (qkv, mut keys, mut values, mut o) =
            (widen(args.qkv.host()), widen(k), widen(v), vec![0.0; out.len()]);
        self.kernel.cpu(AttentionExtendArgs {
            qkv: (&qkv).into(),
            slot: args.slot,
            position: args.position,
            k_cache: (&mut keys).into(),
            v_cache: (&mut values).into(),
            out: (&mut o).into(),
        });
        narrow(&keys, k);
        narrow(&values, v);
        narrow(&o, out);
    }

    fn ptx(&self, args: AttentionExtendArgs<'_, T>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        self.kernel.launches(&args, on)
    }
}
