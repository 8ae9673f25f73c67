//! The sampler draws from the right distribution, whatever the batch.

use embedding::*;
use kernel_abi::Kernel;

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
    let row: Vec<f32> = (0..vocab).map(|i| if i % 100 == 7 { (i / 100) as f32 * 0.5 } else { -20.0 }).collect();
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
        let one = draw(sample(1, vocab), &logits[i * vocab..(i + 1) * vocab], &stream[i..=i], &position[i..=i]);
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
