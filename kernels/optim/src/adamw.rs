//! AdamW: decoupled weight decay (arXiv 1711.05101, algorithm 2) with bias correction.
//!
//! One pass: four streams read, three written, nothing else touches memory.

use crate::{ptx, table::chunks};
use kernel_abi::{ArgError, Cost, DevicePtr, In, Kernel, Launch, LaunchError, Launcher, Out, expect_len};

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

impl AdamW {
    /// m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps) = rate m / (sqrt(v) root + eps), with the constants folded.
    pub(crate) fn rate_and_root(&self) -> (f32, f32) {
        let left = |beta: f32| 1.0 - f64::from(beta).powi(self.step as i32);
        ((f64::from(self.lr) / left(self.beta1)) as f32, (1.0 / left(self.beta2).sqrt()) as f32)
    }

    /// What the weights keep after the decay.
    pub(crate) fn keep(&self) -> f32 {
        1.0 - self.lr * self.weight_decay
    }
}

/// Tensors of one launch.
pub(crate) const MOST: usize = 64;

/// One tensor, as `adamw_N` takes it.
#[derive(Debug, Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(crate) struct Row {
    /// param, grad, m, v.
    arrays: [u64; 4],
    len: u64,
    /// Chunks of the tensors before.
    first: u32,
    keep: f32,
}

impl Row {
    pub(crate) fn new(kernel: &AdamW, args: &AdamWArgs<'_>, first: usize) -> Row {
        let arrays = [args.param.device().0, args.grad.device().0, args.m.device().0, args.v.device().0];
        Row { arrays, len: kernel.len as u64, first: first as u32, keep: kernel.keep() }
    }
}

/// What all tensors of a launch have in common, in the order of the parameters.
pub(crate) struct Constants {
    scale: f32,
    rest: [f32; 7],
}

impl Constants {
    pub(crate) fn new(k: &AdamW) -> Constants {
        let (rate, root) = k.rate_and_root();
        let rest = [rate, root, k.beta1, 1.0 - k.beta1, k.beta2, 1.0 - k.beta2, k.eps];
        Constants { scale: k.grad_scale, rest }
    }

    /// Submits `launch`, the entry of a kernel for up to `capacity` rows, over `rows`.
    pub(crate) fn launch<R: bytemuck::NoUninit + Default>(
        &self,
        launch: Launch,
        rows: &[R],
        capacity: usize,
        chunks: usize,
        (norm, max_norm): (DevicePtr, f32),
        on: &mut dyn Launcher,
    ) -> Result<(), LaunchError> {
        let mut table = rows.to_vec();
        table.resize(capacity, R::default());
        let launch = launch.grid(chunks, 1, 1).block(256).table(&table);
        let launch = launch.dim(rows.len()).arg(norm).arg(self.scale).arg(max_norm);
        on.launch(self.rest.iter().fold(launch, |launch, c| launch.arg(*c)))
    }
}

cpu::simd_fn! {
    pub(crate) fn update(p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], k: &AdamW, lr: f32, root: f32) {
        let keep = k.keep();
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
        Cost { bytes_read: 16 * n, bytes_written: 12 * n, flops: 12 * n, ..Cost::default() }
    }

    fn cpu(&self, args: AdamWArgs<'_>) {
        const BLOCK: usize = 16 * 1024;
        let (lr, root) = self.rate_and_root();
        let grad = args.grad.host();
        let (m, v) = (cpu::Shared::new(args.m.host()), cpu::Shared::new(args.v.host()));
        cpu::par_rows(args.param.host(), 1, BLOCK, 8, |first, p| {
            let n = p.len();
            // SAFETY: elements first..first + n belong to this task alone.
            let (m, v) = unsafe { (m.slice(first, n), v.slice(first, n)) };
            update(p, &grad[first..first + n], m, v, self, lr, root);
        });
    }

    fn ptx(&self, args: AdamWArgs<'_>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        if self.len == 0 {
            return Ok(());
        }
        let row = Row::new(self, &args, 0);
        let launch = Launch::new(&ptx::ADAMW, format_args!("adamw_1"));
        Constants::new(self).launch(launch, &[row], 1, chunks(self.len), (DevicePtr::NULL, 0.0), on)
    }
}
