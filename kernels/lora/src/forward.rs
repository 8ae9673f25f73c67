//! u = x A^T, y[:, offset..offset + n_out] += s u B^T.

use crate::{
    ptx,
    rows::{Places, Rows, by_width, element},
};
use kernel_abi::{
    ArgError, Cost, Float, Half, In, Kernel, LaunchError, Launcher, Out, expect_len, narrow, typed, widen,
};
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
pub struct LoraForwardArgs<'a, T = f32> {
    /// `[m, n_in]`.
    pub x: In<'a, T>,
    /// A `[rank, n_in]`.
    pub a: In<'a, T>,
    /// B `[n_out, rank]`.
    pub b: In<'a, T>,
    /// `[m, rank]`: x A^T, kept for the backward pass.
    pub u: Out<'a, T>,
    /// `[m, ldy]`, added to.
    pub y: Out<'a, T>,
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

impl LoraForward {
    fn check_lens<T>(&self, args: &LoraForwardArgs<'_, T>) -> Result<(), ArgError> {
        let LoraForward { m, n_in, n_out, rank, ldy, col_offset, .. } = *self;
        expect_len(Self::NAME, "x", args.x.len(), m * n_in)?;
        expect_len(Self::NAME, "a", args.a.len(), rank * n_in)?;
        expect_len(Self::NAME, "b", args.b.len(), n_out * rank)?;
        expect_len(Self::NAME, "u", args.u.len(), m * rank)?;
        expect_len(Self::NAME, "y", args.y.len(), m * ldy)?;
        check_range(Self::NAME, col_offset, n_out, ldy)
    }

    fn cost_of(&self, element: usize) -> Cost {
        let (m, i, o, r) = (self.m as u64, self.n_in as u64, self.n_out as u64, self.rank as u64);
        let bytes = element as u64;
        Cost {
            bytes_read: bytes * (m * i + r * i + o * r + m * o),
            bytes_written: bytes * (m * r + m * o),
            flops: 2 * m * r * (i + o),
            ..Cost::default()
        }
    }

    /// u = x A^T.
    pub(crate) fn down(&self, x: &[f32], a: &[f32], u: &mut [f32]) {
        let LoraForward { m, n_in, rank, .. } = *self;
        let shape = Matmul {
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
        shape.cpu(MatmulArgs { a: x.into(), b: a.into(), c: u.into() });
    }

    /// y += s u B^T.
    pub(crate) fn up(&self, u: &[f32], b: &[f32], y: &mut [f32]) {
        let LoraForward { m, n_out, rank, scale, ldy, col_offset, .. } = *self;
        if m == 0 {
            return;
        }
        let shape = Matmul {
            m,
            n: n_out,
            k: rank,
            ta: false,
            tb: true,
            lda: rank,
            ldb: rank,
            ldc: ldy,
            alpha: scale,
            accumulate: true,
        };
        shape.cpu(MatmulArgs { a: u.into(), b: b.into(), c: (&mut y[col_offset..]).into() });
    }

    fn launch<T: Float>(
        &self,
        args: LoraForwardArgs<'_, T>,
        on: &mut dyn Launcher,
    ) -> Result<(), LaunchError> {
        let LoraForward { m, n_in, n_out, rank, scale, ldy, col_offset } = *self;
        let rows = Rows {
            module: by_width::<T>(&ptx::FORWARD, &ptx::FORWARD16),
            prefix: "forward",
            element: element::<T>(),
            m,
            k: n_in,
            n: n_out,
            rank,
            ldx: n_in,
            ldy,
            down: 1.0,
            up: scale,
            columns_first: true,
            bytes: size_of::<T>(),
            y_bytes: size_of::<T>(),
            group: None,
        };
        let y = args.y.skip(col_offset.min(m * ldy)).device();
        let (x, w1, u, w2) = (args.x.device(), args.a.device(), args.u.device(), args.b.device());
        rows.launch(Places { x, w1, u, w2, y }, on)
    }
}

impl Kernel for LoraForward {
    type Args<'a> = LoraForwardArgs<'a>;
    const NAME: &'static str = "lora_forward";

    fn check(&self, args: &LoraForwardArgs<'_>) -> Result<(), ArgError> {
        self.check_lens(args)
    }

    fn cost(&self) -> Cost {
        self.cost_of(4)
    }

    fn cpu(&self, args: LoraForwardArgs<'_>) {
        let u = args.u.host();
        self.down(args.x.host(), args.a.host(), u);
        self.up(u, args.b.host(), args.y.host());
    }

    fn ptx(&self, args: LoraForwardArgs<'_>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        self.launch(args, on)
    }
}

typed!(
    /// [`LoraForward`] over 16-bit x, A, B, u and y. Sums are f32; u is rounded once, and y is made from the rounded u.
    LoraForwardOf,
    LoraForward
);

impl<T: Half> Kernel for LoraForwardOf<T> {
    type Args<'a> = LoraForwardArgs<'a, T>;
    const NAME: &'static str = "lora_forward";

    fn check(&self, args: &LoraForwardArgs<'_, T>) -> Result<(), ArgError> {
        self.kernel.check_lens(args)
    }

    fn cost(&self) -> Cost {
        self.kernel.cost_of(size_of::<T>())
    }

    fn cpu(&self, args: LoraForwardArgs<'_, T>) {
        let (u, y) = (args.u.host(), args.y.host());
        let mut sums = vec![0.0; u.len()];
        self.kernel.down(&widen(args.x.host()), &widen(args.a.host()), &mut sums);
        narrow(&sums, u);
        let mut sums = widen(y);
        self.kernel.up(&widen(u), &widen(args.b.host()), &mut sums);
        narrow(&sums, y);
    }

    fn ptx(&self, args: LoraForwardArgs<'_, T>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        self.kernel.launch(args, on)
    }
}
