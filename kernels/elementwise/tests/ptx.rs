//! The PTX on the VM: against the CPU twin and f64, strict and adversarial; counted and static bars.

use elementwise::*;
use kernel_abi::{Half, Kernel, bf16, f16, narrow, widen};
use kernel_test::{Gpu, compare::*, every_way, ptxas};
use proptest::prelude::*;

fn add<T: Half>(gpu: &mut Gpu, len: usize, skip: usize) {
    let (mut x, mut y) = (vec![T::from_f32(0.0); len + skip], vec![T::from_f32(0.0); len + skip]);
    narrow(&values(len + skip, 1), &mut x);
    narrow(&values(len + skip, 2), &mut y);
    let kernel = Add { len }.of::<T>();
    let (gx, mut gy) = (gpu.upload(&x), gpu.upload(&y));
    gpu.run(&kernel, AddArgs { x: gx.arg().skip(skip), y: gy.arg_mut().skip(skip) });
    kernel.cpu(AddArgs { x: x[skip..].into(), y: (&mut y[skip..]).into() });
    assert_eq!(widen(&gy.to_vec()), widen(&y), "{} elements of {}", len, T::NAME);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn sums_equal_the_twin_s_bits(len in 0usize..5000, skip in 0usize..9) {
        let mut gpu = Gpu::new();
        add::<f16>(&mut gpu, len, skip);
        add::<bf16>(&mut gpu, len, skip);
    }
}

#[test]
fn sums_under_an_adversary() {
    every_way(|gpu| {
        let (x, y) = (values(1003, 1), values(1003, 2));
        let (gx, mut gy) = (gpu.upload(&x), gpu.upload(&y));
        gpu.run(&Add { len: 1003 }, AddArgs { x: gx.arg(), y: gy.arg_mut() });
        let want: Vec<f32> = x.iter().zip(&y).map(|(x, y)| y + x).collect();
        assert_eq!(gy.to_vec(), want);
    });
}

/// Sectors moved over the least bytes, and a line of the table in docs/kernels/elementwise.md.
fn counted<K: Kernel>(gpu: &mut Gpu, what: &str, kernel: &K, args: K::Args<'_>) -> f64 {
    let (c, least) = (gpu.run(kernel, args), kernel.cost());
    let (l, s) = (&c.global_loads, &c.global_stores);
    let over = 32.0 * (l.sectors + s.sectors) as f64 / (least.bytes_read + least.bytes_written) as f64;
    println!(
        "{what:<28} launches {}  bytes / least {over:.4}  sectors {:.3} {:.3}  warp instructions a KiB {:.1}",
        gpu.launches.len(),
        l.efficiency(),
        s.efficiency(),
        c.total_instructions() as f64 * 1024.0 / (least.bytes_read + least.bytes_written) as f64,
    );
    assert_eq!((l.efficiency(), s.efficiency()), (1.0, 1.0), "{what}");
    over
}

#[test]
fn moves_no_byte_twice() {
    let gpu = &mut Gpu::new();
    let (rows, cols) = (128, 1024);
    let len = rows * cols;
    let (x, mut y) = (gpu.upload(&values(len, 1)), gpu.upload(&values(len, 2)));
    let (x16, mut y16) = (gpu.upload(&vec![f16::ONE; len]), gpu.upload(&vec![f16::ONE; len]));
    let mut sums = gpu.upload(&values(cols, 3));
    let index = gpu.upload(&(0..rows as u32).rev().collect::<Vec<_>>());
    let mut all = Vec::new();
    all.push(counted(gpu, "add", &Add { len }, AddArgs { x: x.arg(), y: y.arg_mut() }));
    all.push(counted(gpu, "add f16", &Add { len }.of(), AddArgs { x: x16.arg(), y: y16.arg_mut() }));
    let sum = ColumnSum { rows, cols };
    all.push(counted(gpu, "column sum", &sum, ColumnSumArgs { x: x.arg(), y: sums.arg_mut() }));
    let args = ColumnSumArgs { x: x16.arg(), y: sums.arg_mut() };
    all.push(counted(gpu, "column sum f16", &sum.of(), args));
    let narrow = ColumnSum { rows: len / 128, cols: 128 };
    let args = ColumnSumArgs { x: x.arg(), y: sums.arg_mut().skip(cols - 128) };
    all.push(counted(gpu, "column sum, two stages", &narrow, args));
    let gather = GatherRows { rows, picked: rows, cols };
    let args = GatherRowsArgs { x: x.arg(), index: index.arg(), y: y.arg_mut() };
    all.push(counted(gpu, "gather", &gather, args));
    let args = GatherRowsArgs { x: x16.arg(), index: index.arg(), y: y16.arg_mut() };
    all.push(counted(gpu, "gather f16", &gather.of(), args));
    let scatter = ScatterAddRows { rows, picked: rows, cols };
    let args = ScatterAddRowsArgs { dy: x.arg(), index: index.arg(), dx: y.arg_mut() };
    all.push(counted(gpu, "scatter-add", &scatter, args));
    let args = ScatterAddRowsArgs { dy: x16.arg(), index: index.arg(), dx: y16.arg_mut() };
    all.push(counted(gpu, "scatter-add f16", &scatter.of(), args));
    let args = CastArgs { x: x.arg(), y: y16.arg_mut() };
    all.push(counted(gpu, "cast f32 to f16", &Cast::<f32, f16>::new(len), args));
    let args = CastArgs { x: x16.arg(), y: y.arg_mut() };
    all.push(counted(gpu, "cast f16 to f32", &Cast::<f16, f32>::new(len), args));
    for (what, reduction) in [("row sum", Reduction::Sum), ("row max", Reduction::Max)] {
        let reduce = Reduce { rows, cols, reduction };
        let args = ReduceArgs { x: x.arg(), y: sums.arg_mut().skip(cols - rows) };
        all.push(counted(gpu, what, &reduce, args));
    }
    let reduce = Reduce { rows: 1, cols: len, reduction: Reduction::Mean };
    let args = ReduceArgs { x: x16.arg(), y: sums.arg_mut().skip(cols - 1) };
    all.push(counted(gpu, "mean of all, f16", &reduce.of(), args));
    assert!(all.iter().all(|over| *over <= 1.05), "{all:?}");
}

#[test]
fn assembles_without_spills() {
    ptxas::check(ptx::ALL);
}
