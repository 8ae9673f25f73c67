//! Column sums, the gradient of a bias: y[j] += sum_i x[i, j].
//!
//! Rows are summed in fixed chunks, so neither threads nor tiles change the order; columns are the lanes.

use crate::ptx;
use kernel_abi::{
    ArgError, Cost, DevicePtr, Float, Half, In, Kernel, Launch, LaunchError, Launcher, Out, expect_len,
    typed, widen,
};

/// y[j] += sum over rows of x[i, j].
#[derive(Debug, Clone, Copy)]
pub struct ColumnSum {
    /// Rows of x.
    pub rows: usize,
    /// Columns of x.
    pub cols: usize,
}

/// Arguments of [`ColumnSum`].
pub struct ColumnSumArgs<'a, T = f32> {
    /// `[rows, cols]`.
    pub x: In<'a, T>,
    /// `[cols]`, added to.
    pub y: Out<'a>,
}

cpu::simd_fn! {
    fn sum_columns(x: &[f32], cols: usize, first: usize, y: &mut [f32]) {
        for row in x.chunks_exact(cols) {
            for (y, x) in y.iter_mut().zip(&row[first..]) {
                *y += *x;
            }
        }
    }
}

/// Rows that one block of the PTX sums: part of the definition of its result.
const CHUNK: usize = 128;

impl ColumnSum {
    fn check_lens<T>(&self, args: &ColumnSumArgs<'_, T>) -> Result<(), ArgError> {
        expect_len(Self::NAME, "x", args.x.len(), self.rows * self.cols)?;
        expect_len(Self::NAME, "y", args.y.len(), self.cols)
    }

    /// One launch per 128-fold of the rows; the sums of the first are the rows of the second.
    fn launch<T: Float>(&self, x: DevicePtr, y: DevicePtr, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        if self.rows == 0 || self.cols == 0 {
            return Ok(());
        }
        let chunks = self.rows.div_ceil(CHUNK);
        let to = if chunks == 1 { y } else { on.workspace(4 * chunks * self.cols)? };
        let wide = 16 / size_of::<T>();
        let vector = if x.0.is_multiple_of(16) && self.cols.is_multiple_of(wide) { wide } else { 1 };
        let launch = Launch::new(&ptx::COLUMN_SUM, format_args!("column_sum_{}_v{vector}", T::NAME))
            .grid(chunks, self.cols.div_ceil(32 * vector), 1)
            .block(256);
        let add = u32::from(chunks == 1);
        on.launch(launch.arg(x).arg(to).dim(self.rows).dim(self.cols).arg(add))?;
        match chunks {
            1 => Ok(()),
            _ => ColumnSum { rows: chunks, ..*self }.launch::<f32>(to, y, on),
        }
    }
}

impl Kernel for ColumnSum {
    type Args<'a> = ColumnSumArgs<'a>;
    const NAME: &'static str = "column_sum";

    fn check(&self, args: &ColumnSumArgs<'_>) -> Result<(), ArgError> {
        self.check_lens(args)
    }

    fn cost(&self) -> Cost {
        let (r, c) = (self.rows as u64, self.cols as u64);
        Cost { bytes_read: 4 * r * c + 4 * c, bytes_written: 4 * c, flops: r * c, ..Cost::default() }
    }

    fn cpu(&self, args: ColumnSumArgs<'_>) {
        let (x, cols) = (args.x.host(), self.cols);
        if self.rows == 0 {
            return;
        }
        cpu::par_rows(args.y.host(), 1, 256, self.rows, |first, y| sum_columns(x, cols, first, y));
    }

    fn ptx(&self, args: ColumnSumArgs<'_>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        self.launch::<f32>(args.x.device(), args.y.device(), on)
    }
}

typed!(
    /// [`ColumnSum`] of 16-bit elements; y stays f32.
    ColumnSumOf,
    ColumnSum
);

impl<T: Half> Kernel for ColumnSumOf<T> {
    type Args<'a> = ColumnSumArgs<'a, T>;
    const NAME: &'static str = "column_sum";

    fn check(&self, args: &ColumnSumArgs<'_, T>) -> Result<(), ArgError> {
        self.kernel.check_lens(args)
    }

    fn cost(&self) -> Cost {
        let cost = self.kernel.cost();
        let halved = (2 * self.kernel.rows * self.kernel.cols) as u64;
        Cost { bytes_read: cost.bytes_read - halved, ..cost }
    }

    fn cpu(&self, args: ColumnSumArgs<'_, T>) {
        self.kernel.cpu(ColumnSumArgs { x: (&widen(args.x.host())).into(), y: args.y });
    }

    fn ptx(&self, args: ColumnSumArgs<'_, T>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        self.kernel.launch::<T>(args.x.device(), args.y.device(), on)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_each_column_in_row_order() {
        let (rows, cols) = (33, 300);
        let x: Vec<f32> = (0..rows * cols).map(|i| (i % 17) as f32 * 0.1).collect();
        let mut y = vec![1.0f32; cols];
        ColumnSum { rows, cols }.cpu(ColumnSumArgs { x: (&x).into(), y: (&mut y).into() });
        for j in 0..cols {
            let want = (0..rows).fold(1.0f32, |s, i| s + x[i * cols + j]);
            assert_eq!(y[j], want);
        }
    }
}
