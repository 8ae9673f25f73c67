//! Counted bars on aligned shapes, and the table that docs/kernels/lora.md quotes (`-- --nocapture`).

use kernel_abi::{Cost, Kernel};
use kernel_test::{Class, Counters, Gpu, compare::values};
use lora::*;

fn row(what: &str, c: &Counters, cost: Cost, launches: usize) {
    let bytes = c.global_loads.bytes + c.global_stores.bytes;
    let count = |class| c.instructions.get(&class).map_or(0, |e| e.warps) as f64;
    println!(
        "{what:<34} launches {launches}, bytes / minimum {:5.2}, sectors {:5.3}, bank conflicts {}, f32 {:4.1} %, mma in loops {:4.1} %",
        bytes as f64 / (cost.bytes_read + cost.bytes_written) as f64,
        (c.global_loads.ideal_sectors + c.global_stores.ideal_sectors) as f64
            / (c.global_loads.sectors + c.global_stores.sectors) as f64,
        c.shared_loads.conflicts + c.shared_stores.conflicts,
        100.0 * count(Class::F32) / c.total_instructions() as f64,
        100.0 * c.mma_share(),
    );
}

#[test]
fn f32_reads_whole_sectors_without_conflicts() {
    for (m, rank) in [(64, 8), (64, 16), (64, 32), (64, 64), (4096, 16)] {
        let (n_in, n_out) = (128, 128);
        let mut gpu = Gpu::new();
        let lens = [m * n_in, rank * n_in, n_out * rank, m * rank, m * n_out];
        let mut v: Vec<_> = lens.iter().map(|n| gpu.upload(&values(*n, 1))).collect();
        let forward = LoraForward { m, n_in, n_out, rank, scale: 0.5, ldy: n_out, col_offset: 0 };
        let [x, a, b, u, y] = &mut v[..] else { unreachable!() };
        let args = LoraForwardArgs { x: x.arg(), a: a.arg(), b: b.arg(), u: u.arg_mut(), y: y.arg_mut() };
        let counted = gpu.run(&forward, args);
        row(&format!("forward {m} x 128 x 128, rank {rank}"), &counted, forward.cost(), gpu.launches.len());
        println!(
            "   {:?} {:?}\n {:?} {:?}",
            counted.shared_loads, counted.shared_stores, counted.global_loads, counted.global_stores
        );
        let backward = LoraBackward { m, n_in, n_out, rank, scale: 0.5, ldy: n_out, col_offset: 0 };
        let [mut da, mut db, mut dx] =
            [rank * n_in, n_out * rank, m * n_in].map(|n| gpu.upload(&values(n, 1)));
        let args = LoraBackwardArgs {
            x: x.arg(),
            a: a.arg(),
            b: b.arg(),
            u: u.arg(),
            dy: y.arg(),
            da: da.arg_mut(),
            db: db.arg_mut(),
            dx: Some(dx.arg_mut()),
        };
        let counted = gpu.run(&backward, args);
        row(&format!("backward {m} x 128 x 128, rank {rank}"), &counted, backward.cost(), gpu.launches.len());
        println!(
            "   {:?} {:?}\n {:?} {:?}",
            counted.shared_loads, counted.shared_stores, counted.global_loads, counted.global_stores
        );
    }
}
