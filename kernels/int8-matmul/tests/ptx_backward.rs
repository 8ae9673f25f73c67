//! The backward pass on the VM: against f64 and the CPU twin, strictly checked and under an adversary.

mod common;

use common::*;
use int8_matmul::*;
use kernel_abi::{Float, Kernel, bf16, f16, widen};
use kernel_test::{Counters, Gpu, compare::*, every_way};
use proptest::prelude::*;

/// dx on the GPU, by the twin, and in f64 without any rounding of dy.
struct Results {
    gpu: Vec<f32>,
    twin: Vec<f32>,
    exact: Vec<f64>,
    counters: Counters,
}

fn both<T: Float, K>(gpu: &mut Gpu, kernel: &K, shape: Int8LinearBackward, w: &Weight, skip: usize) -> Results
where
    K: for<'a> Kernel<Args<'a> = Int8LinearBackwardArgs<'a, T>>,
{
    let Int8LinearBackward { m, n, k, accumulate } = shape;
    let (dy, before) = (typed::<T>(&values(m * n + skip, 4)), typed::<T>(&values(m * k + skip, 5)));
    let (g_dy, mut g_dx) = (gpu.upload(&dy), gpu.upload(&before));
    let (packed, scb) = (w.on_gpu.arg(), w.scb_on_gpu.arg());
    let (d, x) = (g_dy.arg().skip(skip), g_dx.arg_mut().skip(skip));
    let counters = gpu.run(kernel, Int8LinearBackwardArgs { dy: d, packed, scb, dx: x });
    let mut twin = before[skip..].to_vec();
    kernel.cpu(Int8LinearBackwardArgs {
        dy: dy[skip..].into(),
        packed: (&w.packed).into(),
        scb: (&w.scb).into(),
        dx: (&mut twin).into(),
    });
    let (dy, before) = (widen(&dy[skip..]), widen(&before[skip..]));
    let exact = (0..m * k).map(|at| {
        let (i, t) = (at / k, at % k);
        let w = |j: usize| f64::from(w.q[j * k + t]) * f64::from(w.scb[j]) / 127.0;
        let sum: f64 = (0..n).map(|j| f64::from(dy[i * n + j]) * w(j)).sum();
        sum + if accumulate { f64::from(before[at]) } else { 0.0 }
    });
    let exact = exact.collect();
    let gpu = widen(&g_dx.to_vec())[skip..].to_vec();
    Results { gpu, twin: widen(&twin), exact, counters }
}

fn close(what: &str, r: &Results, n: usize) {
    assert_twice(what, &r.gpu, &r.twin, &r.exact, 1e-6);
    if n > 0 {
        assert_close(what, &r.gpu, &r.exact, 1e-2);
    }
    // The same roundings of the operands as the twin's, so what differs is the order of sums alone.
    if r.gpu.iter().all(|v| v.to_bits() % 65536 == 0) {
        return;
    }
    assert_close(what, &r.gpu, &wide(&r.twin), 1e-3);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(10) })]
    #[test]
    fn backward_is_as_near_as_the_twin(
        m in 1usize..150, n in 0usize..200, k in 1usize..150, skip in 0usize..5, accumulate: bool,
    ) {
        let mut gpu = Gpu::new();
        let w = weight(&mut gpu, &values(n * k, 9), n, k);
        let kernel = Int8LinearBackward { m, n, k, accumulate };
        close(&format!("{kernel:?}"), &both::<f32, _>(&mut gpu, &kernel, kernel, &w, skip), n);
    }
}
