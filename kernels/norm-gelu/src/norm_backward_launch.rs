//! The launches of the backward norms: which variant, how many blocks, and the second stage of the sums over rows.

use crate::{Norm, NormBackward, NormBackwardArgs, fold, layout, ptx};
use kernel_abi::{DevicePtr, Float, Launch, LaunchError, Launcher, optional_out};

/// Most threads of a block of `norm_backward.ptx`.
const BLOCK: usize = 512;
/// Elements of a thread in its variant for wider rows.
const DOUBLE: usize = 16;
/// Blocks that keep memory busy, each with 16 KiB of x and dy on its way while it works on another row.
const BLOCKS: usize = 160;

/// What the launches of one call share.
struct Call<'a, T> {
    shape: &'a NormBackward,
    args: &'a NormBackwardArgs<'a, T>,
    suffix: &'static str,
    /// dweight and dbias; null where they are not asked for.
    sums: [DevicePtr; 2],
}

/// dx, and where asked for dweight and dbias.
pub(crate) fn launch<T: Float>(
    shape: &NormBackward,
    args: &NormBackwardArgs<'_, T>,
    on: &mut dyn Launcher,
) -> Result<(), LaunchError> {
    if shape.rows == 0 || shape.cols == 0 {
        return Ok(());
    }
    let rows = [args.x.device(), args.weight.device(), args.dy.device(), args.dx.device()];
    let suffix = layout::access::<T>(shape.cols, &rows);
    let sums = [optional_out(&args.dweight), optional_out(&args.dbias)];
    let call = Call { shape, args, suffix, sums };
    match shape.cols {
        c if c <= layout::NARROW * BLOCK => call.resident(layout::NARROW, "", on),
        c if c <= DOUBLE * BLOCK => call.resident(DOUBLE, "16_", on),
        _ => call.wide(on),
    }
}

impl<T: Float> Call<'_, T> {
    fn wants_sums(&self) -> bool {
        self.sums.iter().any(|s| *s != DevicePtr::NULL)
    }

    /// `launch` with the arguments that all entries begin with.
    fn inputs(&self, launch: Launch) -> Launch {
        let NormBackwardArgs { x, weight, mean, rstd, dy, .. } = self.args;
        launch.arg(x.device()).arg(weight.device()).arg(mean.device()).arg(rstd.device()).arg(dy.device())
    }

    fn center(&self) -> u32 {
        u32::from(self.shape.kind == Norm::Layer)
    }

    /// Room for `count` rows of partial sums, if any are wanted.
    fn partial(&self, count: usize, on: &mut dyn Launcher) -> Result<DevicePtr, LaunchError> {
        if self.wants_sums() { on.workspace(count * 8 * self.shape.cols) } else { Ok(DevicePtr::NULL) }
    }

    /// Adds `count` rows of partial sums to the gradients.
    fn fold(&self, partial: DevicePtr, count: usize, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        if !self.wants_sums() {
            return Ok(());
        }
        on.launch(fold::launch(partial, self.sums, count, 2 * self.shape.cols, self.shape.cols))
    }

    /// Rows in registers, `each` elements a thread.
    fn resident(&self, each: usize, variant: &str, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        let NormBackward { rows, cols, accumulate, .. } = *self.shape;
        let team = layout::team(cols, each);
        let teams = layout::teams(team);
        let all = rows.div_ceil(teams);
        let sums = self.wants_sums();
        let threads = team * teams;
        let resident = if each == DOUBLE { 512 } else { 540 }; // at 128 and 120 registers
        let blocks = layout::blocks(all, threads, resident, BLOCKS);
        let partial = self.partial(blocks, on)?;
        let way = if sums { "sums_" } else { "" };
        let launch = Launch::new(
            &ptx::NORM_BACKWARD,
            format_args!("norm_backward_{variant}{way}{}{}", T::NAME, self.suffix),
        );
        let shared = if sums { 8 * cols } else { 0 };
        let launch = self.inputs(launch.grid(blocks, 1, 1).block(threads).shared(shared));
        let launch = launch.arg(self.args.dx.device()).arg(partial).dim(rows).dim(cols).dim(team);
        on.launch(launch.arg(self.center()).arg(u32::from(accumulate)))?;
        self.fold(partial, blocks, on)
    }

    /// Rows of any width, in two steps.
    fn wide(&self, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        let NormBackward { rows, cols, accumulate, .. } = *self.shape;
        let entry = |step: &str| {
            Launch::new(&ptx::NORM_BACKWARD_WIDE, format_args!("norm_{step}_{}{}", T::NAME, self.suffix))
        };
        let means = on.workspace(8 * rows)?;
        let launch = self.inputs(entry("means").grid(rows, 1, 1).block(layout::BLOCK));
        let launch = launch.arg(means).dim(rows).dim(cols).dim(layout::BLOCK);
        on.launch(launch.arg(self.center()))?;

        let (across, down) = layout::columns(rows, cols.div_ceil(16 / size_of::<T>()), 256);
        let partial = self.partial(down, on)?;
        let launch = self.inputs(entry("apply").grid(across, down, 1).block(256));
        let launch = launch.arg(self.args.dx.device()).arg(means).arg(partial);
        on.launch(launch.dim(rows).dim(cols).arg(u32::from(accumulate)))?;
        self.fold(partial, down, on)
    }
}
