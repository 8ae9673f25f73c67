//! Activations, with and without a bias.

use crate::{GPU, reference, rounded};
use kernel_abi::{Float, Half, Kernel, bf16, f16, widen};
use kernel_test::{Gpu, compare::*, every_way};
use norm_gelu::*;
use proptest::prelude::*;

const KINDS: [Act; 4] = [Act::Gelu, Act::GeluTanh, Act::Silu, Act::SwiGlu];

/// The four kernels over elements of one type.
trait Element: Float {
    fn forward(gpu: &mut Gpu, shape: ActForward, x: &[Self], skip: usize) -> [Vec<f32>; 2];
    fn backward(gpu: &mut Gpu, shape: ActBackward, x: &[Self], dy: &[Self], skip: usize) -> [Vec<f32>; 2];
    fn bias_forward(gpu: &mut Gpu, shape: BiasActForward, x: &[Self], bias: &[Self]) -> [Vec<f32>; 2];
    /// dx and dbias, which began as ones, of the GPU and of the twin.
    fn bias_backward(
        gpu: &mut Gpu,
        shape: BiasActBackward,
        x: &[Self],
        bias: &[Self],
        dy: &[Self],
    ) -> [[Vec<f32>; 2]; 2];
}

/// The bodies are the same: only the kernel's type differs. Results: of the GPU, of the twin.
macro_rules! element {
    ([$($generics:tt)*] $t:ty, $kernel:expr) => {
        impl $($generics)* Element for $t {
            fn forward(gpu: &mut Gpu, shape: ActForward, x: &[Self], skip: usize) -> [Vec<f32>; 2] {
                let (kernel, n) = ($kernel(shape), shape.rows * shape.cols);
                let gx = gpu.upload(x);
                let mut gy = gpu.upload(&vec![Self::from_f32(f32::NAN); n + skip]);
                gpu.run(&kernel, ActForwardArgs { x: gx.arg().skip(skip), y: gy.arg_mut().skip(skip) });
                let mut y = vec![Self::from_f32(0.0); n];
                kernel.cpu(ActForwardArgs { x: x[skip..].into(), y: (&mut y).into() });
                [widen(&gy.to_vec()[skip..]), widen(&y)]
            }
            fn backward(gpu: &mut Gpu, shape: ActBackward, x: &[Self], dy: &[Self], skip: usize) -> [Vec<f32>; 2] {
                let kernel = $kernel(shape);
                let (gx, gdy) = (gpu.upload(x), gpu.upload(dy));
                let mut gdx = gpu.upload(&vec![Self::from_f32(f32::NAN); x.len()]);
                gpu.run(&kernel, ActBackwardArgs {
                    x: gx.arg().skip(skip),
                    dy: gdy.arg().skip(skip),
                    dx: gdx.arg_mut().skip(skip),
                });
                let mut dx = vec![Self::from_f32(0.0); x.len() - skip];
                kernel.cpu(ActBackwardArgs { x: x[skip..].into(), dy: dy[skip..].into(), dx: (&mut dx).into() });
                [widen(&gdx.to_vec()[skip..]), widen(&dx)]
            }
            fn bias_forward(gpu: &mut Gpu, shape: BiasActForward, x: &[Self], bias: &[Self]) -> [Vec<f32>; 2] {
                let (kernel, n) = ($kernel(shape), shape.rows * shape.cols);
                let (gx, gb) = (gpu.upload(x), gpu.upload(bias));
                let mut gy = gpu.alloc::<Self>(n);
                gpu.run(&kernel, BiasActForwardArgs { x: gx.arg(), bias: gb.arg(), y: gy.arg_mut() });
                let mut y = vec![Self::from_f32(0.0); n];
                kernel.cpu(BiasActForwardArgs { x: x.into(), bias: bias.into(), y: (&mut y).into() });
                [widen(&gy.to_vec()), widen(&y)]
            }
            fn bias_backward(
                gpu: &mut Gpu,
                shape: BiasActBackward,
                x: &[Self],
                bias: &[Self],
                dy: &[Self],
            ) -> [[Vec<f32>; 2]; 2] {
                let kernel = $kernel(shape);
                let (gx, gb, gdy) = (gpu.upload(x), gpu.upload(bias), gpu.upload(dy));
                let mut gdx = gpu.alloc::<Self>(x.len());
                let mut gdb = gpu.upload(&vec![1.0f32; bias.len()]);
                gpu.run(&kernel, BiasActBackwardArgs {
                    x: gx.arg(),
                    bias: gb.arg(),
                    dy: gdy.arg(),
                    dx: gdx.arg_mut(),
                    dbias: Some(gdb.arg_mut()),
                });
                let (mut dx, mut db) = (vec![Self::from_f32(0.0); x.len()], vec![1.0f32; bias.len()]);
                kernel.cpu(BiasActBackwardArgs {
                    x: x.into(),
                    bias: bias.into(),
                    dy: dy.into(),
                    dx: (&mut dx).into(),
                    dbias: Some((&mut db).into()),
                });
                [[widen(&gdx.to_vec()), gdb.to_vec()], [widen(&dx), db]]
            }
        }
    };
}

element!([] f32, std::convert::identity);
element!([] f16, Typed::half::<f16>);
element!([] bf16, Typed::half::<bf16>);

/// `.of::<T>()` as a function of any of the four shapes.
trait Typed {
    type Half<T: Half>;
    fn half<T: Half>(self) -> Self::Half<T>;
}
macro_rules! typed {
    ($($shape:ident $of:ident),*) => { $(
        impl Typed for $shape {
            type Half<T: Half> = $of<T>;
            fn half<T: Half>(self) -> $of<T> {
                self.of::<T>()
            }
        }
    )* };
}
typed!(
    ActForward ActForwardOf,
    ActBackward ActBackwardOf,
    BiasActForward BiasActForwardOf,
    BiasActBackward BiasActBackwardOf
);

/// f32: close to f64 and to the twin. Otherwise: close to f64, and no worse than twice the twin.
fn compare<T: Float>(what: &str, [got, twin]: &[Vec<f32>; 2], want: &[f64]) {
    let limit = match T::NAME {
        "f32" => 1e-5,
        "f16" => 2e-3,
        _ => 1e-2,
    };
    assert_close(what, got, want, limit);
    if T::NAME == "f32" {
        assert_close(what, got, &wide(twin), limit);
    } else {
        assert_twice(what, got, twin, want, 1e-7);
    }
}

fn check<T: Element>(gpu: &mut Gpu, rows: usize, cols: usize, kind: Act, skip: usize) {
    let wide_cols = cols * kind.fan_in();
    let x: Vec<T> = values(rows * wide_cols + skip, 1).into_iter().map(|v| T::from_f32(3.0 * v)).collect();
    let dy = rounded::<T>(rows * cols + skip, 2);
    let (x64, dy64) = (wide(&widen(&x[skip..])), wide(&widen(&dy[skip..])));
    let what = format!("{kind:?} {rows}x{cols} {} skip {skip}", T::NAME);
    let got = T::forward(gpu, ActForward { rows, cols, kind }, &x, skip);
    compare::<T>(&format!("{what} forward"), &got, &reference::act(&x64, cols, kind));
    let got = T::backward(gpu, ActBackward { rows, cols, kind }, &x, &dy, skip);
    compare::<T>(&format!("{what} backward"), &got, &reference::act_backward(&x64, &dy64, cols, kind));
}

fn check_bias<T: Element>(gpu: &mut Gpu, rows: usize, cols: usize, kind: Act) {
    let wide_cols = cols * kind.fan_in();
    let (x, bias, dy) =
        (rounded::<T>(rows * wide_cols, 1), rounded::<T>(wide_cols, 2), rounded::<T>(rows * cols, 3));
    let b64 = wide(&widen(&bias));
    let sums: Vec<f64> = wide(&widen(&x)).iter().zip(b64.iter().cycle()).map(|(x, b)| x + b).collect();
    let what = format!("bias + {kind:?} {rows}x{cols} {}", T::NAME);
    let got = T::bias_forward(gpu, BiasActForward { rows, cols, kind }, &x, &bias);
    compare::<T>(&format!("{what} forward"), &got, &reference::act(&sums, cols, kind));
    let [got, twin] = T::bias_backward(gpu, BiasActBackward { rows, cols, kind }, &x, &bias, &dy);
    let want = reference::act_backward(&sums, &wide(&widen(&dy)), cols, kind);
    let mut dbias = vec![1.0; wide_cols];
    want.chunks(wide_cols).for_each(|row| dbias.iter_mut().zip(row).for_each(|(s, d)| *s += d));
    let ([dx, db], [twin_dx, twin_db]) = (got, twin);
    compare::<T>(&format!("{what} backward"), &[dx, twin_dx], &want);
    assert_close(&format!("{what} dbias"), &db, &dbias, 1e-5);
    assert_close(&format!("{what} dbias"), &db, &wide(&twin_db), 1e-5);
}

fn kinds() -> impl Strategy<Value = Act> {
    prop::sample::select(KINDS.to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn elements_are_the_twin_s(rows in 0usize..9, cols in 1usize..300, kind in kinds(), skip in 0usize..3) {
        GPU.with_borrow_mut(|gpu| {
            for cols in [cols, cols.next_multiple_of(8)] {
                check::<f32>(gpu, rows, cols, kind, skip);
                check::<f16>(gpu, rows, cols, kind, skip);
                check::<bf16>(gpu, rows, cols, kind, skip);
            }
        });
    }

    #[test]
    fn with_bias(rows in 1usize..40, cols in 1usize..300, kind in kinds()) {
        GPU.with_borrow_mut(|gpu| {
            for cols in [cols, cols.next_multiple_of(8)] {
                check_bias::<f32>(gpu, rows, cols, kind);
                check_bias::<f16>(gpu, rows, cols, kind);
                check_bias::<bf16>(gpu, rows, cols, kind);
            }
        });
    }
}

#[test]
fn every_row_reaches_the_bias_s_gradient() {
    // more rows of partial sums than the second stage takes in a round
    check_bias::<f32>(&mut Gpu::new(), 1000, 16, Act::Gelu);
    check_bias::<f16>(&mut Gpu::new(), 700, 72, Act::SwiGlu);
}

#[test]
fn under_an_adversary() {
    every_way(|gpu| {
        for kind in KINDS {
            check::<f32>(gpu, 3, 1003, kind, 0);
            check_bias::<f32>(gpu, 5, 264, kind);
            check_bias::<bf16>(gpu, 5, 264, kind);
        }
    });
}

#[test]
fn special_values_are_the_twin_s() {
    let x = [
        f32::NAN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        0.0,
        -0.0,
        1e30,
        -1e30,
        88.0,
        -88.0,
        1e-30,
        -100.0,
        100.0,
    ];
    let dy = [1.0f32; 12];
    let mut gpu = Gpu::new();
    let same = |what: &str, [got, twin]: [Vec<f32>; 2]| {
        for (i, (g, t)) in got.iter().zip(&twin).enumerate() {
            assert_eq!(g.is_finite(), t.is_finite(), "{what}({}) = {g}, the twin's {t}", x[i]);
            // the twin's sigmoid is never below 2.9e-39, which shows where x is 1e30
            let close = !t.is_finite() || (g - t).abs() <= 1e-6 * t.abs() + 1e-8;
            assert!(close, "{what}({}) = {g}, the twin's {t}", x[i]);
        }
    };
    for kind in [Act::Gelu, Act::GeluTanh, Act::Silu] {
        let (forward, backward) =
            (ActForward { rows: 1, cols: 12, kind }, ActBackward { rows: 1, cols: 12, kind });
        same(&format!("{kind:?}"), f32::forward(&mut gpu, forward, &x, 0));
        same(&format!("{kind:?}'"), f32::backward(&mut gpu, backward, &x, &dy, 0));
    }
}

#[test]
fn bias_gradients_are_the_same_bits_every_run() {
    let (rows, cols) = (700, 72);
    let shape = BiasActBackward { rows, cols, kind: Act::Gelu };
    let (x, bias, dy) = (values(rows * cols, 1), values(cols, 2), values(rows * cols, 3));
    let mut gpu = Gpu::new();
    let [first, _] = f32::bias_backward(&mut gpu, shape, &x, &bias, &dy);
    let [again, _] = f32::bias_backward(&mut gpu, shape, &x, &bias, &dy);
    assert_eq!(first, again);
}
