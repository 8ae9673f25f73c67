//! The table of counters, and the roofline behind its predictions.
//!
//! A launch takes at least as long as each resource is busy: bytes of sectors over the bandwidth, instructions over the
//! issue slots, lanes of f32 and f64 over their units, multiply-adds of matrices over the tensor cores, wavefronts over
//! the shared-memory ports. The largest of these times is the prediction, and its resource the limit.

use ptx_vm::{
    Counters,
    counters::Class,
    gpu::{Gpu, Peak},
};
use serde_json::Value;
use std::fmt::Write as _;

/// A launch.
pub struct Row {
    /// The kernel's name.
    pub kernel: String,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// What it did.
    pub counters: Counters,
}

/// Reads a file of counters.
pub fn parse(text: &str) -> Result<Vec<Row>, String> {
    let file: Value = serde_json::from_str(text).map_err(|e| e.to_string())?;
    let launches = file["launches"].as_array().ok_or("no list of launches: not a file of counters")?;
    let size = |value: &Value| -> Option<[u32; 3]> { serde_json::from_value(value.clone()).ok() };
    let row = |launch: &Value| {
        Ok(Row {
            kernel: launch["kernel"].as_str().ok_or("a launch without a kernel")?.into(),
            grid: size(&launch["grid"]).ok_or("a launch without a grid")?,
            block: size(&launch["block"]).ok_or("a launch without a block")?,
            counters: serde_json::from_value(launch["counters"].clone()).map_err(|e| e.to_string())?,
        })
    };
    launches.iter().map(row).collect()
}

/// The table: one launch after the other.
pub fn table(rows: &[Row], gpus: &[&Gpu]) -> String {
    let mut out = String::new();
    for (i, row) in rows.iter().enumerate() {
        show(&mut out, i, row, gpus).expect("a string grows");
    }
    out
}

fn show(out: &mut String, i: usize, row: &Row, gpus: &[&Gpu]) -> std::fmt::Result {
    let Row { kernel, grid: [gx, gy, gz], block: [bx, by, bz], counters: c } = row;
    writeln!(out, "launch {i}: {kernel}, grid {gx}x{gy}x{gz}, block {bx}x{by}x{bz}, {} warps", c.warps)?;
    let total = c.total_instructions();
    writeln!(out, "  instructions  {} by warps", count(total).trim_end())?;
    let mut classes: Vec<_> = c.instructions.iter().filter(|(_, e)| e.warps > 0).collect();
    classes.sort_by_key(|(_, e)| std::cmp::Reverse(e.warps));
    for (class, executed) in classes {
        let share = 100.0 * executed.warps as f64 / total.max(1) as f64;
        let lanes = executed.lanes as f64 / executed.warps as f64;
        writeln!(
            out,
            "    {:14} {:>10}  {share:5.1} %  {lanes:4.1} lanes",
            name(*class),
            count(executed.warps)
        )?;
    }
    for (what, traffic) in
        [("reads", &c.global_loads), ("writes", &c.global_stores), ("atomics", &c.global_atomics)]
    {
        if traffic.requests > 0 {
            let (bytes, moved) = (count(traffic.bytes), count(32 * traffic.sectors));
            let efficiency = 100.0 * traffic.efficiency();
            writeln!(
                out,
                "  global {what:8} {bytes}B asked, {moved}B in sectors, {efficiency:.1} % sector efficiency"
            )?;
        }
    }
    for (what, traffic) in [("reads", &c.shared_loads), ("writes", &c.shared_stores)] {
        if traffic.requests > 0 {
            let (waves, conflicts) = (count(traffic.wavefronts), count(traffic.conflicts));
            writeln!(
                out,
                "  shared {what:8} {}B, {waves} wavefronts, {conflicts} bank conflicts",
                count(traffic.bytes)
            )?;
        }
    }
    if c.mma_macs > 0 {
        let share = 100.0 * c.mma_share();
        writeln!(
            out,
            "  mma           {} multiply-adds, {share:.1} % of the main loop's instructions",
            count(c.mma_macs)
        )?;
    }
    for gpu in gpus {
        let (seconds, limit) = predict(c, gpu);
        writeln!(
            out,
            "  predicted     {:8} {} limited by {limit} (roofline, not measured)",
            gpu.key,
            time(seconds)
        )?;
    }
    Ok(())
}

/// The class's name as the counters file spells it.
fn name(class: Class) -> String {
    match serde_json::to_value(class) {
        Ok(Value::String(name)) => name.replace('_', " "),
        _ => format!("{class:?}"),
    }
}

/// Seconds that the launch takes at least, and what makes it so.
pub fn predict(c: &Counters, gpu: &Gpu) -> (f64, &'static str) {
    let cycles = f64::from(gpu.sm_count) * f64::from(gpu.clock_khz) * 1e3;
    let sectors = c.global_loads.sectors + c.global_stores.sectors + c.global_atomics.sectors;
    let wavefronts = c.shared_loads.wavefronts + c.shared_stores.wavefronts;
    let lanes = |class: Class| c.instructions.get(&class).map_or(0, |e| e.lanes) as f64;
    // A lane of an arithmetic unit does a multiply-add, two operations, in the time of any instruction.
    let times = [
        (32.0 * sectors as f64 / gpu.bandwidth, "memory bandwidth"),
        // Four schedulers of a multiprocessor issue an instruction each in a cycle.
        (c.total_instructions() as f64 / (4.0 * cycles), "instruction issue"),
        (2.0 * lanes(Class::F32) / gpu.peak.f32, "f32 units"),
        (2.0 * lanes(Class::F64) / gpu.peak.f64, "f64 units"),
        (mma_seconds(c, &gpu.peak), "tensor cores"),
        (wavefronts as f64 / cycles, "shared memory"),
    ];
    times.into_iter().max_by(|a, b| a.0.total_cmp(&b.0)).expect("there are resources")
}

/// Seconds on the tensor cores: each shape at the rate of its type.
fn mma_seconds(c: &Counters, peak: &Peak) -> f64 {
    let seconds = |(shape, &count): (&String, &u64)| 2.0 * macs(shape) * count as f64 / mma_rate(shape, peak);
    c.mma.iter().map(seconds).sum()
}

fn mma_rate(shape: &str, peak: &Peak) -> f64 {
    let has = |part: &str| shape.contains(part);
    if has("tf32") {
        peak.mma_tf32
    } else if has("f64") {
        // Tensor cores do f64 at twice the rate of the other units where they do it at all.
        2.0 * peak.f64
    } else if has("s8") || has("u8") {
        peak.mma_i8
    } else if has("s4") || has("u4") {
        2.0 * peak.mma_i8
    } else {
        peak.mma_f16
    }
}

/// Multiply-adds of one instruction, from the `m16n8k16` in its name.
fn macs(shape: &str) -> f64 {
    let number = |letter: char| {
        shape.match_indices(letter).find_map(|(at, _)| {
            let digits = shape[at + 1..].split(|c: char| !c.is_ascii_digit()).next()?;
            digits.parse::<f64>().ok()
        })
    };
    number('m').zip(number('n')).zip(number('k')).map_or(0.0, |((m, n), k)| m * n * k)
}

/// 1234567 as `1.23 M`.
fn count(n: u64) -> String {
    let units = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")];
    match units.iter().find(|(size, _)| n as f64 >= *size) {
        Some((1e4, _)) => format!("{:.1} k", n as f64 / 1e3),
        Some((size, unit)) => format!("{:.2} {unit}", n as f64 / size),
        None => format!("{n} "),
    }
}

fn time(seconds: f64) -> String {
    match seconds {
        s if s >= 1e-1 => format!("{s:.3} s"),
        s if s >= 1e-4 => format!("{:.3} ms", s * 1e3),
        s => format!("{:.3} us", s * 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ptx_vm::counters::Executed;

    fn gpu() -> &'static Gpu {
        Gpu::named("rtx3090").unwrap()
    }

    #[test]
    fn the_scarcest_resource_sets_the_time() {
        let mut c = Counters::default();
        c.global_loads.sectors = 1 << 30;
        let (seconds, limit) = predict(&c, gpu());
        assert_eq!(limit, "memory bandwidth");
        assert!((seconds - (1u64 << 35) as f64 / 936.2e9).abs() < 1e-6);
        c.mma.insert("m16n8k16.f32.f16.f16.f32".into(), 1 << 32);
        let (seconds, limit) = predict(&c, gpu());
        assert_eq!(limit, "tensor cores");
        assert!((seconds - 2.0 * 2048.0 * (1u64 << 32) as f64 / 71e12).abs() < 1e-6);
    }

    #[test]
    fn a_file_of_counters_becomes_a_table() {
        let mut c = Counters { warps: 4, ..Counters::default() };
        c.instructions.insert(Class::F32, Executed { warps: 3, lanes: 96 });
        c.instructions.insert(Class::GlobalLoad, Executed { warps: 1, lanes: 32 });
        c.global_loads.requests = 1;
        c.global_loads.bytes = 128;
        (c.global_loads.sectors, c.global_loads.ideal_sectors) = (8, 4);
        let launch = serde_json::json!({
            "kernel": "k", "grid": [2, 1, 1], "block": [64, 1, 1], "counters": c,
        });
        let rows = parse(&serde_json::json!({ "format": 1, "launches": [launch] }).to_string()).unwrap();
        let table = table(&rows, &[gpu()]);
        for part in [
            "launch 0: k, grid 2x1x1, block 64x1x1",
            "f32",
            "75.0 %",
            "50.0 % sector efficiency",
            "predicted",
        ] {
            assert!(table.contains(part), "{part} is missing in\n{table}");
        }
        assert!(parse("{}").is_err() && parse("[").is_err());
    }

    #[test]
    fn shapes_are_read_from_names() {
        assert_eq!(macs("mma.sync.m16n8k16.f16"), 2048.0);
        assert_eq!(macs("m8n8k4.f64"), 256.0);
        assert_eq!(macs("m16n8k32.s32.s8.s8.s32"), 4096.0);
    }
}
