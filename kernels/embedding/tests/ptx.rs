//! Embeddings and dropout in PTX on the VM: the CPU twin's bits, strict and adversarial; counted and static bars.

use embedding::*;
use kernel_abi::{Cost, Float, Kernel, Launch, Launcher, bf16, f16, narrow, widen};
use kernel_test::{Counters, Gpu, compare::*, every_way, ptxas};
use proptest::prelude::*;

fn of<T: Float>(n: usize, seed: u32) -> Vec<T> {
    let mut out = vec![T::from_f32(0.0); n];
    narrow(&values(n, seed), &mut out);
    out
}

fn tokens(rows: usize, vocab: usize) -> Vec<u32> {
    (0..rows).map(|i| if i % 4 == 3 { 0 } else { (i * i * 7919 / 3 % vocab) as u32 }).collect()
}

fn forward<T: Float, K>(gpu: &mut Gpu, shape: EmbeddingForward, kernel: K, skip: usize)
where
    K: for<'a> Kernel<Args<'a> = EmbeddingForwardArgs<'a, T>>,
{
    let (table, ids) = (of::<T>(shape.vocab * shape.cols + skip, 1), tokens(shape.rows, shape.vocab));
    let mut y = of::<T>(shape.rows * shape.cols + skip, 2);
    let (gt, gi, mut gy) = (gpu.upload(&table), gpu.upload(&ids), gpu.upload(&y));
    let args = EmbeddingForwardArgs { table: gt.arg().skip(skip), ids: gi.arg(), y: gy.arg_mut().skip(skip) };
    gpu.run(&kernel, args);
    let (table, y_from) = (table[skip..].into(), (&mut y[skip..]).into());
    kernel.cpu(EmbeddingForwardArgs { table, ids: (&ids).into(), y: y_from });
    assert_eq!(widen(&gy.to_vec()), widen(&y), "{shape:?} {}", T::NAME);
}

fn backward<T: Float, K>(gpu: &mut Gpu, shape: EmbeddingBackward, kernel: K, skip: usize)
where
    K: for<'a> Kernel<Args<'a> = EmbeddingBackwardArgs<'a, T>>,
{
    let (dy, ids) = (of::<T>(shape.rows * shape.cols + skip, 3), tokens(shape.rows, shape.vocab));
    let mut dtable = of::<T>(shape.vocab * shape.cols + skip, 4);
    let (gdy, gi, mut gd) = (gpu.upload(&dy), gpu.upload(&ids), gpu.upload(&dtable));
    let args =
        EmbeddingBackwardArgs { dy: gdy.arg().skip(skip), ids: gi.arg(), dtable: gd.arg_mut().skip(skip) };
    gpu.run(&kernel, args);
    let (dy, to) = (dy[skip..].into(), (&mut dtable[skip..]).into());
    kernel.cpu(EmbeddingBackwardArgs { dy, ids: (&ids).into(), dtable: to });
    assert_eq!(widen(&gd.to_vec()), widen(&dtable), "{shape:?} {}", T::NAME);
}

/// Forward, with and without the sum, and backward, in all types.
fn lookups(gpu: &mut Gpu, rows: usize, cols: usize, vocab: usize, skip: usize) {
    for accumulate in [false, true] {
        let shape = EmbeddingForward { rows, cols, vocab, accumulate };
        forward(gpu, shape, shape, skip);
        forward(gpu, shape, shape.of::<f16>(), skip);
        forward(gpu, shape, shape.of::<bf16>(), skip);
    }
    let shape = EmbeddingBackward { rows, cols, vocab };
    backward(gpu, shape, shape, skip);
    backward(gpu, shape, shape.of::<f16>(), skip);
    backward(gpu, shape, shape.of::<bf16>(), skip);
}

fn dropout<T: Float, K>(gpu: &mut Gpu, shape: Dropout, kernel: K, skip: usize)
where
    K: for<'a> Kernel<Args<'a> = DropoutArgs<'a, T>>,
{
    let (x, mut y) = (of::<T>(shape.len + skip, 5), of::<T>(shape.len + skip, 6));
    let (gx, mut gy) = (gpu.upload(&x), gpu.upload(&y));
    gpu.run(&kernel, DropoutArgs { x: gx.arg().skip(skip), y: gy.arg_mut().skip(skip) });
    kernel.cpu(DropoutArgs { x: x[skip..].into(), y: (&mut y[skip..]).into() });
    assert_eq!(widen(&gy.to_vec()), widen(&y), "{shape:?} {}", T::NAME);
}

fn dropouts(gpu: &mut Gpu, shape: Dropout, skip: usize) {
    dropout(gpu, shape, shape, skip);
    dropout(gpu, shape, shape.of::<f16>(), skip);
    dropout(gpu, shape, shape.of::<bf16>(), skip);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn lookups_and_gradients_are_the_twin_s_bits(
        rows in 0usize..70, cols in 0usize..300, vocab in 1usize..90, skip in 0usize..9,
    ) {
        let gpu = &mut Gpu::new();
        lookups(gpu, rows, cols, vocab, skip);
        lookups(gpu, rows, cols.next_multiple_of(8), vocab, skip & 8);
    }

    #[test]
    fn masks_are_the_twin_s_bits(len in 0usize..6000, p in 0.0f32..1.0, seed: u64, skip in 0usize..5) {
        dropouts(&mut Gpu::new(), Dropout { len, p, seed }, skip);
    }
}

#[test]
fn embeddings_under_an_adversary() {
    every_way(|gpu| {
        lookups(gpu, 70, 264, 300, 0);
        lookups(gpu, 5, 37, 3, 1);
        dropouts(gpu, Dropout { len: 3001, p: 0.3, seed: 9 }, 0);
        dropouts(gpu, Dropout { len: 301, p: 0.3, seed: 9 }, 1);
    });
}

#[test]
fn a_token_past_the_end_reads_nothing() {
    let gpu = &mut Gpu::new();
    let ids = [1u32, 3, u32::MAX, 0];
    for (cols, accumulate) in [(5, false), (8, false), (5, true), (8, true)] {
        let (table, y) = (values(3 * cols, 1), vec![1.0f32; 4 * cols]);
        let (gt, gi, mut gy) = (gpu.upload(&table), gpu.upload(&ids), gpu.upload(&y));
        let kernel = EmbeddingForward { rows: 4, cols, vocab: 3, accumulate };
        gpu.run(&kernel, EmbeddingForwardArgs { table: gt.arg(), ids: gi.arg(), y: gy.arg_mut() });
        let y = gy.to_vec();
        assert!(y[cols..3 * cols].iter().all(|y| y.is_nan()));
        let before = if accumulate { 1.0 } else { 0.0 };
        assert!(y[3 * cols..].iter().zip(&table).all(|(y, t)| *y == before + t));
    }
}

/// Very wide rows have more tiles than a grid has blocks in y: here, a grid of one.
#[test]
fn a_grid_that_is_too_small_strides_over_the_tiles() {
    let gpu = &mut Gpu::new();
    let (rows, cols, vocab) = (5usize, 1100usize, 3usize);
    let (table, ids) = (values(vocab * cols, 1), [2u32, 0, 2, 1, 2]);
    let (gt, gi) = (gpu.upload(&table), gpu.upload(&ids));
    for entry in ["embedding_add_f32_v4", "embedding_add_f32_v1"] {
        let mut y = gpu.upload(&vec![1.0f32; rows * cols]);
        let launch = Launch::new(&ptx::EMBEDDING, format_args!("{entry}")).grid(2, 1, 1).block(128);
        let launch = launch.arg(gt.arg().device()).arg(gi.arg().device()).arg(y.arg_mut().device());
        gpu.launch(launch.dim(vocab).dim(rows).dim(cols)).unwrap();
        let want = ids.iter().flat_map(|i| table[*i as usize * cols..][..cols].iter().map(|t| 1.0 + t));
        assert!(y.to_vec().into_iter().eq(want), "{entry}");
    }
}

/// Sectors moved over the least bytes; the accesses are whole sectors.
fn over_the_least(what: &str, c: &Counters, least: Cost) -> f64 {
    let (l, s) = (&c.global_loads, &c.global_stores);
    assert_eq!((l.efficiency(), s.efficiency()), (1.0, 1.0), "{what}");
    let over = 32.0 * (l.sectors + s.sectors) as f64 / (least.bytes_read + least.bytes_written) as f64;
    println!("{what:<24} bytes / least {over:.4}, {} warp instructions", c.total_instructions());
    over
}

#[test]
fn moves_no_byte_twice() {
    let gpu = &mut Gpu::new();
    let (rows, cols, vocab) = (96, 1024, 128);
    let ids: Vec<u32> = (0..rows as u32).collect();
    let (table, gi) = (gpu.upload(&values(vocab * cols, 1)), gpu.upload(&ids));
    let (mut y, mut dtable) = (gpu.upload(&values(rows * cols, 2)), gpu.upload(&vec![0.0f32; vocab * cols]));
    for (what, accumulate) in [("embedding", false), ("embedding +=", true)] {
        let kernel = EmbeddingForward { rows, cols, vocab, accumulate };
        let args = EmbeddingForwardArgs { table: table.arg(), ids: gi.arg(), y: y.arg_mut() };
        let c = gpu.run(&kernel, args);
        assert!(over_the_least(what, &c, kernel.cost()) <= 1.05);
    }
    let kernel = EmbeddingBackward { rows, cols, vocab };
    let args = EmbeddingBackwardArgs { dy: y.arg(), ids: gi.arg(), dtable: dtable.arg_mut() };
    let c = gpu.run(&kernel, args);
    assert!(over_the_least("embedding backward", &c, kernel.cost()) <= 1.05);
    let len = 1 << 15;
    let (x, mut y) = (gpu.upload(&values(len, 1)), gpu.alloc::<f32>(len));
    let kernel = Dropout { len, p: 0.1, seed: 1 };
    let c = gpu.run(&kernel, DropoutArgs { x: x.arg(), y: y.arg_mut() });
    assert_eq!(over_the_least("dropout", &c, kernel.cost()), 1.0);
}

#[test]
fn assembles_without_spills() {
    ptxas::check(ptx::ALL);
}
