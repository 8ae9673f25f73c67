//! A case of the head's kernels, its definition in f64, and runs of both faces. Each test file uses a part of it.
#![allow(dead_code)]

use kernel_abi::Kernel;
use kernel_test::{Counters, Gpu, Vram, compare::*};
use loss::*;
use matmul::{PackBf16, PackBf16Args, PackWeight, PackWeightArgs, Packed, bf16_packed_len, packed_len};

pub const INV_TEMPERATURE: f32 = 1.25;

pub struct Case {
    pub rows: usize,
    pub hidden: usize,
    pub vocab: usize,
    pub x: Vec<f32>,
    pub head: Vec<f32>,
    pub targets: Vec<u32>,
    /// The head is held in bf16, and so frozen.
    pub bf16: bool,
}

/// A head on the GPU.
enum DeviceHead {
    F32(Vram<f32>),
    Bf16(Vram<u32>),
}

impl DeviceHead {
    fn arg(&self) -> Packed<'_> {
        match self {
            DeviceHead::F32(h) => h.arg().into(),
            DeviceHead::Bf16(h) => h.arg().into(),
        }
    }
}

#[derive(Debug, PartialEq, Clone, Default)]
pub struct Forward {
    pub logprob: Vec<f32>,
    pub lse: Vec<f32>,
    pub entropy: Vec<f32>,
    pub logits: Vec<f32>,
}

/// By the definitions. Gradients for [`Case::slopes`], without the entropy's in those that end in `plain`.
pub struct Reference {
    /// logprob, lse, entropy.
    pub rows: Vec<[f64; 3]>,
    pub dx: Vec<f64>,
    pub dhead: Vec<f64>,
    pub dx_plain: Vec<f64>,
    pub dhead_plain: Vec<f64>,
}

/// `v` after `skip` elements that no kernel may touch: an address that is not 16-byte aligned.
fn behind<T: Copy + Default>(skip: usize, v: &[T]) -> Vec<T> {
    [&vec![T::default(); skip], v].concat()
}

impl Case {
    pub fn new(rows: usize, hidden: usize, vocab: usize) -> Case {
        let targets = (0..rows).map(|i| (i * 641 % vocab) as u32).collect();
        let (x, head) = (values(rows * hidden, 1), values(vocab * hidden, 2));
        Case { rows, hidden, vocab, x, head, targets, bf16: false }
    }

    /// The same with the head in bf16.
    pub fn in_bf16(self) -> Case {
        Case { bf16: true, ..self }
    }

    pub fn rows(&self, first: usize, rows: usize) -> Case {
        let x = self.x[first * self.hidden..][..rows * self.hidden].to_vec();
        let targets = self.targets[first..first + rows].to_vec();
        Case { rows, x, targets, head: self.head.clone(), ..*self }
    }

    pub fn shape(&self) -> LmLogProb {
        let Case { rows, hidden, vocab, .. } = *self;
        LmLogProb { rows, hidden, vocab, inv_temperature: INV_TEMPERATURE }
    }

    pub fn shape_backward(&self) -> LmLogProbBackward {
        let Case { rows, hidden, vocab, .. } = *self;
        LmLogProbBackward { rows, hidden, vocab, inv_temperature: INV_TEMPERATURE }
    }

    /// Gradients of the log-probabilities and of the entropies; some are zero.
    fn slopes(&self) -> (Vec<f32>, Vec<f32>) {
        let mut dentropy = values(self.rows, 6);
        dentropy.iter_mut().step_by(3).for_each(|d| *d = 0.0);
        (values(self.rows, 5), dentropy)
    }

    pub fn dhead_start(&self) -> Vec<f32> {
        values(self.vocab * self.hidden, 7)
    }

    /// The head as the GPU has it: row-major, then what packing on the CPU adds.
    fn device_head(&self, gpu: &mut Gpu) -> DeviceHead {
        if !self.bf16 {
            let mut head = self.head.clone();
            head.resize(packed_len(self.vocab, self.hidden), f32::NAN);
            return DeviceHead::F32(gpu.upload(&head));
        }
        let (w, mut packed) = (gpu.upload(&self.head), gpu.alloc(bf16_packed_len(self.vocab, self.hidden)));
        let args = PackBf16Args { w: w.arg(), packed: packed.arg_mut() };
        gpu.run(&PackBf16 { n: self.vocab, k: self.hidden }, args);
        DeviceHead::Bf16(packed)
    }

    /// Calls `f` with the head as the CPU has it.
    fn with_host_head<R>(&self, f: impl FnOnce(Packed<'_>) -> R) -> R {
        let (n, k) = (self.vocab, self.hidden);
        if self.bf16 {
            let mut packed = vec![0u32; bf16_packed_len(n, k)];
            PackBf16 { n, k }.cpu(PackBf16Args { w: (&self.head).into(), packed: (&mut packed[..]).into() });
            return f((&packed).into());
        }
        let mut packed = vec![0.0; packed_len(n, k)];
        PackWeight { n, k }.cpu(PackWeightArgs { w: (&self.head).into(), packed: (&mut packed).into() });
        f((&packed).into())
    }

    pub fn forward(&self, gpu: &mut Gpu, skip: usize, entropy: bool, keep: bool) -> Forward {
        self.forward_counted(gpu, skip, entropy, keep).0
    }

    pub fn forward_counted(
        &self,
        gpu: &mut Gpu,
        skip: usize,
        entropy: bool,
        keep: bool,
    ) -> (Forward, Counters) {
        let (x, head) = (gpu.upload(&behind(skip, &self.x)), self.device_head(gpu));
        let targets = gpu.upload(&self.targets);
        let (mut logprob, mut lse) = (gpu.alloc(self.rows), gpu.alloc(self.rows));
        let mut h = entropy.then(|| gpu.alloc(self.rows));
        let mut logits = keep.then(|| gpu.alloc(skip + self.rows * self.vocab));
        let args = LmLogProbArgs {
            x: x.arg().skip(skip),
            head_packed: head.arg(),
            targets: targets.arg(),
            logprob: logprob.arg_mut(),
            lse: lse.arg_mut(),
            entropy: h.as_mut().map(|h| h.arg_mut()),
            logits: logits.as_mut().map(|l| l.arg_mut().skip(skip)),
        };
        let counted = gpu.run(&self.shape(), args);
        let f = Forward {
            logprob: logprob.to_vec(),
            lse: lse.to_vec(),
            entropy: h.map(|h| h.to_vec()).unwrap_or_default(),
            logits: logits.map(|l| l.to_vec()[skip..].to_vec()).unwrap_or_default(),
        };
        (f, counted)
    }

    pub fn forward_cpu(&self, entropy: bool, keep: bool) -> Forward {
        let zeros = |n: usize| vec![0.0f32; n];
        let mut f = Forward {
            logprob: zeros(self.rows),
            lse: zeros(self.rows),
            entropy: zeros(if entropy { self.rows } else { 0 }),
            logits: zeros(if keep { self.rows * self.vocab } else { 0 }),
        };
        self.with_host_head(|head_packed| {
            self.shape().cpu(LmLogProbArgs {
                x: (&self.x).into(),
                head_packed,
                targets: (&self.targets).into(),
                logprob: (&mut f.logprob).into(),
                lse: (&mut f.lse).into(),
                entropy: entropy.then(|| (&mut f.entropy).into()),
                logits: keep.then(|| (&mut f.logits).into()),
            });
        });
        f
    }

    /// dx, dhead; with the entropy's gradient where `f` has entropies, from its logits where it has them.
    pub fn backward(&self, gpu: &mut Gpu, f: &Forward, skip: usize) -> (Vec<f32>, Vec<f32>) {
        self.backward_counted(gpu, f, skip).0
    }

    pub fn backward_counted(
        &self,
        gpu: &mut Gpu,
        f: &Forward,
        skip: usize,
    ) -> ((Vec<f32>, Vec<f32>), Counters) {
        let packed = self.device_head(gpu);
        let up = |v: &[f32]| gpu.upload(&behind(skip, v));
        let (d, dh) = self.slopes();
        let (x, head, lse, entropy) = (up(&self.x), up(&self.head), up(&f.lse), up(&f.entropy));
        let (d, dh, logits) = (up(&d), up(&dh), up(&f.logits));
        let targets = gpu.upload(&self.targets);
        let with = !f.entropy.is_empty();
        let (mut dx, mut dhead) = (gpu.alloc(skip + self.x.len()), up(&self.dhead_start()));
        let args = LmLogProbBackwardArgs {
            x: x.arg().skip(skip),
            head: (!self.bf16).then(|| head.arg().skip(skip)),
            head_packed: packed.arg(),
            targets: targets.arg(),
            lse: lse.arg().skip(skip),
            entropy: with.then(|| entropy.arg().skip(skip)),
            logits: (!f.logits.is_empty()).then(|| logits.arg().skip(skip)),
            dlogprob: d.arg().skip(skip),
            dentropy: with.then(|| dh.arg().skip(skip)),
            dx: dx.arg_mut().skip(skip),
            dhead: (!self.bf16).then(|| dhead.arg_mut().skip(skip)),
        };
        let counted = gpu.run(&self.shape_backward(), args);
        ((dx.to_vec()[skip..].to_vec(), dhead.to_vec()[skip..].to_vec()), counted)
    }

    pub fn backward_cpu(&self, f: &Forward) -> (Vec<f32>, Vec<f32>) {
        let (d, dh) = self.slopes();
        let with = !f.entropy.is_empty();
        let (mut dx, mut dhead) = (vec![f32::NAN; self.x.len()], self.dhead_start());
        self.with_host_head(|head_packed| {
            self.shape_backward().cpu(LmLogProbBackwardArgs {
                x: (&self.x).into(),
                head: (!self.bf16).then(|| (&self.head).into()),
                head_packed,
                targets: (&self.targets).into(),
                lse: (&f.lse).into(),
                entropy: with.then(|| (&f.entropy).into()),
                logits: (!f.logits.is_empty()).then(|| (&f.logits).into()),
                dlogprob: (&d).into(),
                dentropy: with.then(|| (&dh).into()),
                dx: (&mut dx).into(),
                dhead: (!self.bf16).then(|| (&mut dhead).into()),
            });
        });
        (dx, dhead)
    }

    /// Scaled logits of a row.
    fn z(&self, x: &[f32]) -> Vec<f64> {
        let dot = |w: &[f32]| w.iter().zip(x).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        self.head.chunks(self.hidden).map(|w| f64::from(INV_TEMPERATURE) * dot(w)).collect()
    }

    pub fn reference(&self) -> Reference {
        let Case { rows, hidden, vocab, .. } = *self;
        let start = wide(&self.dhead_start());
        let (dx, dhead) = (vec![0.0; rows * hidden], start);
        let mut r =
            Reference { rows: Vec::new(), dx_plain: dx.clone(), dhead_plain: dhead.clone(), dx, dhead };
        let (slope, entropy_slope) = self.slopes();
        for i in 0..rows {
            let x = &self.x[i * hidden..][..hidden];
            let z = self.z(x);
            let lse = z.iter().map(|z| z.exp()).sum::<f64>().ln();
            let entropy = z.iter().map(|z| -(z - lse).exp() * (z - lse)).sum::<f64>();
            let target = self.targets[i] as usize;
            r.rows.push([z[target] - lse, lse, entropy]);
            let (d, dh, t) = (f64::from(slope[i]), f64::from(entropy_slope[i]), f64::from(INV_TEMPERATURE));
            for (v, z) in z.iter().enumerate().take(vocab) {
                let p = (z - lse).exp();
                let plain = t * d * (if v == target { 1.0 } else { 0.0 } - p);
                let full = plain - t * dh * p * (z - lse + entropy);
                for k in 0..hidden {
                    let (w, x) = (f64::from(self.head[v * hidden + k]), f64::from(x[k]));
                    r.dx_plain[i * hidden + k] += plain * w;
                    r.dx[i * hidden + k] += full * w;
                    r.dhead_plain[v * hidden + k] += plain * x;
                    r.dhead[v * hidden + k] += full * x;
                }
            }
        }
        r
    }

    /// x with its elements moved: another model's hidden states.
    fn shifted(&self, shift: usize) -> Vec<f32> {
        let mut x = self.x.clone();
        x.rotate_left(shift);
        x
    }

    pub fn kl_shape(&self) -> FullKl {
        let Case { rows, hidden, vocab, .. } = *self;
        FullKl { rows, hidden, vocab, inv_temperature: INV_TEMPERATURE }
    }

    pub fn kl(&self, gpu: &mut Gpu, shift: usize) -> Vec<f32> {
        self.kl_counted(gpu, shift).0
    }

    pub fn kl_counted(&self, gpu: &mut Gpu, shift: usize) -> (Vec<f32>, Counters) {
        let (p, q) = (gpu.upload(&self.x), gpu.upload(&self.shifted(shift)));
        let (head, mut kl) = (self.device_head(gpu), gpu.alloc(self.rows));
        let args =
            FullKlArgs { x_policy: p.arg(), x_ref: q.arg(), head_packed: head.arg(), kl: kl.arg_mut() };
        let counted = gpu.run(&self.kl_shape(), args);
        (kl.to_vec(), counted)
    }

    pub fn kl_cpu(&self, shift: usize) -> Vec<f32> {
        let mut kl = vec![0.0; self.rows];
        self.with_host_head(|head_packed| {
            self.kl_shape().cpu(FullKlArgs {
                x_policy: (&self.x).into(),
                x_ref: (&self.shifted(shift)).into(),
                head_packed,
                kl: (&mut kl).into(),
            });
        });
        kl
    }

    pub fn kl_reference(&self, shift: usize) -> Vec<f64> {
        let logs = |x: &[f32]| {
            let z = self.z(x);
            let lse = z.iter().map(|z| z.exp()).sum::<f64>().ln();
            z.iter().map(|z| z - lse).collect::<Vec<_>>()
        };
        let other = self.shifted(shift);
        let rows = self.x.chunks(self.hidden).zip(other.chunks(self.hidden));
        rows.map(|(p, q)| logs(p).iter().zip(logs(q)).map(|(p, q)| p.exp() * (p - q)).sum()).collect()
    }
}
