//! NormForward and NormBackward.

use crate::{
    GPU,
    reference::{self, EPS},
    rounded,
};
use kernel_abi::{Half, Kernel, bf16, f16, widen};
use kernel_test::{Gpu, compare::*, every_way};
use norm_gelu::*;
use proptest::prelude::*;

/// A shape and what is asked of it. `skip` elements lie before every argument: with 0 all are aligned.
#[derive(Clone, Copy, Debug)]
struct Case {
    rows: usize,
    cols: usize,
    kind: Norm,
    bias: bool,
    skip: usize,
}

fn case(rows: usize, cols: usize) -> Case {
    Case { rows, cols, kind: Norm::Layer, bias: true, skip: 0 }
}

/// The forward pass on the VM: y, mean, rstd.
fn forward(gpu: &mut Gpu, c: Case, x: &[f32], w: &[f32], b: &[f32]) -> [Vec<f32>; 3] {
    let Case { rows, cols, kind, skip, .. } = c;
    let (gx, gw, gb) = (gpu.upload(x), gpu.upload(w), gpu.upload(b));
    let mut y = gpu.upload(&vec![f32::NAN; rows * cols + skip]);
    let (mut mean, mut rstd) = (gpu.alloc::<f32>(rows), gpu.alloc::<f32>(rows));
    let args = NormForwardArgs {
        x: gx.arg().skip(skip),
        weight: gw.arg().skip(skip),
        bias: c.bias.then(|| gb.arg().skip(skip)),
        y: y.arg_mut().skip(skip),
        mean: mean.arg_mut(),
        rstd: rstd.arg_mut(),
    };
    gpu.run(&NormForward { rows, cols, eps: EPS, kind }, args);
    [y.to_vec()[skip..].to_vec(), mean.to_vec(), rstd.to_vec()]
}

fn check_forward(gpu: &mut Gpu, c: Case) -> [Vec<f32>; 3] {
    let Case { rows, cols, kind, skip, .. } = c;
    let (x, w, b) = (values(rows * cols + skip, 1), values(cols + skip, 2), values(cols + skip, 3));
    let got = forward(gpu, c, &x, &w, &b);
    let (x, w, b) = (&x[skip..], &w[skip..], &b[skip..]);
    let (mut y, mut mean, mut rstd) = (vec![0.0; rows * cols], vec![0.0; rows], vec![0.0; rows]);
    NormForward { rows, cols, eps: EPS, kind }.cpu(NormForwardArgs {
        x: x.into(),
        weight: w.into(),
        bias: c.bias.then(|| b.into()),
        y: (&mut y).into(),
        mean: (&mut mean).into(),
        rstd: (&mut rstd).into(),
    });
    let what = format!("forward {c:?}");
    let want = reference::norm(&wide(x), &wide(w), c.bias.then(|| wide(b)).as_deref(), kind);
    assert_close(&what, &got[0], &want, 1e-5);
    assert_close(&what, &got[0], &wide(&y), 1e-5);
    assert_close(&what, &got[2], &wide(&rstd), 1e-5);
    let off = got[1].iter().zip(&mean).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
    assert!(off < 1e-6, "{what}: mean off by {off}");
    got
}

/// What the backward pass is asked for besides dx.
#[derive(Clone, Copy, Debug)]
struct Wants {
    accumulate: bool,
    dweight: bool,
    dbias: bool,
}

const ALL: Wants = Wants { accumulate: true, dweight: true, dbias: true };

/// dx, dweight, dbias on the VM; each began as ones.
fn backward(gpu: &mut Gpu, c: Case, wants: Wants) -> [Vec<f32>; 3] {
    let Case { rows, cols, kind, skip, .. } = c;
    let (x, w) = (values(rows * cols + skip, 1), values(cols + skip, 2));
    let dy = values(rows * cols + skip, 4);
    let [_, mean, rstd] = forward(gpu, c, &x, &w, &values(cols + skip, 3));
    let (gx, gw, gdy) = (gpu.upload(&x), gpu.upload(&w), gpu.upload(&dy));
    let (mean, rstd) = (gpu.upload(&mean), gpu.upload(&rstd));
    let mut dx = gpu.upload(&vec![1.0f32; rows * cols + skip]);
    let (mut dw, mut db) = (gpu.upload(&vec![1.0f32; cols]), gpu.upload(&vec![1.0f32; cols]));
    let args = NormBackwardArgs {
        x: gx.arg().skip(skip),
        weight: gw.arg().skip(skip),
        mean: mean.arg(),
        rstd: rstd.arg(),
        dy: gdy.arg().skip(skip),
        dx: dx.arg_mut().skip(skip),
        dweight: wants.dweight.then(|| dw.arg_mut()),
        dbias: wants.dbias.then(|| db.arg_mut()),
    };
    gpu.run(&NormBackward { rows, cols, kind, accumulate: wants.accumulate }, args);
    [dx.to_vec()[skip..].to_vec(), dw.to_vec(), db.to_vec()]
}

fn check_backward(gpu: &mut Gpu, c: Case, wants: Wants) {
    let Case { rows, cols, kind, skip, .. } = c;
    let got = backward(gpu, c, wants);
    let (x, w, dy) = (values(rows * cols + skip, 1), values(cols + skip, 2), values(rows * cols + skip, 4));
    let (x, w, dy) = (&x[skip..], &w[skip..], &dy[skip..]);
    let (mut y, mut mean, mut rstd) = (vec![0.0; rows * cols], vec![0.0; rows], vec![0.0; rows]);
    NormForward { rows, cols, eps: EPS, kind }.cpu(NormForwardArgs {
        x: x.into(),
        weight: w.into(),
        bias: None,
        y: (&mut y).into(),
        mean: (&mut mean).into(),
        rstd: (&mut rstd).into(),
    });
    let mut twin = [vec![1.0f32; rows * cols], vec![1.0; cols], vec![1.0; cols]];
    let [dx, dw, db] = &mut twin;
    NormBackward { rows, cols, kind, accumulate: wants.accumulate }.cpu(NormBackwardArgs {
        x: x.into(),
        weight: w.into(),
        mean: (&mean).into(),
        rstd: (&rstd).into(),
        dy: dy.into(),
        dx: dx.into(),
        dweight: wants.dweight.then(|| dw.into()),
        dbias: wants.dbias.then(|| db.into()),
    });
    let mut want = reference::norm_backward(&wide(x), &wide(w), &wide(dy), kind);
    for (sum, wanted) in want.iter_mut().zip([wants.accumulate, wants.dweight, wants.dbias]) {
        sum.iter_mut().for_each(|s| *s += f64::from(u8::from(wanted)));
    }
    for (i, wanted) in [true, wants.dweight, wants.dbias].into_iter().enumerate() {
        let what = format!("{} {c:?} {wants:?}", ["dx", "dweight", "dbias"][i]);
        assert_close(&what, &got[i], &wide(&twin[i]), 1e-5);
        if wanted {
            assert_close(&what, &got[i], &want[i], 1e-5);
        }
    }
}

fn cases(cols: usize) -> impl Strategy<Value = Case> {
    (0usize..40, 1usize..cols, any::<bool>(), any::<bool>(), 0usize..3).prop_map(
        |(rows, cols, rms, bias, skip)| {
            let kind = if rms { Norm::Rms } else { Norm::Layer };
            Case { rows, cols, kind, bias, skip }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn forward_is_the_twin_s(c in cases(700)) {
        GPU.with_borrow_mut(|gpu| {
            check_forward(gpu, c);
            check_forward(gpu, Case { cols: c.cols.next_multiple_of(8), ..c });
        });
    }

    #[test]
    fn backward_is_the_twin_s(c in cases(500), accumulate: bool, dweight: bool, dbias: bool) {
        // the first element of a single-column row has no gradient: |dx| of the reference is rounding alone
        let c = Case { cols: c.cols + 1, ..c };
        let wants = Wants { accumulate, dweight, dbias };
        GPU.with_borrow_mut(|gpu| {
            check_backward(gpu, c, wants);
            check_backward(gpu, Case { cols: c.cols.next_multiple_of(8), ..c }, wants);
        });
    }
}

#[test]
fn every_width_has_a_variant() {
    let mut gpu = Gpu::new();
    for cols in [1, 4, 8192, 8191, 8196, 16896, 16900, 16385, 65536] {
        check_forward(&mut gpu, case(2, cols));
        check_forward(&mut gpu, Case { kind: Norm::Rms, bias: false, skip: 1, ..case(1, cols) });
    }
    let frozen = Wants { accumulate: false, dweight: false, dbias: false };
    for cols in [4, 1024, 4096, 4097, 4100, 8192, 8196, 16385, 65536] {
        check_backward(&mut gpu, case(3, cols), ALL);
        check_backward(&mut gpu, Case { skip: 1, ..case(1, cols) }, frozen);
    }
}

#[test]
fn every_row_reaches_the_sums() {
    // more rows of partial sums than the second stage takes in a round
    check_backward(&mut Gpu::new(), case(41_000, 8), ALL);
    check_backward(&mut Gpu::new(), case(150, 9000), ALL);
}

#[test]
fn rows_do_not_know_their_batch() {
    let mut gpu = Gpu::new();
    for cols in [40, 768, 1001, 2048, 8200] {
        let (many, alone) = (case(9, cols), case(1, cols));
        let (x, w, b) = (values(9 * cols, 1), values(cols, 2), values(cols, 3));
        let [y, _, rstd] = forward(&mut gpu, many, &x, &w, &b);
        for i in [0, 4, 8] {
            let at = i * cols..(i + 1) * cols;
            let [one, _, r] = forward(&mut gpu, alone, &x[at.clone()], &w, &b);
            assert_eq!((&one[..], r[0]), (&y[at.clone()], rstd[i]), "row {i} of {cols} columns");
            // nor whether its address is aligned
            let shift = |v: &[f32]| [&[0.0], v].concat();
            let odd = Case { skip: 1, ..alone };
            let [one, ..] = forward(&mut gpu, odd, &shift(&x[at.clone()]), &shift(&w), &shift(&b));
            assert_eq!(one, y[at], "row {i} of {cols} columns, unaligned");
        }
    }
}

#[test]
fn the_same_bits_every_run() {
    let mut gpu = Gpu::new();
    for (rows, cols) in [(300, 96), (70, 520), (40, 8200)] {
        let first = backward(&mut gpu, case(rows, cols), ALL);
        assert_eq!(first, backward(&mut gpu, case(rows, cols), ALL), "{rows}x{cols}");
    }
}

#[test]
fn under_an_adversary() {
    every_way(|gpu| {
        for (rows, cols) in [(7, 52), (5, 300), (3, 1032), (2, 5000), (2, 8200), (2, 16400)] {
            check_forward(gpu, case(rows, cols));
            check_backward(gpu, case(rows, cols), ALL);
        }
    });
}

#[test]
fn nan_and_infinity_stay_in_their_row() {
    let mut gpu = Gpu::new();
    for cols in [64, 1024] {
        let mut x = values(3 * cols, 1);
        (x[cols + 5], x[2 * cols + 7]) = (f32::NAN, f32::INFINITY);
        let [y, ..] = forward(&mut gpu, case(3, cols), &x, &values(cols, 2), &values(cols, 3));
        assert!(y[..cols].iter().all(|y| y.is_finite()) && y[cols..2 * cols].iter().all(|y| y.is_nan()));
        assert!(y[2 * cols..].iter().any(|y| y.is_nan()));
    }
}

fn half_forward<T: Half>(rows: usize, cols: usize, skip: usize, limit: f64) {
    let shape = NormForward { rows, cols, eps: EPS, kind: Norm::Layer }.of::<T>();
    let (x, w, b) =
        (rounded::<T>(rows * cols + skip, 1), rounded::<T>(cols + skip, 2), rounded::<T>(cols + skip, 3));
    let mut gpu = Gpu::new();
    let (gx, gw, gb) = (gpu.upload(&x), gpu.upload(&w), gpu.upload(&b));
    let mut gy = gpu.upload(&vec![T::from_f32(f32::NAN); rows * cols + skip]);
    let (mut mean, mut rstd) = (gpu.alloc::<f32>(rows), gpu.alloc::<f32>(rows));
    let args = NormForwardArgs {
        x: gx.arg().skip(skip),
        weight: gw.arg().skip(skip),
        bias: Some(gb.arg().skip(skip)),
        y: gy.arg_mut().skip(skip),
        mean: mean.arg_mut(),
        rstd: rstd.arg_mut(),
    };
    gpu.run(&shape, args);
    let mut y = vec![T::from_f32(0.0); rows * cols];
    let (mut mean, mut rstd) = (vec![0.0; rows], vec![0.0; rows]);
    shape.cpu(NormForwardArgs {
        x: x[skip..].into(),
        weight: w[skip..].into(),
        bias: Some(b[skip..].into()),
        y: (&mut y).into(),
        mean: (&mut mean).into(),
        rstd: (&mut rstd).into(),
    });
    let [x64, w64, b64] = [&x, &w, &b].map(|v| wide(&widen(&v[skip..])));
    let want = reference::norm(&x64, &w64, Some(&b64), Norm::Layer);
    let what = format!("{} forward {rows}x{cols}", T::NAME);
    let got = widen(&gy.to_vec()[skip..]);
    assert_close(&what, &got, &want, limit);
    assert_twice(&what, &got, &widen(&y), &want, 1e-7);
}

fn half_backward<T: Half>(rows: usize, cols: usize, accumulate: bool, limit: f64) {
    let shape = NormBackward { rows, cols, kind: Norm::Layer, accumulate }.of::<T>();
    let (x, w, dy) = (rounded::<T>(rows * cols, 1), rounded::<T>(cols, 2), rounded::<T>(rows * cols, 4));
    let (x32, w32) = (widen(&x), widen(&w));
    let mut gpu = Gpu::new();
    let [_, mean, rstd] = forward(&mut gpu, case(rows, cols), &x32, &w32, &values(cols, 3));
    let (gx, gw, gdy) = (gpu.upload(&x), gpu.upload(&w), gpu.upload(&dy));
    let (gm, gr) = (gpu.upload(&mean), gpu.upload(&rstd));
    let mut dx = gpu.upload(&vec![T::from_f32(1.0); rows * cols]);
    let (mut dw, mut db) = (gpu.upload(&vec![1.0f32; cols]), gpu.upload(&vec![1.0f32; cols]));
    let args = NormBackwardArgs {
        x: gx.arg(),
        weight: gw.arg(),
        mean: gm.arg(),
        rstd: gr.arg(),
        dy: gdy.arg(),
        dx: dx.arg_mut(),
        dweight: Some(dw.arg_mut()),
        dbias: Some(db.arg_mut()),
    };
    gpu.run(&shape, args);
    let mut twin = vec![T::from_f32(1.0); rows * cols];
    let (mut tw, mut tb) = (vec![1.0f32; cols], vec![1.0f32; cols]);
    shape.cpu(NormBackwardArgs {
        x: (&x).into(),
        weight: (&w).into(),
        mean: (&mean).into(),
        rstd: (&rstd).into(),
        dy: (&dy).into(),
        dx: (&mut twin).into(),
        dweight: Some((&mut tw).into()),
        dbias: Some((&mut tb).into()),
    });
    let [mut wx, mut ww, mut wb] =
        reference::norm_backward(&wide(&x32), &wide(&w32), &wide(&widen(&dy)), Norm::Layer);
    [&mut ww, &mut wb].into_iter().flatten().for_each(|v| *v += 1.0);
    wx.iter_mut().for_each(|v| *v += f64::from(u8::from(accumulate)));
    let what = format!("{} backward {rows}x{cols}", T::NAME);
    let got = widen(&dx.to_vec());
    assert_close(&what, &got, &wx, limit);
    assert_twice(&what, &got, &widen(&twin), &wx, 1e-7);
    assert_close(&what, &dw.to_vec(), &ww, 1e-5);
    assert_close(&what, &db.to_vec(), &wb, 1e-5);
    assert_close(&what, &dw.to_vec(), &wide(&tw), 1e-5);
}

#[test]
fn half_precision_forward() {
    for (rows, cols, skip) in
        [(3, 64, 0), (5, 77, 0), (2, 1024, 1), (2, 9000, 0), (1, 16896, 2), (1, 20000, 3)]
    {
        half_forward::<f16>(rows, cols, skip, 2e-3);
        half_forward::<bf16>(rows, cols, skip, 1e-2);
    }
}

#[test]
fn half_precision_backward() {
    for (rows, cols) in [(9, 64), (5, 77), (3, 1024), (2, 5008), (2, 9000), (2, 8197)] {
        half_backward::<f16>(rows, cols, rows % 2 == 1, 2e-3);
        half_backward::<bf16>(rows, cols, rows % 2 == 0, 1e-2);
    }
}
