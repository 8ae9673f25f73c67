//! du = s dy B; dB += s dy^T u; dA += du^T x; dx += du A.

use crate::{
    forward::check_range,
    ptx,
    rows::{Places, Rows, flags, ranks_at_once, whole},
};
use kernel_abi::{
    ArgError, Cost, DevicePtr, In, Kernel, Launch, LaunchError, Launcher, Out, expect_len, optional_out,
};
use matmul::{Matmul, MatmulArgs};
use std::cell::RefCell;

/// Gradients of [`crate::LoraForward`].
#[derive(Debug, Clone, Copy)]
pub struct LoraBackward {
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
    /// Row stride of dy.
    pub ldy: usize,
    /// First covered column of dy.
    pub col_offset: usize,
}

/// Arguments of [`LoraBackward`].
pub struct LoraBackwardArgs<'a> {
    /// `[m, n_in]`.
    pub x: In<'a>,
    /// A `[rank, n_in]`.
    pub a: In<'a>,
    /// B `[n_out, rank]`.
    pub b: In<'a>,
    /// `[m, rank]` from the forward pass.
    pub u: In<'a>,
    /// `[m, ldy]`.
    pub dy: In<'a>,
    /// `[rank, n_in]`, added to.
    pub da: Out<'a>,
    /// `[n_out, rank]`, added to.
    pub db: Out<'a>,
    /// `[m, n_in]`, added to; none when x needs no gradient.
    pub dx: Option<Out<'a>>,
}

thread_local! {
    static DU: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

impl Kernel for LoraBackward {
    type Args<'a> = LoraBackwardArgs<'a>;
    const NAME: &'static str = "lora_backward";

    fn check(&self, args: &LoraBackwardArgs<'_>) -> Result<(), ArgError> {
        let LoraBackward { m, n_in, n_out, rank, ldy, col_offset, .. } = *self;
        expect_len(Self::NAME, "x", args.x.len(), m * n_in)?;
        expect_len(Self::NAME, "a", args.a.len(), rank * n_in)?;
        expect_len(Self::NAME, "b", args.b.len(), n_out * rank)?;
        expect_len(Self::NAME, "u", args.u.len(), m * rank)?;
        expect_len(Self::NAME, "dy", args.dy.len(), m * ldy)?;
        expect_len(Self::NAME, "da", args.da.len(), rank * n_in)?;
        expect_len(Self::NAME, "db", args.db.len(), n_out * rank)?;
        expect_len(Self::NAME, "dx", args.dx.as_ref().map_or(m * n_in, |d| d.len()), m * n_in)?;
        check_range(Self::NAME, col_offset, n_out, ldy)
    }

    fn cost(&self) -> Cost {
        let (m, i, o, r) = (self.m as u64, self.n_in as u64, self.n_out as u64, self.rank as u64);
        Cost {
            bytes_read: 4 * (2 * m * i + 2 * r * i + 2 * o * r + m * o + m * r),
            bytes_written: 4 * (m * i + r * i + o * r),
            flops: 4 * m * r * (i + o),
            int8_ops: 0,
        }
    }

    fn cpu(&self, args: LoraBackwardArgs<'_>) {
        let LoraBackward { m, n_in, n_out, rank, scale, ldy, col_offset } = *self;
        if m == 0 {
            return;
        }
        let dy = &args.dy.host()[col_offset..];
        let mut du = DU.take();
        du.resize(m * rank, 0.0);
        let nn = Matmul {
            m,
            n: rank,
            k: n_out,
            ta: false,
            tb: false,
            lda: ldy,
            ldb: rank,
            ldc: rank,
            alpha: scale,
            accumulate: false,
        };
        nn.cpu(MatmulArgs { a: dy.into(), b: args.b, c: (&mut du).into() });
        // dB^T would be [rank, n_out]; dB = s dy^T u is [n_out, rank].
        let db = Matmul { m: n_out, n: rank, k: m, ta: true, accumulate: true, ..nn };
        db.cpu(MatmulArgs { a: dy.into(), b: args.u, c: args.db });
        let da =
            Matmul { m: rank, n: n_in, k: m, ta: true, lda: rank, ldb: n_in, ldc: n_in, alpha: 1.0, ..db };
        da.cpu(MatmulArgs { a: (&du).into(), b: args.x, c: args.da });
        if let Some(dx) = args.dx {
            let shape = Matmul { m, n: n_in, k: rank, ta: false, ..da };
            shape.cpu(MatmulArgs { a: (&du).into(), b: args.a, c: dx });
        }
        DU.set(du);
    }

    fn ptx(&self, args: LoraBackwardArgs<'_>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        let LoraBackward { m, n_in, n_out, rank, scale, ldy, col_offset } = *self;
        if m == 0 || rank == 0 {
            return Ok(());
        }
        let du = on.workspace(4 * m * rank)?;
        let rows = Rows {
            module: &ptx::BACKWARD,
            prefix: "backward",
            element: "",
            m,
            k: n_out,
            n: n_in,
            rank,
            ldx: ldy,
            ldy: n_in,
            down: scale,
            up: 1.0,
            columns_first: false,
            y_bytes: 4,
            group: None,
        };
        let x = args.dy.skip(col_offset.min(m * ldy)).device();
        let y = optional_out(&args.dx);
        rows.launch(Places { x, w1: args.b.device(), u: du, w2: args.a.device(), y }, on)?;
        self.gradients(&args, x, du, on)
    }
}

/// Rows that one block adds up; a function of the shape alone, as the sums' bits depend on it.
fn chunk_rows(m: usize, rank: usize) -> usize {
    // Partial sums of `rank` ranks cost 2 rank / chunk of the bytes that are read.
    let least = if rank <= 32 { 256 } else { 512 };
    m.div_ceil(64).next_multiple_of(32).max(least)
}

impl LoraBackward {
    /// dB += s dy^T u and dA += du^T x.
    fn gradients(
        &self,
        args: &LoraBackwardArgs<'_>,
        dy: DevicePtr,
        du: DevicePtr,
        on: &mut dyn Launcher,
    ) -> Result<(), LaunchError> {
        let LoraBackward { m, n_in, n_out, rank, scale, ldy, .. } = *self;
        let (x, u) = (args.x.device(), args.u.device());
        let (da, db, len) = (args.da.device(), args.db.device(), rank * (n_in + n_out));
        let (chunk, r) = (chunk_rows(m, rank), ranks_at_once(rank));
        let chunks = m.div_ceil(chunk);
        let partial = if chunks > 1 { on.workspace(4 * chunks * len)? } else { DevicePtr::NULL };
        let tiles = n_out.div_ceil(64) + n_in.div_ceil(64);
        if tiles == 0 {
            return Ok(());
        }
        // Partial sums lie [chunks][dB, dA].
        let aligned = |at: DevicePtr, ld, before| match partial {
            DevicePtr::NULL => whole(at, ld, 4),
            _ => whole(partial, ld, 4) && [before, len].iter().all(|n| n % 4 == 0),
        };
        let whole = flags([
            whole(dy, ldy, 4),
            whole(u, rank, 4),
            aligned(db, rank, 0),
            whole(x, n_in, 4),
            whole(du, rank, 4),
            aligned(da, n_in, rank * n_out),
        ]);
        let launch = Launch::new(&ptx::GRADIENT, format_args!("gradient_r{r}"))
            .grid(tiles, rank.div_ceil(r), chunks)
            .block(256)
            .shared(3 * 128 * (64 + r));
        let launch = launch.arg(dy).arg(u).arg(db).arg(x).arg(du).arg(da).arg(partial);
        let launch = launch.dim(m).dim(n_out).dim(n_in).dim(rank).dim(ldy).dim(chunk);
        on.launch(launch.arg(scale).arg(whole))?;
        if chunks == 1 {
            return Ok(());
        }
        let sum = Launch::new(&ptx::GRADIENT, format_args!("gradient_sum"));
        let sum = sum.grid(len.div_ceil(256), 1, 1).block(256).arg(partial).arg(db).arg(da);
        on.launch(sum.arg((rank * n_out) as u64).arg(len as u64).arg(scale).dim(chunks))
    }
}
