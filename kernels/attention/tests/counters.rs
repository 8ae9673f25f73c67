//! What the PTX does, counted on the VM at aligned shapes: traffic, sectors, bank conflicts, matrix instructions.

mod common;

use attention::*;
use common::*;
use kernel_abi::{Float, Kernel, bf16, f16, narrow};
use kernel_test::{Counters, Gpu, Vram, compare::values};

/// One sequence of `rows`, and what its kernels take.
struct Case<T> {
    s: Shape,
    rows: usize,
    qkv: Vram<T>,
    starts: Vram<u32>,
    out: Vram<T>,
    lse: Vram<f32>,
    dout: Vram<T>,
    dqkv: Vram<T>,
}

fn rounded<T: Float>(n: usize, seed: u32) -> Vec<T> {
    let mut to = vec![T::from_f32(0.0); n];
    narrow(&values(n, seed), &mut to);
    to
}

impl<T: Float> Case<T> {
    fn new(gpu: &Gpu, s: Shape, rows: usize) -> Self {
        Case {
            s,
            rows,
            qkv: gpu.upload(&rounded(rows * s.width(), 1)),
            starts: gpu.upload(&[0, rows as u32]),
            out: gpu.alloc(rows * s.heads * s.d),
            lse: gpu.alloc(rows * s.heads),
            dout: gpu.upload(&rounded(rows * s.heads * s.d, 2)),
            dqkv: gpu.alloc(rows * s.width()),
        }
    }

    fn forward(&mut self) -> AttentionForwardArgs<'_, T> {
        let (qkv, starts) = (self.qkv.arg(), self.starts.arg());
        AttentionForwardArgs { qkv, starts, out: self.out.arg_mut(), lse: self.lse.arg_mut() }
    }

    fn backward(&mut self) -> AttentionBackwardArgs<'_, T> {
        AttentionBackwardArgs {
            qkv: self.qkv.arg(),
            starts: self.starts.arg(),
            out: self.out.arg(),
            lse: self.lse.arg(),
            dout: self.dout.arg(),
            dqkv: self.dqkv.arg_mut(),
        }
    }

    /// Bytes of `rows` rows of one head.
    fn head(&self, rows: usize) -> usize {
        rows * self.s.d * size_of::<T>()
    }

    /// Rows up to the end of each tile, added over the tiles.
    fn triangle(&self, tile: usize) -> usize {
        (0..self.rows).step_by(tile).map(|first| first + tile).sum()
    }

    /// Bytes that the algorithm has to read: each tile of 64 queries once, and for it the keys and values up to its last
    /// row once.
    fn forward_plan(&self) -> usize {
        self.s.heads * (self.head(self.rows) + 2 * self.head(self.triangle(64)))
    }

    /// The same for dq (queries, dout, out and lse; keys and values) and dkv (keys and values; queries, dout and two
    /// statistics from the tile on, for each head).
    fn backward_plan(&self, tile: usize) -> usize {
        let Shape { heads, kv, .. } = self.s;
        let (rows, seen) = (self.rows, self.triangle(tile));
        let dq = heads * (3 * self.head(rows) + 4 * rows + 2 * self.head(seen));
        dq + kv * 2 * self.head(rows) + heads * (2 * self.head(seen) + 8 * seen)
    }
}

fn heading() {
    println!(
        "{:<26}{:>10}{:>8}{:>8}{:>8}{:>10}{:>9}{:>10}{:>10}{:>8}",
        "kernel", "read", "/plan", "ld eff", "st eff", "smem pass", "conflict", "instr", "mma", "mma lp"
    );
}

/// A row of the table, and the bars that hold for all. Traffic is in sectors of 32 bytes.
fn row(what: &str, c: &Counters, plan: usize, traffic: f64, stores: f64, share: f64) {
    let (l, s) = (&c.global_loads, &c.global_stores);
    let over = (32 * l.sectors) as f64 / plan as f64;
    println!(
        "{what:<26}{:>10}{over:>8.3}{:>8.3}{:>8.3}{:>10}{:>9}{:>10}{:>10}{:>8.3}",
        32 * l.sectors,
        l.efficiency(),
        s.efficiency(),
        c.shared_loads.wavefronts + c.shared_stores.wavefronts,
        c.shared_loads.conflicts + c.shared_stores.conflicts,
        c.total_instructions(),
        c.mma.values().sum::<u64>(),
        c.mma_share(),
    );
    assert_eq!(c.shared_loads.conflicts + c.shared_stores.conflicts, 0, "{what}: bank conflicts");
    assert!(over <= traffic, "{what}: read {over} times the plan");
    assert!(over >= 1.0, "{what}: the plan counts too much");
    assert!(l.efficiency() > 0.99, "{what}: loads {}", l.efficiency());
    assert!(s.efficiency() >= stores, "{what}: stores {}", s.efficiency());
    assert!(c.mma_share() >= share, "{what}: matrix instructions {}", c.mma_share());
    assert_eq!((c.shared_atomics, c.global_atomics.requests, c.local_bytes), (0, 0, 0), "{what}");
}

/// Forward and backward at head sizes, with the least share of matrix instructions in the main loops.
fn training<T: Float, F, B>(
    rows: usize,
    tile: impl Fn(usize) -> usize,
    shares: [(usize, f64, f64); 3],
    forward: impl Fn(AttentionForward) -> F,
    backward: impl Fn(AttentionBackward) -> B,
) where
    F: for<'a> Kernel<Args<'a> = AttentionForwardArgs<'a, T>>,
    B: for<'a> Kernel<Args<'a> = AttentionBackwardArgs<'a, T>>,
{
    let mut gpu = Gpu::new();
    for (d, ahead, back) in shares {
        let s = Shape { heads: 2, kv: 1, d };
        let mut case = Case::<T>::new(&gpu, s, rows);
        let c = gpu.run(&forward(s.forward(rows)), case.forward());
        assert_eq!(gpu.launches.len(), 1);
        // The log-sum-exp is [rows, heads]: a block writes every second number of it.
        row(&format!("forward {} {d}", T::NAME), &c, case.forward_plan(), 1.01, 0.96, ahead);
        let c = gpu.run(&backward(s.backward(rows)), case.backward());
        assert_eq!(gpu.launches.len(), 2);
        row(&format!("backward {} {d}", T::NAME), &c, case.backward_plan(tile(d)), 1.1, 1.0, back);
    }
}

/// The newest token of two sequences of `keys`, in a cache of as many.
fn decode<T: Float, E>(keys: usize, d: usize, extend: impl Fn(AttentionExtend) -> E)
where
    E: for<'a> Kernel<Args<'a> = AttentionExtendArgs<'a, T>>,
{
    let mut gpu = Gpu::new();
    let (s, rows) = (Shape { heads: 4, kv: 1, d }, 2);
    let len = cache_len(rows, keys, s.kv, d);
    let (mut k, mut v) = (gpu.upload(&rounded::<T>(len, 1)), gpu.upload(&rounded::<T>(len, 2)));
    let qkv = gpu.upload(&rounded::<T>(rows * s.width(), 3));
    let (slot, position) = (gpu.upload(&[0u32, 1]), gpu.upload(&[keys as u32 - 1; 2]));
    let mut out = gpu.alloc::<T>(rows * s.heads * d);
    let args = AttentionExtendArgs {
        qkv: qkv.arg(),
        slot: slot.arg(),
        position: position.arg(),
        k_cache: k.arg_mut(),
        v_cache: v.arg_mut(),
        out: out.arg_mut(),
    };
    let c = gpu.run(&extend(s.extend(rows, rows, keys)), args);
    assert_eq!(gpu.launches.len(), if keys <= 512 { 2 } else { 3 });
    // Partial results keep m and l in a sector of their own: stores below 1 with several spans.
    let plan = rows * (s.width() + 2 * keys * s.kv * d) * size_of::<T>();
    row(&format!("decode {} {d}, {keys} keys", T::NAME), &c, plan, 1.05, 0.95, 0.0);
}

#[test]
fn traffic_conflicts_and_matrix_instructions() {
    heading();
    let f32_tile = |d: usize| if d <= 64 { 64 } else { 32 };
    let none = [64, 96, 128].map(|d| (d, 0.0, 0.0));
    training::<f32, _, _>(128, f32_tile, none, |k| k, |k| k);
    let shares = [(64, 0.18, 0.27), (96, 0.23, 0.29), (128, 0.27, 0.33)];
    training::<f16, _, _>(512, |_| 64, shares, |k| k.of::<f16>(), |k| k.of::<f16>());
    decode::<f32, _>(512, 64, |k| k);
    decode::<f32, _>(1024, 128, |k| k);
    decode::<bf16, _>(512, 64, |k| k.of::<bf16>());
    decode::<bf16, _>(2048, 128, |k| k.of::<bf16>());
}

#[test]
fn prefill_writes_whole_sectors() {
    let mut gpu = Gpu::new();
    let (s, rows) = (Shape { heads: 2, kv: 1, d: 64 }, 128);
    let len = cache_len(1, rows, s.kv, s.d);
    let (mut k, mut v) = (gpu.alloc::<f16>(len), gpu.alloc::<f16>(len));
    let qkv = gpu.upload(&rounded::<f16>(rows * s.width(), 3));
    let (slot, position) = (gpu.upload(&vec![0u32; rows]), gpu.upload(&(0..rows as u32).collect::<Vec<_>>()));
    let mut out = gpu.alloc::<f16>(rows * s.heads * s.d);
    let args = AttentionExtendArgs {
        qkv: qkv.arg(),
        slot: slot.arg(),
        position: position.arg(),
        k_cache: k.arg_mut(),
        v_cache: v.arg_mut(),
        out: out.arg_mut(),
    };
    let c = gpu.run(&s.extend(rows, 1, rows).of::<f16>(), args);
    assert_eq!(c.global_stores.efficiency(), 1.0);
    assert_eq!(c.shared_loads.conflicts + c.shared_stores.conflicts, 0);
}

#[test]
fn rotary_moves_no_byte_twice() {
    let mut gpu = Gpu::new();
    let k =
        Rotary { rows: 64, heads: 8, kv_heads: 2, head_dim: 64, rotary_dim: 64, theta: 1e4, inverse: false };
    let mut qkv = gpu.upload(&values(64 * 12 * 64, 1));
    let positions = gpu.upload(&(0..64).collect::<Vec<u32>>());
    let c = gpu.run(&k, RotaryArgs { qkv: qkv.arg_mut(), positions: positions.arg() });
    let least = k.cost();
    assert!(c.global_loads.sectors * 32 <= least.bytes_read + 64 * 4 * 32);
    assert_eq!(c.global_stores.bytes, least.bytes_written);
    assert_eq!((c.global_stores.efficiency(), c.shared_loads.conflicts), (1.0, 0));
}
