//! What the PTX does, counted on the VM at aligned shapes: traffic, sectors, bank conflicts, matrix instructions.

mod common;

use attention::*;
use common::*;
use kernel_abi::{Float, In, Kernel, Out, bf16, f16, narrow};
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

    /// Bytes that the tiles' algorithm reads: tiles of `tile` queries read themselves and, 'pass' at a time, the keys and
    /// values up to their last row; each element once.
    fn forward_reads(&self, pass: usize) -> u64 {
        let (d, heads) = (self.s.d, self.s.heads);
        let keys: usize = (0..self.rows).step_by(64).map(|q| (q + 64).next_multiple_of(pass)).sum();
        (heads * (self.rows + 2 * keys) * d * size_of::<T>()) as u64
    }
}

fn report(what: &str, c: &Counters, least: u64) {
    let (l, s) = (&c.global_loads, &c.global_stores);
    println!(
        "{what:<26}{:>10}{:>8.3}{:>8.3}{:>8.3}{:>10}{:>9}{:>10}{:>8.3}{:>8.2}",
        l.bytes,
        l.bytes as f64 / least as f64,
        l.efficiency(),
        s.efficiency(),
        c.shared_loads.wavefronts + c.shared_stores.wavefronts,
        c.shared_loads.conflicts + c.shared_stores.conflicts,
        c.total_instructions(),
        c.mma_share(),
        c.mma_macs as f64 / 2048.0 / c.total_instructions() as f64,
    );
}

fn heading() {
    println!(
        "{:<26}{:>10}{:>8}{:>8}{:>8}{:>10}{:>9}{:>10}{:>8}{:>8}",
        "kernel", "read", "/plan", "ld eff", "st eff", "smem pass", "conflict", "instr", "mma lp", "mma all"
    );
}

fn training<T: Float, F, B>(forward: impl Fn(&Shape, usize) -> F, backward: impl Fn(&Shape, usize) -> B)
where
    F: for<'a> Kernel<Args<'a> = AttentionForwardArgs<'a, T>>,
    B: for<'a> Kernel<Args<'a> = AttentionBackwardArgs<'a, T>>,
{
    let mut gpu = Gpu::new();
    for d in [64, 96, 128] {
        let (s, rows) = (Shape { heads: 2, kv: 2, d }, if size_of::<T>() == 4 { 256 } else { 512 });
        let mut case = Case::<T>::new(&gpu, s, rows);
        let pass = if size_of::<T>() == 4 { 32 } else { 64 };
        let c = gpu.run(&forward(&s, rows), case.forward());
        report(&format!("forward {} {d}", T::NAME), &c, case.forward_reads(pass));
        let c = gpu.run(&backward(&s, rows), case.backward());
        report(&format!("backward {} {d}", T::NAME), &c, case.forward_reads(pass));
    }
}

#[test]
fn table() {
    heading();
    training::<f32, _, _>(|s, n| s.forward(n), |s, n| s.backward(n));
    training::<f16, _, _>(|s, n| s.forward(n).of::<f16>(), |s, n| s.backward(n).of::<f16>());
}
