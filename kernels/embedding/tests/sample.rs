//! The sampler's PTX on the VM: the twin's tokens, the scorer's log-probabilities.

use embedding::*;
use kernel_abi::{In, Kernel};
use kernel_test::{Gpu, every_way, ptxas};
use proptest::prelude::*;

/// Rows of logits of several kinds: spread, coarse (many ties), peaked, masked.
fn row(kind: usize, vocab: usize, seed: u32) -> Vec<f32> {
    let word = |i: usize| philox4x32([i as u32, seed, 0, 0], [3, 0])[0] as f32 / 4_294_967_296.0;
    let one = |i: usize| match kind % 4 {
        0 => 8.0 * word(i) - 4.0,
        1 => (6.0 * word(i)).floor() * 0.5 - 1.0,
        2 if i % 97 == 3 => 9.0 + word(i),
        2 => word(i) - 3.0,
        _ if word(i) < 0.5 => f32::NEG_INFINITY,
        _ => 20.0 * word(i),
    };
    let mut row: Vec<f32> = (0..vocab).map(one).collect();
    row[seed as usize % vocab] = 1.0; // never all masked
    row
}

fn rows(n: usize, vocab: usize, seed: u32) -> Vec<f32> {
    (0..n).flat_map(|i| row(i, vocab, seed + i as u32)).collect()
}

struct Drawn {
    token: Vec<u32>,
    logprob: Vec<f32>,
}

fn draw(gpu: &mut Gpu, shape: Sample, logits: &[f32], skip: usize) -> Drawn {
    let stream: Vec<u32> = (0..shape.rows as u32).map(|i| 5 * i + 1).collect();
    let position: Vec<u32> = (0..shape.rows as u32).map(|i| 40 + i / 3).collect();
    let logits = gpu.upload(&[&vec![0.0; skip], logits].concat());
    let (stream, position) = (gpu.upload(&stream), gpu.upload(&position));
    let (mut token, mut logprob) = (gpu.alloc(shape.rows), gpu.alloc(shape.rows));
    let args = SampleArgs {
        logits: logits.arg().skip(skip),
        stream: stream.arg(),
        position: position.arg(),
        token: token.arg_mut(),
        logprob: logprob.arg_mut(),
    };
    gpu.run(&shape, args);
    Drawn { token: token.to_vec(), logprob: logprob.to_vec() }
}

fn twin(shape: Sample, logits: &[f32]) -> Drawn {
    let stream: Vec<u32> = (0..shape.rows as u32).map(|i| 5 * i + 1).collect();
    let position: Vec<u32> = (0..shape.rows as u32).map(|i| 40 + i / 3).collect();
    let (mut token, mut logprob) = (vec![0; shape.rows], vec![0.0; shape.rows]);
    shape.cpu(SampleArgs {
        logits: logits.into(),
        stream: (&stream).into(),
        position: (&position).into(),
        token: (&mut token).into(),
        logprob: (&mut logprob).into(),
    });
    Drawn { token, logprob }
}

fn agree(got: &Drawn, want: &Drawn) {
    assert_eq!(got.token, want.token);
    for (got, want) in got.logprob.iter().zip(&want.logprob) {
        assert!(
            got.is_nan() && want.is_nan() || (got - want).abs() <= 2e-6 * want.abs().max(1.0),
            "{got} {want}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn tokens_are_the_twin_s(
        n in 1usize..9, vocab in 1usize..1600, seed: u32, skip in 0usize..4,
        top_k in prop_oneof![Just(0usize), 1usize..12, 1usize..900], top_p in prop_oneof![Just(1.0f32), 0.02f32..1.0],
        temperature in prop_oneof![Just(1.0f32), 0.3f32..3.0, Just(0.0f32)],
    ) {
        let logits = rows(n, vocab, seed >> 8);
        let shape = Sample { rows: n, vocab, temperature, top_k, top_p, seed: u64::from(seed) << 20 | 9 };
        agree(&draw(&mut Gpu::new(), shape, &logits, skip), &twin(shape, &logits));
    }
}

/// Shapes for each kernel of the sampler: all tokens, top-k by a bound and without one, top-p, both, the largest.
fn shapes(rows: usize, vocab: usize) -> Vec<Sample> {
    let plain = Sample { rows, vocab, temperature: 0.8, top_k: 0, top_p: 1.0, seed: 77 };
    vec![
        plain,
        Sample { top_k: 5, ..plain },
        Sample { top_k: vocab - 1, ..plain },
        Sample { top_p: 0.7, ..plain },
        Sample { top_k: 40, top_p: 0.9, ..plain },
        Sample { temperature: 0.0, ..plain },
    ]
}

#[test]
fn every_schedule_draws_the_same() {
    let logits = rows(4, 700, 1);
    for shape in shapes(4, 700) {
        let want = twin(shape, &logits);
        every_way(|gpu| agree(&draw(gpu, shape, &logits, 1), &want));
    }
}

#[test]
fn rows_without_a_distribution_give_the_first_of_the_largest_and_nan() {
    let vocab = 400;
    let mut logits = rows(5, vocab, 3);
    logits[17] = f32::NAN;
    logits[vocab + 300] = f32::INFINITY;
    logits[2 * vocab..3 * vocab].fill(f32::NEG_INFINITY);
    logits[3 * vocab..4 * vocab].fill(f32::NAN);
    // -0 and 0 are equal: the first of them counts.
    logits[4 * vocab..].fill(-1.0);
    (logits[4 * vocab + 9], logits[4 * vocab + 200], logits[4 * vocab + 1]) = (-0.0, 0.0, f32::NAN);
    for shape in shapes(5, vocab) {
        let (got, want) = (draw(&mut Gpu::new(), shape, &logits, 0), twin(shape, &logits));
        agree(&got, &want);
        assert!(got.logprob.iter().all(|p| p.is_nan()));
        assert_eq!((got.token[2], got.token[3], got.token[4]), (0, 0, 9));
    }
}

#[test]
fn many_draws_from_one_row_and_long_rows_are_the_twin_s() {
    // Rows longer than what a block collects or a warp sums at once.
    for (n, vocab, kind) in [(64, 37, 0), (3, 5003, 0), (3, 5003, 1)] {
        let logits = row(kind, vocab, 5).repeat(n);
        for shape in shapes(n, vocab) {
            agree(&draw(&mut Gpu::new(), shape, &logits, 0), &twin(shape, &logits));
        }
    }
}

/// Draws a token from each row alone, as generation does, and scores all rows together, as training does: PPO's first
/// ratios are exactly 1.
fn scores_with_the_same_bits(rows: usize, bf16: bool) {
    let (hidden, vocab, temperature) = (24usize, 300usize, 0.7f32);
    let (x, head) = (row(0, rows * hidden, 1), row(0, vocab * hidden, 2));
    let mut gpu = Gpu::new();
    let (gx, ghead) = (gpu.upload(&x), gpu.upload(&head));
    let mut halves = gpu.alloc::<u32>(matmul::bf16_packed_len(vocab, hidden));
    let pack = matmul::PackBf16 { n: vocab, k: hidden };
    gpu.run(&pack, matmul::PackBf16Args { w: ghead.arg(), packed: halves.arg_mut() });
    let whole = In::Device(ghead.arg().device(), matmul::packed_len(vocab, hidden));
    let (mut tokens, mut sampled) = (Vec::new(), Vec::new());
    for i in 0..rows {
        let mut logits = gpu.alloc::<f32>(vocab);
        let x = In::Device(gx.arg().skip(i * hidden).device(), hidden);
        let (m, n, k, bias, residual) = (1, vocab, hidden, None, None);
        if bf16 {
            let args =
                matmul::Bf16LinearArgs { x, packed: halves.arg(), bias, residual, y: logits.arg_mut() };
            gpu.run(&matmul::Bf16Linear { m, n, k }, args);
        } else {
            let args = matmul::LinearArgs { x, packed: whole, bias, residual, y: logits.arg_mut() };
            gpu.run(&matmul::Linear { m, n, k }, args);
        }
        let shape = Sample { rows: 1, vocab, temperature, top_k: 0, top_p: 1.0, seed: i as u64 };
        let drawn = draw(&mut gpu, shape, &logits.to_vec(), 0);
        tokens.push(drawn.token[0]);
        sampled.push(drawn.logprob[0]);
    }
    // With and without what only training asks for.
    for entropy in [false, true] {
        let targets = gpu.upload(&tokens);
        let (mut scored, mut lse) = (gpu.alloc::<f32>(rows), gpu.alloc::<f32>(rows));
        let mut h = gpu.alloc::<f32>(rows);
        let args = loss::LmLogProbArgs {
            x: gx.arg(),
            head_packed: if bf16 { halves.arg().into() } else { whole.into() },
            targets: targets.arg(),
            logprob: scored.arg_mut(),
            lse: lse.arg_mut(),
            entropy: entropy.then(|| h.arg_mut()),
            logits: None,
        };
        gpu.run(&loss::LmLogProb { rows, hidden, vocab, inv_temperature: 1.0 / temperature }, args);
        assert_eq!(sampled, scored.to_vec(), "{rows} rows");
    }
}

#[test]
fn a_sampled_token_scores_with_the_same_bits() {
    for bf16 in [false, true] {
        scores_with_the_same_bits(6, bf16);
        scores_with_the_same_bits(20, bf16);
    }
}

/// The greedy draw reads the logits once, one from the whole distribution once more for the masses of its chunks; a filter once
/// more to collect its candidates.
#[test]
fn logits_are_read_once_a_pass() {
    let (rows, vocab) = (2, 8192);
    let logits: Vec<f32> = (0..rows).flat_map(|i| row(2, vocab, i as u32)).collect();
    let plain = Sample { rows, vocab, temperature: 0.8, top_k: 0, top_p: 1.0, seed: 77 };
    let greedy = Sample { temperature: 0.0, ..plain };
    let (k, p) = (Sample { top_k: 40, ..plain }, Sample { top_p: 0.9, ..plain });
    for (what, shape, passes) in [("greedy", greedy, 1), ("all", plain, 2), ("top-k", k, 2), ("top-p", p, 3)]
    {
        let mut gpu = Gpu::new();
        let (input, zeros) = (gpu.upload(&logits), gpu.upload(&vec![0u32; rows]));
        let (mut token, mut logprob) = (gpu.alloc(rows), gpu.alloc(rows));
        let args = SampleArgs {
            logits: input.arg(),
            stream: zeros.arg(),
            position: zeros.arg(),
            token: token.arg_mut(),
            logprob: logprob.arg_mut(),
        };
        let c = gpu.run(&shape, args);
        let (moved, least) = (32 * (c.global_loads.sectors + c.global_stores.sectors), shape.cost());
        let over = moved as f64 / (least.bytes_read + least.bytes_written) as f64;
        println!(
            "sample {what:<8} {rows} x {vocab}: {moved} bytes, {over:.3} of the least, {} launches",
            gpu.launches.len()
        );
        assert!(over < 1.25 * f64::from(passes), "{what}: {over}");
    }
}

#[test]
fn assembles_without_spills() {
    ptxas::check(&[&ptx::SAMPLE, &ptx::SAMPLE_FILTERED]);
}

#[test]
fn no_rows_are_no_launches() {
    let mut gpu = Gpu::new();
    let shape = Sample { rows: 0, vocab: 9, temperature: 1.0, top_k: 0, top_p: 1.0, seed: 1 };
    let drawn = draw(&mut gpu, shape, &[], 0);
    assert!(drawn.token.is_empty() && gpu.launches.is_empty());
}
