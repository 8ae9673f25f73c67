//! The sampler draws from the right distribution, whatever the batch.

use embedding::*;
use kernel_abi::Kernel;
use proptest::prelude::*;

fn draw(shape: Sample, logits: &[f32], stream: &[u32], position: &[u32]) -> (Vec<u32>, Vec<f32>) {
    let (mut token, mut logprob) = (vec![0u32; shape.rows], vec![0.0f32; shape.rows]);
    let args = SampleArgs {
        logits: logits.into(),
        stream: stream.into(),
        position: position.into(),
        token: (&mut token).into(),
        logprob: (&mut logprob).into(),
    };
    shape.check(&args).unwrap();
    shape.cpu(args);
    (token, logprob)
}

fn sample(rows: usize, vocab: usize) -> Sample {
    Sample { rows, vocab, temperature: 1.0, top_k: 0, top_p: 1.0, seed: 3 }
}

#[test]
fn frequencies_follow_the_softmax_of_the_scaled_logits() {
    let (n, vocab) = (20_000, 600);
    let row: Vec<f32> =
        (0..vocab).map(|i| if i % 100 == 7 { (i / 100) as f32 * 0.5 } else { -20.0 }).collect();
    let logits = row.repeat(n);
    let streams: Vec<u32> = (0..n as u32).collect();
    let shape = Sample { temperature: 0.7, ..sample(n, vocab) };
    let (tokens, logprobs) = draw(shape, &logits, &streams, &vec![5; n]);
    let total: f64 = row.iter().map(|z| (f64::from(*z) / 0.7).exp()).sum();
    let mut chi2 = 0.0;
    for k in 0..6 {
        let p = (k as f64 * 0.5 / 0.7).exp() / total;
        let seen = tokens.iter().filter(|t| **t == k * 100 + 7).count() as f64;
        chi2 += (seen - p * n as f64).powi(2) / (p * n as f64);
        let at = tokens.iter().position(|t| *t == k * 100 + 7).unwrap();
        assert!((f64::from(logprobs[at]) - p.ln()).abs() < 1e-4);
    }
    // 5 degrees of freedom: 20.5 is the 0.1 % point.
    assert!(chi2 < 20.5, "{chi2}");
}

#[test]
fn a_draw_does_not_depend_on_its_batch() {
    let vocab = 333;
    let logits: Vec<f32> = (0..8 * vocab).map(|i| ((i * 7919) % 1000) as f32 * 0.004).collect();
    let (stream, position): (Vec<u32>, Vec<u32>) = ((10..18).collect(), (20..28).collect());
    let (tokens, logprobs) = draw(sample(8, vocab), &logits, &stream, &position);
    for i in 0..8 {
        let one =
            draw(sample(1, vocab), &logits[i * vocab..(i + 1) * vocab], &stream[i..=i], &position[i..=i]);
        assert_eq!((one.0[0], one.1[0]), (tokens[i], logprobs[i]));
    }
}

#[test]
fn filters_keep_only_the_likely_tokens() {
    let n = 500;
    let row = [0.0f32, 3.0, 2.0, -1.0, 2.5];
    let (logits, stream) = (row.repeat(n), (0..n as u32).collect::<Vec<_>>());
    let seen = |shape: Sample| {
        let mut t = draw(shape, &logits, &stream, &vec![0; n]).0;
        t.sort_unstable();
        t.dedup();
        t
    };
    assert_eq!(seen(Sample { top_k: 2, ..sample(n, 5) }), [1, 4]);
    assert_eq!(seen(Sample { top_p: 0.6, ..sample(n, 5) }), [1, 4]);
    assert_eq!(seen(Sample { top_p: 0.01, ..sample(n, 5) }), [1]);
    assert_eq!(seen(Sample { temperature: 0.0, ..sample(n, 5) }), [1]);
    assert_eq!(seen(sample(n, 5)), [0, 1, 2, 3, 4]);
}

#[test]
fn a_nonsense_setting_is_named() {
    let mut token = [0u32];
    let mut logprob = [0.0f32];
    let args = SampleArgs {
        logits: [0.0f32, 1.0][..].into(),
        stream: [0u32][..].into(),
        position: [0u32][..].into(),
        token: token[..].as_mut().into(),
        logprob: logprob[..].as_mut().into(),
    };
    let e = Sample { top_p: 0.0, ..sample(1, 2) }.check(&args).unwrap_err();
    assert!(e.to_string().starts_with("sample: argument `top_p`"), "{e}");
}

/// The tokens that top-k and top-p leave, by sorting.
fn allowed(row: &[f32], temperature: f32, top_k: usize, top_p: f32) -> Vec<u32> {
    let mut order: Vec<usize> = (0..row.len()).collect();
    order.sort_by(|a, b| row[*b].total_cmp(&row[*a]).then(a.cmp(b)));
    if top_k > 0 && top_k < order.len() {
        let least = row[order[top_k - 1]];
        order.retain(|i| row[*i] >= least);
    }
    let max = f64::from(row[order[0]]);
    let weight = |i: &usize| ((f64::from(row[*i]) - max) / f64::from(temperature)).exp();
    let total: f64 = order.iter().map(weight).sum();
    let mut above = 0.0;
    order.retain(|i| {
        let keep = above < f64::from(top_p) * total;
        above += weight(i);
        keep
    });
    order.iter().map(|i| *i as u32).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn draws_stay_within_the_sorted_definition_of_the_filters(
        vocab in 1usize..1500, seed: u64, top_k in 0usize..60, top_p in 0.02f32..1.0, temperature in 0.3f32..3.0,
    ) {
        let word = |i: usize| philox4x32([i as u32, 0, 0, 0], [seed as u32, (seed >> 32) as u32])[0];
        let row: Vec<f32> = (0..vocab).map(|i| word(i) as f32 * 1.6e-9).collect();
        let n = 64;
        let shape = Sample { temperature, top_k, top_p, seed, ..sample(n, vocab) };
        let stream: Vec<u32> = (0..n as u32).collect();
        let (tokens, logprobs) = draw(shape, &row.repeat(n), &stream, &vec![1; n]);
        let allowed = allowed(&row, temperature, top_k, top_p);
        let lse = loss::log_sum_exp(&row, 1.0 / temperature);
        for (t, p) in tokens.iter().zip(&logprobs) {
            prop_assert!(allowed.contains(t), "token {} of {:?}", t, allowed);
            prop_assert_eq!(*p, row[*t as usize] * (1.0 / temperature) - lse);
        }
    }
}

#[test]
fn filtered_frequencies_are_renormalised() {
    let (n, row) = (20_000, [1.0f32, 0.5, 0.0, -0.5, -3.0]);
    let shape = Sample { top_k: 4, top_p: 0.8, ..sample(n, 5) };
    let (tokens, _) = draw(shape, &row.repeat(n), &(0..n as u32).collect::<Vec<_>>(), &vec![9; n]);
    // Of the four likeliest, the first three hold 0.90 and the first two 0.73 of the probability.
    let total: f64 = row[..3].iter().map(|z| f64::from(*z).exp()).sum();
    let chi2: f64 = (0..3)
        .map(|k| {
            let expected = f64::from(row[k]).exp() / total * n as f64;
            let seen = tokens.iter().filter(|t| **t as usize == k).count() as f64;
            (seen - expected).powi(2) / expected
        })
        .sum();
    assert!(tokens.iter().all(|t| *t < 3));
    // 2 degrees of freedom: 13.8 is the 0.1 % point.
    assert!(chi2 < 13.8, "{chi2}");
}

#[test]
fn a_sampled_token_scores_with_the_same_bits() {
    let (rows, hidden, vocab, temperature) = (9usize, 16usize, 3001usize, 0.7f32);
    let word = |i: usize, k: u32| philox4x32([i as u32, 7, 0, 0], [k, 0])[0] as f32 * 4.6e-10 - 1.0;
    let x: Vec<f32> = (0..rows * hidden).map(|i| word(i, 1)).collect();
    let head: Vec<f32> = (0..vocab * hidden).map(|i| word(i, 2)).collect();
    let mut packed = vec![0.0; matmul::packed_len(vocab, hidden)];
    let pack = matmul::PackWeight { n: vocab, k: hidden };
    pack.cpu(matmul::PackWeightArgs { w: (&head).into(), packed: (&mut packed).into() });
    // Generation: one row at a time.
    let (mut tokens, mut sampled) = (Vec::new(), Vec::new());
    for i in 0..rows {
        let mut logits = vec![0.0; vocab];
        matmul::Linear { m: 1, n: vocab, k: hidden }.cpu(matmul::LinearArgs {
            x: x[i * hidden..(i + 1) * hidden].into(),
            packed: (&packed).into(),
            bias: None,
            residual: None,
            y: (&mut logits).into(),
        });
        let (t, p) = draw(Sample { temperature, ..sample(1, vocab) }, &logits, &[i as u32], &[0]);
        tokens.push(t[0]);
        sampled.push(p[0]);
    }
    // Scoring: all rows together.
    let (mut scored, mut lse) = (vec![0.0; rows], vec![0.0; rows]);
    loss::LmLogProb { rows, hidden, vocab, inv_temperature: 1.0 / temperature }.cpu(loss::LmLogProbArgs {
        x: (&x).into(),
        head_packed: (&packed).into(),
        targets: (&tokens).into(),
        logprob: (&mut scored).into(),
        lse: (&mut lse).into(),
        entropy: None,
        logits: None,
    });
    assert_eq!(sampled, scored);
}

#[test]
fn draws_do_not_depend_on_threads_and_a_nan_shows_in_the_log_probability() {
    let (rows, vocab) = (40usize, 4000usize);
    let mut logits: Vec<f32> =
        (0..rows * vocab).map(|i| philox4x32([i as u32, 0, 0, 0], [4, 0])[0] as f32 * 2e-9).collect();
    logits[vocab + 3] = f32::NAN;
    let stream: Vec<u32> = (0..rows as u32).collect();
    let shape = Sample { top_k: 500, top_p: 0.9, ..sample(rows, vocab) };
    let with = |threads: usize| cpu::with_threads(threads, || draw(shape, &logits, &stream, &stream));
    let (one, three) = (with(1), with(3));
    assert_eq!(one.0, three.0);
    let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&one.1), bits(&three.1));
    assert!(one.1[1].is_nan() && (one.0[1] as usize) < vocab);
    assert!(one.1.iter().enumerate().all(|(i, p)| i == 1 || (p.is_finite() && *p < 0.0)));
    assert_eq!(draw(sample(0, vocab), &[], &[], &[]), (vec![], vec![]));
}
