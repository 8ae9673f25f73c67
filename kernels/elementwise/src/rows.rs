//! Picks rows by index, and the reverse: adds rows back where they came from.

use crate::ptx;
use kernel_abi::{
    ArgError, Cost, Float, Half, In, Kernel, Launch, LaunchError, Launcher, Out, expect_len, narrow, typed,
    widen,
};

/// y[i] = x[index[i]].
///
/// With host arguments [`Kernel::check`] refuses a row number past the end; on a device its row becomes NaN.
#[derive(Debug, Clone, Copy)]
pub struct GatherRows {
    /// Rows of x.
    pub rows: usize,
    /// Rows picked.
    pub picked: usize,
    /// Elements per row.
    pub cols: usize,
}

/// Arguments of [`GatherRows`].
pub struct GatherRowsArgs<'a, T = f32> {
    /// `[rows, cols]`.
    pub x: In<'a, T>,
    /// `[picked]` row numbers below `rows`.
    pub index: In<'a, u32>,
    /// `[picked, cols]`.
    pub y: Out<'a, T>,
}

/// dx[index[i]] += dy[i], in ascending i: the backward of [`GatherRows`].
///
/// With host arguments [`Kernel::check`] refuses a row number past the end; on a device it adds nothing.
#[derive(Debug, Clone, Copy)]
pub struct ScatterAddRows {
    /// Rows of dx.
    pub rows: usize,
    /// Rows of dy.
    pub picked: usize,
    /// Elements per row.
    pub cols: usize,
}

/// Arguments of [`ScatterAddRows`].
pub struct ScatterAddRowsArgs<'a, T = f32> {
    /// `[picked, cols]`.
    pub dy: In<'a, T>,
    /// `[picked]` row numbers below `rows`.
    pub index: In<'a, u32>,
    /// `[rows, cols]`, added to.
    pub dx: Out<'a, T>,
}

fn check_index(kernel: &'static str, index: In<'_, u32>, picked: usize, rows: usize) -> Result<(), ArgError> {
    expect_len(kernel, "index", index.len(), picked)?;
    match index {
        In::Host(ix) => match ix.iter().find(|i| **i as usize >= rows) {
            Some(i) => Err(ArgError { kernel, arg: "index", problem: format!("row {i} of {rows}") }),
            None => Ok(()),
        },
        In::Device(..) | In::Meta(_) => Ok(()),
    }
}

/// Blocks in y: the kernels stride over tiles of columns beyond that.
const MAX_TILES: usize = 65_535;

impl GatherRows {
    fn check_args<T>(&self, args: &GatherRowsArgs<'_, T>) -> Result<(), ArgError> {
        expect_len(Self::NAME, "x", args.x.len(), self.rows * self.cols)?;
        expect_len(Self::NAME, "y", args.y.len(), self.picked * self.cols)?;
        check_index(Self::NAME, args.index, self.picked, self.rows)
    }

    fn launch<T: Float>(
        &self,
        args: &GatherRowsArgs<'_, T>,
        on: &mut dyn Launcher,
    ) -> Result<(), LaunchError> {
        if self.picked * self.cols == 0 {
            return Ok(());
        }
        let (x, y, row) = (args.x.device(), args.y.device(), self.cols * size_of::<T>());
        let aligned = (x.0 | y.0 | row as u64).is_multiple_of(16);
        let unit = if aligned { 16 } else { size_of::<T>() };
        let units = row / unit;
        let launch = Launch::new(&ptx::ROWS, format_args!("gather_rows_b{}", 8 * unit))
            .grid(self.picked.div_ceil(4), units.div_ceil(128).min(MAX_TILES), 1)
            .block(128);
        let launch = launch.arg(x).arg(args.index.device()).arg(y);
        on.launch(launch.dim(self.rows).dim(self.picked).dim(units))
    }
}

impl ScatterAddRows {
    fn check_args<T>(&self, args: &ScatterAddRowsArgs<'_, T>) -> Result<(), ArgError> {
        expect_len(Self::NAME, "dy", args.dy.len(), self.picked * self.cols)?;
        expect_len(Self::NAME, "dx", args.dx.len(), self.rows * self.cols)?;
        check_index(Self::NAME, args.index, self.picked, self.rows)
    }

    fn launch<T: Float>(
        &self,
        args: &ScatterAddRowsArgs<'_, T>,
        on: &mut dyn Launcher,
    ) -> Result<(), LaunchError> {
        if self.picked * self.cols * self.rows == 0 {
            return Ok(());
        }
        let n = self.picked;
        let pairs = on.workspace(16 * n)?;
        // Keys go up to `rows`, which stands for all that is past the end.
        let passes = (usize::BITS - self.rows.leading_zeros()).div_ceil(8);
        let sort = Launch::new(&ptx::SCATTER, format_args!("sort_rows")).block(1024);
        let sort = sort.arg(args.index.device()).arg(pairs).dim(n).dim(self.rows).arg(passes);
        on.launch(sort)?;
        let sorted = if passes % 2 == 1 { pairs } else { pairs.offset(8 * n) };
        let (dy, dx, wide) = (args.dy.device(), args.dx.device(), 16 / size_of::<T>());
        let aligned = (dy.0 | dx.0).is_multiple_of(16) && self.cols.is_multiple_of(wide);
        let vector = if aligned { wide } else { 1 };
        let add = Launch::new(&ptx::SCATTER, format_args!("scatter_add_rows_{}_v{vector}", T::NAME))
            .grid(n.div_ceil(4), self.cols.div_ceil(256).min(MAX_TILES), 1)
            .block(128);
        on.launch(add.arg(dy).arg(sorted).arg(dx).dim(n).dim(self.rows).dim(self.cols))
    }
}

impl Kernel for GatherRows {
    type Args<'a> = GatherRowsArgs<'a>;
    const NAME: &'static str = "gather_rows";

    fn check(&self, args: &GatherRowsArgs<'_>) -> Result<(), ArgError> {
        self.check_args(args)
    }

    fn cost(&self) -> Cost {
        let n = (self.picked * self.cols) as u64;
        Cost { bytes_read: 4 * n, bytes_written: 4 * n, flops: 0, ..Cost::default() }
    }

    fn cpu(&self, args: GatherRowsArgs<'_>) {
        let (x, index, cols) = (args.x.host(), args.index.host(), self.cols);
        for (y, i) in args.y.host().chunks_exact_mut(cols.max(1)).zip(index) {
            y.copy_from_slice(&x[*i as usize * cols..][..cols]);
        }
    }

    fn ptx(&self, args: GatherRowsArgs<'_>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        self.launch(&args, on)
    }
}

impl Kernel for ScatterAddRows {
    type Args<'a> = ScatterAddRowsArgs<'a>;
    const NAME: &'static str = "scatter_add_rows";

    fn check(&self, args: &ScatterAddRowsArgs<'_>) -> Result<(), ArgError> {
        self.check_args(args)
    }

    fn cost(&self) -> Cost {
        let n = (self.picked * self.cols) as u64;
        Cost { bytes_read: 8 * n, bytes_written: 4 * n, flops: n, ..Cost::default() }
    }

    fn cpu(&self, args: ScatterAddRowsArgs<'_>) {
        let (dy, index, cols, dx) = (args.dy.host(), args.index.host(), self.cols, args.dx.host());
        for (dy, i) in dy.chunks_exact(cols.max(1)).zip(index) {
            for (a, b) in dx[*i as usize * cols..][..cols].iter_mut().zip(dy) {
                *a += *b;
            }
        }
    }

    fn ptx(&self, args: ScatterAddRowsArgs<'_>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        self.launch(&args, on)
    }
}

typed!(
    /// [`GatherRows`] over 16-bit elements.
    GatherRowsOf,
    GatherRows
);

typed!(
    /// [`ScatterAddRows`] over 16-bit elements: a row's sum is f32 and rounded once, however often the row is hit.
    ScatterAddRowsOf,
    ScatterAddRows
);

/// Half the bytes.
fn halved(cost: Cost) -> Cost {
    Cost { bytes_read: cost.bytes_read / 2, bytes_written: cost.bytes_written / 2, ..cost }
}

impl<T: Half> Kernel for GatherRowsOf<T> {
    type Args<'a> = GatherRowsArgs<'a, T>;
    const NAME: &'static str = "gather_rows";

    fn check(&self, args: &GatherRowsArgs<'_, T>) -> Result<(), ArgError> {
        self.kernel.check_args(args)
    }

    fn cost(&self) -> Cost {
        halved(self.kernel.cost())
    }

    fn cpu(&self, args: GatherRowsArgs<'_, T>) {
        let y = args.y.host();
        let (x, mut wide) = (widen(args.x.host()), vec![0.0; y.len()]);
        self.kernel.cpu(GatherRowsArgs { x: (&x).into(), index: args.index, y: (&mut wide).into() });
        narrow(&wide, y);
    }

    fn ptx(&self, args: GatherRowsArgs<'_, T>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        self.kernel.launch(&args, on)
    }
}

impl<T: Half> Kernel for ScatterAddRowsOf<T> {
    type Args<'a> = ScatterAddRowsArgs<'a, T>;
    const NAME: &'static str = "scatter_add_rows";

    fn check(&self, args: &ScatterAddRowsArgs<'_, T>) -> Result<(), ArgError> {
        self.kernel.check_args(args)
    }

    fn cost(&self) -> Cost {
        halved(self.kernel.cost())
    }

    fn cpu(&self, args: ScatterAddRowsArgs<'_, T>) {
        let dx = args.dx.host();
        let (dy, mut wide) = (widen(args.dy.host()), widen(dx));
        self.kernel.cpu(ScatterAddRowsArgs { dy: (&dy).into(), index: args.index, dx: (&mut wide).into() });
        narrow(&wide, dx);
    }

    fn ptx(&self, args: ScatterAddRowsArgs<'_, T>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        self.kernel.launch(&args, on)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scatter_is_the_transpose_of_gather() {
        let x = [0.0f32, 1.0, 10.0, 11.0, 20.0, 21.0];
        let index = [2u32, 0, 2];
        let mut y = [0.0f32; 6];
        let shape = GatherRows { rows: 3, picked: 3, cols: 2 };
        shape.cpu(GatherRowsArgs { x: x[..].into(), index: index[..].into(), y: y[..].as_mut().into() });
        assert_eq!(y, [20.0, 21.0, 0.0, 1.0, 20.0, 21.0]);
        let mut dx = [0.0f32; 6];
        let back = ScatterAddRows { rows: 3, picked: 3, cols: 2 };
        back.cpu(ScatterAddRowsArgs {
            dy: y[..].into(),
            index: index[..].into(),
            dx: dx[..].as_mut().into(),
        });
        assert_eq!(dx, [0.0, 1.0, 0.0, 0.0, 40.0, 42.0]);
    }

    #[test]
    fn a_row_past_the_end_is_named() {
        let mut y = [0.0f32; 2];
        let args = GatherRowsArgs {
            x: [1.0f32, 2.0][..].into(),
            index: [1u32][..].into(),
            y: y[..].as_mut().into(),
        };
        let e = GatherRows { rows: 1, picked: 1, cols: 2 }.check(&args).unwrap_err();
        assert_eq!(e.to_string(), "gather_rows: argument `index`: row 1 of 1");
    }
}
