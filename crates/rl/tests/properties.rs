//! Invariants over random batches.

use proptest::prelude::*;
use rl::*;

prop_compose! {
    /// Offsets of 1 to 12 responses of 1 to 9 tokens each.
    fn offsets()(lengths in prop::collection::vec(1usize..10, 1..13)) -> Vec<usize> {
        lengths.iter().fold(vec![0], |mut starts, n| { starts.push(starts[starts.len() - 1] + n); starts })
    }
}

fn batch() -> impl Strategy<Value = (Vec<usize>, Vec<f32>, Vec<f32>)> {
    offsets().prop_flat_map(|starts| {
        let tokens = starts[starts.len() - 1];
        let numbers = || prop::collection::vec(-5f32..5.0, tokens);
        (Just(starts), numbers(), numbers())
    })
}

/// GAE straight from its definition: the sum over l of (gamma*lam)^l times delta at t + l.
fn gae_by_definition(rewards: &[f32], values: &[f32], gamma: f64, lam: f64) -> Vec<f64> {
    let n = rewards.len();
    let value = |t: usize| if t < n { f64::from(values[t]) } else { 0.0 };
    let delta = |t: usize| f64::from(rewards[t]) + gamma * value(t + 1) - value(t);
    (0..n).map(|t| (t..n).map(|s| (gamma * lam).powi((s - t) as i32) * delta(s)).sum()).collect()
}

proptest! {
    #[test]
    fn squared_and_k3_kl_are_never_negative(d in -30f32..30.0) {
        prop_assert!(KlMeasure::K3.of(d) >= 0.0);
        prop_assert!(KlMeasure::K2.of(d) >= 0.0);
        prop_assert_eq!(KlMeasure::Abs.of(d), KlMeasure::K1.of(d).abs());
    }

    #[test]
    fn gae_is_its_definition((starts, rewards, values) in batch(), gamma in 0.0..=1.0f64, lam in 0.0..=1.0f64) {
        let input =
            AdvantageInput { rewards: &rewards, values: Some(&values), starts: &starts, gamma, lam, group: 1 };
        let got = Estimator::by_name("gae").unwrap().run(&input).unwrap();
        for w in starts.windows(2) {
            let (lo, hi) = (w[0], w[1]);
            let want = gae_by_definition(&rewards[lo..hi], &values[lo..hi], gamma, lam);
            for (t, want) in (lo..hi).zip(want) {
                prop_assert!((f64::from(got.advantages[t]) - want).abs() < 1e-5 * want.abs().max(1.0));
                let back = f64::from(got.returns[t]) - f64::from(values[t]);
                prop_assert!((back - want).abs() < 2e-5 * want.abs().max(1.0));
            }
        }
    }

    #[test]
    fn gae_with_lam_one_is_returns_minus_values((starts, rewards, values) in batch(), gamma in 0.0..=1.0f64) {
        let input =
            AdvantageInput { rewards: &rewards, values: Some(&values), starts: &starts, gamma, lam: 1.0, group: 1 };
        let gae = Estimator::by_name("gae").unwrap().run(&input).unwrap();
        let plain = Estimator::by_name("reinforce").unwrap().run(&input).unwrap();
        for t in 0..rewards.len() {
            prop_assert!((gae.returns[t] - plain.returns[t]).abs() < 1e-4);
            prop_assert!((gae.advantages[t] - (plain.returns[t] - values[t])).abs() < 1e-4);
        }
    }

    #[test]
    fn a_response_does_not_depend_on_its_neighbours((starts, rewards, values) in batch()) {
        let input =
            AdvantageInput { rewards: &rewards, values: Some(&values), starts: &starts, gamma: 0.9, lam: 0.8, group: 1 };
        let gae = Estimator::by_name("gae").unwrap();
        let whole = gae.run(&input).unwrap();
        for w in starts.windows(2) {
            let (r, v) = (&rewards[w[0]..w[1]], &values[w[0]..w[1]]);
            let alone = AdvantageInput { rewards: r, values: Some(v), starts: &[0, r.len()], ..input };
            prop_assert_eq!(&gae.run(&alone).unwrap().advantages[..], &whole.advantages[w[0]..w[1]]);
        }
    }

    #[test]
    fn grouped_advantages_sum_to_zero(
        scores in prop::collection::vec(-5f32..5.0, 4 * 3), lengths in prop::collection::vec(1usize..6, 4 * 3),
    ) {
        let mut starts = vec![0];
        for n in &lengths { starts.push(starts[starts.len() - 1] + n); }
        let mut rewards = vec![0.0; starts[12]];
        for (end, score) in starts[1..].iter().zip(&scores) { rewards[end - 1] = *score; }
        for name in ["rloo", "grpo"] {
            let input =
                AdvantageInput { rewards: &rewards, values: None, starts: &starts, gamma: 1.0, lam: 1.0, group: 4 };
            let out = Estimator::by_name(name).unwrap().run(&input).unwrap();
            for group in 0..3 {
                let each: Vec<f32> = (4 * group..4 * group + 4).map(|i| out.advantages[starts[i]]).collect();
                prop_assert!(each.iter().sum::<f32>().abs() < 1e-4, "{name}: {each:?}");
                if name == "grpo" {
                    prop_assert!(variance(&each) < 1.0 + 1e-5);
                } else {
                    // Leave-one-out is the centred score, stretched by k / (k - 1).
                    let s = &scores[4 * group..4 * group + 4];
                    for i in 0..4 {
                        let want = (f64::from(s[i]) - mean(s)) * 4.0 / 3.0;
                        prop_assert!((f64::from(each[i]) - want).abs() < 1e-4);
                    }
                }
            }
            for w in starts.windows(2) {
                prop_assert!(out.advantages[w[0]..w[1]].iter().all(|a| *a == out.advantages[w[0]]));
            }
        }
    }

    #[test]
    fn reinforce_sums_to_zero((starts, rewards, _) in batch()) {
        let input =
            AdvantageInput { rewards: &rewards, values: None, starts: &starts, gamma: 1.0, lam: 1.0, group: 1 };
        let out = Estimator::by_name("reinforce").unwrap().run(&input).unwrap();
        prop_assert!(mean(&out.advantages).abs() < 1e-5);
    }

    #[test]
    fn whitened_values_have_mean_zero_and_variance_one(
        values in prop::collection::vec(-100f32..100.0, 2..200), mask in prop::collection::vec(any::<bool>(), 200),
    ) {
        prop_assume!(variance(&values) > 1e-3);
        let mut white = values.clone();
        whiten(&mut white, true);
        prop_assert!(mean(&white).abs() < 1e-4 && (variance(&white) - 1.0).abs() < 1e-3);
        let mut scaled = values.clone();
        whiten(&mut scaled, false);
        prop_assert!((mean(&scaled) - mean(&values)).abs() < 1e-3 * mean(&values).abs().max(1.0));
        let (mut masked, mask) = (values.clone(), &mask[..values.len()]);
        whiten_masked(&mut masked, mask, true).unwrap();
        let mut kept: Vec<f32> = values.iter().zip(mask).filter(|m| *m.1).map(|m| *m.0).collect();
        whiten(&mut kept, true);
        let got: Vec<f32> = masked.iter().zip(mask).filter(|m| *m.1).map(|m| *m.0).collect();
        prop_assert_eq!(got, kept);
    }

    #[test]
    fn running_moments_are_those_of_all_values(
        values in prop::collection::vec(-50f32..50.0, 2..100), chunk in 1usize..20,
    ) {
        let mut moments = RunningMoments::default();
        values.chunks(chunk).for_each(|c| moments.update(c));
        prop_assert_eq!(moments.count, values.len() as u64);
        prop_assert!((moments.mean - mean(&values)).abs() < 1e-9);
        prop_assert!((moments.std() - variance(&values).sqrt()).abs() < 1e-9);
    }

    #[test]
    fn the_adaptive_coefficient_moves_towards_the_target(
        kl in -20.0..40.0f64, target in 0.5..20.0f64, n in 1usize..200,
    ) {
        let mut c = KlController::Adaptive { coef: 0.2, target, horizon: 1000.0 };
        c.update(kl, n).unwrap();
        prop_assert_eq!(kl > target, c.coef() > 0.2);
        prop_assert!(c.coef() > 0.0);
    }

    #[test]
    fn permutations_hold_every_index_once(n in 0usize..300, seed: u64, iteration: u64, epoch in 0u64..8) {
        let order = permutation(n, seed, iteration, epoch);
        let mut sorted = order.clone();
        sorted.sort_unstable();
        prop_assert_eq!(sorted, (0..n).collect::<Vec<_>>());
        prop_assert_eq!(order, permutation(n, seed, iteration, epoch));
    }

    #[test]
    fn a_verdict_counts_every_pair_once(pairs in prop::collection::vec((-9f32..9.0, -9f32..9.0), 1..80)) {
        let (chosen, rejected): (Vec<f32>, Vec<f32>) = pairs.into_iter().unzip();
        let v = RewardVerdict::new(&chosen, &rejected).unwrap();
        prop_assert_eq!(v.histogram.iter().map(|b| b.count).sum::<usize>(), v.pairs);
        prop_assert_eq!(v.calibration.iter().map(|b| b.count).sum::<usize>(), v.pairs);
        prop_assert!((0.0..=1.0).contains(&v.ece));
        let swapped = RewardVerdict::new(&rejected, &chosen).unwrap();
        prop_assert!((v.accuracy + swapped.accuracy - 1.0).abs() < 1e-12);
        // -log sigmoid(m) + log sigmoid(-m) = -m
        prop_assert!((v.loss - swapped.loss + v.margin_mean).abs() < 1e-9);
    }
}

#[test]
fn permutations_differ_by_seed_iteration_and_epoch_and_are_uniform() {
    let base = permutation(64, 1, 2, 3);
    for other in [
        permutation(64, 2, 2, 3),
        permutation(64, 1, 3, 3),
        permutation(64, 1, 2, 4),
        permutation(64, 2, 1, 3),
    ] {
        assert_ne!(base, other);
    }
    // 6000 permutations of three: each of the six within five standard deviations (29) of 1000.
    let mut counts = std::collections::HashMap::new();
    for i in 0..6000 {
        *counts.entry(permutation(3, 7, i, 0)).or_insert(0usize) += 1;
    }
    assert_eq!(counts.len(), 6);
    assert!(counts.values().all(|c| c.abs_diff(1000) < 145), "{counts:?}");
}
