//! What moves through memory, counted on the VM, against the least that the mathematics needs.

use crate::reference::EPS;
use kernel_abi::{Cost, DevicePtr, Float, In, Kernel, Out, bf16, f16};
use kernel_test::{Checks, Counters, Gpu, Options, Vram};
use norm_gelu::*;

/// Memory for arguments of any element type: bits are zero, which every kernel takes.
struct Arena {
    gpu: Gpu,
    blocks: Vec<Vram<u8>>,
}

impl Arena {
    fn new() -> Arena {
        let options = Options { checks: Checks::Off, threads: 2, ..Options::default() };
        Arena { gpu: Gpu::with(options), blocks: Vec::new() }
    }

    fn at<T>(&mut self, len: usize) -> DevicePtr {
        self.blocks.push(self.gpu.upload(&vec![0u8; len * size_of::<T>()]));
        self.blocks.last().expect("just pushed").arg().device()
    }

    fn input<T>(&mut self, len: usize) -> In<'static, T> {
        In::Device(self.at::<T>(len), len)
    }

    fn output<T>(&mut self, len: usize) -> Out<'static, T> {
        Out::Device(self.at::<T>(len), len)
    }

    /// Runs and prints a row of the table; bytes moved over the least, and 32-byte sectors all used.
    fn count<K: Kernel>(&mut self, what: &str, kernel: &K, args: K::Args<'_>) -> f64 {
        let counted = self.gpu.run(kernel, args);
        let over = moved(&counted) as f64 / least(kernel.cost()) as f64;
        let (loads, stores) = (&counted.global_loads, &counted.global_stores);
        let launches = self.gpu.launches.len();
        println!(
            "{what:<44}{launches:>3}{:>13}{:>13}{over:>8.3}{:>7.3}{:>7.3}{:>7}{:>11}",
            least(kernel.cost()),
            moved(&counted),
            loads.efficiency(),
            stores.efficiency(),
            counted.shared_loads.conflicts + counted.shared_stores.conflicts,
            counted.total_instructions(),
        );
        assert_eq!((loads.efficiency(), stores.efficiency()), (1.0, 1.0), "{what}: sectors");
        self.blocks.clear();
        over
    }
}

fn moved(c: &Counters) -> u64 {
    assert_eq!((c.global_atomics.requests, c.local_bytes), (0, 0));
    c.global_loads.bytes + c.global_stores.bytes
}

fn least(c: Cost) -> u64 {
    c.bytes_read + c.bytes_written
}

/// The bar of this family.
const BAR: f64 = 1.05;

const HEAD: &str = "                                     launches  least bytes  moved bytes   ratio  loads stores conflicts  warp instr";

/// Least bytes, moved bytes and their ratio are of loads and stores of lanes, as if there were no cache: x read twice from a
/// cache would count twice.
fn norm_forward<T: Float>(a: &mut Arena, rows: usize, cols: usize) -> NormForwardArgs<'static, T> {
    NormForwardArgs {
        x: a.input(rows * cols),
        weight: a.input(cols),
        bias: Some(a.input(cols)),
        y: a.output(rows * cols),
        mean: a.output(rows),
        rstd: a.output(rows),
    }
}

fn norm_backward<T: Float>(
    a: &mut Arena,
    rows: usize,
    cols: usize,
    sums: bool,
) -> NormBackwardArgs<'static, T> {
    NormBackwardArgs {
        x: a.input(rows * cols),
        weight: a.input(cols),
        mean: a.input(rows),
        rstd: a.input(rows),
        dy: a.input(rows * cols),
        dx: a.output(rows * cols),
        dweight: sums.then(|| a.output(cols)),
        dbias: sums.then(|| a.output(cols)),
    }
}

#[test]
fn norms_move_no_byte_twice() {
    println!("{HEAD}");
    let mut a = Arena::new();
    // 21 rounds of rows for each of 192 blocks
    let (rows, cols) = (4096, 2048);
    let shape = NormForward { rows, cols, eps: EPS, kind: Norm::Layer };
    let args = norm_forward::<f32>(&mut a, rows, cols);
    assert!(a.count(&format!("layer norm forward f32 {rows}x{cols}"), &shape, args) <= BAR);
    for (rows, cols) in [(47360, 64), (6400, 2048)] {
        let shape = NormBackward { rows, cols, kind: Norm::Layer, accumulate: false };
        let args = norm_backward::<f32>(&mut a, rows, cols, true);
        let over = a.count(&format!("layer norm backward f32 {rows}x{cols}"), &shape, args);
        assert!(over <= BAR, "{rows}x{cols}: {over}");
    }
    let (rows, cols) = (51200, 64);
    let shape = NormBackward { rows, cols, kind: Norm::Layer, accumulate: true };
    let args = norm_backward::<bf16>(&mut a, rows, cols, true);
    assert!(a.count(&format!("layer norm backward + bf16 {rows}x{cols}"), &shape.of::<bf16>(), args) <= BAR);
    let (rows, cols) = (4096, 512);
    let shape = NormBackward { rows, cols, kind: Norm::Rms, accumulate: true };
    let args = norm_backward::<f32>(&mut a, rows, cols, false);
    assert!(a.count(&format!("frozen rms norm backward + f32 {rows}x{cols}"), &shape, args) <= BAR);
}

#[test]
fn activations_move_no_byte_twice() {
    println!("{HEAD}");
    let mut a = Arena::new();
    let (rows, cols) = (256, 1024);
    for kind in [Act::Gelu, Act::SwiGlu] {
        let (n, wide) = (rows * cols, rows * cols * kind.fan_in());
        let shape = ActForward { rows, cols, kind };
        let args = ActForwardArgs { x: a.input::<f32>(wide), y: a.output(n) };
        assert_eq!(a.count(&format!("{kind:?} forward f32 {rows}x{cols}"), &shape, args), 1.0);
        let args = ActForwardArgs { x: a.input::<f16>(wide), y: a.output(n) };
        assert_eq!(a.count(&format!("{kind:?} forward f16 {rows}x{cols}"), &shape.of::<f16>(), args), 1.0);
        let shape = ActBackward { rows, cols, kind };
        let args = ActBackwardArgs { x: a.input::<f16>(wide), dy: a.input(n), dx: a.output(wide) };
        assert_eq!(a.count(&format!("{kind:?} backward f16 {rows}x{cols}"), &shape.of::<f16>(), args), 1.0);
    }
    // a bias once for 21 rows
    let (rows, cols, kind) = (2688, 2048, Act::Gelu);
    let args =
        BiasActForwardArgs { x: a.input::<f32>(rows * cols), bias: a.input(cols), y: a.output(rows * cols) };
    let what = format!("bias + {kind:?} forward f32 {rows}x{cols}");
    assert!(a.count(&what, &BiasActForward { rows, cols, kind }, args) <= BAR);
    let args = BiasActBackwardArgs {
        x: a.input::<f32>(rows * cols),
        bias: a.input(cols),
        dy: a.input(rows * cols),
        dx: a.output(rows * cols),
        dbias: Some(a.output(cols)),
    };
    let what = format!("bias + {kind:?} backward f32 {rows}x{cols}");
    assert!(a.count(&what, &BiasActBackward { rows, cols, kind }, args) <= BAR);
}

/// Beyond the least: weight and bias, once for each team instead of once, where rows are few; never a row twice.
#[test]
fn what_is_beyond_the_least_is_known() {
    println!("{HEAD}");
    let mut a = Arena::new();
    for (rows, cols) in [(64, 64), (300, 768), (700, 256), (5, 8192)] {
        let shape = NormForward { rows, cols, eps: EPS, kind: Norm::Layer };
        let args = norm_forward::<f32>(&mut a, rows, cols);
        let over = a.count(&format!("layer norm forward f32 {rows}x{cols}"), &shape, args);
        let launch = &a.gpu.launches[0];
        let team = u32::from_le_bytes(launch.params.bytes()[56..60].try_into().expect("four bytes"));
        let teams = u64::from(launch.grid[0] * launch.block[0] / team);
        let least = least(shape.cost());
        assert_eq!(
            (over * least as f64).round() as u64,
            least + 8 * cols as u64 * (teams - 1),
            "{rows}x{cols}"
        );
    }
    // a second norm of the same rows costs its output and its weights, not the rows
    let (rows, cols) = (16, 2048);
    let norm = NormForward { rows, cols, eps: EPS, kind: Norm::Layer };
    let shape = FusedNormForward { norm, x_bias: true, residual: true, sum: true, second: true };
    let args = FusedNormForwardArgs {
        x: a.input::<bf16>(rows * cols),
        x_bias: Some(a.input(cols)),
        residual: Some(a.input(rows * cols)),
        sum: Some(a.output(rows * cols)),
        weight: a.input(cols),
        bias: Some(a.input(cols)),
        y: a.output(rows * cols),
        second: Some(SecondNorm {
            weight: a.input(cols),
            bias: Some(a.input(cols)),
            y: a.output(rows * cols),
        }),
        mean: a.output(rows),
        rstd: a.output(rows),
    };
    let over = a.count(&format!("sum and two norms bf16 {rows}x{cols}"), &shape.of::<bf16>(), args);
    let least = least(shape.of::<bf16>().cost());
    assert_eq!((over * least as f64).round() as u64, least + 2 * 5 * cols as u64 * (rows as u64 - 1));
}
