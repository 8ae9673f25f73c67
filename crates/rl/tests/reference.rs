//! Equality with numbers computed on padded tensors by `tests/references/rl.py` (torch, TRL).

use rl::*;
use serde_json::Value;

fn fixture() -> Value {
    serde_json::from_str(include_str!("../../../tests/references/rl.json")).unwrap()
}

fn floats(v: &Value) -> Vec<f32> {
    v.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
}

fn bools(v: &Value) -> Vec<bool> {
    v.as_array().unwrap().iter().map(|x| x.as_bool().unwrap()).collect()
}

#[track_caller]
fn close(got: &[f32], want: &Value) {
    let want = want.as_array().unwrap();
    assert_eq!(got.len(), want.len());
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let w = w.as_f64().unwrap();
        assert!((f64::from(*g) - w).abs() <= 2e-6 * w.abs().max(1.0), "{i}: {g} instead of {w}");
    }
}

fn starts(f: &Value) -> Vec<usize> {
    let mut starts = vec![0];
    for n in f["lengths"].as_array().unwrap() {
        starts.push(starts[starts.len() - 1] + n.as_u64().unwrap() as usize);
    }
    starts
}

#[test]
fn kl_and_rewards() {
    let f = fixture();
    let (logprob, reference) = (floats(&f["logprob"]), floats(&f["reference"]));
    for (name, measure) in
        [("k1", KlMeasure::K1), ("k2", KlMeasure::K2), ("k3", KlMeasure::K3), ("abs", KlMeasure::Abs)]
    {
        close(&kl_per_token(measure, &logprob, &reference, None).unwrap(), &f["kl"][name]);
    }
    let kl = kl_per_token(KlMeasure::K1, &logprob, &reference, None).unwrap();
    let coef = f["kl_coef"].as_f64().unwrap();
    let mut out = token_rewards(&kl, coef, &floats(&f["scores"]), &starts(&f)).unwrap();
    close(&out.rewards, &f["rewards"]);
    whiten(&mut out.rewards, false);
    close(&out.rewards, &f["white_rewards"]);
}

#[test]
fn advantages_of_every_estimator() {
    let f = fixture();
    let (rewards, values, starts) = (floats(&f["rewards"]), floats(&f["values"]), starts(&f));
    let input = AdvantageInput {
        rewards: &rewards,
        values: Some(&values),
        starts: &starts,
        gamma: f["gamma"].as_f64().unwrap(),
        lam: f["lam"].as_f64().unwrap(),
        group: f["group"].as_u64().unwrap() as usize,
    };
    let gae = Estimator::by_name("gae").unwrap().run(&input).unwrap();
    close(&gae.advantages, &f["advantages"]);
    close(&gae.returns, &f["returns"]);
    for name in ["rloo", "grpo"] {
        let out = Estimator::by_name(name).unwrap().run(&input).unwrap();
        let firsts: Vec<f32> = starts[..starts.len() - 1].iter().map(|&s| out.advantages[s]).collect();
        close(&firsts, &f[name]);
    }
    let mut config = PpoConfig { gamma: input.gamma, lam: input.lam, ..Default::default() };
    close(&advantages(&config, &rewards, Some(&values), &starts).unwrap().advantages, &f["white_advantages"]);
    (config.whiten_rewards, config.whiten_advantages) = (true, false);
    close(
        &advantages(&config, &rewards, Some(&values), &starts).unwrap().advantages,
        &f["advantages_of_white_rewards"],
    );
}

#[test]
fn scores_over_several_batches() {
    let f = fixture();
    let penalty = f["missing_eos_penalty"].as_f64().unwrap() as f32;
    let config =
        PpoConfig { use_score_scaling: true, missing_eos_penalty: Some(penalty), ..Default::default() };
    let mut scaled = ScoreShaper::new(&config);
    let mut normed = ScoreShaper::new(&PpoConfig { use_score_norm: true, ..config.clone() });
    let mut clipped = ScoreShaper::new(&PpoConfig { score_clip: Some(0.8), ..config });
    for batch in f["score_batches"].as_array().unwrap() {
        let (raw, eos) = (floats(&batch["raw"]), bools(&batch["eos"]));
        close(&scaled.shape(&raw, &eos).unwrap(), &batch["scaled"]);
        close(&normed.shape(&raw, &eos).unwrap(), &batch["normed"]);
        close(&clipped.shape(&raw, &eos).unwrap(), &batch["clipped"]);
        close(&[scaled.moments().mean as f32], &Value::from(vec![batch["mean"].clone()]));
        close(&[scaled.moments().std() as f32], &Value::from(vec![batch["std"].clone()]));
    }
}

#[test]
fn adaptive_coefficient() {
    let f = fixture();
    let config = PpoConfig { init_kl_coef: 0.2, target: 6.0, horizon: 1000.0, ..Default::default() };
    let mut controller = KlController::new(&config);
    for step in f["adaptive_kl"].as_array().unwrap() {
        controller.update(step[0].as_f64().unwrap(), 32).unwrap();
        assert!((controller.coef() - step[1].as_f64().unwrap()).abs() < 1e-12);
    }
}

#[test]
fn verdict_of_a_reward_model() {
    let f = fixture();
    let v = RewardVerdict::new(&floats(&f["chosen"]), &floats(&f["rejected"])).unwrap();
    for (name, got) in [
        ("accuracy", v.accuracy),
        ("loss", v.loss),
        ("margin_mean", v.margin_mean),
        ("margin_std", v.margin_std),
        ("ece", v.ece),
    ] {
        let want = f["verdict"][name].as_f64().unwrap();
        assert!((got - want).abs() < 1e-6, "{name}: {got} instead of {want}");
    }
}

#[test]
fn statistics() {
    let f = fixture();
    let starts = starts(&f);
    let (logprob, scores, kl) = (floats(&f["logprob"]), floats(&f["scores"]), floats(&f["kl"]["k1"]));
    let coef = f["kl_coef"].as_f64().unwrap();
    let rewards = token_rewards(&kl, coef, &scores, &starts).unwrap();
    let (returns, values) = (floats(&f["returns"]), floats(&f["values"]));
    let stats = PpoStats::new(&Rollout {
        starts: &starts,
        logprob: &logprob,
        kl: &kl,
        non_score: &rewards.non_score,
        returns: &returns,
        values: Some(&values),
        raw_scores: &scores,
        scores: &scores,
        has_eos: &bools(&f["ended"]),
        kl_coef: coef,
    })
    .unwrap()
    .finish();
    for (name, want) in f["stats"].as_object().unwrap() {
        let want = want.as_f64().unwrap();
        let got = stats.iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("{name} is missing")).1;
        assert!((got - want).abs() < 2e-6 * want.abs().max(1.0), "{name}: {got} instead of {want}");
    }
}
