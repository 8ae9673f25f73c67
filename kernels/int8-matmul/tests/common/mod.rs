//! What the tests of the PTX share: weights on both sides, layers, comparison of bits.
#![allow(dead_code)] // each test uses its part

use int8_matmul::*;
use kernel_abi::{Float, Kernel, narrow};
use kernel_test::{Counters, Gpu, Vram, compare::values};

/// A quantised weight on both sides.
pub struct Weight {
    pub q: Vec<i8>,
    pub packed: Vec<i8>,
    pub scb: Vec<f32>,
    pub on_gpu: Vram<i8>,
    pub scb_on_gpu: Vram<f32>,
}

/// Quantises and packs on the GPU and on the CPU; both must agree.
pub fn weight(gpu: &mut Gpu, w: &[f32], n: usize, k: usize) -> Weight {
    let (mut q, mut scb) = (vec![0i8; n * k], vec![0.0f32; n]);
    QuantizeWeight { n, k }.cpu(QuantizeWeightArgs {
        w: w.into(),
        q: (&mut q).into(),
        scb: (&mut scb).into(),
    });
    let mut packed = vec![1i8; packed_len(n, k)];
    PackInt8 { n, k }.cpu(PackInt8Args { q: (&q).into(), packed: (&mut packed).into() });

    let (gw, mut gq, mut scb_on_gpu) = (gpu.upload(w), gpu.alloc::<i8>(n * k), gpu.alloc::<f32>(n));
    let args = QuantizeWeightArgs { w: gw.arg(), q: gq.arg_mut(), scb: scb_on_gpu.arg_mut() };
    gpu.run(&QuantizeWeight { n, k }, args);
    assert_eq!(scb_on_gpu.to_vec(), scb, "scb of {n}x{k}");
    assert_eq!(gq.to_vec(), q, "q of {n}x{k}");
    let mut on_gpu = gpu.alloc::<i8>(packed_len(n, k));
    gpu.run(&PackInt8 { n, k }, PackInt8Args { q: gq.arg(), packed: on_gpu.arg_mut() });
    Weight { q, packed, scb, on_gpu, scb_on_gpu }
}

/// What a forward pass is made of, beyond the weight.
pub struct Layer<T> {
    pub kernel: Int8Linear,
    pub x: Vec<T>,
    pub bias: Option<Vec<T>>,
    pub residual: Option<Vec<T>>,
}

pub fn typed<T: Float>(v: &[f32]) -> Vec<T> {
    let mut to = vec![T::from_f32(0.0); v.len()];
    narrow(v, &mut to);
    to
}

impl<T: Float> Layer<T> {
    pub fn new(m: usize, n: usize, k: usize, threshold: f32, seed: u32, extras: bool) -> Self {
        // Mostly small numbers; some outliers, in every row others.
        let x = values(m * k, seed).into_iter().zip(values(m * k, seed + 1));
        let x: Vec<f32> = x.map(|(x, u)| if u > 1.9 { 8.0 * x } else { x }).collect();
        let some = |len: usize, seed: u32| extras.then(|| typed(&values(len, seed)));
        let kernel = Int8Linear { m, n, k, threshold };
        Layer { kernel, x: typed(&x), bias: some(n, seed + 2), residual: some(m * n, seed + 3) }
    }
}

/// The layer on the GPU and by the twin: (y, y, counters). All arguments but the weight begin `skip` elements into their
/// buffers.
pub fn both<T: Float, K>(
    gpu: &mut Gpu,
    kernel: &K,
    layer: &Layer<T>,
    w: &Weight,
    skip: usize,
) -> (Vec<T>, Vec<T>, Counters)
where
    K: for<'a> Kernel<Args<'a> = Int8LinearArgs<'a, T>>,
{
    let Int8Linear { m, n, .. } = layer.kernel;
    let zeros = vec![T::from_f32(0.0); skip];
    let up = |v: &Vec<T>| gpu.upload(&[&zeros, &v[..]].concat());
    let (x, bias, residual) = (up(&layer.x), layer.bias.as_ref().map(up), layer.residual.as_ref().map(up));
    let mut y = gpu.alloc::<T>(m * n + skip);
    let counters = gpu.run(
        kernel,
        Int8LinearArgs {
            x: x.arg().skip(skip),
            packed: w.on_gpu.arg(),
            scb: w.scb_on_gpu.arg(),
            bias: bias.as_ref().map(|b| b.arg().skip(skip)),
            residual: residual.as_ref().map(|r| r.arg().skip(skip)),
            y: y.arg_mut().skip(skip),
        },
    );
    let mut want = vec![T::from_f32(0.0); m * n];
    kernel.cpu(Int8LinearArgs {
        x: (&layer.x).into(),
        packed: (&w.packed).into(),
        scb: (&w.scb).into(),
        bias: layer.bias.as_ref().map(|b| b.into()),
        residual: layer.residual.as_ref().map(|r| r.into()),
        y: (&mut want).into(),
    });
    (y.to_vec().split_off(skip), want, counters)
}

/// Bits, every NaN the same.
pub fn bits<T: Float>(v: &[T]) -> Vec<u32> {
    v.iter().map(|v| v.to_f32()).map(|v| if v.is_nan() { f32::NAN.to_bits() } else { v.to_bits() }).collect()
}

/// The first difference, in words.
pub fn same<T: Float>(what: &str, n: usize, got: &[T], want: &[T]) {
    let (g, w) = (bits(got), bits(want));
    if let Some(at) = (0..g.len()).find(|i| g[*i] != w[*i]) {
        let wrong = (0..g.len()).filter(|i| g[*i] != w[*i]).count();
        let (got, want) = (got[at], want[at]);
        panic!(
            "{what}: row {}, column {}: {got:?} instead of {want:?}; {wrong} of {} differ",
            at / n,
            at % n,
            g.len()
        );
    }
}
