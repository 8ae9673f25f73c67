//! AdamW with 8-bit moments: the codes by the paper's definition, the PTX against the twin, convergence, memory.

use kernel_abi::Kernel;
use kernel_test::{Gpu, Vram, compare::*, every_way};
use optim::*;
use proptest::prelude::*;

fn step(len: usize, step: u32) -> AdamW {
    AdamW { len, lr: 0.01, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, step, grad_scale: 0.7 }
}

/// Weights, gradient and 8-bit moments of one tensor.
#[derive(Clone)]
struct Tensor {
    p: Vec<f32>,
    g: Vec<f32>,
    m: Vec<u8>,
    v: Vec<u8>,
    largest: [Vec<f32>; 2],
}

impl Tensor {
    fn new(p: Vec<f32>, g: Vec<f32>) -> Tensor {
        let (n, groups) = (p.len(), p.len().div_ceil(GROUP));
        Tensor { p, g, m: vec![0; n], v: vec![0; n], largest: [vec![0.0; groups], vec![0.0; groups]] }
    }

    /// Random moments, some of them far below the largest.
    fn random(len: usize, seed: u32) -> Tensor {
        let mut t = Tensor::new(values(len, seed), values(len, seed + 1));
        let codes = |seed| values(len, seed).iter().map(|x| (x * 64.0 + 128.0) as u8).collect();
        (t.m, t.v) = (codes(seed + 2), codes(seed + 3));
        t.largest =
            [0, 1].map(|i| values(t.largest[i].len(), seed + 4).iter().map(|x| x * x + 1e-3).collect());
        t.g.iter_mut().zip(0..).for_each(|(g, i)| *g *= 10f32.powi(-(i % 13)));
        t
    }

    fn args(&mut self) -> AdamW8bitArgs<'_> {
        let Tensor { p, g, m, v, largest: [m_largest, v_largest] } = self;
        AdamW8bitArgs {
            param: p.into(),
            grad: (&*g).into(),
            m: m.into(),
            v: v.into(),
            m_largest: m_largest.into(),
            v_largest: v_largest.into(),
        }
    }
}

/// The same on the device, each array from element `skip` of a buffer on.
struct OnGpu {
    skip: usize,
    floats: [Vram<f32>; 4],
    codes: [Vram<u8>; 2],
}

fn shifted<T: bytemuck::Pod>(gpu: &Gpu, x: &[T], skip: usize) -> Vram<T> {
    gpu.upload(&[&vec![T::zeroed(); skip], x].concat())
}

/// Equal; says where not.
fn same<T: PartialEq + std::fmt::Debug>(got: &[T], want: &[T]) {
    let at = got.iter().zip(want).position(|(got, want)| got != want);
    assert!(
        got.len() == want.len() && at.is_none(),
        "element {at:?}: {:?}",
        at.map(|at| (&got[at], &want[at]))
    );
}

impl OnGpu {
    fn new(gpu: &Gpu, t: &Tensor, skip: usize) -> OnGpu {
        let floats = [&t.p, &t.g, &t.largest[0], &t.largest[1]].map(|x| shifted(gpu, x, skip));
        OnGpu { skip, floats, codes: [&t.m, &t.v].map(|x| shifted(gpu, x, skip)) }
    }

    fn args(&mut self) -> AdamW8bitArgs<'_> {
        let ([p, g, ml, vl], [m, v], s) = (&mut self.floats, &mut self.codes, self.skip);
        AdamW8bitArgs {
            param: p.arg_mut().skip(s),
            grad: g.arg().skip(s),
            m: m.arg_mut().skip(s),
            v: v.arg_mut().skip(s),
            m_largest: ml.arg_mut().skip(s),
            v_largest: vl.arg_mut().skip(s),
        }
    }

    fn assert_equals(&self, want: &Tensor) {
        for (got, want) in self.floats.iter().zip([&want.p, &want.g, &want.largest[0], &want.largest[1]]) {
            same(&got.to_vec()[self.skip..], want);
        }
        for (got, want) in self.codes.iter().zip([&want.m, &want.v]) {
            same(&got.to_vec()[self.skip..], want);
        }
    }
}

fn one_tensor(gpu: &mut Gpu, len: usize, skip: usize) {
    let mut t = Tensor::random(len, 1);
    let mut d = OnGpu::new(gpu, &t, skip);
    for at in 3..5 {
        gpu.run(&AdamW8bit(step(len, at)), d.args());
        AdamW8bit(step(len, at)).cpu(t.args());
        d.assert_equals(&t);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn a_step_has_the_twin_s_bits(len in 0usize..3000, skip in 0usize..5) {
        one_tensor(&mut Gpu::new(), len, skip);
    }

    #[test]
    fn the_nearest_code_is_nearest(x in -1.0f32..1.0, tens in 0i32..9) {
        let x = x * 10f32.powi(-tens);
        for (codes, x) in [(Codes::Signed, x), (Codes::Unsigned, x.abs())] {
            let distance = |c: u8| (f64::from(codes.value(c)) - f64::from(x)).abs();
            let least = (0..=255).map(distance).fold(f64::INFINITY, f64::min);
            prop_assert!(distance(codes.nearest(x)) <= least * (1.0 + 1e-5) + 1e-14);
        }
    }
}

#[test]
fn steps_under_an_adversary() {
    every_way(|gpu| {
        one_tensor(gpu, 2000, 0);
        one_tensor(gpu, 300, 1);
    });
}

#[test]
fn codes_are_the_paper_s() {
    // Section 1.3: the exponent goes down to 10^-6 (values to 10^-7), the fraction has up to six bits with a sign.
    let signed: Vec<f32> = (0..=255).map(|c| Codes::Signed.value(c)).collect();
    let unsigned: Vec<f32> = (0..=255).map(|c| Codes::Unsigned.value(c)).collect();
    assert!(signed.is_sorted_by(|a, b| a < b) && unsigned.is_sorted_by(|a, b| a < b));
    assert_eq!((signed[127], signed[255], unsigned[0], unsigned[255]), (0.0, 1.0, 0.0, 1.0));
    assert!((1..128).all(|i| signed[127 - i] == -signed[127 + i]));
    // The coarsest and the finest cell of each.
    assert_eq!((signed[128], signed[254]), (0.55e-6, (0.1 + 0.9 * 63.5 / 64.0) as f32));
    assert_eq!((unsigned[1], unsigned[2]), (0.325e-6, 0.775e-6));
    assert_eq!(unsigned[254], (0.1 + 0.9 * 127.5 / 128.0) as f32);
    for codes in [Codes::Signed, Codes::Unsigned] {
        assert!((0..=255).all(|c| codes.nearest(codes.value(c)) == c));
    }
}

/// The device's codes of a sweep of numbers, one step that sets both moments to g and to g^2.
#[test]
fn the_computed_rank_is_exact_everywhere() {
    every_way(|gpu| {
        let n = 64 * 256;
        // A group's largest is 1; the rest are the bounds of all codes and their neighbours, and a sweep of sizes.
        let mut numbers: Vec<f32> = Vec::new();
        for code in 1..=255u8 {
            let middle = (Codes::Signed.value(code - 1) + Codes::Signed.value(code)) * 0.5;
            let bits = middle.to_bits();
            numbers.extend([bits - 1, bits, bits + 1].map(f32::from_bits));
        }
        for i in 0..n - numbers.len() {
            let x = (1.0 + (i % 997) as f32 / 997.0) * 10f32.powf(-(i as f32) / n as f32 * 9.0) * 0.5;
            numbers.push(if i % 2 == 0 { x } else { -x });
        }
        numbers.chunks_mut(256).for_each(|group| group[0] = 1.0);
        let mut t = Tensor::new(vec![0.0; n], numbers);
        let kernel = AdamW8bit(AdamW { beta1: 0.0, beta2: 0.0, grad_scale: 1.0, ..step(n, 1) });
        let mut d = OnGpu::new(gpu, &t, 0);
        gpu.run(&kernel, d.args());
        kernel.cpu(t.args());
        d.assert_equals(&t);
        let right = t.g.iter().zip(&t.m).all(|(g, m)| *m == Codes::Signed.nearest(*g));
        assert!(right && t.largest[0].iter().all(|x| *x == 1.0));
    });
}

#[test]
fn many_tensors_in_one_launch() {
    let gpu = &mut Gpu::new();
    let lens = [5usize, 8192, 0, 9000, 1, 256, 300];
    let mut tensors: Vec<Tensor> = lens.iter().zip(0..).map(|(n, i)| Tensor::random(*n, 10 * i)).collect();
    let mut on_gpu: Vec<OnGpu> =
        tensors.iter().zip(0..).map(|(t, i)| OnGpu::new(gpu, t, if i % 3 == 2 { 1 } else { 0 })).collect();
    let weights: Vec<Weights> =
        lens.iter().zip(0..).map(|(len, i)| Weights { len: *len, decay: 0.1 * (i % 2) as f32 }).collect();
    let kernel = AdamW8bitMulti(AdamWMulti {
        tensors: &weights,
        lr: 0.02,
        beta1: 0.9,
        beta2: 0.99,
        eps: 1e-8,
        step: 5,
        grad_scale: 0.5,
        max_norm: 1.0,
    });
    let mut host = vec![0.0f64; 256];
    let x = tensors.iter().map(|t| (&t.g).into()).collect();
    SquaredNormMulti { lens: &lens }.cpu(SquaredNormMultiArgs { x, partials: (&mut host).into() });
    let device = gpu.upload(&host);
    let args = on_gpu.iter_mut().map(OnGpu::args).collect();
    gpu.run(&kernel, AdamW8bitMultiArgs { tensors: args, norm: Some(device.arg()) });
    assert_eq!(gpu.launches.len(), 1);
    let args = tensors.iter_mut().map(Tensor::args).collect();
    kernel.cpu(AdamW8bitMultiArgs { tensors: args, norm: Some((&host).into()) });
    on_gpu.iter().zip(&tensors).for_each(|(d, t)| d.assert_equals(t));
}

#[test]
fn a_gradient_that_is_not_a_number_shows() {
    let gpu = &mut Gpu::new();
    let mut t = Tensor::random(512, 1);
    t.g[300] = f32::NAN;
    let mut d = OnGpu::new(gpu, &t, 0);
    gpu.run(&AdamW8bit(step(512, 1)), d.args());
    AdamW8bit(step(512, 1)).cpu(t.args());
    let p = d.floats[0].to_vec();
    assert!(p[300].is_nan() && p.iter().filter(|p| p.is_nan()).count() == 1);
    for largest in [&d.floats[2].to_vec(), &d.floats[3].to_vec(), &t.largest[0], &t.largest[1]] {
        assert!(largest[0].is_finite() && largest[1].is_nan());
    }
}

#[test]
fn a_step_without_a_gradient_after_a_large_one_stays_small() {
    // One weight with a tiny gradient beside one with a large one; then none at all.
    let mut t = Tensor::new(vec![0.0; 256], vec![0.0; 256]);
    (t.g[0], t.g[1]) = (1.0, 1e-4);
    for at in 1..4 {
        AdamW8bit(AdamW { weight_decay: 0.0, grad_scale: 1.0, ..step(256, at) }).cpu(t.args());
        t.g.fill(0.0);
    }
    assert!(t.p[..2].iter().all(|p| p.abs() < 0.05), "{:?}", &t.p[..2]);
}

/// Linear regression with inputs of very different sizes.
fn fit(steps: u32, mut optimiser: impl FnMut(u32, &mut [f32], &[f32])) -> f64 {
    let (n, rows) = (600, 64);
    let (x, goal) = (values(rows * n, 1), values(n, 2));
    let size = |j: usize| [1.0, 0.1, 0.01][j % 3];
    let mut p = vec![0.0f32; n];
    let mut loss = 0.0;
    for at in 1..=steps {
        let (mut g, row) = (vec![0.0f32; n], at as usize * 16);
        loss = 0.0;
        for i in row..row + 16 {
            let x = &x[i % rows * n..][..n];
            let error: f64 = (0..n).map(|j| f64::from((p[j] - goal[j]) * x[j] * size(j))).sum();
            loss += error * error / 16.0;
            (0..n).for_each(|j| g[j] += error as f32 * x[j] * size(j) / 16.0);
        }
        optimiser(at, &mut p, &g);
    }
    loss
}

#[test]
fn converges_like_f32() {
    let kernel =
        |at: u32| AdamW { lr: 0.02, weight_decay: 0.0, grad_scale: 1.0, beta2: 0.99, ..step(600, at) };
    let (mut m, mut v) = (vec![0.0f32; 600], vec![0.0f32; 600]);
    let wide = fit(250, |at, p, g| {
        kernel(at).cpu(AdamWArgs { param: p.into(), grad: g.into(), m: (&mut m).into(), v: (&mut v).into() })
    });
    let mut state = Tensor::new(vec![0.0; 600], vec![0.0; 600]);
    let narrow = fit(250, |at, p, g| {
        let AdamW8bitArgs { m, v, m_largest, v_largest, .. } = state.args();
        let args = AdamW8bitArgs { param: p.into(), grad: g.into(), m, v, m_largest, v_largest };
        AdamW8bit(kernel(at)).cpu(args)
    });
    let start = fit(1, |_, _, _| ());
    println!("loss {start:.3e} at the start, {wide:.3e} with f32 moments, {narrow:.3e} with 8 bits");
    assert!(wide < 1e-3 * start && narrow < 1e-3 * start && narrow < 2.0 * wide + 1e-5 * start);
}

#[test]
fn moves_sixteen_bytes_a_weight() {
    let gpu = &mut Gpu::new();
    let len = 8 * 8192;
    let mut d = OnGpu::new(gpu, &Tensor::random(len, 1), 0);
    let kernel = AdamW8bit(step(len, 3));
    let (c, least) = (gpu.run(&kernel, d.args()), kernel.cost());
    let over = 32.0 * (c.global_loads.sectors + c.global_stores.sectors) as f64
        / (least.bytes_read + least.bytes_written) as f64;
    println!("adamw 8 bit: bytes / least {over:.4}, {} warp instructions", c.total_instructions());
    assert!(over <= 1.05, "{over}");
    assert_eq!((c.global_loads.efficiency(), c.global_stores.efficiency()), (1.0, 1.0));
    let wide = step(len, 3).cost();
    assert!(
        (least.bytes_read + least.bytes_written) as f64 / ((wide.bytes_read + wide.bytes_written) as f64)
            < 0.58
    );
}
