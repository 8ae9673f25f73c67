//! Column sums, gathers and scatters in PTX on the VM: against the CPU twin and f64, strict and adversarial.

use elementwise::*;
use kernel_abi::{Float, Kernel, Launch, Launcher, bf16, f16, narrow, widen};
use kernel_test::{Gpu, compare::*, every_way};
use proptest::prelude::*;

fn of<T: Float>(n: usize, seed: u32) -> Vec<T> {
    let mut out = vec![T::from_f32(0.0); n];
    narrow(&values(n, seed), &mut out);
    out
}

/// Row numbers that repeat: some often, some never.
fn numbers(picked: usize, rows: usize) -> Vec<u32> {
    (0..picked).map(|i| if i % 3 == 0 { 0 } else { (i * i * 7919 / 5 % rows) as u32 }).collect()
}

/// The kernel on arrays that begin at element `skip` of a buffer; returns y.
fn column_sum<T: Float, K>(gpu: &mut Gpu, kernel: K, x: &[T], y: &[f32], skip: usize) -> Vec<f32>
where
    K: for<'a> Kernel<Args<'a> = ColumnSumArgs<'a, T>>,
{
    let shifted = [&vec![T::from_f32(9.0); skip], x].concat();
    let (gx, mut gy) = (gpu.upload(&shifted), gpu.upload(y));
    gpu.run(&kernel, ColumnSumArgs { x: gx.arg().skip(skip), y: gy.arg_mut() });
    let mut twin = y.to_vec();
    kernel.cpu(ColumnSumArgs { x: x.into(), y: (&mut twin).into() });
    assert_close("against the twin", &gy.to_vec(), &wide(&twin), 1e-5);
    gy.to_vec()
}

fn column_sums(gpu: &mut Gpu, rows: usize, cols: usize, skip: usize) {
    let (x, y, shape) = (of::<bf16>(rows * cols, 1), values(cols, 2), ColumnSum { rows, cols });
    let mut want = wide(&y);
    for row in widen(&x).chunks_exact(cols) {
        want.iter_mut().zip(row).for_each(|(s, x)| *s += f64::from(*x));
    }
    let got = column_sum(gpu, shape.of::<bf16>(), &x, &y, skip);
    assert_close("bf16", &got, &want, 1e-5);
    // The order of a sum is the shape's alone: the element type and the alignment change no bit.
    assert_eq!(column_sum(gpu, shape, &widen(&x), &y, 0), got);
    let mut x16 = vec![f16::ZERO; x.len()];
    narrow(&widen(&x), &mut x16);
    let want16 = column_sum(gpu, shape, &widen(&x16), &y, skip);
    assert_eq!(column_sum(gpu, shape.of::<f16>(), &x16, &y, skip), want16);
}

fn gather<T: Float, K>(gpu: &mut Gpu, shape: GatherRows, kernel: K, skip: usize)
where
    K: for<'a> Kernel<Args<'a> = GatherRowsArgs<'a, T>>,
{
    let GatherRows { rows, picked, cols } = shape;
    let (x, index) = (of::<T>(rows * cols + skip, 3), numbers(picked, rows));
    let mut y = of::<T>(picked * cols + skip, 4);
    let (gx, gi, mut gy) = (gpu.upload(&x), gpu.upload(&index), gpu.upload(&y));
    gpu.run(&kernel, GatherRowsArgs { x: gx.arg().skip(skip), index: gi.arg(), y: gy.arg_mut().skip(skip) });
    kernel.cpu(GatherRowsArgs { x: x[skip..].into(), index: (&index).into(), y: (&mut y[skip..]).into() });
    assert_eq!(widen(&gy.to_vec()), widen(&y), "{shape:?} {}", T::NAME);
}

fn scatter<T: Float, K>(gpu: &mut Gpu, shape: ScatterAddRows, kernel: K, skip: usize)
where
    K: for<'a> Kernel<Args<'a> = ScatterAddRowsArgs<'a, T>>,
{
    let ScatterAddRows { rows, picked, cols } = shape;
    let (dy, index) = (of::<T>(picked * cols + skip, 5), numbers(picked, rows));
    let mut dx = of::<T>(rows * cols + skip, 6);
    let (gdy, gi, mut gdx) = (gpu.upload(&dy), gpu.upload(&index), gpu.upload(&dx));
    gpu.run(
        &kernel,
        ScatterAddRowsArgs { dy: gdy.arg().skip(skip), index: gi.arg(), dx: gdx.arg_mut().skip(skip) },
    );
    kernel.cpu(ScatterAddRowsArgs {
        dy: dy[skip..].into(),
        index: (&index).into(),
        dx: (&mut dx[skip..]).into(),
    });
    assert_eq!(widen(&gdx.to_vec()), widen(&dx), "{shape:?} {}", T::NAME);
}

fn gathers(gpu: &mut Gpu, shape: GatherRows, skip: usize) {
    gather(gpu, shape, shape, skip);
    gather(gpu, shape, shape.of::<f16>(), skip);
    gather(gpu, shape, shape.of::<bf16>(), skip);
}

fn scatters(gpu: &mut Gpu, shape: ScatterAddRows, skip: usize) {
    scatter(gpu, shape, shape, skip);
    scatter(gpu, shape, shape.of::<f16>(), skip);
    scatter(gpu, shape, shape.of::<bf16>(), skip);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn columns_sum_in_an_order_of_the_shape(rows in 0usize..300, cols in 1usize..400, skip in 0usize..9) {
        column_sums(&mut Gpu::new(), rows, cols, skip);
        column_sums(&mut Gpu::new(), rows, cols.next_multiple_of(8), skip & 8);
    }

    #[test]
    fn gathered_rows_are_the_twin_s(
        rows in 1usize..40, picked in 0usize..60, cols in 0usize..700, skip in 0usize..9,
    ) {
        let gpu = &mut Gpu::new();
        gathers(gpu, GatherRows { rows, picked, cols }, skip);
        gathers(gpu, GatherRows { rows, picked, cols: cols.next_multiple_of(8) }, skip & 8);
    }

    #[test]
    fn scattered_sums_are_the_twin_s_bits(
        rows in 1usize..400, picked in 0usize..300, cols in 0usize..300, skip in 0usize..9,
    ) {
        let gpu = &mut Gpu::new();
        scatters(gpu, ScatterAddRows { rows, picked, cols }, skip);
        scatters(gpu, ScatterAddRows { rows, picked, cols: cols.next_multiple_of(8) }, skip & 8);
    }
}

#[test]
fn many_rows_take_a_second_stage() {
    column_sums(&mut Gpu::new(), 128 * 128 + 1, 3, 0);
}

#[test]
fn many_numbers_are_sorted_in_three_passes() {
    let gpu = &mut Gpu::new();
    scatters(gpu, ScatterAddRows { rows: 70_000, picked: 3001, cols: 4 }, 0);
    // All the same, and none of the small ones.
    let shape = ScatterAddRows { rows: 70_000, picked: 2050, cols: 8 };
    let (dy, index) = (values(shape.picked * 8, 1), vec![69_999u32; shape.picked]);
    let mut dx = vec![0.0f32; 70_000 * 8];
    let (gdy, gi, mut gdx) = (gpu.upload(&dy), gpu.upload(&index), gpu.upload(&dx));
    gpu.run(&shape, ScatterAddRowsArgs { dy: gdy.arg(), index: gi.arg(), dx: gdx.arg_mut() });
    shape.cpu(ScatterAddRowsArgs { dy: (&dy).into(), index: (&index).into(), dx: (&mut dx).into() });
    assert_eq!(gdx.to_vec(), dx);
}

#[test]
fn rows_under_an_adversary() {
    every_way(|gpu| {
        column_sums(gpu, 300, 70, 0);
        gathers(gpu, GatherRows { rows: 9, picked: 13, cols: 264 }, 0);
        scatters(gpu, ScatterAddRows { rows: 300, picked: 131, cols: 264 }, 0);
        scatters(gpu, ScatterAddRows { rows: 3, picked: 131, cols: 37 }, 1);
    });
}

#[test]
fn a_number_past_the_end_reads_nothing() {
    let gpu = &mut Gpu::new();
    let index = [1u32, 3, u32::MAX, 0];
    for cols in [5, 8] {
        let x = values(3 * cols, 1);
        let (gx, gi, mut gy) = (gpu.upload(&x), gpu.upload(&index), gpu.alloc::<f32>(4 * cols));
        let gather = GatherRows { rows: 3, picked: 4, cols };
        gpu.run(&gather, GatherRowsArgs { x: gx.arg(), index: gi.arg(), y: gy.arg_mut() });
        let y = gy.to_vec();
        assert!(y[cols..3 * cols].iter().all(|y| y.is_nan()));
        assert_eq!((&y[..cols], &y[3 * cols..]), (&x[cols..2 * cols], &x[..cols]));
        let (gdy, mut gdx) = (gpu.upload(&values(4 * cols, 2)), gpu.upload(&vec![0.0f32; 3 * cols]));
        let scatter = ScatterAddRows { rows: 3, picked: 4, cols };
        gpu.run(&scatter, ScatterAddRowsArgs { dy: gdy.arg(), index: gi.arg(), dx: gdx.arg_mut() });
        let (dx, dy) = (gdx.to_vec(), gdy.to_vec());
        assert_eq!((&dx[..cols], &dx[cols..2 * cols]), (&dy[3 * cols..], &dy[..cols]));
        assert!(dx[2 * cols..].iter().all(|d| *d == 0.0));
    }
}

/// Very wide rows have more tiles than a grid has blocks in y: here, a grid of one.
#[test]
fn a_grid_that_is_too_small_strides_over_the_tiles() {
    let gpu = &mut Gpu::new();
    let (rows, picked, cols) = (3usize, 5usize, 1100usize);
    let (x, index) = (values(rows * cols, 1), [2u32, 0, 2, 1, 2]);
    let (gx, gi, mut gy) = (gpu.upload(&x), gpu.upload(&index), gpu.alloc::<f32>(picked * cols));
    for entry in ["gather_rows_b128", "gather_rows_b32"] {
        let units = if entry.ends_with("128") { cols / 4 } else { cols };
        let launch = Launch::new(&ptx::ROWS, format_args!("{entry}")).grid(2, 1, 1).block(128);
        let launch = launch.arg(gx.arg().device()).arg(gi.arg().device()).arg(gy.arg_mut().device());
        gpu.launch(launch.dim(rows).dim(picked).dim(units)).unwrap();
        let y = gy.to_vec();
        assert!(
            index.iter().zip(y.chunks(cols)).all(|(i, y)| *y == x[*i as usize * cols..][..cols]),
            "{entry}"
        );
        gy.write(&vec![0.0; picked * cols]);
    }
    // The pairs (row, i) in order.
    let pairs = gpu.upload(&[0u32, 1, 1, 3, 2, 0, 2, 2, 2, 4]);
    let dy = values(picked * cols, 2);
    let (gdy, mut dx) = (gpu.upload(&dy), vec![0.0f32; rows * cols]);
    let shape = ScatterAddRows { rows, picked, cols };
    shape.cpu(ScatterAddRowsArgs { dy: (&dy).into(), index: index[..].into(), dx: (&mut dx).into() });
    for entry in ["scatter_add_rows_f32_v4", "scatter_add_rows_f32_v1"] {
        let mut gdx = gpu.upload(&vec![0.0f32; rows * cols]);
        let launch = Launch::new(&ptx::SCATTER, format_args!("{entry}")).grid(2, 1, 1).block(128);
        let launch = launch.arg(gdy.arg().device()).arg(pairs.arg().device()).arg(gdx.arg_mut().device());
        gpu.launch(launch.dim(picked).dim(rows).dim(cols)).unwrap();
        assert_eq!(gdx.to_vec(), dx, "{entry}");
    }
}
