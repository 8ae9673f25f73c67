//! W += s B A.

use crate::{
    ptx,
    rows::{Places, Rows},
};
use kernel_abi::{ArgError, Cost, DevicePtr, In, Kernel, LaunchError, Launcher, Out, expect_len};
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

/// Arguments of [`LoraMerge`].
pub struct LoraMergeArgs<'a> {
    /// A `[rank, n_in]`.
    pub a: In<'a>,
    /// B `[n_out, rank]`.
    pub b: In<'a>,
    /// W `[n_out, n_in]`, added to.
    pub w: Out<'a>,
}

impl Kernel for LoraMerge {
    type Args<'a> = LoraMergeArgs<'a>;
    const NAME: &'static str = "lora_merge";

    fn check(&self, args: &LoraMergeArgs<'_>) -> Result<(), ArgError> {
        expect_len(Self::NAME, "a", args.a.len(), self.rank * self.n_in)?;
        expect_len(Self::NAME, "b", args.b.len(), self.n_out * self.rank)?;
        expect_len(Self::NAME, "w", args.w.len(), self.n_out * self.n_in)
    }

    fn cost(&self) -> Cost {
        let (i, o, r) = (self.n_in as u64, self.n_out as u64, self.rank as u64);
        Cost {
            bytes_read: 4 * (r * i + o * r + o * i),
            bytes_written: 4 * o * i,
            flops: 2 * o * i * r,
            int8_ops: 0,
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
        // The second product of the backward pass, with B for du and W for dx.
        let LoraMerge { n_in, n_out, rank, scale } = *self;
        let rows = Rows {
            module: &ptx::BACKWARD,
            prefix: "backward",
            m: n_out,
            k: 0,
            n: n_in,
            rank,
            ldx: 0,
            ldy: n_in,
            down: 1.0,
            up: scale,
            columns_first: false,
            y_bytes: 4,
        };
        let (u, w2, y) = (args.b.device(), args.a.device(), args.w.device());
        rows.launch(Places { x: DevicePtr::NULL, w1: DevicePtr::NULL, u, w2, y }, on)
    }
}
