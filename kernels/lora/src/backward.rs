//! du = s dy B; dB += s dy^T u; dA += du^T x; dx += du A.

use crate::{
    forward::check_range,
    ptx,
    rows::{Places, Rows, by_width, element, flags, ranks_at_once, whole},
};
use kernel_abi::{
    ArgError, Cost, DevicePtr, Float, Half, In, Kernel, Launch, LaunchError, Launcher, Out, expect_len,
    narrow, optional_out, typed, widen,
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

/// Arguments of [`LoraBackward`]. The gradients of A and B are f32 for every `T`: they are sums over all rows, and over
/// the steps of an accumulated batch.
pub struct LoraBackwardArgs<'a, T = f32> {
    /// `[m, n_in]`.
    pub x: In<'a, T>,
    /// A `[rank, n_in]`.
    pub a: In<'a, T>,
    /// B `[n_out, rank]`.
    pub b: In<'a, T>,
    /// `[m, rank]` from the forward pass.
    pub u: In<'a, T>,
    /// `[m, ldy]`.
    pub dy: In<'a, T>,
    /// `[rank, n_in]`, added to.
    pub da: Out<'a>,
    /// `[n_out, rank]`, added to.
    pub db: Out<'a>,
    /// `[m, n_in]`, added to; none when x needs no gradient.
    pub dx: Option<Out<'a, T>>,
}

thread_local! {
    static DU: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Rows that one block adds up; a function of the shape alone, as the sums' bits depend on it.
fn chunk_rows(m: usize, rank: usize) -> usize {
    // Partial sums of `rank` ranks cost 2 rank / chunk of the bytes that are read.
    let least = if rank <= 32 { 256 } else { 512 };
    m.div_ceil(64).next_multiple_of(32).max(least)
}

impl LoraBackward {
    fn check_lens<T>(&self, args: &LoraBackwardArgs<'_, T>) -> Result<(), ArgError> {
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

    fn cost_of(&self, element: usize) -> Cost {
        let (m, i, o, r) = (self.m as u64, self.n_in as u64, self.n_out as u64, self.rank as u64);
        let bytes = element as u64;
        Cost {
            bytes_read: bytes * (2 * m * i + r * i + o * r + m * o + m * r) + 4 * r * (i + o),
            bytes_written: bytes * m * i + 4 * r * (i + o),
            flops: 4 * m * r * (i + o),
            ..Cost::default()
        }
    }

    /// The four products, with `round` applied to du.
    fn products(&self, args: LoraBackwardArgs<'_>, round: impl Fn(&mut [f32])) {
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
        round(&mut du);
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

    fn launch<T: Float>(
        &self,
        args: LoraBackwardArgs<'_, T>,
        on: &mut dyn Launcher,
    ) -> Result<(), LaunchError> {
        let LoraBackward { m, n_in, n_out, rank, scale, ldy, col_offset } = *self;
        if m == 0 || rank == 0 {
            return Ok(());
        }
        let du = on.workspace(size_of::<T>() * m * rank)?;
        let rows = Rows {
            module: by_width::<T>(&ptx::BACKWARD, &ptx::BACKWARD16),
            prefix: "backward",
            element: element::<T>(),
            m,
            k: n_out,
            n: n_in,
            rank,
            ldx: ldy,
            ldy: n_in,
            down: scale,
            up: 1.0,
            columns_first: false,
            bytes: size_of::<T>(),
            y_bytes: size_of::<T>(),
            group: None,
        };
        let x = args.dy.skip(col_offset.min(m * ldy)).device();
        let y = optional_out(&args.dx);
        rows.launch(Places { x, w1: args.b.device(), u: du, w2: args.a.device(), y }, on)?;
        self.gradients(&args, x, du, on)
    }

    /// dB += s dy^T u and dA += du^T x.
    fn gradients<T: Float>(
        &self,
        args: &LoraBackwardArgs<'_, T>,
        dy: DevicePtr,
        du: DevicePtr,
        on: &mut dyn Launcher,
    ) -> Result<(), LaunchError> {
        let LoraBackward { m, n_in, n_out, rank, scale, ldy, .. } = *self;
        let (x, u) = (args.x.device(), args.u.device());
        let (da, db, len) = (args.da.device(), args.db.device(), rank * (n_in + n_out));
        let (chunk, r, bytes) = (chunk_rows(m, rank), ranks_at_once(rank), size_of::<T>());
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
            whole(dy, ldy, bytes),
            whole(u, rank, bytes),
            aligned(db, rank, 0),
            whole(x, n_in, bytes),
            whole(du, rank, bytes),
            aligned(da, n_in, rank * n_out),
        ]);
        // A stage is 32 rows of 4 bytes or 64 of 2.
        let module = by_width::<T>(&ptx::GRADIENT, &ptx::GRADIENT16);
        let launch = Launch::new(module, format_args!("gradient{}_r{r}", element::<T>()))
            .grid(tiles, rank.div_ceil(r), chunks)
            .block(if bytes == 4 { 256 } else { 128 })
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

impl Kernel for LoraBackward {
    type Args<'a> = LoraBackwardArgs<'a>;
    const NAME: &'static str = "lora_backward";

    fn check(&self, args: &LoraBackwardArgs<'_>) -> Result<(), ArgError> {
        self.check_lens(args)
    }

    fn cost(&self) -> Cost {
        self.cost_of(4)
    }

    fn cpu(&self, args: LoraBackwardArgs<'_>) {
        self.products(args, |_| {});
    }

    fn ptx(&self, args: LoraBackwardArgs<'_>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        self.launch(args, on)
    }
}

typed!(
    /// [`LoraBackward`] over 16-bit x, A, B, u, dy and dx, with f32 gradients of A and B. Sums are f32; du is rounded to `T`
    /// once, dA and dx are made from the rounded du.
    LoraBackwardOf,
    LoraBackward
);

impl<T: Half> Kernel for LoraBackwardOf<T> {
    type Args<'a> = LoraBackwardArgs<'a, T>;
    const NAME: &'static str = "lora_backward";

    fn check(&self, args: &LoraBackwardArgs<'_, T>) -> Result<(), ArgError> {
        self.kernel.check_lens(args)
    }

    fn cost(&self) -> Cost {
        self.kernel.cost_of(size_of::<T>())
    }

    fn cpu(&self, args: LoraBackwardArgs<'_, T>) {
        let [x, a, b, u, dy] = [args.x, args.a, args.b, args.u, args.dy].map(|v| widen(v.host()));
        let dx = args.dx.map(Out::host);
        let mut sums = dx.as_ref().map(|d| widen(d));
        let wide = LoraBackwardArgs {
            x: (&x).into(),
            a: (&a).into(),
            b: (&b).into(),
            u: (&u).into(),
            dy: (&dy).into(),
            da: args.da,
            db: args.db,
            dx: sums.as_mut().map(Into::into),
        };
        self.kernel.products(wide, |du| du.iter_mut().for_each(|v| *v = T::from_f32(*v).to_f32()));
        if let (Some(dx), Some(sums)) = (dx, sums) {
            narrow(&sums, dx);
        }
    }

    fn ptx(&self, args: LoraBackwardArgs<'_, T>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        self.kernel.launch(args, on)
    }
}
