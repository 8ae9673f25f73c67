//! Shapes that span several blocks of rows and of the vocabulary; bits that must not depend on them.

use kernel_abi::Kernel;
use loss::*;
use matmul::{PackWeight, PackWeightArgs, packed_len};

struct Case {
    rows: usize,
    hidden: usize,
    vocab: usize,
    x: Vec<f32>,
    head: Vec<f32>,
    packed: Vec<f32>,
    targets: Vec<u32>,
}

#[derive(Debug, PartialEq)]
struct Forward {
    logprob: Vec<f32>,
    lse: Vec<f32>,
    entropy: Vec<f32>,
    logits: Vec<f32>,
}

fn values(n: usize, seed: u32) -> Vec<f32> {
    (0..n as u32).map(|i| ((i ^ seed).wrapping_mul(2_654_435_761) >> 8) as f32 / 8_388_608.0 - 1.0).collect()
}

impl Case {
    fn new(rows: usize, hidden: usize, vocab: usize) -> Case {
        let (x, head) = (values(rows * hidden, 1), values(vocab * hidden, 2));
        let mut packed = vec![0.0; packed_len(vocab, hidden)];
        PackWeight { n: vocab, k: hidden }
            .cpu(PackWeightArgs { w: (&head).into(), packed: (&mut packed).into() });
        let targets = (0..rows).map(|i| (i * 641 % vocab) as u32).collect();
        Case { rows, hidden, vocab, x, head, packed, targets }
    }

    fn forward(&self, first: usize, rows: usize, entropy: bool, keep: bool) -> Forward {
        let zeros = |n| vec![0.0f32; n];
        let mut f = Forward {
            logprob: zeros(rows),
            lse: zeros(rows),
            entropy: zeros(if entropy { rows } else { 0 }),
            logits: zeros(if keep { rows * self.vocab } else { 0 }),
        };
        let shape = LmLogProb { rows, hidden: self.hidden, vocab: self.vocab, inv_temperature: 1.25 };
        let args = LmLogProbArgs {
            x: self.x[first * self.hidden..][..rows * self.hidden].into(),
            head_packed: (&self.packed).into(),
            targets: self.targets[first..first + rows].into(),
            logprob: (&mut f.logprob).into(),
            lse: (&mut f.lse).into(),
            entropy: entropy.then(|| (&mut f.entropy).into()),
            logits: keep.then(|| (&mut f.logits).into()),
        };
        shape.check(&args).unwrap();
        shape.cpu(args);
        f
    }

    /// dx, dhead for slopes 1 of the log-probabilities and 0.5 of the entropies.
    fn backward(&self, f: &Forward) -> (Vec<f32>, Vec<f32>) {
        let Case { rows, hidden, vocab, .. } = *self;
        let (mut dx, mut dhead) = (vec![f32::NAN; rows * hidden], vec![0.0; vocab * hidden]);
        let (one, half) = (vec![1.0f32; rows], vec![0.5f32; rows]);
        let args = LmLogProbBackwardArgs {
            x: (&self.x).into(),
            head: Some((&self.head).into()),
            head_packed: (&self.packed).into(),
            targets: (&self.targets).into(),
            lse: (&f.lse).into(),
            entropy: Some((&f.entropy).into()),
            logits: (!f.logits.is_empty()).then(|| (&f.logits).into()),
            dlogprob: (&one).into(),
            dentropy: Some((&half).into()),
            dx: (&mut dx).into(),
            dhead: Some((&mut dhead).into()),
        };
        let shape = LmLogProbBackward { rows, hidden, vocab, inv_temperature: 1.25 };
        shape.check(&args).unwrap();
        shape.cpu(args);
        (dx, dhead)
    }

    /// logprob, lse, entropy per row, and the gradients, by their definitions.
    fn reference(&self) -> (Vec<[f64; 3]>, Vec<f64>, Vec<f64>) {
        let Case { rows, hidden, vocab, .. } = *self;
        let (mut out, mut dx, mut dhead) = (Vec::new(), vec![0.0; rows * hidden], vec![0.0; vocab * hidden]);
        for i in 0..rows {
            let x = &self.x[i * hidden..][..hidden];
            let dot = |w: &[f32]| w.iter().zip(x).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
            let z: Vec<f64> = self.head.chunks(hidden).map(|w| 1.25 * dot(w)).collect();
            let lse = z.iter().map(|z| z.exp()).sum::<f64>().ln();
            let entropy = z.iter().map(|z| -(z - lse).exp() * (z - lse)).sum::<f64>();
            let target = self.targets[i] as usize;
            out.push([z[target] - lse, lse, entropy]);
            for (v, z) in z.iter().enumerate() {
                let p = (z - lse).exp();
                let hit = if v == target { 1.0 } else { 0.0 };
                let d = 1.25 * (hit - p - 0.5 * p * (z - lse + entropy));
                for k in 0..hidden {
                    dx[i * hidden + k] += d * f64::from(self.head[v * hidden + k]);
                    dhead[v * hidden + k] += d * f64::from(x[k]);
                }
            }
        }
        (out, dx, dhead)
    }
}

fn relative_error(got: &[f32], want: &[f64]) -> f64 {
    let square = |v: f64| v * v;
    let error: f64 = got.iter().zip(want).map(|(g, w)| square(f64::from(*g) - w)).sum();
    (error / want.iter().copied().map(square).sum::<f64>()).sqrt()
}

#[test]
fn several_blocks_agree_with_the_definition() {
    // More rows than a backward block, more words than two vocabulary blocks, both ending mid-tile.
    let case = Case::new(533, 6, 4045);
    let (want, dx_want, dhead_want) = case.reference();
    for keep in [false, true] {
        let f = case.forward(0, case.rows, true, keep);
        for (i, [logprob, lse, entropy]) in want.iter().enumerate() {
            assert!((f64::from(f.logprob[i]) - logprob).abs() < 1e-5, "row {i}");
            assert!((f64::from(f.lse[i]) - lse).abs() < 1e-5, "row {i}");
            assert!((f64::from(f.entropy[i]) - entropy).abs() < 1e-5, "row {i}");
        }
        let (dx, dhead) = case.backward(&f);
        assert!(relative_error(&dx, &dx_want) < 1e-5);
        assert!(relative_error(&dhead, &dhead_want) < 1e-5);
    }
}

#[test]
fn bits_depend_on_neither_threads_nor_batch_nor_what_else_is_asked_for() {
    let case = Case::new(450, 5, 1111);
    let whole = cpu::with_threads(1, || case.forward(0, case.rows, true, true));
    assert_eq!(whole, cpu::with_threads(3, || case.forward(0, case.rows, true, true)));
    let plain = case.forward(0, case.rows, false, false);
    assert_eq!((&plain.logprob, &plain.lse), (&whole.logprob, &whole.lse));
    for (first, rows) in [(0, 1), (7, 1), (383, 3), (449, 1), (100, 200)] {
        let part = case.forward(first, rows, true, false);
        let range = first..first + rows;
        assert_eq!(part.logprob, whole.logprob[range.clone()]);
        assert_eq!(part.entropy, whole.entropy[range]);
    }
    for (row, lse) in whole.logits.chunks(case.vocab).zip(&whole.lse) {
        assert_eq!(log_sum_exp(row, 1.25), *lse);
    }
    let grads = cpu::with_threads(1, || case.backward(&whole));
    assert_eq!(grads, cpu::with_threads(3, || case.backward(&whole)));
    // Kept logits are those that would be computed again.
    assert_eq!(grads, case.backward(&Forward { logits: Vec::new(), ..whole }));
}

#[test]
fn the_normaliser_of_a_large_vocabulary_is_exact_and_keeps_bad_values_visible() {
    let mut row: Vec<f32> = values(50_257, 9).iter().map(|v| 12.0 * v).collect();
    for inv_temperature in [0.1f32, 1.0, 3.0] {
        let t = f64::from(inv_temperature);
        let max = row.iter().fold(f64::MIN, |m, v| m.max(f64::from(*v) * t));
        let want = max + row.iter().map(|v| (f64::from(*v) * t - max).exp()).sum::<f64>().ln();
        assert!((f64::from(log_sum_exp(&row, inv_temperature)) - want).abs() < 2e-7 * want.abs().max(8.0));
    }
    row[777] = f32::NEG_INFINITY;
    assert!(log_sum_exp(&row, 1.0).is_finite());
    row[4] = f32::NAN;
    assert!(log_sum_exp(&row, 1.0).is_nan());
    row[4] = f32::INFINITY;
    assert!(log_sum_exp(&row, 1.0).is_nan());
    assert!(log_sum_exp(&[f32::NEG_INFINITY; 3], 1.0).is_nan());
}

#[test]
fn no_rows_are_no_trouble_and_wrong_arguments_are_named() {
    let empty = Case::new(0, 4, 9);
    let f = empty.forward(0, 0, true, true);
    assert_eq!(empty.backward(&f).1, vec![0.0; 36]);
    let mut case = Case::new(2, 4, 9);
    case.targets[1] = 9;
    let message = |inv_temperature: f32| {
        let (mut a, mut b) = ([0.0f32; 2], [0.0f32; 2]);
        let args = LmLogProbArgs {
            x: (&case.x).into(),
            head_packed: (&case.packed).into(),
            targets: (&case.targets).into(),
            logprob: a[..].as_mut().into(),
            lse: b[..].as_mut().into(),
            entropy: None,
            logits: None,
        };
        LmLogProb { rows: 2, hidden: 4, vocab: 9, inv_temperature }.check(&args).unwrap_err().to_string()
    };
    assert_eq!(message(1.0), "lm_log_prob: argument `targets`: row 1 has class 9, expected one below 9");
    assert!(message(0.0).starts_with("lm_log_prob: argument `inv_temperature`"));
}

#[test]
fn a_bf16_head_agrees_with_the_definition_and_with_itself() {
    // More rows than a block, more words than two blocks, an odd last pair of words and of columns.
    let (rows, hidden, vocab) = (530, 13, 4071);
    let case = Case::new(rows, hidden, vocab);
    let mut packed = vec![0u32; matmul::bf16_packed_len(vocab, hidden)];
    matmul::PackBf16 { n: vocab, k: hidden }
        .cpu(matmul::PackBf16Args { w: (&case.head).into(), packed: (&mut packed[..]).into() });
    let run = |first: usize, n: usize| {
        let (mut lp, mut lse, mut entropy) = (vec![0.0f32; n], vec![0.0f32; n], vec![0.0f32; n]);
        let mut logits = vec![0.0f32; n * vocab];
        let shape = LmLogProb { rows: n, hidden, vocab, inv_temperature: 1.25 };
        let args = LmLogProbArgs {
            x: case.x[first * hidden..][..n * hidden].into(),
            head_packed: (&packed).into(),
            targets: case.targets[first..first + n].into(),
            logprob: (&mut lp).into(),
            lse: (&mut lse).into(),
            entropy: Some((&mut entropy).into()),
            logits: Some((&mut logits).into()),
        };
        shape.check(&args).unwrap();
        shape.cpu(args);
        Forward { logprob: lp, lse, entropy, logits }
    };
    let f = run(0, rows);
    let alone = run(517, 1);
    assert_eq!((alone.logprob[0], alone.lse[0]), (f.logprob[517], f.lse[517]));
    let (one, half) = (vec![1.0f32; rows], vec![0.5f32; rows]);
    let backward = |logits: Option<&Vec<f32>>, dhead: Option<&mut Vec<f32>>| {
        let mut dx = vec![f32::NAN; rows * hidden];
        let args = LmLogProbBackwardArgs {
            x: (&case.x).into(),
            head: None,
            head_packed: (&packed).into(),
            targets: (&case.targets).into(),
            lse: (&f.lse).into(),
            entropy: Some((&f.entropy).into()),
            logits: logits.map(Into::into),
            dlogprob: (&one).into(),
            dentropy: Some((&half).into()),
            dx: (&mut dx).into(),
            dhead: dhead.map(Into::into),
        };
        let shape = LmLogProbBackward { rows, hidden, vocab, inv_temperature: 1.25 };
        shape.check(&args).map(|()| shape.cpu(args)).map(|()| dx)
    };
    let kept = backward(Some(&f.logits), None).unwrap();
    assert_eq!(backward(None, None).unwrap(), kept, "kept logits give the gradient of computed ones");
    let (want, dx, _) = case.reference();
    let logprob: Vec<f64> = want.iter().map(|w| w[0]).collect();
    let entropy: Vec<f64> = want.iter().map(|w| w[2]).collect();
    for (name, got, want) in
        [("logprob", &f.logprob, &logprob), ("entropy", &f.entropy, &entropy), ("dx", &kept, &dx)]
    {
        let error = relative_error(got, want);
        assert!(error < 1e-2, "{name}: {error}");
    }
    let refused = backward(None, Some(&mut vec![0.0; vocab * hidden])).unwrap_err();
    assert!(refused.to_string().contains("frozen"), "{refused}");
}
