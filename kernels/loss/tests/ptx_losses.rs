//! The PTX of the losses over given numbers on the VM: against f64, the CPU twin and itself.

use kernel_abi::Kernel;
use kernel_test::{Gpu, compare::*, every_way};
use loss::*;
use proptest::prelude::*;

/// `v` after `skip` elements: an address that is not 16-byte aligned.
fn behind(skip: usize, v: &[f32]) -> Vec<f32> {
    [&vec![0.0; skip], v].concat()
}

fn same(got: &[f32], want: &[f32]) -> bool {
    got.len() == want.len() && got.iter().zip(want).all(|(g, w)| g.to_bits() == w.to_bits())
}

/// loss, probs, dlogits.
fn cross_entropy(
    gpu: &mut Gpu,
    rows: usize,
    classes: usize,
    z: &[f32],
    t: &[u32],
    skip: usize,
) -> [Vec<f32>; 3] {
    let (z, t) = (gpu.upload(&behind(skip, z)), gpu.upload(t));
    let n = rows * classes;
    let (mut loss, mut probs, mut dlogits) =
        (gpu.alloc::<f32>(rows), gpu.alloc::<f32>(n + skip), gpu.alloc::<f32>(n + skip));
    let args = SoftmaxCrossEntropyArgs {
        logits: z.arg().skip(skip),
        targets: t.arg(),
        loss: loss.arg_mut(),
        probs: probs.arg_mut().skip(skip),
        dlogits: dlogits.arg_mut().skip(skip),
    };
    gpu.run(&SoftmaxCrossEntropy { rows, classes }, args);
    [loss.to_vec(), probs.to_vec()[skip..].to_vec(), dlogits.to_vec()[skip..].to_vec()]
}

fn cross_entropy_cpu(rows: usize, classes: usize, z: &[f32], t: &[u32]) -> [Vec<f32>; 3] {
    let n = rows * classes;
    let (mut loss, mut probs, mut dlogits) = (vec![0.0; rows], vec![0.0; n], vec![0.0; n]);
    SoftmaxCrossEntropy { rows, classes }.cpu(SoftmaxCrossEntropyArgs {
        logits: z.into(),
        targets: t.into(),
        loss: (&mut loss).into(),
        probs: (&mut probs).into(),
        dlogits: (&mut dlogits).into(),
    });
    [loss, probs, dlogits]
}

/// The mean loss.
fn mean_cross_entropy(z: &[f64], classes: usize, t: &[u32]) -> f64 {
    let one = |(z, t): (&[f64], &u32)| z.iter().map(|v| v.exp()).sum::<f64>().ln() - z[*t as usize];
    z.chunks(classes).zip(t).map(one).sum::<f64>() / t.len() as f64
}

fn classify(rows: usize, classes: usize, skip: usize) {
    let (z, t) = (values(rows * classes, 1), (0..rows).map(|i| (i * 7 % classes) as u32).collect::<Vec<_>>());
    let got = cross_entropy(&mut Gpu::new(), rows, classes, &z, &t, skip);
    let want = cross_entropy_cpu(rows, classes, &z, &t);
    for (what, got, want) in
        [("loss", &got[0], &want[0]), ("p", &got[1], &want[1]), ("dx", &got[2], &want[2])]
    {
        assert_close(&format!("{what} of {rows} x {classes}"), got, &wide(want), 2e-6);
    }
    let mean: f64 = got[0].iter().map(|l| f64::from(*l)).sum::<f64>() / rows as f64;
    assert!((mean - mean_cross_entropy(&wide(&z), classes, &t)).abs() < 1e-5 * mean.max(1.0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn cross_entropy_agrees_with_the_twin(
        rows in 1usize..40, classes in prop_oneof![1usize..5, 5usize..40, 40usize..1100], skip in 0usize..4,
    ) {
        classify(rows, classes, skip);
    }
}

#[test]
fn cross_entropy_of_every_width() {
    for (rows, classes) in [(3, 1), (300, 2), (2, 1024), (2, 1025), (2, 8193), (1, 24576), (2, 24577)] {
        classify(rows, classes, 0);
    }
}

#[test]
fn cross_entropy_s_gradient_is_the_slope_of_the_mean() {
    let (rows, classes) = (4, 5);
    let (z, t) = (values(rows * classes, 3), vec![0u32, 4, 2, 2]);
    let [_, _, dx] = cross_entropy(&mut Gpu::new(), rows, classes, &z, &t, 0);
    let want = slopes(&wide(&z), &[1.0], 1e-5, |z| vec![mean_cross_entropy(z, classes, &t)]);
    assert_close("dx", &dx, &want, 1e-5);
}

#[test]
fn cross_entropy_keeps_bad_values_visible() {
    for classes in [3usize, 100, 2000] {
        let rows = 5;
        let mut z = values(rows * classes, 2);
        let t = [1u32, 1, 1, classes as u32, 2];
        z[0] = f32::NAN;
        z[classes] = f32::INFINITY;
        z[2 * classes..3 * classes].fill(f32::NEG_INFINITY);
        z[4 * classes] = f32::NEG_INFINITY;
        let [loss, probs, _] = cross_entropy(&mut Gpu::new(), rows, classes, &z, &t, 0);
        let nan: Vec<bool> = loss.iter().map(|l| l.is_nan()).collect();
        assert_eq!(nan, [true, true, true, true, false], "{classes} classes");
        let sum = |i: usize| probs[i * classes..][..classes].iter().sum::<f32>();
        assert!(sum(0).is_nan() && sum(1).is_nan() && sum(2).is_nan());
        assert!((sum(3) - 1.0).abs() < 1e-5 && (sum(4) - 1.0).abs() < 1e-5 && probs[4 * classes] == 0.0);
    }
}

/// loss, dchosen, drejected.
fn pairs(gpu: &mut Gpu, c: &[f32], r: &[f32], m: Option<&[f32]>) -> [Vec<f32>; 3] {
    let n = c.len();
    let (gc, gr, gm) = (gpu.upload(c), gpu.upload(r), m.map(|m| gpu.upload(m)));
    let mut out = [gpu.alloc::<f32>(n), gpu.alloc::<f32>(n), gpu.alloc::<f32>(n)];
    let [loss, dc, dr] = &mut out;
    let args = BradleyTerryArgs {
        chosen: gc.arg(),
        rejected: gr.arg(),
        margin: gm.as_ref().map(|m| m.arg()),
        loss: loss.arg_mut(),
        dchosen: dc.arg_mut(),
        drejected: dr.arg_mut(),
    };
    gpu.run(&BradleyTerry { pairs: n }, args);
    out.map(|v| v.to_vec())
}

#[test]
fn pairs_agree_with_f64() {
    let n = 700;
    let scale = |v: Vec<f32>| v.iter().enumerate().map(|(i, x)| x * 10f32.powi(i as i32 % 5 - 3)).collect();
    let (c, r): (Vec<f32>, Vec<f32>) = (scale(values(n, 1)), scale(values(n, 2)));
    let m = values(n, 3);
    for m in [None, Some(&m[..])] {
        let [loss, dc, dr] = pairs(&mut Gpu::new(), &c, &r, m);
        let term =
            |i: usize, c: f64| (-(c - f64::from(r[i]) - m.map_or(0.0, |m| f64::from(m[i])))).exp().ln_1p();
        for i in 0..n {
            let (want, at) = (term(i, f64::from(c[i])), f64::from(c[i]));
            assert!((f64::from(loss[i]) - want).abs() < 2e-6 * want.max(1e-6), "{i}: {} {want}", loss[i]);
            let slope = (term(i, at + 1e-5) - term(i, at - 1e-5)) / 2e-5 / n as f64;
            assert!((f64::from(dc[i]) - slope).abs() < 1e-5 / n as f64 && dr[i] == -dc[i]);
        }
    }
}

#[test]
fn hopeless_and_certain_pairs_stay_finite_and_nan_shows() {
    let (c, r) = ([200.0f32, -200.0, 3e38, f32::NAN, 0.0, 60.0], [-200.0f32, 200.0, -3e38, 0.0, 0.0, 0.0]);
    let [loss, dc, _] = pairs(&mut Gpu::new(), &c, &r, None);
    assert_eq!((loss[0], loss[1], loss[2]), (0.0, 400.0, 0.0));
    assert_eq!((dc[0], dc[1]), (0.0, -1.0 / 6.0));
    assert!(loss[3].is_nan() && dc[3].is_nan());
    assert!((loss[4] - 2f32.ln()).abs() < 1e-7 && (loss[5] / (-60f32).exp() - 1.0).abs() < 1e-5);
    assert!(pairs(&mut Gpu::new(), &[], &[], None)[0].is_empty());
}

/// Tokens of a PPO batch: new, old, advantage or return, weight.
struct Tokens([Vec<f32>; 4]);

impl Tokens {
    fn new(n: usize) -> Tokens {
        let mut t = [values(n, 1), values(n, 2), values(n, 3), vec![1.0 / n.max(1) as f32; n]];
        // Small steps mostly, and tokens that do not count.
        (0..n).for_each(|i| t[1][i] = t[0][i] + 0.2 * t[1][i]);
        t[3].iter_mut().skip(1).step_by(5).for_each(|w| *w = 0.0);
        Tokens(t)
    }

    fn policy(&self, gpu: &mut Gpu) -> [Vec<f32>; 2] {
        let n = self.0[0].len();
        let [new, old, advantage, weight] = [0, 1, 2, 3].map(|i| gpu.upload(&self.0[i]));
        let (mut d, mut stats) = (gpu.alloc::<f32>(n), gpu.alloc::<f32>(8));
        let args = PpoPolicyLossArgs {
            logprob: new.arg(),
            old_logprob: old.arg(),
            advantage: advantage.arg(),
            weight: weight.arg(),
            dlogprob: d.arg_mut(),
            stats: stats.arg_mut(),
        };
        gpu.run(&PpoPolicyLoss { n, cliprange: 0.2 }, args);
        [d.to_vec(), stats.to_vec()]
    }

    fn policy_cpu(&self) -> [Vec<f32>; 2] {
        let n = self.0[0].len();
        let (mut d, mut stats) = (vec![0.0; n], vec![0.0; 8]);
        PpoPolicyLoss { n, cliprange: 0.2 }.cpu(PpoPolicyLossArgs {
            logprob: (&self.0[0]).into(),
            old_logprob: (&self.0[1]).into(),
            advantage: (&self.0[2]).into(),
            weight: (&self.0[3]).into(),
            dlogprob: (&mut d).into(),
            stats: (&mut stats).into(),
        });
        [d, stats]
    }

    fn value(&self, gpu: &mut Gpu) -> [Vec<f32>; 2] {
        let n = self.0[0].len();
        let [value, old, returns, weight] = [0, 1, 2, 3].map(|i| gpu.upload(&self.0[i]));
        let (mut d, mut stats) = (gpu.alloc::<f32>(n), gpu.alloc::<f32>(4));
        let args = PpoValueLossArgs {
            value: value.arg(),
            old_value: old.arg(),
            returns: returns.arg(),
            weight: weight.arg(),
            dvalue: d.arg_mut(),
            stats: stats.arg_mut(),
        };
        gpu.run(&PpoValueLoss { n, cliprange_value: 0.2, vf_coef: 0.1 }, args);
        [d.to_vec(), stats.to_vec()]
    }

    fn value_cpu(&self) -> [Vec<f32>; 2] {
        let n = self.0[0].len();
        let (mut d, mut stats) = (vec![0.0; n], vec![0.0; 4]);
        PpoValueLoss { n, cliprange_value: 0.2, vf_coef: 0.1 }.cpu(PpoValueLossArgs {
            value: (&self.0[0]).into(),
            old_value: (&self.0[1]).into(),
            returns: (&self.0[2]).into(),
            weight: (&self.0[3]).into(),
            dvalue: (&mut d).into(),
            stats: (&mut stats).into(),
        });
        [d, stats]
    }
}

#[test]
fn ppo_gradients_have_the_twin_s_bits_and_stats_its_values() {
    // None, one, less than a block, several blocks, more blocks than a warp has lanes.
    for n in [0usize, 1, 200, 1500, 3000, 40_000] {
        let t = Tokens::new(n);
        let ([d, stats], [want_d, want]) = (t.policy(&mut Gpu::new()), t.policy_cpu());
        assert!(same(&d, &want_d), "policy, {n} tokens");
        assert_close(&format!("policy, {n} tokens"), &stats, &wide(&want), 1e-6);
        let ([d, stats], [want_d, want]) = (t.value(&mut Gpu::new()), t.value_cpu());
        assert!(same(&d, &want_d), "value, {n} tokens");
        assert_close(&format!("value, {n} tokens"), &stats, &wide(&want), 1e-6);
    }
}

#[test]
fn ppo_gradients_are_slopes_of_their_losses() {
    let t = Tokens::new(60);
    let (old, x, w) = (wide(&t.0[1]), wide(&t.0[2]), wide(&t.0[3]));
    let policy = |new: &[f64]| {
        let one = |i: usize| {
            let r = (new[i] - old[i]).exp();
            w[i] * (-x[i] * r).max(-x[i] * r.clamp(0.8, 1.2))
        };
        vec![(0..new.len()).map(one).sum::<f64>()]
    };
    let [d, stats] = t.policy(&mut Gpu::new());
    assert!((f64::from(stats[0]) - policy(&wide(&t.0[0]))[0]).abs() < 1e-6);
    assert_close("dlogprob", &d, &slopes(&wide(&t.0[0]), &[1.0], 1e-6, policy), 1e-5);
    let value = |v: &[f64]| {
        let one = |i: usize| {
            let c = v[i].clamp(old[i] - 0.2, old[i] + 0.2);
            0.05 * w[i] * (v[i] - x[i]).powi(2).max((c - x[i]).powi(2))
        };
        vec![(0..v.len()).map(one).sum::<f64>()]
    };
    let [d, stats] = t.value(&mut Gpu::new());
    assert!((0.1 * f64::from(stats[0]) - value(&wide(&t.0[0]))[0]).abs() < 1e-6);
    assert_close("dvalue", &d, &slopes(&wide(&t.0[0]), &[1.0], 1e-6, value), 1e-5);
}

#[test]
fn equal_log_probabilities_give_a_ratio_of_exactly_one_and_nan_shows() {
    let mut t = Tokens::new(2500);
    t.0[1] = t.0[0].clone();
    let [_, stats] = t.policy(&mut Gpu::new());
    assert_eq!(stats[3..], [0.0, 1.0, 0.0, 1.0, 1.0]);
    t.0[0][0] = f32::NAN;
    let ([d, stats], [want_d, want]) = (t.policy(&mut Gpu::new()), t.policy_cpu());
    assert!(d[0].is_nan() && same(&d[1..], &want_d[1..]) && stats[0].is_nan() && want[0].is_nan());
    // Nobody counts: nothing is said.
    t.0[3].fill(0.0);
    assert_eq!(t.policy(&mut Gpu::new())[1], [0.0; 8]);
    assert_eq!(t.value(&mut Gpu::new())[1], [0.0; 4]);
}

#[test]
fn every_schedule_gives_the_same_bits() {
    let t = Tokens::new(2100);
    let (z, targets) = (values(40 * 7, 1), vec![3u32; 40]);
    let mut all = Vec::new();
    every_way(|gpu| {
        let mut bits: Vec<f32> = t.policy(gpu).concat();
        bits.extend(t.value(gpu).concat());
        bits.extend(cross_entropy(gpu, 40, 7, &z, &targets, 1).concat());
        bits.extend(cross_entropy(gpu, 1, 280, &z, &targets[..1], 1).concat());
        bits.extend(pairs(gpu, &z[..99], &z[100..199], None).concat());
        all.push(bits);
    });
    assert!(all.windows(2).all(|w| same(&w[0], &w[1])));
}
