//! Counted bars on aligned shapes, and the table that docs/kernels/lora.md quotes (`-- --nocapture`).

use kernel_abi::{Cost, Float, Kernel, bf16};
use kernel_test::{Class, Counters, Gpu, compare::values};
use lora::*;

fn row(what: &str, c: &Counters, cost: Cost, launches: usize) {
    let bytes = c.global_loads.bytes + c.global_stores.bytes;
    let count = |class| c.instructions.get(&class).map_or(0, |e| e.warps) as f64;
    println!(
        "{what:<44} launches {launches}, bytes / minimum {:5.2}, sectors {:5.3}, bank conflicts {}, f32 {:4.1} %, mma in loops {:4.1} %, \
         warp instructions a KiB asked for {:.0}",
        bytes as f64 / (cost.bytes_read + cost.bytes_written) as f64,
        (c.global_loads.ideal_sectors + c.global_stores.ideal_sectors) as f64
            / (c.global_loads.sectors + c.global_stores.sectors) as f64,
        c.shared_loads.conflicts + c.shared_stores.conflicts,
        100.0 * count(Class::F32) / c.total_instructions() as f64,
        100.0 * c.mma_share(),
        c.total_instructions() as f64 / (bytes as f64 / 1024.0),
    );
}

/// Forward and backward of one shape; the table's rows are printed.
fn count<T: Float, F, B>([m, n, rank]: [usize; 3], forward: F, backward: B) -> [Counters; 2]
where
    F: for<'a> Kernel<Args<'a> = LoraForwardArgs<'a, T>>,
    B: for<'a> Kernel<Args<'a> = LoraBackwardArgs<'a, T>>,
{
    let mut gpu = Gpu::new();
    let rounded = |n: usize| -> Vec<T> { values(n, 1).into_iter().map(T::from_f32).collect() };
    let upload = |n: usize| gpu.upload(&rounded(n));
    let (x, dy, mut y, mut dx) = (upload(m * n), upload(m * n), upload(m * n), upload(m * n));
    let (a, b, mut u) = (upload(rank * n), upload(n * rank), upload(m * rank));
    let (mut da, mut db) = (gpu.upload(&values(rank * n, 1)), gpu.upload(&values(n * rank, 1)));
    let what = format!("{m} x {n} x {n}, rank {rank}, {}", T::NAME);
    let args = LoraForwardArgs { x: x.arg(), a: a.arg(), b: b.arg(), u: u.arg_mut(), y: y.arg_mut() };
    let first = gpu.run(&forward, args);
    row(&format!("forward {what}"), &first, forward.cost(), gpu.launches.len());
    let args = LoraBackwardArgs {
        x: x.arg(),
        a: a.arg(),
        b: b.arg(),
        u: u.arg(),
        dy: dy.arg(),
        da: da.arg_mut(),
        db: db.arg_mut(),
        dx: Some(dx.arg_mut()),
    };
    let second = gpu.run(&backward, args);
    row(&format!("backward {what}"), &second, backward.cost(), gpu.launches.len());
    [first, second]
}

fn kernels([m, n, rank]: [usize; 3]) -> (LoraForward, LoraBackward) {
    let forward = LoraForward { m, n_in: n, n_out: n, rank, scale: 0.5, ldy: n, col_offset: 0 };
    (forward, LoraBackward { m, n_in: n, n_out: n, rank, scale: 0.5, ldy: n, col_offset: 0 })
}

/// Whole sectors, and no conflicts when shared memory is read.
fn bars(counted: &[Counters]) {
    for c in counted {
        assert_eq!((c.global_loads.efficiency(), c.global_stores.efficiency()), (1.0, 1.0));
        assert_eq!(c.shared_loads.conflicts, 0);
    }
}

#[test]
fn f32_moves_whole_sectors_without_conflicts() {
    for rank in [16, 64] {
        let shape = [256, 512, rank];
        let (forward, backward) = kernels(shape);
        bars(&count::<f32, _, _>(shape, forward, backward));
    }
}

#[test]
fn sixteen_bits_move_whole_sectors_without_conflicts() {
    for shape in [[256, 512, 16], [256, 512, 64], [8192, 64, 64]] {
        let (forward, backward) = kernels(shape);
        let counted = count::<bf16, _, _>(shape, forward.of::<bf16>(), backward.of::<bf16>());
        bars(&counted);
        for c in &counted {
            assert_eq!(c.shared_stores.conflicts, 0);
        }
    }
}
