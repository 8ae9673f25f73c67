//! What the kernels do, counted on the VM, against the bars; `--nocapture` prints the table that the documentation quotes.

mod common;

use common::*;
use kernel_abi::{ArgError, Cost, DevicePtr, Kernel, Launch, LaunchError, Launcher};
use kernel_test::{Counters, Gpu, compare::values};

/// A kernel's first launch alone.
struct First<K>(K);

/// Passes the first launch on.
struct OnlyFirst<'a>(&'a mut dyn Launcher, bool);

impl Launcher for OnlyFirst<'_> {
    fn sm(&self) -> u32 {
        self.0.sm()
    }
    fn workspace(&mut self, bytes: usize) -> Result<DevicePtr, LaunchError> {
        self.0.workspace(bytes)
    }
    fn launch(&mut self, launch: Launch) -> Result<(), LaunchError> {
        if std::mem::replace(&mut self.1, true) { Ok(()) } else { self.0.launch(launch) }
    }
}

impl<K: Kernel> Kernel for First<K> {
    type Args<'a> = K::Args<'a>;
    const NAME: &'static str = K::NAME;
    fn check(&self, args: &K::Args<'_>) -> Result<(), ArgError> {
        self.0.check(args)
    }
    fn cost(&self) -> Cost {
        self.0.cost()
    }
    fn cpu(&self, args: K::Args<'_>) {
        self.0.cpu(args)
    }
    fn ptx(&self, args: K::Args<'_>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        self.0.ptx(args, &mut OnlyFirst(on, false))
    }
}

/// One line of the table.
struct Counted {
    /// Bytes of the sectors that were read and written.
    read: u64,
    written: u64,
    /// Instructions of the main loop for each mma, 0 without mma.
    per_mma: f64,
    conflicts: u64,
    /// Of reads and writes.
    efficiency: (f64, f64),
}

/// What `c` counts beyond `less`.
fn line(what: &str, c: &Counters, less: &Counters) -> Counted {
    let efficiency = |of: fn(&Counters) -> (u64, u64)| {
        let ((ideal, sectors), (ideal0, sectors0)) = (of(c), of(less));
        if sectors == sectors0 { 1.0 } else { (ideal - ideal0) as f64 / (sectors - sectors0) as f64 }
    };
    let conflicts = |c: &Counters| c.shared_loads.conflicts + c.shared_stores.conflicts;
    let counted = Counted {
        read: 32 * (c.global_loads.sectors - less.global_loads.sectors),
        written: 32 * (c.global_stores.sectors - less.global_stores.sectors),
        per_mma: c.mma_loop_instructions as f64 / c.mma_loop_mma.max(1) as f64,
        conflicts: conflicts(c) - conflicts(less),
        efficiency: (
            efficiency(|c| (c.global_loads.ideal_sectors, c.global_loads.sectors)),
            efficiency(|c| (c.global_stores.ideal_sectors, c.global_stores.sectors)),
        ),
    };
    let Counted { read, written, per_mma, conflicts, efficiency: (reads, writes) } = counted;
    println!("{what:<48}{read:>10}{written:>10}{per_mma:>7.2}{conflicts:>5}{reads:>7.3}{writes:>7.3}");
    counted
}

/// The quantising pass and the product, apart; with or without six outlier columns, the same in every row.
fn forward(entry: &str, (m, n, k): (usize, usize, usize), outliers: bool) -> [Counted; 2] {
    let mut gpu = Gpu::new();
    let w = weight(&mut gpu, &values(n * k, 9), n, k);
    let mut layer = Layer::<f32>::new(m, n, k, 6.0, 1, true);
    layer.x.iter_mut().for_each(|x| *x = x.clamp(-5.0, 5.0));
    if outliers {
        for row in layer.x.chunks_exact_mut(k) {
            (0..6).for_each(|c| row[(c * 311 + 7) % k] = 20.0);
        }
    }
    let (_, _, first) = both(&mut gpu, &First(layer.kernel), &layer, &w, 0);
    assert_eq!(gpu.launches.len(), 1);
    let (got, want, all) = both(&mut gpu, &layer.kernel, &layer, &w, 0);
    same(entry, n, &got, &want);
    assert_eq!(gpu.launches.len(), 2, "launches of a forward pass");
    assert_eq!(gpu.launches[1].entry.as_str(), entry);
    let shape = format!("{m}x{n}x{k}{}", if outliers { ", outliers" } else { "" });
    let quantize = format!("{} {shape}", gpu.launches[0].entry.as_str());
    [line(&quantize, &first, &Counters::default()), line(&format!("{entry} {shape}"), &all, &first)]
}

#[test]
fn forward_stays_within_its_bars() {
    println!("{:<48}{:>10}{:>10}  /mma conf  reads writes", "", "read", "written");
    for (entry, (m, n, k), per_mma) in [
        ("int8_linear_f32_128_128", (1280, 1280, 256), 1.6),
        ("int8_linear_f32_64_128", (768, 1024, 256), 1.9),
        ("int8_linear_f32_64_64", (256, 256, 512), 2.3),
        ("int8_decode_f32_16_8", (1, 512, 2048), 1.5),
        ("int8_decode_f32_16_16", (16, 512, 2048), 1.3),
        ("int8_decode_f32_32_32", (32, 512, 2048), 2.6),
    ] {
        let elements = (m * k) as u64;
        for outliers in [false, true] {
            let [quantize, product] = forward(entry, (m, n, k), outliers);
            // x once; q once, and a sector for each record and for each 128 bits of a mask
            assert_eq!(quantize.read, 4 * elements);
            let masks = if outliers { 32 * m * k.div_ceil(128) } else { 0 };
            assert!(quantize.written <= elements + (32 * m + masks) as u64, "{}", quantize.written);
            assert_eq!((quantize.conflicts, quantize.efficiency.0), (0, 1.0));

            assert_eq!(product.written, 4 * (m * n) as u64);
            assert_eq!((product.conflicts, product.efficiency.1), (0, 1.0));
            assert!(product.per_mma < per_mma, "{entry}: {}", product.per_mma);
            if !outliers {
                assert_eq!(product.efficiency.0, 1.0);
            }
            if m == 1 {
                // W once, and each of the n / 16 blocks reads the row of x; an outlier's weight is a sector
                let least = n * k + if outliers { 6 * 32 * n } else { 0 };
                assert!(product.read as f64 <= 1.1 * least as f64, "{}", product.read);
            }
        }
    }
}
