//! y = (x - mean) * rstd * weight + bias (LayerNorm, arXiv 1607.06450); without mean and bias, RMSNorm
//! (arXiv 1910.07467).
//!
//! The row stays in the first-level cache for its three passes: sum, squared deviations, output.

use crate::{layout, ptx};
use kernel_abi::{
    ArgError, Cost, DevicePtr, Float, Half, In, Kernel, Launch, LaunchError, Launcher, Module, Out,
    expect_len, narrow, optional, typed, widen,
};

/// Which normalisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Norm {
    /// Subtract the mean, divide by the standard deviation.
    Layer,
    /// Divide by the root mean square.
    Rms,
}

/// Normalises each row.
#[derive(Debug, Clone, Copy)]
pub struct NormForward {
    /// Rows.
    pub rows: usize,
    /// Elements per row.
    pub cols: usize,
    /// Added to the variance.
    pub eps: f32,
    /// LayerNorm or RMSNorm.
    pub kind: Norm,
}

/// Arguments of [`NormForward`].
pub struct NormForwardArgs<'a, T = f32> {
    /// `[rows, cols]`.
    pub x: In<'a, T>,
    /// `[cols]`.
    pub weight: In<'a, T>,
    /// `[cols]`.
    pub bias: Option<In<'a, T>>,
    /// `[rows, cols]`.
    pub y: Out<'a, T>,
    /// `[rows]`; zero for RMSNorm.
    pub mean: Out<'a>,
    /// `[rows]` 1 / sqrt(variance + eps).
    pub rstd: Out<'a>,
}

cpu::simd_fn! {
    fn norm_row(x: &[f32], weight: &[f32], bias: Option<&[f32]>, eps: f32, center: bool, y: &mut [f32]) -> (f32, f32) {
        let n = x.len() as f32;
        let mean = if center { cpu::sum(x) / n } else { 0.0 };
        for (y, x) in y.iter_mut().zip(x) {
            *y = x - mean;
        }
        let rstd = 1.0 / (cpu::dot(y, y) / n + eps).sqrt();
        match bias {
            Some(bias) => {
                for ((y, w), b) in y.iter_mut().zip(weight).zip(bias) {
                    *y = (*y * rstd).mul_add(*w, *b);
                }
            }
            None => {
                for (y, w) in y.iter_mut().zip(weight) {
                    *y = *y * rstd * w;
                }
            }
        }
        (mean, rstd)
    }
}

/// Rows per task.
const BLOCK: usize = 16;

impl NormForward {
    fn check_lens<T>(&self, args: &NormForwardArgs<'_, T>) -> Result<(), ArgError> {
        let NormForward { rows, cols, .. } = *self;
        layout::check(Self::NAME, rows, cols)?;
        expect_len(Self::NAME, "x", args.x.len(), rows * cols)?;
        expect_len(Self::NAME, "weight", args.weight.len(), cols)?;
        expect_len(Self::NAME, "bias", args.bias.map_or(cols, |b| b.len()), cols)?;
        expect_len(Self::NAME, "y", args.y.len(), rows * cols)?;
        expect_len(Self::NAME, "mean", args.mean.len(), rows)?;
        expect_len(Self::NAME, "rstd", args.rstd.len(), rows)
    }

    fn launch<T: Float>(
        &self,
        args: &NormForwardArgs<'_, T>,
        on: &mut dyn Launcher,
    ) -> Result<(), LaunchError> {
        if self.rows == 0 || self.cols == 0 {
            return Ok(());
        }
        let rows = [args.x.device(), args.weight.device(), optional(args.bias), args.y.device()];
        let pointers = rows.into_iter().chain([args.mean.device(), args.rstd.device()]);
        on.launch(launch::<T>(self, PLAIN, &rows, pointers))
    }
}

/// Entries made from one template.
#[derive(Clone, Copy)]
pub(crate) struct Template {
    pub module: &'static Module,
    pub name: &'static str,
    /// Most threads of a block whose rows lie in registers, weights too.
    pub narrow: usize,
    /// The same of the variant with more of the row and without weights.
    pub wide: usize,
    /// Threads that find registers on a multiprocessor.
    pub resident: usize,
}

/// The norm alone.
pub(crate) const PLAIN: Template = Template {
    module: &ptx::NORM_FORWARD,
    name: "norm_forward",
    narrow: layout::BLOCK,
    wide: 704,
    resident: 1024,
};

/// The launch of one of the entries: `rows` must be aligned for the fast variant, `pointers` come first among the
/// parameters.
pub(crate) fn launch<T: Float>(
    shape: &NormForward,
    template: Template,
    rows: &[DevicePtr],
    pointers: impl Iterator<Item = DevicePtr>,
) -> Launch {
    let (cols, suffix) = (shape.cols, layout::access::<T>(shape.cols, rows));
    let narrow = cols <= layout::NARROW * template.narrow;
    let wide = cols <= layout::WIDE * template.wide;
    let (variant, team) = match (narrow, wide) {
        (true, _) => ("", layout::team(cols, layout::NARROW)),
        (false, true) => ("_wide", layout::team(cols, layout::WIDE)),
        (false, false) => ("_long", LONG),
    };
    let teams = if narrow { layout::teams(team) } else { 1 };
    let all = shape.rows.div_ceil(teams);
    let threads = team * teams;
    let grid = if narrow { layout::blocks(all, threads, template.resident, BLOCKS) } else { all };
    let launch = Launch::new(template.module, format_args!("{}{variant}_{}{suffix}", template.name, T::NAME));
    let launch = pointers.fold(launch.grid(grid, 1, 1).block(threads), Launch::arg);
    let center = u32::from(shape.kind == Norm::Layer);
    launch.dim(shape.rows).dim(cols).dim(team).arg(center).arg(shape.eps)
}

/// Blocks that keep memory busy, each with 8 KiB of x on its way while it works on another row.
const BLOCKS: usize = 192;

/// Threads of a row that is read twice.
const LONG: usize = 512;

impl Kernel for NormForward {
    type Args<'a> = NormForwardArgs<'a>;
    const NAME: &'static str = "norm_forward";

    fn check(&self, args: &NormForwardArgs<'_>) -> Result<(), ArgError> {
        self.check_lens(args)
    }

    fn cost(&self) -> Cost {
        let (r, c) = (self.rows as u64, self.cols as u64);
        Cost {
            bytes_read: 4 * (r * c + 2 * c),
            bytes_written: 4 * (r * c + 2 * r),
            flops: 7 * r * c,
            ..Cost::default()
        }
    }

    fn ptx(&self, args: NormForwardArgs<'_>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        self.launch(&args, on)
    }

    fn cpu(&self, args: NormForwardArgs<'_>) {
        let NormForward { cols, eps, kind, .. } = *self;
        let (x, weight, bias) = (args.x.host(), args.weight.host(), args.bias.map(In::host));
        let (mean, rstd) = (args.mean.host(), args.rstd.host());
        let (mean, rstd) = (cpu::Shared::new(mean), cpu::Shared::new(rstd));
        cpu::par_rows(args.y.host(), cols, BLOCK, 4 * cols, |first, block| {
            for (i, y) in block.chunks_exact_mut(cols).enumerate() {
                let i = first + i;
                let s = norm_row(&x[i * cols..(i + 1) * cols], weight, bias, eps, kind == Norm::Layer, y);
                // SAFETY: row i belongs to this task alone.
                unsafe { (mean.slice(i, 1)[0], rstd.slice(i, 1)[0]) = s };
            }
        });
    }
}

typed!(
    /// [`NormForward`] over 16-bit elements; the statistics are f32.
    NormForwardOf,
    NormForward
);

impl<T: Half> Kernel for NormForwardOf<T> {
    type Args<'a> = NormForwardArgs<'a, T>;
    const NAME: &'static str = NormForward::NAME;

    fn check(&self, args: &NormForwardArgs<'_, T>) -> Result<(), ArgError> {
        self.kernel.check_lens(args)
    }

    fn cost(&self) -> Cost {
        let (r, c, wide) = (self.kernel.rows as u64, self.kernel.cols as u64, size_of::<T>() as u64);
        let (bytes_read, bytes_written) = (wide * (r * c + 2 * c), wide * r * c + 8 * r);
        Cost { bytes_read, bytes_written, ..self.kernel.cost() }
    }

    fn cpu(&self, args: NormForwardArgs<'_, T>) {
        let y = args.y.host();
        let mut rounded = vec![0.0; y.len()];
        let bias = args.bias.map(|b| widen(b.host()));
        self.kernel.cpu(NormForwardArgs {
            x: (&widen(args.x.host())).into(),
            weight: (&widen(args.weight.host())).into(),
            bias: bias.as_ref().map(Into::into),
            y: (&mut rounded).into(),
            mean: args.mean,
            rstd: args.rstd,
        });
        narrow(&rounded, y);
    }

    fn ptx(&self, args: NormForwardArgs<'_, T>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        self.kernel.launch(&args, on)
    }
}
