//! u = x A[g]^T, y[:, offset..offset + n_out] += s[g] u B[g]^T, with an adapter g for every row.

use crate::{
    forward::{LoraForward, LoraForwardArgs, check_range},
    ptx,
    rows::{Places, Rows, by_width, element},
};
use kernel_abi::{ArgError, Cost, Float, Half, In, Kernel, LaunchError, Launcher, Out, expect_len, typed};

/// [`LoraForward`] for a batch whose rows belong to several adapters of one shape.
///
/// A row's results are those of [`LoraForward`] with its adapter, bit for bit, whatever rows surround it.
#[derive(Debug, Clone, Copy)]
pub struct GroupedLoraForward {
    /// Rows of x.
    pub m: usize,
    /// Inputs.
    pub n_in: usize,
    /// Outputs that the adapters cover.
    pub n_out: usize,
    /// Rank of all adapters; a smaller one is padded with zeros.
    pub rank: usize,
    /// Adapters.
    pub adapters: usize,
    /// Row stride of y.
    pub ldy: usize,
    /// First covered column of y.
    pub col_offset: usize,
}

/// Arguments of [`GroupedLoraForward`].
pub struct GroupedLoraForwardArgs<'a, T = f32> {
    /// `[m, n_in]`.
    pub x: In<'a, T>,
    /// A `[adapters, rank, n_in]`.
    pub a: In<'a, T>,
    /// B `[adapters, n_out, rank]`.
    pub b: In<'a, T>,
    /// `[adapters]`: alpha / rank of each.
    pub scales: In<'a>,
    /// `[m]`: each row's adapter. Any number from `adapters` on means none: the row's y stays and its u is zero.
    pub index: In<'a, u32>,
    /// `[m, rank]`: x A^T.
    pub u: Out<'a, T>,
    /// `[m, ldy]`, added to.
    pub y: Out<'a, T>,
}

impl GroupedLoraForward {
    fn check_lens<T>(&self, args: &GroupedLoraForwardArgs<'_, T>) -> Result<(), ArgError> {
        let GroupedLoraForward { m, n_in, n_out, rank, adapters, ldy, col_offset } = *self;
        expect_len(Self::NAME, "x", args.x.len(), m * n_in)?;
        expect_len(Self::NAME, "a", args.a.len(), adapters * rank * n_in)?;
        expect_len(Self::NAME, "b", args.b.len(), adapters * n_out * rank)?;
        expect_len(Self::NAME, "scales", args.scales.len(), adapters)?;
        expect_len(Self::NAME, "index", args.index.len(), m)?;
        expect_len(Self::NAME, "u", args.u.len(), m * rank)?;
        expect_len(Self::NAME, "y", args.y.len(), m * ldy)?;
        check_range(Self::NAME, col_offset, n_out, ldy)
    }

    fn cost_of(&self, element: usize) -> Cost {
        let GroupedLoraForward { m, n_in, n_out, rank, adapters, .. } = *self;
        let (m, i, o, r) = (m as u64, n_in as u64, n_out as u64, rank as u64);
        // Every adapter once, if there are rows for all of them.
        let (used, bytes) = ((adapters as u64).min(m), element as u64);
        Cost {
            bytes_read: bytes * (m * i + m * o + used * r * (i + o)) + 4 * (m + used),
            bytes_written: bytes * (m * r + m * o),
            flops: 2 * m * r * (i + o),
            ..Cost::default()
        }
    }

    /// The rows adapter by adapter, each through `of(its shape)`, the twin of the kernel for one adapter.
    fn by_adapter<T: Float, K>(&self, args: GroupedLoraForwardArgs<'_, T>, of: impl Fn(LoraForward) -> K)
    where
        K: for<'a> Kernel<Args<'a> = LoraForwardArgs<'a, T>>,
    {
        let GroupedLoraForward { m, n_in, n_out, rank, adapters, ldy, col_offset } = *self;
        let (x, a, b) = (args.x.host(), args.a.host(), args.b.host());
        let (scales, index) = (args.scales.host(), args.index.host());
        let (u, y) = (args.u.host(), args.y.host());
        u.fill(T::from_f32(0.0));
        for g in 0..adapters {
            let rows: Vec<usize> = (0..m).filter(|i| index[*i] as usize == g).collect();
            let gather = |from: &[T], cols: usize| -> Vec<T> {
                rows.iter().flat_map(|i| &from[i * cols..(i + 1) * cols]).copied().collect()
            };
            let (x, mut mine_u, mut mine_y) = (gather(x, n_in), gather(u, rank), gather(y, ldy));
            let plain = LoraForward { m: rows.len(), n_in, n_out, rank, scale: scales[g], ldy, col_offset };
            of(plain).cpu(LoraForwardArgs {
                x: x[..].into(),
                a: a[g * rank * n_in..][..rank * n_in].into(),
                b: b[g * n_out * rank..][..n_out * rank].into(),
                u: mine_u[..].as_mut().into(),
                y: mine_y[..].as_mut().into(),
            });
            for (at, i) in rows.iter().enumerate() {
                u[i * rank..][..rank].copy_from_slice(&mine_u[at * rank..][..rank]);
                y[i * ldy..][..ldy].copy_from_slice(&mine_y[at * ldy..][..ldy]);
            }
        }
    }

    fn launch<T: Float>(
        &self,
        args: GroupedLoraForwardArgs<'_, T>,
        on: &mut dyn Launcher,
    ) -> Result<(), LaunchError> {
        let GroupedLoraForward { m, n_in, n_out, rank, adapters, ldy, col_offset } = *self;
        let rows = Rows {
            module: by_width::<T>(&ptx::GROUPED, &ptx::GROUPED16),
            prefix: "grouped",
            element: element::<T>(),
            m,
            k: n_in,
            n: n_out,
            rank,
            ldx: n_in,
            ldy,
            down: 1.0,
            up: 0.0, // each adapter's own
            columns_first: true,
            bytes: size_of::<T>(),
            y_bytes: size_of::<T>(),
            group: Some((args.index.device(), args.scales.device(), adapters)),
        };
        let y = args.y.skip(col_offset.min(m * ldy)).device();
        let (x, w1, u, w2) = (args.x.device(), args.a.device(), args.u.device(), args.b.device());
        rows.launch(Places { x, w1, u, w2, y }, on)
    }
}

impl Kernel for GroupedLoraForward {
    type Args<'a> = GroupedLoraForwardArgs<'a>;
    const NAME: &'static str = "grouped_lora_forward";

    fn check(&self, args: &GroupedLoraForwardArgs<'_>) -> Result<(), ArgError> {
        self.check_lens(args)
    }

    fn cost(&self) -> Cost {
        self.cost_of(4)
    }

    fn cpu(&self, args: GroupedLoraForwardArgs<'_>) {
        self.by_adapter(args, |plain| plain);
    }

    fn ptx(&self, args: GroupedLoraForwardArgs<'_>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        self.launch(args, on)
    }
}

typed!(
    /// [`GroupedLoraForward`] over 16-bit x, A, B, u and y, as [`crate::LoraForwardOf`].
    GroupedLoraForwardOf,
    GroupedLoraForward
);

impl<T: Half> Kernel for GroupedLoraForwardOf<T> {
    type Args<'a> = GroupedLoraForwardArgs<'a, T>;
    const NAME: &'static str = "grouped_lora_forward";

    fn check(&self, args: &GroupedLoraForwardArgs<'_, T>) -> Result<(), ArgError> {
        self.kernel.check_lens(args)
    }

    fn cost(&self) -> Cost {
        self.kernel.cost_of(size_of::<T>())
    }

    fn cpu(&self, args: GroupedLoraForwardArgs<'_, T>) {
        self.kernel.by_adapter(args, LoraForward::of::<T>);
    }

    fn ptx(&self, args: GroupedLoraForwardArgs<'_, T>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        self.kernel.launch(args, on)
    }
}
