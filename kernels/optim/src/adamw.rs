//! AdamW: decoupled weight decay (arXiv 1711.05101, algorithm 2) with bias correction.
//!
//! One pass: four streams read, three written, nothing else touches memory.

use kernel_abi::{ArgError, Cost, In, Kernel, Out, expect_len};

/// One optimiser step on `len` weights.
#[derive(Debug, Clone, Copy)]
pub struct AdamW {
    /// Weights.
    pub len: usize,
    /// Learning rate.
    pub lr: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// Step number from 1, for the bias correction.
    pub step: u32,
    /// Factor on the gradient (clipping, accumulation).
    pub grad_scale: f32,
}

/// Arguments of [`AdamW`].
pub struct AdamWArgs<'a> {
    /// `[len]`, updated.
    pub param: Out<'a>,
    /// `[len]`.
    pub grad: In<'a>,
    /// `[len]` first moment, updated.
    pub m: Out<'a>,
    /// `[len]` second moment, updated.
    pub v: Out<'a>,
}

cpu::simd_fn! {
    fn update(p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], k: &AdamW, lr: f32, root: f32) {
        let keep = 1.0 - k.lr * k.weight_decay;
        for i in 0..p.len() {
            let g = g[i] * k.grad_scale;
            m[i] = k.beta1.mul_add(m[i], (1.0 - k.beta1) * g);
            v[i] = k.beta2.mul_add(v[i], (1.0 - k.beta2) * g * g);
            p[i] = p[i] * keep - lr * m[i] / (v[i].sqrt() * root + k.eps);
        }
    }
}

impl Kernel for AdamW {
    type Args<'a> = AdamWArgs<'a>;
    const NAME: &'static str = "adamw";

    fn check(&self, args: &AdamWArgs<'_>) -> Result<(), ArgError> {
        expect_len(Self::NAME, "param", args.param.len(), self.len)?;
        expect_len(Self::NAME, "grad", args.grad.len(), self.len)?;
        expect_len(Self::NAME, "m", args.m.len(), self.len)?;
        expect_len(Self::NAME, "v", args.v.len(), self.len)?;
        if self.step == 0 {
            return Err(ArgError { kernel: Self::NAME, arg: "step", problem: "counts from 1".into() });
        }
        Ok(())
    }

    fn cost(&self) -> Cost {
        let n = self.len as u64;
        Cost { bytes_read: 16 * n, bytes_written: 12 * n, flops: 12 * n, int8_ops: 0 }
    }

    fn cpu(&self, args: AdamWArgs<'_>) {
        const BLOCK: usize = 16 * 1024;
        // m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps), with the constants folded.
        let lr = (f64::from(self.lr) / (1.0 - f64::from(self.beta1).powi(self.step as i32))) as f32;
        let root = (1.0 / (1.0 - f64::from(self.beta2).powi(self.step as i32)).sqrt()) as f32;
        let grad = args.grad.host();
        let (m, v) = (cpu::Shared::new(args.m.host()), cpu::Shared::new(args.v.host()));
        cpu::par_rows(args.param.host(), 1, BLOCK, 8, |first, p| {
            let n = p.len();
            // SAFETY: elements first..first + n belong to this task alone.
            let (m, v) = unsafe { (m.slice(first, n), v.slice(first, n)) };
            update(p, &grad[first..first + n], m, v, self, lr, root);
        });
    }
}
