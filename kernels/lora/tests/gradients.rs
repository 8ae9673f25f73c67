//! Adapter gradients against central differences of an f64 reference, and merging against the forward pass.

use kernel_abi::Kernel;
use lora::*;
use proptest::prelude::*;

fn values(n: usize, seed: u32) -> Vec<f32> {
    (0..n as u32).map(|i| ((i ^ seed).wrapping_mul(2_654_435_761) >> 8) as f32 / 8_388_608.0 - 1.0).collect()
}

/// sum_ij dy[i, offset + j] * s * ((x A^T) B^T)[i, j] in f64: its derivatives are the gradients.
fn objective(k: &LoraForward, x: &[f64], a: &[f64], b: &[f64], dy: &[f32]) -> f64 {
    let mut total = 0.0;
    for i in 0..k.m {
        for r in 0..k.rank {
            let u: f64 = (0..k.n_in).map(|t| x[i * k.n_in + t] * a[r * k.n_in + t]).sum();
            for j in 0..k.n_out {
                total +=
                    f64::from(dy[i * k.ldy + k.col_offset + j]) * f64::from(k.scale) * u * b[j * k.rank + r];
            }
        }
    }
    total
}

fn close(got: &[f32], name: &str, mut f: impl FnMut(usize, f64) -> f64) -> Result<(), TestCaseError> {
    for (i, g) in got.iter().enumerate() {
        let want = (f(i, 1e-3) - f(i, -1e-3)) / 2e-3;
        prop_assert!(
            (f64::from(*g) - want).abs() < 1e-4 * (1.0 + want.abs()),
            "{}[{}]: {} {}",
            name,
            i,
            g,
            want
        );
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn gradients_equal_central_differences(
        m in 1usize..8, n_in in 1usize..12, n_out in 1usize..12, rank in 1usize..6, pad in 0usize..4,
    ) {
        let (ldy, col_offset) = (n_out + pad, pad / 2);
        let f = LoraForward { m, n_in, n_out, rank, scale: 0.5, ldy, col_offset };
        let (x, a, b, dy) = (values(m * n_in, 1), values(rank * n_in, 2), values(n_out * rank, 3), values(m * ldy, 4));
        let (mut u, mut y) = (vec![0.0; m * rank], vec![0.0; m * ldy]);
        f.cpu(LoraForwardArgs { x: (&x).into(), a: (&a).into(), b: (&b).into(), u: (&mut u).into(), y: (&mut y).into() });
        let wide = |v: &[f32]| v.iter().map(|v| f64::from(*v)).collect::<Vec<_>>();
        let (xw, aw, bw) = (wide(&x), wide(&a), wide(&b));
        let dot: f64 = y.iter().zip(&dy).map(|(y, d)| f64::from(*y) * f64::from(*d)).sum();
        prop_assert!((dot - objective(&f, &xw, &aw, &bw, &dy)).abs() < 1e-4 * (1.0 + dot.abs()));
        let (mut da, mut db, mut dx) = (vec![0.0; a.len()], vec![0.0; b.len()], vec![0.0; x.len()]);
        LoraBackward { m, n_in, n_out, rank, scale: 0.5, ldy, col_offset }.cpu(LoraBackwardArgs {
            x: (&x).into(), a: (&a).into(), b: (&b).into(), u: (&u).into(), dy: (&dy).into(),
            da: (&mut da).into(), db: (&mut db).into(), dx: Some((&mut dx).into()),
        });
        let moved = |v: &[f64], i: usize, h: f64| { let mut v = v.to_vec(); v[i] += h; v };
        close(&da, "da", |i, h| objective(&f, &xw, &moved(&aw, i, h), &bw, &dy))?;
        close(&db, "db", |i, h| objective(&f, &xw, &aw, &moved(&bw, i, h), &dy))?;
        close(&dx, "dx", |i, h| objective(&f, &moved(&xw, i, h), &aw, &bw, &dy))?;
    }
}

#[test]
fn merging_and_unmerging() {
    let (n_in, n_out, rank) = (9, 7, 3);
    let (a, b, w) = (values(rank * n_in, 1), values(n_out * rank, 2), values(n_out * n_in, 3));
    let mut merged = w.clone();
    for scale in [2.0, -2.0] {
        let args = LoraMergeArgs { a: (&a).into(), b: (&b).into(), w: (&mut merged).into() };
        LoraMerge { n_in, n_out, rank, scale }.cpu(args);
        let want =
            |j: usize, i: usize| (0..rank).map(|r| 2.0 * b[j * rank + r] * a[r * n_in + i]).sum::<f32>();
        for j in 0..n_out {
            for i in 0..n_in {
                let extra = if scale > 0.0 { want(j, i) } else { 0.0 };
                assert!((merged[j * n_in + i] - w[j * n_in + i] - extra).abs() < 1e-5);
            }
        }
    }
}
