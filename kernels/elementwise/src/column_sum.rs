//! Column sums, the gradient of a bias: y[j] += sum_i x[i, j].
//!
//! Rows are summed in fixed chunks, so neither threads nor tiles change the order; columns are the lanes.

use kernel_abi::{ArgError, Cost, In, Kernel, Out, expect_len};

/// y[j] += sum over rows of x[i, j].
#[derive(Debug, Clone, Copy)]
pub struct ColumnSum {
    /// Rows of x.
    pub rows: usize,
    /// Columns of x.
    pub cols: usize,
}

/// Arguments of [`ColumnSum`].
pub struct ColumnSumArgs<'a> {
    /// `[rows, cols]`.
    pub x: In<'a>,
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

impl Kernel for ColumnSum {
    type Args<'a> = ColumnSumArgs<'a>;
    const NAME: &'static str = "column_sum";

    fn check(&self, args: &ColumnSumArgs<'_>) -> Result<(), ArgError> {
        expect_len(Self::NAME, "x", args.x.len(), self.rows * self.cols)?;
        expect_len(Self::NAME, "y", args.y.len(), self.cols)
    }

    fn cost(&self) -> Cost {
        let (r, c) = (self.rows as u64, self.cols as u64);
        Cost { bytes_read: 4 * r * c + 4 * c, bytes_written: 4 * c, flops: r * c, int8_ops: 0 }
    }

    fn cpu(&self, args: ColumnSumArgs<'_>) {
        let (x, cols) = (args.x.host(), self.cols);
        if self.rows == 0 {
            return;
        }
        cpu::par_rows(args.y.host(), 1, 256, self.rows, |first, y| sum_columns(x, cols, first, y));
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
