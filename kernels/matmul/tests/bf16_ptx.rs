//! The bf16 products' PTX on the VM: against the CPU twin (same rounded operands, another order within 16 k) and f64;
//! rows that do not depend on the batch; counted bars.

use kernel_test::{Gpu, Vram, compare::*, every_way};
use matmul::*;
use proptest::prelude::*;

fn packed(gpu: &mut Gpu, w: &[f32], n: usize, k: usize) -> Vram<u32> {
    let gw = gpu.upload(w);
    let mut packed = gpu.alloc::<u32>(bf16_packed_len(n, k));
    gpu.run(&PackBf16 { n, k }, PackBf16Args { w: gw.arg(), packed: packed.arg_mut() });
    packed
}

/// y = x W^T + bias + residual, `skip` elements into every f32 buffer.
fn forward(
    gpu: &mut Gpu,
    [m, n, k]: [usize; 3],
    skip: usize,
    x: &[f32],
    w: &[f32],
    epilogue: bool,
) -> Vec<f32> {
    let w = packed(gpu, w, n, k);
    let padded = |v: &[f32]| [&vec![0.0; skip][..], v].concat();
    let (gx, bias, residual) =
        (gpu.upload(&padded(x)), gpu.upload(&values(n, 3)), gpu.upload(&values(skip + m * n, 4)));
    let mut y = gpu.alloc::<f32>(skip + m * n);
    gpu.run(
        &Bf16Linear { m, n, k },
        Bf16LinearArgs {
            x: gx.arg().skip(skip),
            packed: w.arg(),
            bias: epilogue.then(|| bias.arg()),
            residual: epilogue.then(|| residual.arg().skip(skip)),
            y: y.arg_mut().skip(skip),
        },
    );
    y.to_vec()[skip..].to_vec()
}

/// The same in f64, over operands rounded to bf16.
fn forward_f64([m, n, k]: [usize; 3], skip: usize, x: &[f32], w: &[f32], epilogue: bool) -> Vec<f64> {
    let (bias, residual) = (values(n, 3), values(skip + m * n, 4));
    let element = |i: usize, j: usize| {
        let dot: f64 =
            (0..k).map(|t| f64::from(round_bf16(x[i * k + t])) * f64::from(round_bf16(w[j * k + t]))).sum();
        dot + if epilogue { f64::from(bias[j]) + f64::from(residual[skip + i * n + j]) } else { 0.0 }
    };
    (0..m * n).map(|at| element(at / n, at % n)).collect()
}

fn backward(
    gpu: &mut Gpu,
    [m, n, k]: [usize; 3],
    skip: usize,
    dy: &[f32],
    w: &[f32],
    before: Option<&[f32]>,
) -> Vec<f32> {
    let w = packed(gpu, w, n, k);
    let gdy = gpu.upload(&[&vec![0.0; skip][..], dy].concat());
    let mut dx = gpu.alloc::<f32>(m * k);
    if let Some(before) = before {
        dx.write(before);
    }
    let args = Bf16LinearBackwardArgs { dy: gdy.arg().skip(skip), packed: w.arg(), dx: dx.arg_mut() };
    gpu.run(&Bf16LinearBackward { m, n, k, accumulate: before.is_some() }, args);
    dx.to_vec()
}

fn backward_f64([m, n, k]: [usize; 3], dy: &[f32], w: &[f32], before: Option<&[f32]>) -> Vec<f64> {
    let element = |i: usize, t: usize| {
        let dot: f64 =
            (0..n).map(|j| f64::from(round_bf16(dy[i * n + j])) * f64::from(round_bf16(w[j * k + t]))).sum();
        dot + before.map_or(0.0, |b| f64::from(b[i * k + t]))
    };
    (0..m * k).map(|at| element(at / k, at % k)).collect()
}

fn check(gpu: &mut Gpu, shape: [usize; 3], skip: usize, more: bool) {
    let [m, n, k] = shape;
    let (x, w) = (values(m * k, 1), values(n * k, 2));
    let y = forward(gpu, shape, skip, &x, &w, more);
    assert_close(&format!("forward {shape:?}"), &y, &forward_f64(shape, skip, &x, &w, more), 1e-5);
    let (dy, before) = (values(m * n, 5), values(m * k, 6));
    let before = more.then_some(&before[..]);
    let dx = backward(gpu, shape, skip, &dy, &w, before);
    assert_close(&format!("backward {shape:?}"), &dx, &backward_f64(shape, &dy, &w, before), 1e-5);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn any_shape(m in 1usize..80, n in 1usize..80, k in 1usize..80, skip in 0usize..5, more: bool) {
        check(&mut Gpu::new(), [m, n, k], skip, more);
    }

    #[test]
    fn aligned_shapes(m in 1usize..80, n in 1usize..20, k in 1usize..30, more: bool) {
        check(&mut Gpu::new(), [m, 4 * n, 8 * k], 0, more);
    }
}

#[test]
fn under_an_adversary() {
    every_way(|gpu| {
        check(gpu, [70, 68, 136], 0, true);
        check(gpu, [5, 36, 200], 0, true);
        check(gpu, [9, 35, 39], 1, true);
    });
}

#[test]
fn packing_rounds_as_the_twin_and_unpacks() {
    let mut gpu = Gpu::new();
    for (n, k) in [(45, 33), (3, 8), (0, 5), (5, 0), (1, 1)] {
        let mut w = values(n * k, 9);
        w.iter_mut().skip(3).step_by(7).for_each(|v| *v *= 1e-38);
        let p = packed(&mut gpu, &w, n, k);
        let mut back = gpu.alloc::<f32>(n * k);
        gpu.run(&UnpackBf16 { n, k }, UnpackBf16Args { packed: p.arg(), w: back.arg_mut() });
        let bits = |v: &[f32]| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        let rounded: Vec<f32> = w.iter().map(|v| round_bf16(*v)).collect();
        assert_eq!(bits(&back.to_vec()), bits(&rounded), "[{n}, {k}]");
    }
}

#[test]
fn a_row_has_the_same_bits_in_any_batch() {
    let mut gpu = Gpu::new();
    let (n, k) = (72, 264);
    let (x, w, dy) = (values(140 * k, 1), values(n * k, 2), values(140 * n, 3));
    let (y, dx) =
        (forward(&mut gpu, [140, n, k], 0, &x, &w, false), backward(&mut gpu, [140, n, k], 0, &dy, &w, None));
    for (first, rows) in [(0, 1), (5, 16), (139, 1), (100, 17), (64, 76)] {
        let part = forward(&mut gpu, [rows, n, k], 0, &x[first * k..][..rows * k], &w, false);
        assert_eq!(part, y[first * n..][..rows * n], "forward, rows {first}.. {rows}");
        // one element into the buffer: element by element
        let part = forward(&mut gpu, [rows, n, k], 1, &x[first * k..][..rows * k], &w, false);
        assert_eq!(part, y[first * n..][..rows * n], "forward unaligned, rows {first}.. {rows}");
        let part = backward(&mut gpu, [rows, n, k], 0, &dy[first * n..][..rows * n], &w, None);
        assert_eq!(part, dx[first * k..][..rows * k], "backward, rows {first}.. {rows}");
    }
}

/// A shape that fills the GPU with tiles of 128 x 128, with ragged edges.
const BIG: [usize; 3] = [1000, 1276, 72];

#[test]
fn large_tiles_in_both_directions() {
    let mut gpu = Gpu::new();
    let [m, n, k] = BIG;
    let (x, w) = (values(m * k, 1), values(n * k, 2));
    let y = forward(&mut gpu, BIG, 0, &x, &w, true);
    assert_close("forward", &y, &forward_f64(BIG, 0, &x, &w, true), 1e-5);
    let plain = forward(&mut gpu, BIG, 0, &x, &w, false);
    // x as the gradient of 72 outputs of 1280 inputs
    let w_back = values(k * 1280, 4);
    let dx = backward(&mut gpu, [m, k, 1280], 0, &x, &w_back, None);
    assert_close("backward", &dx, &backward_f64([m, k, 1280], &x, &w_back, None), 1e-5);
    for row in [0, 127, 999] {
        let one = forward(&mut gpu, [1, n, k], 0, &x[row * k..][..k], &w, false);
        assert_eq!(one, plain[row * n..][..n], "forward, row {row}");
        let one = backward(&mut gpu, [1, k, 1280], 0, &x[row * k..][..k], &w_back, None);
        assert_eq!(one, dx[row * 1280..][..1280], "backward, row {row}");
    }
}
