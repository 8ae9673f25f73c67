//! Values worked out by hand, edge cases and refusals.

use rl::*;

#[track_caller]
fn close(got: &[f32], want: &[f64]) {
    assert_eq!(got.len(), want.len());
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((f64::from(*g) - w).abs() <= 1e-6 * w.abs().max(1.0), "{i}: {g} instead of {w}");
    }
}

fn input<'a>(rewards: &'a [f32], values: Option<&'a [f32]>, starts: &'a [usize]) -> AdvantageInput<'a> {
    AdvantageInput { rewards, values, starts, gamma: 1.0, lam: 1.0, group: 1 }
}

fn run(name: &str, input: &AdvantageInput) -> Result<Advantages> {
    Estimator::by_name(name).unwrap().run(input)
}

#[test]
fn kl_measures() {
    // d = 0.5 and -0.5; exp(-0.5) = 0.60653066, exp(0.5) = 1.64872127.
    let (p, q) = ([-1.0, -1.5], [-1.5, -1.0]);
    let kl = |m| kl_per_token(m, &p, &q, None).unwrap();
    close(&kl(KlMeasure::K1), &[0.5, -0.5]);
    close(&kl(KlMeasure::K2), &[0.125, 0.125]);
    close(&kl(KlMeasure::K3), &[0.106_530_66, 0.148_721_27]);
    close(&kl(KlMeasure::Abs), &[0.5, 0.5]);
    close(&kl_per_token(KlMeasure::Full, &p, &q, Some(&[0.3, 0.4])).unwrap(), &[0.3, 0.4]);
    assert!(matches!(kl_per_token(KlMeasure::Full, &p, &q, None), Err(Error::Missing { name: "full", .. })));
    assert!(kl_per_token(KlMeasure::Full, &p, &q, Some(&[0.3])).is_err());
    assert!(kl_per_token(KlMeasure::K1, &p, &q[..1], None).is_err());
    // A difference far below f32's resolution near 1 is not lost: d^2/2 to first order.
    assert!((KlMeasure::K3.of(1e-4) / 5e-9 - 1.0).abs() < 1e-3);
}

#[test]
fn every_estimator_of_kl_agrees_in_expectation() {
    // Exact expectation over a three-way choice: E[k1] = E[k3] = KL.
    let (p, q) = ([0.5f64, 0.3, 0.2], [0.2f64, 0.3, 0.5]);
    let exact: f64 = p.iter().zip(q).map(|(p, q)| p * (p / q).ln()).sum();
    for measure in [KlMeasure::K1, KlMeasure::K3] {
        let mean: f64 =
            p.iter().zip(q).map(|(p, q)| p * f64::from(measure.of((p.ln() - q.ln()) as f32))).sum();
        assert!((mean - exact).abs() < 1e-6, "{measure:?}: {mean} instead of {exact}");
    }
}

#[test]
fn kl_means() {
    let s = KlSummary::new(&[1.0, 2.0, 3.0], &[0, 1, 3]).unwrap();
    assert_eq!((s.per_sequence, s.per_token), (3.0, 2.0));
}

#[test]
fn rewards_put_the_score_on_the_last_token() {
    // Responses of two tokens and of one (an immediate end of sequence).
    let out = token_rewards(&[1.0, 2.0, -1.0], 0.5, &[10.0, -4.0], &[0, 2, 3]).unwrap();
    close(&out.non_score, &[-0.5, -1.0, 0.5]);
    close(&out.rewards, &[-0.5, 9.0, -3.5]);
    assert!(token_rewards(&[1.0, 2.0], 0.5, &[1.0], &[0, 1, 2]).is_err());
}

#[test]
fn gae_by_hand() {
    // gamma 0.5, lam 0.5. Response 1, backwards: delta = 3 - 2 = 1; delta = 1 + 0.5*2 - 1 = 1,
    // A = 1 + 0.25*1 = 1.25. Response 2, one token: A = 4 - 1.
    let (rewards, values, starts) = ([1.0, 3.0, 4.0], [1.0, 2.0, 1.0], [0, 2, 3]);
    let input = AdvantageInput { gamma: 0.5, lam: 0.5, ..input(&rewards, Some(&values), &starts) };
    let out = run("gae", &input).unwrap();
    close(&out.advantages, &[1.25, 1.0, 3.0]);
    close(&out.returns, &[2.25, 3.0, 4.0]);
}

#[test]
fn reinforce_by_hand() {
    // Returns to go: 1 + 0.5*2 = 2, 2; 4. Mean 8/3.
    let (rewards, starts) = ([1.0, 2.0, 4.0], [0, 2, 3]);
    let input = AdvantageInput { gamma: 0.5, ..input(&rewards, None, &starts) };
    let out = run("reinforce", &input).unwrap();
    close(&out.returns, &[2.0, 2.0, 4.0]);
    close(&out.advantages, &[-2.0 / 3.0, -2.0 / 3.0, 4.0 / 3.0]);
}

#[test]
fn rloo_and_grpo_by_hand() {
    // Two prompts, two responses each, with rewards (3, 1) and (5, 5); the first in two tokens.
    let (rewards, starts) = ([1.0, 2.0, 1.0, 5.0, 5.0], [0, 2, 3, 4, 5]);
    let input = AdvantageInput { group: 2, ..input(&rewards, None, &starts) };
    close(&run("rloo", &input).unwrap().advantages, &[2.0, 2.0, -2.0, 0.0, 0.0]);
    let grpo = 1.0 / (2f64.sqrt() + 1e-4);
    let out = run("grpo", &input).unwrap();
    close(&out.advantages, &[grpo, grpo, -grpo, 0.0, 0.0]);
    close(&out.returns, &[3.0, 2.0, 1.0, 5.0, 5.0]);
}

#[test]
fn normalised_advantages_are_not_whitened_again() {
    let config = PpoConfig { advantage_estimator: "grpo".into(), num_generations: 2, ..Default::default() };
    let (rewards, starts) = ([1.0, 3.0], [0, 1, 2]);
    let grpo = 1.0 / (2f64.sqrt() + 1e-4);
    close(&advantages(&config, &rewards, None, &starts).unwrap().advantages, &[-grpo, grpo]);
}

#[test]
fn estimators_say_what_they_need() {
    let (rewards, starts) = ([1.0, 2.0, 3.0], [0, 1, 2, 3]);
    let plain = input(&rewards, None, &starts);
    assert!(matches!(run("gae", &plain), Err(Error::Missing { name: "values", .. })));
    for name in ["rloo", "grpo"] {
        assert!(matches!(run(name, &plain), Err(Error::Groups { group: 1, .. })));
        let uneven = AdvantageInput { group: 2, ..plain };
        assert!(matches!(run(name, &uneven), Err(Error::Groups { responses: 3, .. })));
        assert!(run(name, &AdvantageInput { group: 0, ..plain }).is_err());
        assert!(run(name, &AdvantageInput { group: 3, ..plain }).is_ok());
    }
    let names: std::collections::HashSet<_> = ESTIMATORS.iter().map(|e| e.name).collect();
    assert_eq!(names.len(), ESTIMATORS.len());
    let message = Estimator::by_name("vtrace").unwrap_err().to_string();
    assert!(message.contains("gae, reinforce, rloo, grpo"), "{message}");
}

#[test]
fn bad_offsets_are_refused() {
    assert_eq!(check_starts(&[0, 2, 2, 3], 3), Err(Error::EmptyResponse { index: 1 }));
    for bad in [&[][..], &[0], &[1, 3], &[0, 2, 1, 3], &[0, 2]] {
        assert!(matches!(check_starts(bad, 3), Err(Error::Starts(_))), "{bad:?}");
    }
    assert!(check_starts(&[0, 3], 3).is_ok());
    assert!(per_token(&[1.0, 2.0], &[0, 1, 1]).is_err());
    assert!(per_token(&[], &[]).is_err());
    assert_eq!(per_token(&[1.0, 2.0], &[0, 2, 3]).unwrap(), [1.0, 1.0, 2.0]);
    assert_eq!(sequence_sums(&[1.0, 2.0, 4.0], &[0, 2, 3]).unwrap(), [3.0, 4.0]);
}

#[test]
fn whitening() {
    // (0, 2, 4): mean 2, unbiased variance (4 + 0 + 4) / 2 = 4.
    let mut v = [0.0, 2.0, 4.0];
    whiten(&mut v, true);
    close(&v, &[-1.0, 0.0, 1.0]);
    let mut v = [0.0, 2.0, 4.0];
    whiten(&mut v, false);
    close(&v, &[1.0, 2.0, 3.0]);
    let mut v = [0.0, 99.0, 2.0, 4.0, -99.0];
    whiten_masked(&mut v, &[true, false, true, true, false], true).unwrap();
    close(&v, &[-1.0, 0.0, 0.0, 1.0, 0.0]);
    // One value has no variance: it becomes 0, or stays itself; never NaN.
    let mut one = [7.0];
    whiten(&mut one, true);
    assert_eq!(one, [0.0]);
    let mut one = [7.0];
    whiten(&mut one, false);
    assert_eq!(one, [7.0]);
    whiten(&mut [], true);
    assert!(whiten_masked(&mut [1.0], &[], true).is_err());
}

#[test]
fn scores_that_carry_no_scale_are_left_alone() {
    let config = PpoConfig { use_score_scaling: true, ..Default::default() };
    let mut shaper = ScoreShaper::new(&config);
    close(&shaper.shape(&[0.1], &[true]).unwrap(), &[0.1]);
    close(&shaper.shape(&[0.1, 0.1], &[true, true]).unwrap(), &[0.1, 0.1]);
    let before = shaper.clone();
    assert!(matches!(shaper.shape(&[f32::NAN], &[true]), Err(Error::NonFinite { index: 0, .. })));
    assert!(shaper.shape(&[1.0], &[]).is_err());
    assert_eq!(shaper, before);
}

#[test]
fn plain_scores_pass_and_the_missing_ending_costs() {
    let mut plain = ScoreShaper::new(&PpoConfig::default());
    assert_eq!(plain.shape(&[3.0, -200.0], &[true, false]).unwrap(), [3.0, -200.0]);
    let config = PpoConfig { missing_eos_penalty: Some(1.5), score_clip: Some(2.0), ..Default::default() };
    let mut shaper = ScoreShaper::new(&config);
    assert_eq!(shaper.shape(&[3.0, 3.0, -3.0], &[true, false, true]).unwrap(), [2.0, 1.5, -2.0]);
}

#[test]
fn controllers() {
    let config = PpoConfig { init_kl_coef: 0.1, target: 6.0, horizon: 100.0, ..Default::default() };
    let after = |kl: f64| {
        let mut c = KlController::new(&config);
        c.update(kl, 10).unwrap();
        c.coef()
    };
    // Error clipped to 0.2: 0.1 * (1 ± 0.2 * 10 / 100).
    assert!((after(60.0) - 0.102).abs() < 1e-15 && (after(-5.0) - 0.098).abs() < 1e-15);
    assert!((after(6.6) - 0.101).abs() < 1e-12 && after(6.0) == 0.1);
    let mut fixed = KlController::new(&PpoConfig { adap_kl_ctrl: false, ..config.clone() });
    fixed.update(60.0, 10).unwrap();
    assert_eq!(fixed, KlController::Fixed { coef: 0.1 });
    let mut c = KlController::new(&config);
    assert!(matches!(c.update(f64::NAN, 10), Err(Error::NonFinite { .. })));
    assert_eq!(c.coef(), 0.1);
}

#[test]
fn texts() {
    // 1 2 1 2: bigrams 12 21 12; 1 2: bigram 12. Pooled 2 of 4; each on its own 2/3 and 1.
    let (tokens, starts) = ([1, 2, 1, 2, 1, 2], [0, 4, 6]);
    assert_eq!(distinct_n(&tokens, &starts, 2).unwrap(), 0.5);
    assert!((mean_distinct_n(&tokens, &starts, 2).unwrap() - 5.0 / 6.0).abs() < 1e-15);
    assert_eq!(distinct_n(&tokens, &starts, 1).unwrap(), 2.0 / 6.0);
    // No bigram in one token, and none across responses.
    assert_eq!(distinct_n(&[7, 7, 7], &[0, 1, 2, 3], 2).unwrap(), 1.0);
    assert_eq!(mean_distinct_n(&[7, 7, 7], &[0, 1, 2, 3], 2).unwrap(), 1.0);
    assert!(distinct_n(&[7], &[0, 0, 1], 2).is_err());
    assert!((perplexity(&[0.5f32.ln(), 0.125f32.ln()]) - 4.0).abs() < 1e-6);
    assert_eq!(perplexity(&[]), 1.0);
}

#[test]
fn verdicts() {
    let v = RewardVerdict::new(&[2.0, 1.0, 0.0, 5.0], &[1.0, 1.0, 3.0, 1.0]).unwrap();
    assert_eq!((v.pairs, v.ties, v.accuracy, v.margin_mean), (4, 1, 0.625, 0.5));
    assert_eq!(v.histogram.iter().map(|b| b.count).sum::<usize>(), 4);
    assert_eq!((v.histogram[0].count, v.histogram[19].count), (1, 1));
    assert_eq!(v.calibration.iter().map(|b| b.count).sum::<usize>(), 4);
    assert_eq!(
        (v.calibration[0].count, v.calibration[0].accuracy, v.calibration[0].confidence),
        (1, 0.5, 0.5)
    );
    // Margins 3 (wrong) and 4 (right), confidences 0.9526 and 0.9820, share the last bar.
    let last = v.calibration[9];
    assert_eq!((last.count, last.accuracy), (2, 0.5));
    assert!((last.confidence - 0.967_294).abs() < 1e-5);
    let same = RewardVerdict::new(&[1.0], &[0.0]).unwrap();
    assert_eq!((same.margin_std, same.histogram.iter().map(|b| b.count).sum::<usize>()), (0.0, 1));
    assert!(RewardVerdict::new(&[], &[]).is_err());
    assert!(RewardVerdict::new(&[1.0], &[]).is_err());
    assert!(RewardVerdict::new(&[f32::INFINITY], &[0.0]).is_err());
    assert!(RewardVerdict::new(&[1e30], &[-1e30]).unwrap().loss.is_finite());
}

fn rollout<'a>(values: Option<&'a [f32]>) -> Rollout<'a> {
    Rollout {
        starts: &[0, 2, 3],
        logprob: &[-1.0, -2.0, -3.0],
        kl: &[0.5, 1.5, 1.0],
        non_score: &[-0.1, -0.3, -0.2],
        returns: &[1.0, 2.0, 3.0],
        values,
        raw_scores: &[10.0, 20.0],
        scores: &[1.0, 2.0],
        has_eos: &[true, false],
        kl_coef: 0.2,
    }
}

#[test]
fn statistics_by_hand() {
    let mut stats = PpoStats::new(&rollout(Some(&[1.0, 2.0, 6.0]))).unwrap();
    stats.minibatch(Minibatch { policy_loss: 1.0, ratio: 1.0, value_error: 0.25, ..Default::default() });
    let other =
        Minibatch { policy_loss: 3.0, ratio: 1.2, value_error: 0.75, skipped: true, ..Default::default() };
    stats.minibatch(other);
    stats.early_stop();
    let list = stats.finish();
    let get = |name: &str| list.iter().find(|(n, _)| *n == name).unwrap_or_else(|| panic!("no {name}")).1;
    for (name, want) in [
        ("objective/kl", 1.5),
        ("objective/kl_per_token", 1.0),
        ("objective/kl_coef", 0.2),
        ("objective/entropy", 3.0),
        ("objective/scores", 1.5),
        ("objective/non_score_reward", -0.3),
        ("objective/rlhf_reward", 1.2),
        ("env/reward_mean", 15.0),
        ("env/reward_std", 50f64.sqrt()),
        ("ppo/mean_non_score_reward", -0.2),
        ("ppo/returns/var", 1.0),
        ("ppo/val/old_error", 3.0),
        ("ppo/val/old_var_explained", -2.0),
        ("ppo/val/error", 0.5),
        ("ppo/val/var_explained", 0.5),
        ("loss/policy_avg", 2.0),
        ("val/ratio", 1.1),
        ("val/ratio_var", 0.02),
        ("val/num_eos_tokens", 1.0),
        ("tokens/responses_len_mean", 1.5),
        ("ppo/skipped_minibatches", 1.0),
        ("ppo/early_stopped", 1.0),
    ] {
        assert!((get(name) - want).abs() < 1e-7, "{name}: {} instead of {want}", get(name));
    }
    for name in [
        "policy/approxkl_avg",
        "policy/clipfrac_avg",
        "policy/entropy_avg",
        "loss/value_avg",
        "val/clipfrac_avg",
        "ppo/mean_scores",
        "ppo/std_scores",
        "ppo/policy/policykl",
    ] {
        get(name);
    }
    let names: std::collections::HashSet<_> = list.iter().map(|(n, _)| n).collect();
    assert_eq!(names.len(), list.len());
}

#[test]
fn statistics_without_a_value_head_have_no_value_metrics() {
    let mut stats = PpoStats::new(&rollout(None)).unwrap();
    stats.minibatch(Minibatch::default());
    assert!(
        stats
            .finish()
            .iter()
            .all(|(n, v)| v.is_finite() && !n.contains("val/error") && *n != "loss/value_avg")
    );
    assert!(PpoStats::new(&Rollout { has_eos: &[true], ..rollout(None) }).is_err());
    assert!(PpoStats::new(&Rollout { values: Some(&[1.0]), ..rollout(None) }).is_err());
    assert!(PpoStats::new(&Rollout { starts: &[0, 3, 3], ..rollout(None) }).is_err());
}

#[test]
fn spread_rewards_pay_each_token_its_change_of_potential() {
    let starts = [0, 3, 4];
    let mut out = token_rewards(&[0.0; 4], 0.5, &[2.0, -1.0], &starts).unwrap();
    // The last potentials (9.0, 7.0) are replaced by the scores, which may carry a penalty.
    out.spread(&[2.0, -1.0], &[0.5, 1.0, -1.0, 9.0, 0.25, 7.0], &starts).unwrap();
    assert_eq!(out.rewards, [0.5, -2.0, 3.0, -1.25]);
    assert!(out.spread(&[2.0, -1.0], &[0.5; 5], &starts).is_err());
    assert!(out.spread(&[2.0, -1.0], &[f32::NAN; 6], &starts).is_err());
}
