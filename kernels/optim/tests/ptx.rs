//! The optimiser's PTX on the VM: the CPU twin's bits, strict and adversarial; counted and static bars.

use kernel_abi::{Cost, Kernel};
use kernel_test::{Counters, Gpu, Vram, compare::*, every_way, ptxas};
use optim::*;
use proptest::prelude::*;

fn adamw(len: usize) -> AdamW {
    AdamW { len, lr: 0.01, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, step: 3, grad_scale: 0.7 }
}

/// Weights, gradient, moments of one tensor.
#[derive(Clone)]
struct Tensor {
    p: Vec<f32>,
    g: Vec<f32>,
    m: Vec<f32>,
    v: Vec<f32>,
}

impl Tensor {
    fn new(len: usize, seed: u32) -> Tensor {
        let v = values(len, seed + 3).iter().map(|v| v * v * 0.01).collect();
        Tensor { p: values(len, seed), g: values(len, seed + 1), m: values(len, seed + 2), v }
    }

    fn args(&mut self) -> AdamWArgs<'_> {
        let Tensor { p, g, m, v } = self;
        AdamWArgs { param: p.into(), grad: (&*g).into(), m: m.into(), v: v.into() }
    }
}

/// The same on the device, each array from element `skip` of a buffer on.
struct OnGpu {
    skip: usize,
    arrays: [Vram<f32>; 4],
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
        let up = |x: &Vec<f32>| gpu.upload(&[&vec![7.0; skip], &x[..]].concat());
        OnGpu { skip, arrays: [up(&t.p), up(&t.g), up(&t.m), up(&t.v)] }
    }

    fn args(&mut self) -> AdamWArgs<'_> {
        let [p, g, m, v] = &mut self.arrays;
        let s = self.skip;
        AdamWArgs {
            param: p.arg_mut().skip(s),
            grad: g.arg().skip(s),
            m: m.arg_mut().skip(s),
            v: v.arg_mut().skip(s),
        }
    }

    fn assert_equals(&self, want: &Tensor) {
        for (got, want) in self.arrays.iter().zip([&want.p, &want.g, &want.m, &want.v]) {
            same(&got.to_vec()[self.skip..], want);
            assert!(got.to_vec()[..self.skip].iter().all(|x| *x == 7.0));
        }
    }
}

fn one_tensor(gpu: &mut Gpu, len: usize, skip: usize) {
    let mut t = Tensor::new(len, 1);
    let mut d = OnGpu::new(gpu, &t, skip);
    gpu.run(&adamw(len), d.args());
    adamw(len).cpu(t.args());
    d.assert_equals(&t);
}

/// `start` and the squares of x.
fn norm(gpu: &mut Gpu, start: f64, x: &[f32], skip: usize) -> f64 {
    let gx = gpu.upload(&[&vec![f32::NAN; skip], x].concat());
    let mut out = gpu.upload(&[start]);
    let kernel = SquaredNorm { len: x.len() };
    gpu.run(&kernel, SquaredNormArgs { x: gx.arg().skip(skip), out: out.arg_mut() });
    out.to_vec()[0]
}

fn norm_equals_the_twin(gpu: &mut Gpu, len: usize, skip: usize) {
    // Ordinary, tiny and huge gradients, and all at once.
    let size = |i: usize, kind: usize| match kind {
        0 => 1.0,
        1 => 1e-15,
        2 => 1e20,
        _ => 10f32.powi((i % 41) as i32 - 20),
    };
    for (start, kind) in [(0.0, 0), (0.0, 1), (1e-30, 1), (0.0, 2), (0.0, 3)] {
        let x: Vec<f32> = values(len, 3).iter().enumerate().map(|(i, x)| x * x * x * size(i, kind)).collect();
        let mut out = [start];
        SquaredNorm { len }.cpu(SquaredNormArgs { x: (&x).into(), out: out[..].as_mut().into() });
        let got = norm(gpu, start, &x, skip);
        assert!((got - out[0]).abs() <= 1e-13 * out[0], "{len}: {got} instead of {}", out[0]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn a_step_has_the_twin_s_bits(len in 0usize..10_000, skip in 0usize..5) {
        one_tensor(&mut Gpu::new(), len, skip);
    }

    #[test]
    fn norms_agree_to_twelve_digits(len in 0usize..30_000, skip in 0usize..5) {
        norm_equals_the_twin(&mut Gpu::new(), len, skip);
    }
}

#[test]
fn optimiser_under_an_adversary() {
    every_way(|gpu| {
        one_tensor(gpu, 5003, 0);
        one_tensor(gpu, 77, 1);
        norm_equals_the_twin(gpu, 5003, 0);
        many_tensors(gpu, &[5, 4096, 0, 9000, 1], 0.5);
    });
}

#[test]
fn a_norm_has_the_same_bits_every_run() {
    let (x, mut seen) = (values(9 * 4096 + 77, 5), Vec::new());
    every_way(|gpu| seen.push(norm(gpu, 0.0, &x, 0).to_bits()));
    assert!(seen.len() > 3 && seen.iter().all(|bits| *bits == seen[0]), "{seen:?}");
}

#[test]
fn long_and_special_norms() {
    let gpu = &mut Gpu::new();
    // More chunks than partial sums.
    let x = values(300 * 4096 + 5, 9);
    let want: f64 = x.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>() + 0.5;
    let got = norm(gpu, 0.5, &x, 0);
    assert!((got - want).abs() < 1e-12 * want, "{got} instead of {want}");
    assert!(norm(gpu, 0.5, &[1.0, f32::NAN, 2.0], 0).is_nan());
    assert_eq!(norm(gpu, 0.5, &[1.0, f32::NEG_INFINITY], 0), f64::INFINITY);
    assert_eq!(norm(gpu, 0.5, &[1e30, 0.0], 0), f64::from(1e30f32) * f64::from(1e30f32) + 0.5);
    assert_eq!(norm(gpu, 0.5, &[], 0), 0.5);
}

/// Norm and step over many tensors, clipped to `max_norm`, on both sides.
fn many_tensors(gpu: &mut Gpu, lens: &[usize], max_norm: f32) {
    let mut tensors: Vec<Tensor> = lens.iter().zip(0..).map(|(n, i)| Tensor::new(*n, 10 * i)).collect();
    let mut on_gpu: Vec<OnGpu> = tensors
        .iter()
        .zip(0..)
        .map(|(t, i)| OnGpu::new(gpu, t, if i % 3 == 2 { i % 5 } else { 0 }))
        .collect();
    let lens: Vec<usize> = tensors.iter().map(|t| t.p.len()).collect();
    let sum = SquaredNormMulti { lens: &lens };
    let (mut host, mut device) = (vec![0.0f64; 256], gpu.upload(&[0.0f64; 256]));
    let x = on_gpu.iter().map(|t| t.arrays[1].arg().skip(t.skip)).collect();
    gpu.run(&sum, SquaredNormMultiArgs { x, partials: device.arg_mut() });
    let sums = gpu.launches.len();
    sum.cpu(SquaredNormMultiArgs {
        x: tensors.iter().map(|t| (&t.g).into()).collect(),
        partials: (&mut host).into(),
    });
    let (got, want): (f64, f64) = (device.to_vec().iter().sum(), host.iter().sum());
    assert!((got - want).abs() < 1e-12 * want, "{got} instead of {want}");
    // Both go on with the same partial sums, so that everything after has the same bits.
    host = device.to_vec();

    let weights: Vec<Weights> =
        lens.iter().zip(0..).map(|(len, i)| Weights { len: *len, decay: 0.1 * (i % 2) as f32 }).collect();
    let kernel = AdamWMulti {
        tensors: &weights,
        lr: 0.02,
        beta1: 0.9,
        beta2: 0.99,
        eps: 1e-8,
        step: 5,
        grad_scale: 0.5,
        max_norm,
    };
    let args =
        AdamWMultiArgs { tensors: on_gpu.iter_mut().map(OnGpu::args).collect(), norm: Some(device.arg()) };
    gpu.run(&kernel, args);
    let steps = gpu.launches.len();
    assert_eq!((sums, steps), (lens.len().div_ceil(128), lens.len().div_ceil(64)));
    let args = AdamWMultiArgs {
        tensors: tensors.iter_mut().map(Tensor::args).collect(),
        norm: Some((&host).into()),
    };
    kernel.cpu(args);
    on_gpu.iter().zip(&tensors).for_each(|(d, t)| d.assert_equals(t));

    // The gradients themselves, scaled the same way.
    let scale = ScaleMulti { lens: &lens, scale: 0.5, max_norm };
    let x = on_gpu
        .iter_mut()
        .map(|t| {
            let s = t.skip;
            t.arrays[1].arg_mut().skip(s)
        })
        .collect();
    gpu.run(&scale, ScaleMultiArgs { x, norm: Some(device.arg()) });
    let x = tensors.iter_mut().map(|t| (&mut t.g).into()).collect();
    scale.cpu(ScaleMultiArgs { x, norm: Some((&host).into()) });
    on_gpu.iter().zip(&tensors).for_each(|(d, t)| d.assert_equals(t));
    let after: f64 = tensors.iter().flat_map(|t| &t.g).map(|g| f64::from(*g).powi(2)).sum();
    let before = want.sqrt() * 0.5;
    let bound = if max_norm > 0.0 { before.min(f64::from(max_norm)) } else { before };
    assert!((after.sqrt() - bound).abs() < 1e-5 * bound, "{} after clipping to {max_norm}", after.sqrt());
}

#[test]
fn many_tensors_in_one_launch() {
    let gpu = &mut Gpu::new();
    let lens: Vec<usize> = (0..64).map(|i| 1 + i * 397 % 9001).collect();
    many_tensors(gpu, &lens, 1.0);
    many_tensors(gpu, &lens[..7], 0.0);
    many_tensors(gpu, &lens[..7], 1e9);
    let lens: Vec<usize> = (0..131).map(|i| 1 + i % 40).collect();
    many_tensors(gpu, &lens, 2.0);
}

#[test]
fn a_norm_that_is_not_finite_changes_nothing() {
    let gpu = &mut Gpu::new();
    let mut t = Tensor::new(100, 4);
    let mut d = OnGpu::new(gpu, &t, 0);
    for bad in [f64::NAN, f64::INFINITY] {
        let mut partials = vec![0.25f64; 256];
        partials[33] = bad;
        let norm = gpu.upload(&partials);
        let kernel = AdamWMulti {
            tensors: &[Weights { len: 100, decay: 0.1 }],
            lr: 0.1,
            beta1: 0.9,
            beta2: 0.99,
            eps: 1e-8,
            step: 1,
            grad_scale: 1.0,
            max_norm: 1.0,
        };
        gpu.run(&kernel, AdamWMultiArgs { tensors: vec![d.args()], norm: Some(norm.arg()) });
        d.assert_equals(&Tensor::new(100, 4));
        kernel.cpu(AdamWMultiArgs { tensors: vec![t.args()], norm: Some((&partials).into()) });
        d.assert_equals(&t);
        // Finite, it would have.
        partials[33] = 0.25;
        let (norm, mut other) = (gpu.upload(&partials), OnGpu::new(gpu, &t, 0));
        gpu.run(&kernel, AdamWMultiArgs { tensors: vec![other.args()], norm: Some(norm.arg()) });
        assert_ne!(other.arrays[0].to_vec(), t.p);
    }
}

#[test]
fn lists_that_do_not_match_are_named() {
    let (x, mut partials) = (vec![0.0f32; 3], vec![0.0f64; 256]);
    let kernel = SquaredNormMulti { lens: &[3, 4] };
    let args = SquaredNormMultiArgs { x: vec![(&x).into()], partials: (&mut partials).into() };
    let e = kernel.check(&args).unwrap_err();
    assert_eq!(e.to_string(), "squared_norm_multi: argument `x`: lists 1 tensors, expected 2");
    let args = SquaredNormMultiArgs { x: vec![(&x).into(); 2], partials: (&mut partials).into() };
    let e = kernel.check(&args).unwrap_err();
    assert_eq!(e.to_string(), "squared_norm_multi: argument `x`: has 3 elements, expected 4");
}

/// Sectors moved over the least bytes, and the efficiency of the accesses.
fn counted(what: &str, c: &Counters, least: Cost) -> f64 {
    let (l, s) = (&c.global_loads, &c.global_stores);
    let bytes = (least.bytes_read + least.bytes_written) as f64;
    let over = 32.0 * (l.sectors + s.sectors) as f64 / bytes;
    let instructions = c.total_instructions() as f64 * 1024.0 / bytes;
    println!("{what:<24} bytes / least {over:.4}  warp instructions a KiB {instructions:.1}");
    assert_eq!((l.efficiency(), s.efficiency()), (1.0, 1.0), "{what}");
    over
}

#[test]
fn moves_no_byte_twice() {
    let gpu = &mut Gpu::new();
    let len = 8 * 4096;
    let mut d = OnGpu::new(gpu, &Tensor::new(len, 1), 0);
    let c = gpu.run(&adamw(len), d.args());
    assert_eq!(counted("adamw", &c, adamw(len).cost()), 1.0);

    let mut out = gpu.upload(&[0.0f64]);
    let kernel = SquaredNorm { len };
    let c = gpu.run(&kernel, SquaredNormArgs { x: d.arrays[1].arg(), out: out.arg_mut() });
    assert!(counted("squared norm", &c, kernel.cost()) <= 1.05);

    // 16 adapters of 64 Ki weights, clipped by a norm on the device.
    let lens = [1usize << 16; 16];
    let mut tensors: Vec<OnGpu> = lens.iter().map(|n| OnGpu::new(gpu, &Tensor::new(*n, 1), 0)).collect();
    let mut partials = gpu.upload(&[0.0f64; 256]);
    let norm = SquaredNormMulti { lens: &lens };
    let x = tensors.iter().map(|t| t.arrays[1].arg()).collect();
    let c = gpu.run(&norm, SquaredNormMultiArgs { x, partials: partials.arg_mut() });
    assert!(counted("squared norm, 16 tensors", &c, norm.cost()) <= 1.05);
    let weights = lens.map(|len| Weights { len, decay: 0.0 });
    let AdamW { lr, beta1, beta2, eps, step, grad_scale, .. } = adamw(0);
    let kernel = AdamWMulti { tensors: &weights, lr, beta1, beta2, eps, step, grad_scale, max_norm: 1.0 };
    let args =
        AdamWMultiArgs { tensors: tensors.iter_mut().map(OnGpu::args).collect(), norm: Some(partials.arg()) };
    let c = gpu.run(&kernel, args);
    assert!(counted("adamw, 16 tensors", &c, kernel.cost()) <= 1.05);
    let scale = ScaleMulti { lens: &lens, scale: 0.5, max_norm: 0.0 };
    let x = tensors.iter_mut().map(|t| t.arrays[1].arg_mut()).collect();
    let c = gpu.run(&scale, ScaleMultiArgs { x, norm: None });
    assert_eq!(counted("scale, 16 tensors", &c, scale.cost()), 1.0);
}

#[test]
fn assembles_without_spills() {
    ptxas::check(ptx::ALL);
}
