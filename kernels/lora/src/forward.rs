//! u = x A^T, y[:, offset..offset + n_out] += s u B^T.

use crate::{
    ptx,
    rows::{Places, Rows},
};
use kernel_abi::{ArgError, Cost, In, Kernel, LaunchError, Launcher, Out, expect_len};
use matmul::{Matmul, MatmulArgs};

/// The adapter's contribution to a layer's output.
#[derive(Debug, Clone, Copy)]
pub struct LoraForward {
    /// Rows of x.
    pub m: usize,
    /// Inputs.
    pub n_in: usize,
    /// Outputs that the adapter covers.
    pub n_out: usize,
    /// Rank.
    pub rank: usize,
    /// alpha / rank.
    pub scale: f32,
    /// Row stride of y.
    pub ldy: usize,
    /// First covered column of y.
    pub col_offset: usize,
}

/// Arguments of [`LoraForward`].
pub struct LoraForwardArgs<'a> {
    /// `[m, n_in]`.
    pub x: In<'a>,
    /// A `[rank, n_in]`.
    pub a: In<'a>,
    /// B `[n_out, rank]`.
    pub b: In<'a>,
    /// `[m, rank]`: x A^T, kept for the backward pass.
    pub u: Out<'a>,
    /// `[m, ldy]`, added to.
    pub y: Out<'a>,
}

pub(crate) fn check_range(
    kernel: &'static str,
    offset: usize,
    n_out: usize,
    ldy: usize,
) -> Result<(), ArgError> {
    if offset + n_out <= ldy {
        return Ok(());
    }
    let problem = format!("columns {offset}..{} of {ldy}", offset + n_out);
    Err(ArgError { kernel, arg: "col_offset", problem })
}

impl Kernel for LoraForward {
    type Args<'a> = LoraForwardArgs<'a>;
    const NAME: &'static str = "lora_forward";

    fn check(&self, args: &LoraForwardArgs<'_>) -> Result<(), ArgError> {
        let LoraForward { m, n_in, n_out, rank, ldy, col_offset, .. } = *self;
        expect_len(Self::NAME, "x", args.x.len(), m * n_in)?;
        expect_len(Self::NAME, "a", args.a.len(), rank * n_in)?;
        expect_len(Self::NAME, "b", args.b.len(), n_out * rank)?;
        expect_len(Self::NAME, "u", args.u.len(), m * rank)?;
        expect_len(Self::NAME, "y", args.y.len(), m * ldy)?;
        check_range(Self::NAME, col_offset, n_out, ldy)
    }

    fn cost(&self) -> Cost {
        let (m, i, o, r) = (self.m as u64, self.n_in as u64, self.n_out as u64, self.rank as u64);
        Cost {
            bytes_read: 4 * (m * i + r * i + o * r + m * o),
            bytes_written: 4 * (m * r + m * o),
            flops: 2 * m * r * (i + o),
            int8_ops: 0,
        }
    }

    fn cpu(&self, args: LoraForwardArgs<'_>) {
        let LoraForward { m, n_in, n_out, rank, scale, ldy, col_offset } = *self;
        if m == 0 {
            return;
        }
        let (u, y) = (args.u.host(), args.y.host());
        let plain = Matmul {
            m,
            n: rank,
            k: n_in,
            ta: false,
            tb: true,
            lda: n_in,
            ldb: n_in,
            ldc: rank,
            alpha: 1.0,
            accumulate: false,
        };
        plain.cpu(MatmulArgs { a: args.x, b: args.a, c: (&mut *u).into() });
        let up = Matmul {
            n: n_out,
            k: rank,
            lda: rank,
            ldb: rank,
            ldc: ldy,
            alpha: scale,
            accumulate: true,
            ..plain
        };
        up.cpu(MatmulArgs { a: (&*u).into(), b: args.b, c: (&mut y[col_offset..]).into() });
    }

    fn ptx(&self, args: LoraForwardArgs<'_>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        let LoraForward { m, n_in, n_out, rank, scale, ldy, col_offset } = *self;
        let rows = Rows {
            module: &ptx::FORWARD,
            prefix: "forward",
            element: "",
            m,
            k: n_in,
            n: n_out,
            rank,
            ldx: n_in,
            ldy,
            down: 1.0,
            up: scale,
            columns_first: true,
            y_bytes: 4,
            group: None,
        };
        let y = args.y.skip(col_offset.min(m * ldy)).device();
        let (x, w1, u, w2) = (args.x.device(), args.a.device(), args.u.device(), args.b.device());
        rows.launch(Places { x, w1, u, w2, y }, on)
    }
}
