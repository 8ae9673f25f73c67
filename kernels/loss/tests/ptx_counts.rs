//! What the PTX moves and issues, counted on the VM. `cargo test --release -p loss --test ptx_counts -- --nocapture` prints it.

mod gpu;

use gpu::Case;
use kernel_abi::{Cost, Kernel};
use kernel_test::{Counters, Gpu, compare::values};
use loss::*;

/// Bytes of the 32-byte sectors that were touched.
fn moved(c: &Counters) -> u64 {
    32 * (c.global_loads.sectors + c.global_stores.sectors)
}

fn conflicts(c: &Counters) -> u64 {
    c.shared_loads.conflicts + c.shared_stores.conflicts
}

/// Prints a row of the table; returns bytes over the minimum. `again`: bytes that are read again from the second-level cache by
/// design, counted apart.
fn row(what: &str, c: &Counters, least: Cost, again: u64, launches: usize) -> f64 {
    let over = (moved(c) - again) as f64 / (least.bytes_read + least.bytes_written) as f64;
    println!(
        "{what:<40}{:>11}{again:>11}{over:>8.3}{:>7.3}{:>7.3}{:>9}{:>9}{:>7.2}{:>9}",
        moved(c),
        c.global_loads.efficiency(),
        c.global_stores.efficiency(),
        conflicts(c),
        c.total_instructions(),
        c.mma_share(),
        launches,
    );
    over
}

fn title() {
    println!(
        "{:<40}{:>11}{:>11}{:>8}{:>7}{:>7}{:>9}{:>9}{:>7}{:>9}",
        "", "bytes", "again", "/ least", "loads", "stores", "conflicts", "issued", "mma", "launches"
    );
}

fn cross_entropy(rows: usize, classes: usize) {
    let (mut gpu, n) = (Gpu::new(), rows * classes);
    let (z, t) = (gpu.upload(&values(n, 1)), gpu.upload(&vec![1u32; rows]));
    let (mut loss, mut probs, mut d) = (gpu.alloc::<f32>(rows), gpu.alloc::<f32>(n), gpu.alloc::<f32>(n));
    let kernel = SoftmaxCrossEntropy { rows, classes };
    let args = SoftmaxCrossEntropyArgs {
        logits: z.arg(),
        targets: t.arg(),
        loss: loss.arg_mut(),
        probs: probs.arg_mut(),
        dlogits: d.arg_mut(),
    };
    let c = gpu.run(&kernel, args);
    let over = row(
        &format!("{} {rows} x {classes}", SoftmaxCrossEntropy::NAME),
        &c,
        kernel.cost(),
        0,
        gpu.launches.len(),
    );
    assert!(over <= 1.05);
    assert_eq!((c.global_loads.efficiency(), c.global_stores.efficiency(), conflicts(&c)), (1.0, 1.0, 0));
}

fn token_losses(n: usize) {
    let mut gpu = Gpu::new();
    let v: Vec<_> = (0..4).map(|i| gpu.upload(&values(n, i))).collect();
    let (mut d, mut stats) = (gpu.alloc::<f32>(n), gpu.alloc::<f32>(8));
    let kernel = PpoPolicyLoss { n, cliprange: 0.2 };
    let args = PpoPolicyLossArgs {
        logprob: v[0].arg(),
        old_logprob: v[1].arg(),
        advantage: v[2].arg(),
        weight: v[3].arg(),
        dlogprob: d.arg_mut(),
        stats: stats.arg_mut(),
    };
    let c = gpu.run(&kernel, args);
    assert!(row(&format!("{} {n}", PpoPolicyLoss::NAME), &c, kernel.cost(), 0, gpu.launches.len()) <= 1.05);
    let kernel = PpoValueLoss { n, cliprange_value: 0.2, vf_coef: 0.1 };
    let args = PpoValueLossArgs {
        value: v[0].arg(),
        old_value: v[1].arg(),
        returns: v[2].arg(),
        weight: v[3].arg(),
        dvalue: d.arg_mut(),
        stats: stats.arg_mut().skip(4),
    };
    let c = gpu.run(&kernel, args);
    assert!(row(&format!("{} {n}", PpoValueLoss::NAME), &c, kernel.cost(), 0, gpu.launches.len()) <= 1.05);
    let mut out = [gpu.alloc::<f32>(n), gpu.alloc::<f32>(n)];
    let [dc, dr] = &mut out;
    let kernel = BradleyTerry { pairs: n };
    let args = BradleyTerryArgs {
        chosen: v[0].arg(),
        rejected: v[1].arg(),
        margin: None,
        loss: d.arg_mut(),
        dchosen: dc.arg_mut(),
        drejected: dr.arg_mut(),
    };
    let c = gpu.run(&kernel, args);
    assert!(row(&format!("{} {n}", BradleyTerry::NAME), &c, kernel.cost(), 0, gpu.launches.len()) <= 1.05);
}

#[test]
fn losses_move_each_byte_once() {
    title();
    for (rows, classes) in [(4096, 2), (1024, 32), (64, 1024), (8, 8192), (2, 24576)] {
        cross_entropy(rows, classes);
    }
    token_losses(1 << 15);
}

/// The forward pass of a tile of rows: the head is read once; the rows again by every column tile, from the second-level cache.
fn forward((rows, hidden, vocab): (usize, usize, usize), bf16: bool, entropy: bool) {
    let case = Case::new(rows, hidden, vocab);
    let case = if bf16 { case.in_bf16() } else { case };
    let mut gpu = Gpu::new();
    let (_, c) = case.forward_counted(&mut gpu, 0, entropy, false);
    let mut least = case.shape().cost();
    if bf16 {
        least.bytes_read -= 2 * (case.vocab * case.hidden) as u64;
    }
    // The fused product reads the rows once a column tile of 128, after rounding them to bf16 once, which
    // writes them. The thin products read their rows once a tile of 32 columns, in bf16 always 16 of them.
    let tiles = (case.vocab / if rows > 16 { 128 } else { 32 }) as u64;
    let all = (rows * case.hidden) as u64;
    let again = match (rows > 16, bf16) {
        (_, false) => 4 * all * (tiles - 1),
        (true, true) => 2 * all * tiles + 2 * all,
        (false, true) => 4 * 16 * hidden as u64 * tiles - 4 * all,
    };
    let what = format!(
        "lm_log_prob {} x {hidden} x {vocab} {}{}",
        rows,
        if bf16 { "bf16" } else { "f32" },
        if entropy { ", entropy" } else { "" }
    );
    let over = row(&what, &c, least, again, gpu.launches.len());
    assert!(over <= 1.10, "{what}");
    assert_eq!(conflicts(&c), 0, "{what}");
}

#[test]
fn the_head_is_read_once_and_logits_are_nowhere() {
    title();
    for bf16 in [false, true] {
        forward((128, 256, 1024), bf16, false);
        forward((128, 256, 1024), bf16, true);
        forward((16, 1024, 512), bf16, false);
    }
}

/// Both models' rows share one reading of the head.
#[test]
fn the_exact_kl_reads_the_head_once() {
    title();
    let case = Case::new(64, 256, 1024);
    let mut gpu = Gpu::new();
    let (_, c) = case.kl_counted(&mut gpu, 1);
    let again = 2 * 4 * (64 * 256) * (1024 / 128 - 1);
    let over = row("full_kl 64 x 256 x 1024 f32", &c, case.kl_shape().cost(), again, gpu.launches.len());
    assert!(over <= 1.10 && conflicts(&c) == 0);
}
