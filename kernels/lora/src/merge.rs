//! W += s B A.

use crate::{
    ptx,
    rows::{Places, Rows, element},
};
use kernel_abi::{
    ArgError, Cost, DevicePtr, Float, Half, In, Kernel, LaunchError, Launcher, Module, Out, expect_len,
    narrow, typed, widen,
};
use matmul::{Matmul, MatmulArgs};

/// Adds an adapter into the weight it sits on; with a negative scale, takes it out again.
#[derive(Debug, Clone, Copy)]
pub struct LoraMerge {
    /// Inputs.
    pub n_in: usize,
    /// Outputs.
    pub n_out: usize,
    /// Rank.
    pub rank: usize,
    /// alpha / rank.
    pub scale: f32,
}

/// Arguments of [`LoraMerge`]: the adapter is f32, the weight f32 or 16 bits wide.
pub struct LoraMergeArgs<'a, T = f32> {
    /// A `[rank, n_in]`.
    pub a: In<'a>,
    /// B `[n_out, rank]`.
    pub b: In<'a>,
    /// W `[n_out, n_in]`, added to.
    pub w: Out<'a, T>,
}

impl LoraMerge {
    fn check_lens<T>(&self, args: &LoraMergeArgs<'_, T>) -> Result<(), ArgError> {
        expect_len(Self::NAME, "a", args.a.len(), self.rank * self.n_in)?;
        expect_len(Self::NAME, "b", args.b.len(), self.n_out * self.rank)?;
        expect_len(Self::NAME, "w", args.w.len(), self.n_out * self.n_in)
    }

    /// The second product of the backward pass, with B for du and W for dx.
    fn launch<T: Float>(
        &self,
        args: &LoraMergeArgs<'_, T>,
        (module, prefix): (&'static Module, &'static str),
        on: &mut dyn Launcher,
    ) -> Result<(), LaunchError> {
        let LoraMerge { n_in, n_out, rank, scale } = *self;
        let rows = Rows {
            module,
            prefix,
            element: element::<T>(),
            m: n_out,
            k: 0,
            n: n_in,
            rank,
            ldx: 0,
            ldy: n_in,
            down: 1.0,
            up: scale,
            columns_first: false,
            bytes: 4,
            y_bytes: size_of::<T>(),
            group: None,
        };
        let (u, w2, y) = (args.b.device(), args.a.device(), args.w.device());
        rows.launch(Places { x: DevicePtr::NULL, w1: DevicePtr::NULL, u, w2, y }, on)
    }
}

impl Kernel for LoraMerge {
    type Args<'a> = LoraMergeArgs<'a>;
    const NAME: &'static str = "lora_merge";

    fn check(&self, args: &LoraMergeArgs<'_>) -> Result<(), ArgError> {
        self.check_lens(args)
    }

    fn cost(&self) -> Cost {
        let (i, o, r) = (self.n_in as u64, self.n_out as u64, self.rank as u64);
        Cost {
            bytes_read: 4 * (r * i + o * r + o * i),
            bytes_written: 4 * o * i,
            flops: 2 * o * i * r,
            ..Cost::default()
        }
    }

    fn cpu(&self, args: LoraMergeArgs<'_>) {
        let LoraMerge { n_in, n_out, rank, scale } = *self;
        let shape = Matmul {
            m: n_out,
            n: n_in,
            k: rank,
            ta: false,
            tb: false,
            lda: rank,
            ldb: n_in,
            ldc: n_in,
            alpha: scale,
            accumulate: true,
        };
        shape.cpu(MatmulArgs { a: args.b, b: args.a, c: args.w });
    }

    fn ptx(&self, args: LoraMergeArgs<'_>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        self.launch(&args, (&ptx::BACKWARD, "backward"), on)
    }
}

typed!(
    /// [`LoraMerge`] into a 16-bit weight: every element is added to in f32 and rounded once.
    LoraMergeOf,
    LoraMerge
);

impl<T: Half> Kernel for LoraMergeOf<T> {
    type Args<'a> = LoraMergeArgs<'a, T>;
    const NAME: &'static str = "lora_merge";

    fn check(&self, args: &LoraMergeArgs<'_, T>) -> Result<(), ArgError> {
        self.kernel.check_lens(args)
    }

    fn cost(&self) -> Cost {
        let LoraMerge { n_in, n_out, rank, .. } = self.kernel;
        let (adapter, weight) = ((4 * rank * (n_in + n_out)) as u64, (size_of::<T>() * n_in * n_out) as u64);
        Cost { bytes_read: adapter + weight, bytes_written: weight, ..self.kernel.cost() }
    }

    fn cpu(&self, args: LoraMergeArgs<'_, T>) {
        let w = args.w.host();
        let mut merged = widen(w);
        self.kernel.cpu(LoraMergeArgs { a: args.a, b: args.b, w: (&mut merged).into() });
        narrow(&merged, w);
    }

    fn ptx(&self, args: LoraMergeArgs<'_, T>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        self.kernel.launch(&args, (&ptx::MERGE, "merge"), on)
    }
}
