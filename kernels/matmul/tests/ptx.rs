//! The f32 products' PTX on the VM: the bits of the CPU twin, whatever the shape, tile, stride and alignment; counted and
//! static bars.

use kernel_abi::Kernel;
use kernel_test::{Gpu, compare::*, every_way, ptxas};
use matmul::*;
use proptest::prelude::*;

/// Runs a product on both sides, `skip` elements into every buffer.
fn both(gpu: &mut Gpu, tile: Option<DenseTile>, product: Matmul, skip: usize) {
    let Matmul { m, n, k, ta, tb, lda, ldb, ldc, .. } = product;
    let a = values(skip + if ta { k } else { m } * lda, 1);
    let b = values(skip + if tb { n } else { k } * ldb, 2);
    let mut c = values(skip + m * ldc, 3);
    let (ga, gb, mut gc) = (gpu.upload(&a), gpu.upload(&b), gpu.upload(&c));
    let args = MatmulArgs { a: ga.arg().skip(skip), b: gb.arg().skip(skip), c: gc.arg_mut().skip(skip) };
    match tile {
        None => gpu.run(&product, args),
        Some(tile) => gpu.run(&Tiled { matmul: product, tile }, args),
    };
    product.cpu(MatmulArgs { a: a[skip..].into(), b: b[skip..].into(), c: (&mut c[skip..]).into() });
    let got = gc.to_vec();
    let differ = (0..c.len()).find(|&i| got[i].to_bits() != c[i].to_bits());
    if let Some(i) = differ {
        panic!("{product:?} by {tile:?}, skip {skip}: element {i} is {} instead of {}", got[i], c[i]);
    }
}

fn product(m: usize, n: usize, k: usize, ta: bool, tb: bool, pad: usize) -> Matmul {
    let (lda, ldb, ldc) = (if ta { m } else { k } + pad, if tb { k } else { n } + pad, n + pad);
    Matmul { m, n, k, ta, tb, lda, ldb, ldc, alpha: 1.0, accumulate: false }
}

const FORMS: [(bool, bool); 4] = [(false, false), (false, true), (true, false), (true, true)];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn products_have_the_twin_s_bits(
        m in 0usize..90, n in 0usize..90, k in 0usize..80, form in 0usize..4, accumulate: bool, pad in 0usize..5, skip in 0usize..5,
        tile in 0usize..3,
    ) {
        let (ta, tb) = FORMS[form];
        let tile = [None, Some(DenseTile::Small), Some(DenseTile::Low)][tile];
        let shape = Matmul { alpha: -0.75, accumulate, ..product(m, n, k, ta, tb, pad) };
        both(&mut Gpu::new(), tile, shape, skip);
    }

    #[test]
    fn thin_products_have_the_twin_s_bits(
        thin in 1usize..17, long in 1usize..100, k in 0usize..300, form in 0usize..4, swap: bool, pad in 0usize..5, skip in 0usize..5,
    ) {
        let (ta, tb) = FORMS[form];
        let (m, n) = if swap { (long, thin) } else { (thin, long) };
        both(&mut Gpu::new(), Some(DenseTile::Thin), Matmul { accumulate: swap, ..product(m, n, k, ta, tb, pad) }, skip);
    }
}

#[test]
fn every_tile_and_form_has_the_twin_s_bits_under_an_adversary() {
    every_way(|gpu| {
        for (ta, tb) in FORMS {
            both(
                gpu,
                Some(DenseTile::Large),
                Matmul { accumulate: true, ..product(130, 141, 37, ta, tb, 0) },
                0,
            );
            both(gpu, Some(DenseTile::Large), product(128, 128, 32, ta, tb, 0), 0);
            both(gpu, Some(DenseTile::Small), Matmul { alpha: 0.5, ..product(65, 66, 35, ta, tb, 1) }, 1);
            both(gpu, Some(DenseTile::Low), product(33, 66, 35, ta, tb, 1), 1);
            both(gpu, Some(DenseTile::Thin), product(7, 67, 200, ta, tb, 0), 0);
            both(gpu, Some(DenseTile::Thin), product(64, 16, 130, ta, tb, 0), 0);
        }
    });
}

/// y = x W^T + bias + residual on the GPU.
fn linear(
    gpu: &mut Gpu,
    [m, n, k]: [usize; 3],
    x: &[f32],
    w: &[f32],
    bias: Option<&[f32]>,
    residual: Option<&[f32]>,
) -> Vec<f32> {
    let (gx, gw) = (gpu.upload(x), gpu.upload(w));
    let mut packed = gpu.alloc::<f32>(packed_len(n, k));
    gpu.run(&PackWeight { n, k }, PackWeightArgs { w: gw.arg(), packed: packed.arg_mut() });
    let (bias, residual) = (bias.map(|b| gpu.upload(b)), residual.map(|r| gpu.upload(r)));
    let mut y = gpu.alloc::<f32>(m * n);
    let args = LinearArgs {
        x: gx.arg(),
        packed: packed.arg(),
        bias: bias.as_ref().map(|b| b.arg()),
        residual: residual.as_ref().map(|r| r.arg()),
        y: y.arg_mut(),
    };
    gpu.run(&Linear { m, n, k }, args);
    y.to_vec()
}

fn linear_twin(
    [m, n, k]: [usize; 3],
    x: &[f32],
    w: &[f32],
    bias: Option<&[f32]>,
    residual: Option<&[f32]>,
) -> Vec<f32> {
    let (mut packed, mut y) = (vec![0.0; packed_len(n, k)], vec![f32::NAN; m * n]);
    PackWeight { n, k }.cpu(PackWeightArgs { w: w.into(), packed: (&mut packed).into() });
    let (bias, residual) = (bias.map(Into::into), residual.map(Into::into));
    Linear { m, n, k }.cpu(LinearArgs {
        x: x.into(),
        packed: (&packed).into(),
        bias,
        residual,
        y: (&mut y).into(),
    });
    y
}

#[test]
fn linear_layers_have_the_twin_s_bits_and_rows_do_not_depend_on_the_batch() {
    let mut gpu = Gpu::new();
    for shape in [
        [1, 70, 129],
        [16, 33, 64],
        [17, 50, 40],
        [66, 130, 48],
        [5, 0, 4],
        [0, 5, 4],
        [3, 4, 0],
        [70, 3, 20],
    ] {
        let [m, n, k] = shape;
        let (x, w, bias, residual) = (values(m * k, 1), values(n * k, 2), values(n, 3), values(m * n, 4));
        for (bias, residual) in [
            (None, None),
            (Some(&bias[..]), None),
            (None, Some(&residual[..])),
            (Some(&bias), Some(&residual)),
        ] {
            let y = linear(&mut gpu, shape, &x, &w, bias, residual);
            assert_eq!(y, linear_twin(shape, &x, &w, bias, residual), "{shape:?}");
        }
        if m > 0 && n * k > 0 {
            let last = linear(&mut gpu, [1, n, k], &x[(m - 1) * k..], &w, None, None);
            assert_eq!(
                last,
                linear(&mut gpu, shape, &x, &w, None, None)[(m - 1) * n..],
                "{shape:?}: the last row alone"
            );
        }
    }
}

#[test]
fn infinities_and_nan_go_where_the_twin_s_go() {
    let mut gpu = Gpu::new();
    for m in [3, 20] {
        let (n, k) = (37, 50);
        let (mut x, mut w) = (values(m * k, 1), values(n * k, 2));
        (x[k + 7], x[2 * k + 3], w[5 * k + 3]) = (f32::NAN, f32::INFINITY, 0.0);
        w[6 * k] = f32::NEG_INFINITY;
        let got = linear(&mut gpu, [m, n, k], &x, &w, None, None);
        let want = linear_twin([m, n, k], &x, &w, None, None);
        let same = |(g, w): (&f32, &f32)| g.to_bits() == w.to_bits() || g.is_nan() && w.is_nan();
        assert!(got.iter().zip(&want).all(same), "{m} rows");
        assert!(
            want[n..2 * n].iter().all(|v| v.is_nan()) && want[2 * n + 5].is_nan() && want[6].is_infinite()
        );
    }
}

/// A loss works on some outputs of a head at a time.
#[test]
fn a_part_of_a_packed_weight_s_outputs() {
    let mut gpu = Gpu::new();
    let (m, k, cols) = (3, 40, tile_cols());
    let n = 3 * cols;
    let (x, w) = (values(m * k, 1), gpu.upload(&values(n * k, 2)));
    let (mut wide, mut half) = (gpu.alloc::<f32>(packed_len(n, k)), gpu.alloc::<u32>(bf16_packed_len(n, k)));
    gpu.run(&PackWeight { n, k }, PackWeightArgs { w: w.arg(), packed: wide.arg_mut() });
    gpu.run(&PackBf16 { n, k }, PackBf16Args { w: w.arg(), packed: half.arg_mut() });
    let gx = gpu.upload(&x);
    let mut product = |packed: Packed<'_>, n: usize| {
        packed.expect("test", "packed", n, k).unwrap();
        let mut y = gpu.alloc::<f32>(m * n);
        let (x, bias, residual) = (gx.arg(), None, None);
        match packed {
            Packed::F32(packed) => {
                gpu.run(&Linear { m, n, k }, LinearArgs { x, packed, bias, residual, y: y.arg_mut() })
            }
            Packed::Bf16(packed) => {
                gpu.run(&Bf16Linear { m, n, k }, Bf16LinearArgs { x, packed, bias, residual, y: y.arg_mut() })
            }
        };
        y.to_vec()
    };
    for packed in [Packed::from(wide.arg()), Packed::from(half.arg())] {
        let (all, part) = (product(packed, n), product(packed.outputs(cols, cols, k), cols));
        for i in 0..m {
            assert_eq!(part[i * cols..][..cols], all[i * n + cols..][..cols], "row {i}");
        }
    }
}

#[test]
fn assembles_without_spills() {
    ptxas::check(ptx::ALL);
}
