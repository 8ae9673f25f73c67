//! The norms' PTX on the VM: against the CPU twin and f64, strict and adversarial; counted and static bars.

use kernel_abi::{Half, Kernel, bf16, f16, narrow, widen};
use kernel_test::{Gpu, compare::*, every_way, ptxas};
use norm_gelu::*;
use proptest::prelude::*;
use std::cell::RefCell;

thread_local! {
    /// One GPU for all cases of a test: a module is compiled once.
    static GPU: RefCell<Gpu> = RefCell::new(Gpu::new());
}

fn norm64(x: &[f64], w: &[f64], b: &[f64], cols: usize, kind: Norm) -> Vec<f64> {
    let row = |x: &[f64]| {
        let n = cols as f64;
        let mean = if kind == Norm::Layer { x.iter().sum::<f64>() / n } else { 0.0 };
        let rstd = 1.0 / (x.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / n + 1e-5).sqrt();
        (0..cols).map(|i| (x[i] - mean) * rstd * w[i] + b[i]).collect::<Vec<_>>()
    };
    x.chunks(cols).flat_map(row).collect()
}

/// `skip` elements lie before each argument: with 0 all are aligned.
fn forward(gpu: &mut Gpu, rows: usize, cols: usize, kind: Norm, biased: bool, skip: usize) {
    let shape = NormForward { rows, cols, eps: 1e-5, kind };
    let (x, w, b) = (values(rows * cols + skip, 1), values(cols + skip, 2), values(cols + skip, 3));
    let (gx, gw, gb) = (gpu.upload(&x), gpu.upload(&w), gpu.upload(&b));
    let (mut gy, mut gm, mut gr) = (gpu.alloc::<f32>(rows * cols + skip), gpu.alloc::<f32>(rows), gpu.alloc::<f32>(rows));
    gy.write(&vec![0.0; rows * cols + skip]);
    gpu.run(&shape, NormForwardArgs {
        x: gx.arg().skip(skip),
        weight: gw.arg().skip(skip),
        bias: biased.then(|| gb.arg().skip(skip)),
        y: gy.arg_mut().skip(skip),
        mean: gm.arg_mut(),
        rstd: gr.arg_mut(),
    });
    let (mut y, mut mean, mut rstd) = (vec![0.0; rows * cols], vec![0.0; rows], vec![0.0; rows]);
    shape.cpu(NormForwardArgs {
        x: x[skip..].into(),
        weight: w[skip..].into(),
        bias: biased.then(|| b[skip..].into()),
        y: (&mut y).into(),
        mean: (&mut mean).into(),
        rstd: (&mut rstd).into(),
    });
    let what = format!("{kind:?} forward {rows}x{cols}");
    let bias = if biased { wide(&b[skip..]) } else { vec![0.0; cols] };
    let want = norm64(&wide(&x[skip..]), &wide(&w[skip..]), &bias, cols, kind);
    let got = &gy.to_vec()[skip..];
    assert_close(&what, got, &want, 1e-5);
    assert_close(&what, got, &wide(&y), 1e-5);
    assert_close(&what, &gr.to_vec(), &wide(&rstd), 1e-5);
    let far = gm.to_vec().iter().zip(&mean).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
    assert!(far < 1e-6, "{what}: mean off by {far}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn forward_is_the_twin_s(rows in 0usize..9, cols in 1usize..700, rms: bool, biased: bool, skip in 0usize..2) {
        let kind = if rms { Norm::Rms } else { Norm::Layer };
        GPU.with_borrow_mut(|gpu| {
            forward(gpu, rows, cols, kind, biased, skip);
            forward(gpu, rows, cols.next_multiple_of(8), kind, biased, skip);
        });
    }
}

#[test]
fn forward_at_every_width() {
    let mut gpu = Gpu::new();
    for cols in [1, 4, 8192, 8191, 8196, 16384, 16388, 16385, 65536] {
        forward(&mut gpu, 2, cols, Norm::Layer, true, 0);
        forward(&mut gpu, 1, cols, Norm::Rms, false, 1);
    }
}
