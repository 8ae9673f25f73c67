//! Configuration, alarms, and the round trip of all state through JSON.

use rl::*;

fn refused(config: &PpoConfig) -> (String, String) {
    match config.validate() {
        Err(Error::Config { field, .. }) => (field.into(), config.validate().unwrap_err().to_string()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn defaults_are_valid_and_survive_toml_and_json() {
    let config = PpoConfig::default();
    config.validate().unwrap();
    let text = toml::to_string(&config).unwrap();
    assert_eq!(toml::from_str::<PpoConfig>(&text).unwrap(), config);
    let json = serde_json::to_string(&config).unwrap();
    assert_eq!(serde_json::from_str::<PpoConfig>(&json).unwrap(), config);
    assert_eq!(toml::from_str::<PpoConfig>("").unwrap(), config);
}

#[test]
fn names_are_read_and_unknown_ones_refused() {
    let text = "kl_coef = 0.05\nnum_ppo_epochs = 2\nkl_penalty = \"mse\"\nscore_clip = 3.0\n";
    let config: PpoConfig = toml::from_str(text).unwrap();
    assert_eq!((config.init_kl_coef, config.ppo_epochs, config.score_clip), (0.05, 2, Some(3.0)));
    assert_eq!(config.kl_measure(), KlMeasure::K2);
    let k3: PpoConfig = toml::from_str("kl_estimator = \"k3\"").unwrap();
    assert_eq!(k3.kl_measure(), KlMeasure::K3);
    assert!(toml::from_str::<PpoConfig>("clip_range = 0.2").unwrap_err().to_string().contains("clip_range"));
    assert!(toml::from_str::<PpoConfig>("kl_estimator = \"k4\"").is_err());
}

#[test]
fn each_bad_value_is_named_with_its_value() {
    let d = PpoConfig::default;
    let cases: Vec<(&str, PpoConfig)> = vec![
        ("batch_size", PpoConfig { batch_size: 0, ..d() }),
        ("batch_size", PpoConfig { mini_batch_size: 48, ..d() }),
        ("batch_size", PpoConfig { num_generations: 3, ..d() }),
        ("batch_size", PpoConfig { gradient_accumulation_steps: 3, ..d() }),
        ("ppo_epochs", PpoConfig { ppo_epochs: 0, ..d() }),
        ("response_length", PpoConfig { response_length: 0, ..d() }),
        ("seed", PpoConfig { seed: u64::MAX, ..d() }),
        ("learning_rate", PpoConfig { learning_rate: 0.0, ..d() }),
        ("learning_rate", PpoConfig { learning_rate: f32::NAN, ..d() }),
        ("max_grad_norm", PpoConfig { max_grad_norm: -1.0, ..d() }),
        ("gamma", PpoConfig { gamma: 1.1, ..d() }),
        ("lam", PpoConfig { lam: -0.1, ..d() }),
        ("cliprange", PpoConfig { cliprange: 1.0, ..d() }),
        ("cliprange_value", PpoConfig { cliprange_value: 0.0, ..d() }),
        ("vf_coef", PpoConfig { vf_coef: -0.1, ..d() }),
        ("entropy_coef", PpoConfig { entropy_coef: f32::INFINITY, ..d() }),
        ("target_kl", PpoConfig { target_kl: 0.0, ..d() }),
        ("ratio_threshold", PpoConfig { ratio_threshold: 1.0, ..d() }),
        ("init_kl_coef", PpoConfig { init_kl_coef: -0.1, ..d() }),
        ("init_kl_coef", PpoConfig { init_kl_coef: 0.0, ..d() }),
        ("target", PpoConfig { target: 0.0, ..d() }),
        ("horizon", PpoConfig { horizon: 20.0, ..d() }),
        ("kl_estimator", PpoConfig { kl_penalty: KlPenalty::Abs, kl_estimator: KlEstimator::K3, ..d() }),
        ("use_score_norm", PpoConfig { use_score_norm: true, ..d() }),
        ("score_clip", PpoConfig { score_clip: Some(0.0), ..d() }),
        ("missing_eos_penalty", PpoConfig { missing_eos_penalty: Some(-1.0), ..d() }),
        ("temperature", PpoConfig { temperature: 0.0, ..d() }),
        ("top_k", PpoConfig { top_k: 50, ..d() }),
        ("top_p", PpoConfig { top_p: 0.9, ..d() }),
        ("top_p", PpoConfig { top_p: 1.5, ..d() }),
        ("min_length", PpoConfig { min_length: 8, ..d() }),
        ("advantage_estimator", PpoConfig { advantage_estimator: "vtrace".into(), ..d() }),
        ("num_generations", PpoConfig { advantage_estimator: "rloo".into(), ..d() }),
        ("gamma", PpoConfig { advantage_estimator: "grpo".into(), num_generations: 4, gamma: 0.9, ..d() }),
    ];
    for (field, config) in cases {
        let (got, message) = refused(&config);
        assert_eq!(got, field, "{message}");
        assert!(message.starts_with(&format!("{field} = ")), "{message}");
    }
    let (_, message) = refused(&PpoConfig { top_k: 50, ..d() });
    assert!(
        message.contains("top_k = 50") && message.contains("KL") && message.contains("set top_k = 0"),
        "{message}"
    );
    PpoConfig { init_kl_coef: 0.0, adap_kl_ctrl: false, ..d() }.validate().unwrap();
    PpoConfig { advantage_estimator: "rloo".into(), num_generations: 4, ..d() }.validate().unwrap();
}

#[test]
fn stopping_and_skipping() {
    let config =
        PpoConfig { early_stopping: true, target_kl: 0.1, ratio_threshold: 2.0, ..Default::default() };
    assert!(config.stops_early(0.16) && !config.stops_early(0.14));
    assert!(!PpoConfig::default().stops_early(100.0));
    assert!(config.skips(2.1) && config.skips(f32::NAN) && !config.skips(2.0));
}

fn watch() -> Alarms {
    Alarms::new(6.0, AlarmThresholds::default())
}

fn seen(alarms: &mut Alarms, kl: f64, entropy: f64) -> Option<AlarmKind> {
    alarms.observe(&Observation { iteration: 3, kl, entropy, ..Default::default() }).map(|a| a.kind)
}

#[test]
fn a_healthy_run_is_quiet() {
    let mut alarms = watch();
    // Rises quickly, overshoots and settles at the target, as the adaptive controller makes it do.
    for kl in [0.0, 0.4, 1.5, 3.0, 4.5, 5.8, 6.7, 7.0, 6.6, 6.1, 5.9, 6.2, -0.05, 6.0] {
        assert_eq!(seen(&mut alarms, kl, 2.0), None, "at {kl}");
    }
}

#[test]
fn kl_that_runs_away_rings() {
    let mut alarms = watch();
    let mut rang = Vec::new();
    for kl in [0.5, 1.0, 2.0, 4.0, 8.0, 16.0] {
        rang.push(seen(&mut alarms, kl, 2.0));
    }
    assert_eq!(
        rang,
        [None, None, None, None, Some(AlarmKind::KlAcceleration), Some(AlarmKind::KlAcceleration)]
    );
    let alarm =
        watch().observe(&Observation { iteration: 9, kl: 31.0, entropy: 2.0, ..Default::default() }).unwrap();
    assert_eq!(alarm.kind, AlarmKind::KlAcceleration);
    assert!(alarm.message.contains("iteration 9") && alarm.message.contains("31.000"), "{}", alarm.message);
}

#[test]
fn negative_kl_rings_at_once_or_when_it_stays() {
    assert_eq!(seen(&mut watch(), -1.2, 2.0), Some(AlarmKind::NegativeKl));
    let mut alarms = watch();
    let rang: Vec<_> = [-0.2, -0.2, -0.3, 0.1].map(|kl| seen(&mut alarms, kl, 2.0)).into();
    assert_eq!(rang, [None, None, Some(AlarmKind::NegativeKl), None]);
    let mut noise = watch();
    assert!([-0.01, -0.02, -0.01, -0.02].iter().all(|kl| seen(&mut noise, *kl, 2.0).is_none()));
}

#[test]
fn entropy_repetition_and_non_finite_values_ring() {
    let mut alarms = watch();
    assert_eq!(seen(&mut alarms, 1.0, 2.0), None);
    assert_eq!(seen(&mut alarms, 1.0, 0.51), None);
    assert_eq!(seen(&mut alarms, 1.0, 0.49), Some(AlarmKind::EntropyCollapse));
    let o = Observation { kl: 1.0, entropy: 2.0, reference_distinct_2: Some(0.8), ..Default::default() };
    assert!(alarms.observe(&Observation { distinct_2: Some(0.41), ..o }).is_none());
    let alarm = alarms.observe(&Observation { distinct_2: Some(0.39), ..o }).unwrap();
    assert_eq!(alarm.kind, AlarmKind::Repetition);
    assert!(alarm.message.contains("0.390") && alarm.message.contains("0.800"), "{}", alarm.message);
    let list = [("loss/policy_avg", 0.1), ("loss/value_avg", f64::INFINITY)];
    let alarm = alarms.observe(&Observation { finite: &list, ..o }).unwrap();
    assert!(
        alarm.kind == AlarmKind::NonFinite && alarm.message.contains("loss/value_avg is inf"),
        "{}",
        alarm.message
    );
    assert_eq!(seen(&mut alarms, f64::NAN, 2.0), Some(AlarmKind::NonFinite));
    assert_eq!(seen(&mut alarms, 1.0, f64::NAN), Some(AlarmKind::NonFinite));
}

/// A run interrupted after each step and restored from JSON gives the same bits as an unbroken one.
#[test]
fn all_state_survives_json() {
    fn again<T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug>(state: &mut T) {
        let back: T = serde_json::from_str(&serde_json::to_string(state).unwrap()).unwrap();
        assert_eq!(back, *state);
        *state = back;
    }
    let config = PpoConfig {
        use_score_scaling: true,
        use_score_norm: true,
        score_clip: Some(2.5),
        ..Default::default()
    };
    let mut whole = (KlController::new(&config), ScoreShaper::new(&config), watch());
    let mut parts = whole.clone();
    for i in 0..40u32 {
        let x = (f64::from(i) * 0.7).sin() * 3.0 + f64::from(i) / 7.0;
        let scores = [x as f32, (x * 1.3).cos() as f32, 0.1];
        let step = |s: &mut (KlController, ScoreShaper, Alarms)| {
            s.0.update(x, 3).unwrap();
            let shaped = s.1.shape(&scores, &[true; 3]).unwrap();
            (s.0.coef(), shaped, seen(&mut s.2, x, 2.0 / f64::from(i + 1)))
        };
        assert_eq!(step(&mut whole), step(&mut parts));
        again(&mut parts.0);
        again(&mut parts.1);
        again(&mut parts.2);
    }
    assert_eq!(whole, parts);
    let mut fixed = KlController::Fixed { coef: 0.1 };
    again(&mut fixed);
    let mut verdict = RewardVerdict::new(&[1.0, 0.3, 0.2], &[0.1, 0.7, 0.2]).unwrap();
    again(&mut verdict);
}
