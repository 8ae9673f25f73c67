//! W += s B A.

use kernel_abi::{ArgError, Cost, In, Kernel, Out, expect_len};
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
}
