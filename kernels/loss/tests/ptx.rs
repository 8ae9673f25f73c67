//! The PTX of the head's kernels on the VM: against f64, the CPU twin and itself.

mod gpu;

use gpu::Case;
use kernel_abi::{Half, Kernel, bf16, f16, widen};
use kernel_test::{Gpu, compare::*, every_way, ptxas};
use loss::*;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10))]
    #[test]
    fn log_probabilities_and_gradients_agree_with_f64_and_the_twin(
        rows in 0usize..9, hidden in 1usize..24, vocab in 1usize..700, skip in 0usize..4, keep: bool, entropy: bool,
    ) {
        let case = Case::new(rows, hidden, vocab);
        let mut gpu = Gpu::new();
        let f = case.forward(&mut gpu, skip, entropy, keep);
        let twin = case.forward_cpu(entropy, keep);
        let want = case.reference();
        let column = |k: usize| want.rows.iter().map(|r| r[k]).collect::<Vec<f64>>();
        assert_close("logprob", &f.logprob, &column(0), 1e-5);
        assert_close("lse", &f.lse, &column(1), 1e-5);
        assert_close("lse to the twin's", &f.lse, &wide(&twin.lse), 2e-7);
        prop_assert!(f.logits == twin.logits, "logits are the twin's bits");
        if entropy {
            assert_close("entropy", &f.entropy, &column(2), 1e-5);
        }
        let (dx, dhead) = case.backward(&mut gpu, &f, skip);
        let (want_dx, want_dhead) = if entropy { (&want.dx, &want.dhead) } else { (&want.dx_plain, &want.dhead_plain) };
        assert_close("dx", &dx, want_dx, 1e-5);
        assert_close("dhead", &dhead, want_dhead, 1e-5);
    }
}

/// All rows by the fused product, some of them by the thin one; aligned and not; kept or not; with and without entropy.
fn bits_of_rows(case: &Case) {
    let mut gpu = Gpu::new();
    let whole = case.forward(&mut gpu, 0, true, false);
    let kept = case.forward(&mut gpu, 1, false, true);
    assert_eq!((&kept.logprob, &kept.lse), (&whole.logprob, &whole.lse));
    for (first, rows) in [(0, 1), (7, 3), (120, 16), (133, 17)] {
        let part = case.rows(first, rows).forward(&mut gpu, 3, true, true);
        let range = first..first + rows;
        assert_eq!(part.logprob, whole.logprob[range.clone()]);
        assert_eq!(part.entropy, whole.entropy[range]);
        assert!(part.logits == kept.logits[first * case.vocab..][..rows * case.vocab]);
    }
}

#[test]
fn a_row_s_bits_depend_on_nothing_but_the_row() {
    bits_of_rows(&Case::new(150, 20, 300));
    bits_of_rows(&Case::new(150, 13, 133));
    bits_of_rows(&Case::new(150, 40, 300).in_bf16());
    bits_of_rows(&Case::new(150, 35, 133).in_bf16());
}

#[test]
fn kept_logits_give_the_gradient_of_computed_ones() {
    let few = [Case::new(9, 12, 1111), Case::new(9, 9, 500).in_bf16()];
    let many = [Case::new(135, 12, 260), Case::new(40, 9, 133), Case::new(135, 9, 133).in_bf16()];
    for case in few.into_iter().chain(many) {
        let mut gpu = Gpu::new();
        let f = case.forward(&mut gpu, 0, true, true);
        let grads = case.backward(&mut gpu, &f, 0);
        assert!(grads == case.backward(&mut gpu, &gpu::Forward { logits: Vec::new(), ..f }, 1));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]
    #[test]
    fn the_fused_product_agrees_with_f64_and_the_twin(
        rows in 17usize..140, hidden in 1usize..40, vocab in 1usize..300, skip in 0usize..4, keep: bool,
    ) {
        let case = Case::new(rows, hidden, vocab);
        let mut gpu = Gpu::new();
        let f = case.forward(&mut gpu, skip, true, keep);
        let want = case.reference();
        let column = |k: usize| want.rows.iter().map(|r| r[k]).collect::<Vec<f64>>();
        assert_close("logprob", &f.logprob, &column(0), 1e-5);
        assert_close("entropy", &f.entropy, &column(2), 1e-5);
        prop_assert!(f.logits == case.forward_cpu(false, keep).logits, "logits are the twin's bits");
        let (dx, dhead) = case.backward(&mut gpu, &f, skip);
        assert_close("dx", &dx, &want.dx, 1e-5);
        assert_close("dhead", &dhead, &want.dhead, 1e-5);
    }
}

#[test]
fn a_bf16_head_errs_as_the_twin_s_does() {
    for (rows, hidden, vocab) in [(5, 30, 400), (60, 64, 270), (33, 7, 129)] {
        let case = Case::new(rows, hidden, vocab).in_bf16();
        let mut gpu = Gpu::new();
        let (f, twin, want) =
            (case.forward(&mut gpu, 0, true, false), case.forward_cpu(true, false), case.reference());
        let column = |k: usize| want.rows.iter().map(|r| r[k]).collect::<Vec<f64>>();
        assert_twice("logprob", &f.logprob, &twin.logprob, &column(0), 1e-6);
        assert_twice("entropy", &f.entropy, &twin.entropy, &column(2), 1e-6);
        assert_close("logprob", &f.logprob, &column(0), 1e-2);
        let (dx, _) = case.backward(&mut gpu, &f, 1);
        assert_twice("dx", &dx, &case.backward_cpu(&twin).0, &want.dx, 1e-6);
        assert_close("dx", &dx, &want.dx, 1e-2);
        let (kl, theirs) = (case.kl(&mut gpu, 1), case.kl_cpu(1));
        assert_twice("kl", &kl, &theirs, &case.kl_reference(1), 1e-6);
    }
}

#[test]
fn every_schedule_gives_the_same_bits() {
    for case in [Case::new(5, 7, 333), Case::new(20, 24, 140)] {
        let mut all = Vec::new();
        every_way(|gpu| {
            let f = case.forward(gpu, 1, true, false);
            let grads = case.backward(gpu, &f, 1);
            all.push((f, grads, case.kl(gpu, 1)));
        });
        assert!(all.windows(2).all(|w| w[0] == w[1]));
    }
    // The adversary also adds the products of a matrix instruction in another order: no two of its seeds agree.
    let case = Case::new(20, 24, 140).in_bf16();
    let want = case.reference();
    every_way(|gpu| {
        let f = case.forward(gpu, 1, true, true);
        assert_close("lse", &f.lse, &want.rows.iter().map(|r| r[1]).collect::<Vec<_>>(), 1e-2);
        assert!(f == case.forward(gpu, 0, true, true), "twice the same");
        assert_close("dx", &case.backward(gpu, &f, 1).0, &want.dx, 1e-2);
    });
}

#[test]
fn several_blocks_of_the_vocabulary_agree_with_f64() {
    // Two blocks of the backward pass, the second one odd.
    let case = Case::new(18, 5, 8064 + 77);
    let mut gpu = Gpu::new();
    let f = case.forward(&mut gpu, 0, true, false);
    let want = case.reference();
    assert_close("logprob", &f.logprob, &want.rows.iter().map(|r| r[0]).collect::<Vec<_>>(), 1e-5);
    let (dx, dhead) = case.backward(&mut gpu, &f, 0);
    assert_close("dx", &dx, &want.dx, 1e-5);
    assert_close("dhead", &dhead, &want.dhead, 1e-5);
}

#[test]
fn the_gradient_of_the_logits_has_the_twin_s_bits() {
    // A head that is the identity: dx is the gradient of the logits.
    let (rows, n) = (4, 60);
    let mut case = Case::new(rows, n, n);
    case.head = (0..n * n).map(|i| if i / n == i % n { 1.0 } else { 0.0 }).collect();
    let mut gpu = Gpu::new();
    let f = case.forward_cpu(true, false);
    assert!(case.backward(&mut gpu, &f, 0) == case.backward_cpu(&f));
}

#[test]
fn bad_values_stay_visible() {
    let mut case = Case::new(6, 1, 300);
    let mut gpu = Gpu::new();
    case.head.fill(1.0);
    case.head[7] = f32::INFINITY;
    case.x = vec![1.0, f32::NAN, -1.0, 0.0, 1e-30, -2.0];
    case.targets = vec![3, 3, 3, 3, 300, 7];
    let f = case.forward(&mut gpu, 0, true, false);
    // Row 0 has a +infinity, 1 NaN, 3 a 0 * infinity; rows 2 and 5 only a -infinity; row 4 a +infinity and no target.
    let nan: Vec<bool> = f.logprob.iter().map(|p| p.is_nan()).collect();
    assert_eq!(nan, [true, true, false, true, true, false]);
    assert!((f.logprob[2] + 299f32.ln()).abs() < 1e-6 && f.logprob[5] == f32::NEG_INFINITY);
    assert!((f.entropy[2] - 299f32.ln()).abs() < 1e-6 && f.entropy[1].is_nan());
    // A row of nothing but -infinity has no distribution.
    (case.x, case.head) = (vec![1.0; 6], vec![f32::NEG_INFINITY; 300]);
    assert!(case.forward(&mut gpu, 0, true, false).lse.iter().all(|l| l.is_nan()));
    // A target that is no word is no address either.
    case.head = values(300, 5);
    let f = case.forward(&mut gpu, 0, false, false);
    assert!(f.logprob.iter().enumerate().all(|(i, p)| p.is_nan() == (i == 4)));
}

#[test]
fn the_kl_of_equal_models_is_zero_and_of_others_f64_s() {
    for (rows, hidden, vocab) in [(9, 6, 517), (70, 6, 259), (130, 20, 128), (17, 7, 3)] {
        let case = Case::new(rows, hidden, vocab);
        let mut gpu = Gpu::new();
        assert_eq!(case.kl(&mut gpu, 0), vec![0.0; rows]);
        assert_eq!(case.rows(0, rows).in_bf16().kl(&mut gpu, 0), vec![0.0; rows]);
        for shift in [1, 3] {
            let got = case.kl(&mut gpu, shift);
            assert_close("kl", &got, &case.kl_reference(shift), 1e-5);
            assert_close("kl to the twin's", &got, &wide(&case.kl_cpu(shift)), 1e-5);
        }
    }
}

#[test]
fn the_kl_of_a_row_does_not_depend_on_its_batch() {
    for case in [Case::new(80, 12, 300), Case::new(80, 16, 133).in_bf16()] {
        let mut gpu = Gpu::new();
        let all = case.kl(&mut gpu, case.hidden);
        // Shifting by a whole row pairs each row with the next one.
        for (first, rows) in [(0, 16), (60, 16), (30, 40)] {
            let part = case.rows(first, rows).kl(&mut gpu, case.hidden);
            assert_eq!(part[..rows - 1], all[first..first + rows - 1]);
        }
    }
}

/// logprob, lse and entropy of 16-bit rows and head against f64 on the same numbers.
fn halves<T: Half>((rows, hidden, vocab): (usize, usize, usize), skip: usize, limit: f64) {
    let mut case = Case::new(rows, hidden, vocab);
    let narrowed = |v: &[f32]| v.iter().map(|x| T::from_f32(*x)).collect::<Vec<T>>();
    let (x, head) = (narrowed(&case.x), narrowed(&case.head));
    (case.x, case.head) = (widen(&x), widen(&head));
    let mut gpu = Gpu::new();
    let behind = |v: &[T]| [&vec![T::from_f32(0.0); skip], v].concat();
    let (x, head, t) = (gpu.upload(&behind(&x)), gpu.upload(&behind(&head)), gpu.upload(&case.targets));
    let mut out = [gpu.alloc::<f32>(rows), gpu.alloc::<f32>(rows), gpu.alloc::<f32>(rows)];
    let [logprob, lse, entropy] = &mut out;
    let args = LmLogProbHalfArgs {
        x: x.arg().skip(skip),
        head: head.arg().skip(skip),
        targets: t.arg(),
        logprob: logprob.arg_mut(),
        lse: lse.arg_mut(),
        entropy: Some(entropy.arg_mut()),
    };
    gpu.run(&case.shape().of::<T>(), args);
    let want = case.reference();
    for (k, got) in out.iter().enumerate() {
        let want: Vec<f64> = want.rows.iter().map(|r| r[k]).collect();
        assert_close(&format!("{} {k} of {rows} x {hidden} x {vocab}", T::NAME), &got.to_vec(), &want, limit);
    }
}

#[test]
fn sixteen_bit_rows_and_heads_agree_with_f64() {
    for (shape, skip) in [((1, 2, 1), 0), ((5, 64, 300), 0), ((130, 34, 131), 2), ((20, 46, 257), 8)] {
        halves::<f16>(shape, skip, 1e-5);
        halves::<bf16>(shape, skip, 1e-5);
    }
    let (x, head, t) = (vec![f16::ONE; 6], vec![f16::ONE; 9], vec![0u32; 2]);
    let (mut a, mut b) = (vec![0.0f32; 2], vec![0.0f32; 2]);
    let odd = LmLogProb { rows: 2, hidden: 3, vocab: 3, inv_temperature: 1.0 }.of::<f16>();
    let args = LmLogProbHalfArgs {
        x: (&x).into(),
        head: (&head).into(),
        targets: (&t).into(),
        logprob: (&mut a).into(),
        lse: (&mut b).into(),
        entropy: None,
    };
    assert!(odd.check(&args).unwrap_err().to_string().contains("even"));
}

#[test]
fn assembles_without_spills() {
    ptxas::check(ptx::ALL);
}

#[test]
fn no_columns_are_a_uniform_distribution() {
    for case in [Case::new(20, 0, 50), Case::new(3, 0, 50), Case::new(20, 0, 50).in_bf16()] {
        let (f, want) = (case.forward(&mut Gpu::new(), 0, true, true), case.forward_cpu(true, true));
        assert_eq!((&f.logits, f.logprob[0]), (&want.logits, -50f32.ln()));
        assert_close("entropy", &f.entropy, &vec![50f64.ln(); case.rows], 1e-6);
        assert_eq!(case.backward(&mut Gpu::new(), &f, 0), (vec![], vec![]));
    }
}

#[test]
fn no_rows_are_no_launches() {
    let case = Case::new(0, 4, 9);
    let mut gpu = Gpu::new();
    let f = case.forward(&mut gpu, 0, true, true);
    assert_eq!(gpu.launches.len(), 0);
    assert_eq!(case.backward(&mut gpu, &f, 0).1, case.dhead_start());
    assert_eq!(LmLogProb { rows: 0, hidden: 4, vocab: 9, inv_temperature: 1.0 }.cost().bytes_written, 0);
}
