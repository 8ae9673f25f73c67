//! What the kernels do, counted on the VM, against the bars; `--nocapture` prints the tables of docs/kernels/matmul.md.

use kernel_abi::{Float, Kernel, f16};
use kernel_test::{Checks, Class, Counters, Gpu, Options, compare::values};
use matmul::*;

/// Shared-memory conflicts and unused parts of sectors are errors. `bytes`: what a tiled product has to read, every
/// block its rows of both operands once. Prints a row and returns instructions a multiply instruction of the main loop.
fn row(gpu: &Gpu, counted: &Counters, bytes: usize) -> f64 {
    let name = gpu.launches.last().expect("one launch").entry.as_str().to_string();
    let conflicts = counted.shared_loads.conflicts + counted.shared_stores.conflicts;
    let fma = counted.instructions.get(&Class::F32).map_or(0, |e| e.warps);
    let each = match counted.mma_loop_mma {
        0 => counted.total_instructions() as f64 / fma as f64,
        mma => counted.mma_loop_instructions as f64 / mma as f64,
    };
    let (loads, stores) = (counted.global_loads.efficiency(), counted.global_stores.efficiency());
    let over = counted.global_loads.bytes as f64 / bytes as f64;
    println!(
        "{name:<28}{each:>8.3}{:>8.1} %{conflicts:>10}{loads:>8.2}{stores:>8.2}{over:>12.3}",
        100.0 / each
    );
    assert_eq!(conflicts, 0, "{name}: bank conflicts");
    assert_eq!((loads, stores), (1.0, 1.0), "{name}: parts of sectors unused");
    assert!(over <= 1.001, "{name}: reads {over} times what its tiles need");
    each
}

fn head(what: &str) {
    println!(
        "{:<28}{what:>8}{:>10}{:>10}{:>8}{:>8}{:>12}",
        "", "share", "conflicts", "loads", "stores", "bytes/tiles"
    );
}

fn gemm<T: Float, K>(gpu: &mut Gpu, kernel: &K, g: &Gemm) -> Counters
where
    K: for<'a> Kernel<Args<'a> = GemmArgs<'a, T>>,
{
    let buffer = |n: usize, seed| values(n, seed).iter().map(|v| T::from_f32(*v)).collect::<Vec<T>>();
    let (a, b) = (gpu.upload(&buffer(g.m * g.k, 1)), gpu.upload(&buffer(g.k * g.n, 2)));
    let mut c = gpu.alloc::<T>(g.m * g.n * g.batch);
    gpu.run(kernel, GemmArgs { a: a.arg(), b: b.arg(), bias: None, residual: None, c: c.arg_mut() })
}

/// Instructions that a warp issues in the main loop for one mma. A warp tile of 64 x 64 needs 64 mma, 16 ldmatrix and 8 copies
/// for 32 k: 1.375 before any address, barrier or branch. TF32 also rounds each fragment register (1 an mma at 64 x 64), and
/// reads transposed fragments word by word. bf16 is f16's template.
#[test]
fn gemm_main_loops() {
    let (mut gpu, mut options) = (Gpu::new(), Options { checks: Checks::All, ..Options::default() });
    options.device.sm = 80;
    let mut a100 = Gpu::with(options);
    head("per mma");
    for (tile, batch, [m, n, k], bar16, bar32) in [
        ("128x256", 108, [128, 256, 256], 1.70, 3.45),
        ("128x128", 80, [128, 128, 384], 1.70, 3.45),
        ("128x64", 80, [128, 64, 384], 2.15, 4.75),
        ("64x64", 1, [64, 64, 768], 2.4, 5.9),
        ("16x32", 1, [16, 64, 2048], 7.0, 14.0),
    ] {
        for make in [Gemm::nt as fn(usize, usize, usize) -> Gemm, Gemm::new, Gemm::tn] {
            // the matrices of the batch are one: what counts is the loop
            let g = Gemm { batch, parts: 1, strides: [0, 0, m * n], ..make(m, n, k) };
            // the wide tile costs the VM most, and differs in size alone: once is enough
            if tile == "16x32" && g.ta || tile == "128x256" && !g.tb {
                continue;
            }
            let gpu = if tile == "128x256" { &mut a100 } else { &mut gpu };
            let (rows, cols) = tile.split_once('x').expect("rows x columns");
            let (rows, cols): (usize, usize) =
                (rows.parse().expect("a number"), cols.parse().expect("a number"));
            let elements = batch * m / rows * n / cols * (rows + cols) * k;
            for (bits, bar) in [("f16", bar16), ("tf32", bar32)] {
                if tile == "128x256" && bits == "tf32" {
                    continue;
                }
                let counted = match bits {
                    "f16" => gemm::<f16, _>(gpu, &g.of::<f16>(), &g),
                    _ => gemm::<f32, _>(gpu, &g, &g),
                };
                assert!(gpu.launches[0].entry.as_str().ends_with(tile));
                let each = row(gpu, &counted, elements * if bits == "tf32" { 4 } else { 2 });
                assert!(each <= bar, "{tile} {bits}: {each} instructions an mma");
            }
        }
    }
}

/// The same for f32 activations with a packed bf16 weight.
#[test]
fn bf16_main_loops() {
    let mut gpu = Gpu::new();
    head("per mma");
    for (m, n, k, rows, cols, bar) in
        [(1280, 1024, 256, 128, 128, 2.7), (64, 128, 1024, 64, 64, 3.6), (16, 128, 1024, 16, 32, 10.0)]
    {
        let (x, w) = (gpu.upload(&values(m * k, 1)), gpu.upload(&values(n * k, 2)));
        let mut packed = gpu.alloc::<u32>(bf16_packed_len(n, k));
        gpu.run(&PackBf16 { n, k }, PackBf16Args { w: w.arg(), packed: packed.arg_mut() });
        let mut y = gpu.alloc::<f32>(m * n);
        let bytes = m / rows * n / cols * (4 * rows + 2 * cols) * k;
        let args =
            Bf16LinearArgs { x: x.arg(), packed: packed.arg(), bias: None, residual: None, y: y.arg_mut() };
        let counted = gpu.run(&Bf16Linear { m, n, k }, args);
        assert!(row(&gpu, &counted, bytes) <= bar);
        // back: the same product with the roles of n and k exchanged
        let w = gpu.upload(&values(n * k, 2));
        gpu.run(&PackBf16 { n: k, k: n }, PackBf16Args { w: w.arg(), packed: packed.arg_mut() });
        let args = Bf16LinearBackwardArgs { dy: x.arg(), packed: packed.arg(), dx: y.arg_mut() };
        let counted = gpu.run(&Bf16LinearBackward { m, n: k, k: n, accumulate: false }, args);
        assert!(row(&gpu, &counted, bytes) <= bar);
    }
}

/// Instructions for one fma of a warp: a thread's 8 x 8 elements need 64 fmas and 4 loads a k.
#[test]
fn f32_main_loops() {
    let mut gpu = Gpu::new();
    head("per fma");
    for (tile, m, n, k, (rows, cols), bar) in [
        (DenseTile::Large, 128, 256, 512, (128, 128), 1.15),
        (DenseTile::Small, 64, 128, 512, (64, 64), 1.2),
        (DenseTile::Low, 32, 128, 512, (32, 64), 1.3),
        (DenseTile::Thin, 16, 64, 1024, (16, 32), 2.0),
    ] {
        for (ta, tb) in [(false, true), (false, false), (true, false), (true, true)] {
            let (lda, ldb) = (if ta { m } else { k }, if tb { k } else { n });
            let matmul = Matmul { m, n, k, ta, tb, lda, ldb, ldc: n, alpha: 1.0, accumulate: false };
            let (a, b) = (gpu.upload(&values(m * k, 1)), gpu.upload(&values(k * n, 2)));
            let mut c = gpu.alloc::<f32>(m * n);
            let args = MatmulArgs { a: a.arg(), b: b.arg(), c: c.arg_mut() };
            let counted = gpu.run(&Tiled { matmul, tile }, args);
            let bytes = 4 * m / rows * n / cols * (rows + cols) * k;
            assert!(row(&gpu, &counted, bytes) <= bar);
        }
    }
}
