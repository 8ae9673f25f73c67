//! Losses and their gradients against f64 and central differences.

use kernel_abi::Kernel;
use loss::*;
use matmul::{PackWeight, PackWeightArgs, packed_len};
use proptest::prelude::*;

fn values(n: usize, seed: u32) -> Vec<f32> {
    (0..n as u32).map(|i| ((i ^ seed).wrapping_mul(2_654_435_761) >> 8) as f32 / 8_388_608.0 - 1.0).collect()
}

fn wide(v: &[f32]) -> Vec<f64> {
    v.iter().map(|v| f64::from(*v)).collect()
}

fn pack(head: &[f32], vocab: usize, hidden: usize) -> Vec<f32> {
    let mut packed = vec![0.0; packed_len(vocab, hidden)];
    PackWeight { n: vocab, k: hidden }.cpu(PackWeightArgs { w: head.into(), packed: (&mut packed).into() });
    packed
}

/// (logprob, entropy) of every row.
fn reference(x: &[f64], head: &[f64], hidden: usize, inv_t: f64, targets: &[u32]) -> Vec<(f64, f64)> {
    let row = |(i, t): (usize, &u32)| {
        let h = &x[i * hidden..(i + 1) * hidden];
        let z: Vec<f64> =
            head.chunks(hidden).map(|w| inv_t * w.iter().zip(h).map(|(a, b)| a * b).sum::<f64>()).collect();
        let lse = z.iter().map(|z| z.exp()).sum::<f64>().ln();
        (z[*t as usize] - lse, lse - z.iter().map(|v| (v - lse).exp() * v).sum::<f64>())
    };
    targets.iter().enumerate().map(row).collect()
}

fn slopes(x: &[f64], f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let mut x = x.to_vec();
    (0..x.len())
        .map(|i| {
            let at = x[i];
            x[i] = at + 1e-5;
            let up = f(&x);
            x[i] = at - 1e-5;
            let down = f(&x);
            x[i] = at;
            (up - down) / 2e-5
        })
        .collect()
}

fn close(got: &[f32], want: &[f64], tolerance: f64) -> bool {
    let scale = want.iter().fold(0.1f64, |m, w| m.max(w.abs()));
    got.iter().zip(want).all(|(g, w)| (f64::from(*g) - w).abs() < tolerance * scale)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn log_probabilities_entropies_and_gradients(
        rows in 0usize..12, hidden in 1usize..9, vocab in 1usize..40, keep: bool, with_entropy: bool,
    ) {
        let inv_temperature = 1.25f32;
        let (x, head) = (values(rows * hidden, 1), values(vocab * hidden, 2));
        let targets: Vec<u32> = (0..rows).map(|i| (i * 7 % vocab) as u32).collect();
        let packed = pack(&head, vocab, hidden);
        let (mut lp, mut lse, mut ent) = (vec![0.0; rows], vec![0.0; rows], vec![0.0; rows]);
        let mut logits = vec![0.0; rows * vocab];
        let args = LmLogProbArgs {
            x: (&x).into(), head_packed: (&packed).into(), targets: (&targets).into(), logprob: (&mut lp).into(),
            lse: (&mut lse).into(), entropy: Some((&mut ent).into()), logits: keep.then(|| (&mut logits).into()),
        };
        let shape = LmLogProb { rows, hidden, vocab, inv_temperature };
        shape.check(&args).unwrap();
        shape.cpu(args);
        let (xw, hw) = (wide(&x), wide(&head));
        for (i, (l, e)) in reference(&xw, &hw, hidden, 1.25, &targets).iter().enumerate() {
            prop_assert!((f64::from(lp[i]) - l).abs() < 1e-5 && (f64::from(ent[i]) - e).abs() < 1e-5);
        }
        let (dlp, de) = (values(rows, 3), values(rows, 4));
        let (mut dx, mut dhead) = (vec![0.0; x.len()], vec![0.0; head.len()]);
        LmLogProbBackward { rows, hidden, vocab, inv_temperature }.cpu(LmLogProbBackwardArgs {
            x: (&x).into(), head: Some((&head).into()), head_packed: (&packed).into(), targets: (&targets).into(),
            lse: (&lse).into(), entropy: with_entropy.then(|| (&ent).into()), logits: keep.then(|| (&logits).into()),
            dlogprob: (&dlp).into(), dentropy: with_entropy.then(|| (&de).into()),
            dx: (&mut dx).into(), dhead: Some((&mut dhead).into()),
        });
        let objective = |x: &[f64], h: &[f64]| -> f64 {
            let rows = reference(x, h, hidden, 1.25, &targets);
            let term = |(i, (l, e)): (usize, &(f64, f64))| {
                f64::from(dlp[i]) * l + if with_entropy { f64::from(de[i]) * e } else { 0.0 }
            };
            rows.iter().enumerate().map(term).sum()
        };
        prop_assert!(close(&dx, &slopes(&xw, |x| objective(x, &hw)), 1e-4));
        prop_assert!(close(&dhead, &slopes(&hw, |h| objective(&xw, h)), 1e-4));
    }

    #[test]
    fn ppo_losses_and_gradients(n in 1usize..20) {
        let (new, old, adv, w) = (values(n, 1), values(n, 2), values(n, 3), vec![1.0 / n as f32; n]);
        let (mut d, mut stats) = (vec![0.0; n], vec![0.0; 8]);
        PpoPolicyLoss { n, cliprange: 0.2 }.cpu(PpoPolicyLossArgs {
            logprob: (&new).into(), old_logprob: (&old).into(), advantage: (&adv).into(), weight: (&w).into(),
            dlogprob: (&mut d).into(), stats: (&mut stats).into(),
        });
        let policy = |new: &[f64]| -> f64 {
            (0..n).map(|i| {
                let (r, a) = ((new[i] - f64::from(old[i])).exp(), f64::from(adv[i]));
                (-a * r).max(-a * r.clamp(0.8, 1.2)) / n as f64
            }).sum()
        };
        prop_assert!((f64::from(stats[0]) - policy(&wide(&new))).abs() < 1e-5);
        prop_assert!(close(&d, &slopes(&wide(&new), policy), 1e-4));
        let (mut d, mut stats) = (vec![0.0; n], vec![0.0; 4]);
        PpoValueLoss { n, cliprange_value: 0.2, vf_coef: 0.1 }.cpu(PpoValueLossArgs {
            value: (&new).into(), old_value: (&old).into(), returns: (&adv).into(), weight: (&w).into(),
            dvalue: (&mut d).into(), stats: (&mut stats).into(),
        });
        let value = |v: &[f64]| -> f64 {
            (0..n).map(|i| {
                let (o, r) = (f64::from(old[i]), f64::from(adv[i]));
                let c = v[i].clamp(o - 0.2, o + 0.2);
                0.5 * (v[i] - r).powi(2).max((c - r).powi(2)) / n as f64
            }).sum()
        };
        prop_assert!((f64::from(stats[0]) - value(&wide(&new))).abs() < 1e-5);
        prop_assert!(close(&d, &slopes(&wide(&new), |v| 0.1 * value(v)), 1e-4));
    }

    #[test]
    fn ranking_and_classification_gradients(n in 1usize..10, classes in 2usize..6) {
        let (c, r, m) = (values(n, 1), values(n, 2), values(n, 3));
        let (mut l, mut dc, mut dr) = (vec![0.0; n], vec![0.0; n], vec![0.0; n]);
        BradleyTerry { pairs: n }.cpu(BradleyTerryArgs {
            chosen: (&c).into(), rejected: (&r).into(), margin: Some((&m).into()),
            loss: (&mut l).into(), dchosen: (&mut dc).into(), drejected: (&mut dr).into(),
        });
        let bt = |c: &[f64], r: &[f64]| -> f64 {
            (0..n).map(|i| (1.0 + (-(c[i] - r[i] - f64::from(m[i]))).exp()).ln() / n as f64).sum()
        };
        let (cw, rw) = (wide(&c), wide(&r));
        prop_assert!((l.iter().sum::<f32>() / n as f32 - bt(&cw, &rw) as f32).abs() < 1e-5);
        prop_assert!(close(&dc, &slopes(&cw, |c| bt(c, &rw)), 1e-4));
        prop_assert!(close(&dr, &slopes(&rw, |r| bt(&cw, r)), 1e-4));
        let z = values(n * classes, 5);
        let t: Vec<u32> = (0..n).map(|i| (i % classes) as u32).collect();
        let (mut l, mut p, mut d) = (vec![0.0; n], vec![0.0; z.len()], vec![0.0; z.len()]);
        SoftmaxCrossEntropy { rows: n, classes }.cpu(SoftmaxCrossEntropyArgs {
            logits: (&z).into(), targets: (&t).into(), loss: (&mut l).into(), probs: (&mut p).into(),
            dlogits: (&mut d).into(),
        });
        let ce = |z: &[f64]| -> f64 {
            z.chunks(classes).zip(&t).map(|(z, t)| {
                (z.iter().map(|v| v.exp()).sum::<f64>().ln() - z[*t as usize]) / n as f64
            }).sum()
        };
        prop_assert!((l.iter().sum::<f32>() / n as f32 - ce(&wide(&z)) as f32).abs() < 1e-5);
        prop_assert!(close(&d, &slopes(&wide(&z), ce), 1e-4));
    }
}

#[test]
fn equal_log_probabilities_give_a_ratio_of_exactly_one() {
    let (lp, adv, w) = ([-1.5f32, -0.25], [1.0f32, -1.0], [0.5f32, 0.5]);
    let (mut d, mut stats) = ([0.0f32; 2], [0.0f32; 8]);
    PpoPolicyLoss { n: 2, cliprange: 0.2 }.cpu(PpoPolicyLossArgs {
        logprob: lp[..].into(),
        old_logprob: lp[..].into(),
        advantage: adv[..].into(),
        weight: w[..].into(),
        dlogprob: d[..].as_mut().into(),
        stats: stats[..].as_mut().into(),
    });
    assert_eq!((stats[4], stats[5], stats[6]), (1.0, 0.0, 1.0));
    assert_eq!(d, [-0.5, 0.5]);
}

#[test]
fn the_exact_kl_of_equal_models_is_zero_and_of_others_positive() {
    let (rows, hidden, vocab) = (5, 8, 100);
    let (p, q, head) = (values(rows * hidden, 1), values(rows * hidden, 2), values(vocab * hidden, 3));
    let packed = pack(&head, vocab, hidden);
    let kl = |a: &[f32], b: &[f32]| {
        let mut kl = vec![0.0; rows];
        let args = FullKlArgs {
            x_policy: a.into(),
            x_ref: b.into(),
            head_packed: (&packed).into(),
            kl: (&mut kl).into(),
        };
        FullKl { rows, hidden, vocab, inv_temperature: 1.0 }.cpu(args);
        kl
    };
    assert_eq!(kl(&p, &p), vec![0.0; rows]);
    let logs = |x: &[f32]| -> Vec<Vec<f64>> {
        let all: Vec<u32> = (0..vocab as u32).collect();
        let one = |i: usize| {
            let x: Vec<f64> = wide(&x[i * hidden..(i + 1) * hidden]).repeat(vocab);
            reference(&x, &wide(&head), hidden, 1.0, &all).iter().map(|r| r.0).collect()
        };
        (0..rows).map(one).collect()
    };
    for ((got, lp), lq) in kl(&p, &q).iter().zip(logs(&p)).zip(logs(&q)) {
        let want: f64 = lp.iter().zip(&lq).map(|(a, b)| a.exp() * (a - b)).sum();
        assert!(want > 0.0 && (f64::from(*got) - want).abs() < 1e-5 * (1.0 + want));
    }
}
