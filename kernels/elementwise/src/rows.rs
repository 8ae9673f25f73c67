//! Picks rows by index, and the reverse: adds rows back where they came from.

use kernel_abi::{ArgError, Cost, In, Kernel, Out, expect_len};

/// y[i] = x[rows[i]].
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
pub struct GatherRowsArgs<'a> {
    /// `[rows, cols]`.
    pub x: In<'a>,
    /// `[picked]` row numbers below `rows`.
    pub index: In<'a, u32>,
    /// `[picked, cols]`.
    pub y: Out<'a>,
}

/// dx[rows[i]] += dy[i], in ascending i: the backward of [`GatherRows`].
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
pub struct ScatterAddRowsArgs<'a> {
    /// `[picked, cols]`.
    pub dy: In<'a>,
    /// `[picked]` row numbers below `rows`.
    pub index: In<'a, u32>,
    /// `[rows, cols]`, added to.
    pub dx: Out<'a>,
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

impl Kernel for GatherRows {
    type Args<'a> = GatherRowsArgs<'a>;
    const NAME: &'static str = "gather_rows";

    fn check(&self, args: &GatherRowsArgs<'_>) -> Result<(), ArgError> {
        expect_len(Self::NAME, "x", args.x.len(), self.rows * self.cols)?;
        expect_len(Self::NAME, "y", args.y.len(), self.picked * self.cols)?;
        check_index(Self::NAME, args.index, self.picked, self.rows)
    }

    fn cost(&self) -> Cost {
        let n = (self.picked * self.cols) as u64;
        Cost { bytes_read: 4 * n, bytes_written: 4 * n, flops: 0, int8_ops: 0 }
    }

    fn cpu(&self, args: GatherRowsArgs<'_>) {
        let (x, index, cols) = (args.x.host(), args.index.host(), self.cols);
        for (y, i) in args.y.host().chunks_exact_mut(cols.max(1)).zip(index) {
            y.copy_from_slice(&x[*i as usize * cols..][..cols]);
        }
    }
}

impl Kernel for ScatterAddRows {
    type Args<'a> = ScatterAddRowsArgs<'a>;
    const NAME: &'static str = "scatter_add_rows";

    fn check(&self, args: &ScatterAddRowsArgs<'_>) -> Result<(), ArgError> {
        expect_len(Self::NAME, "dy", args.dy.len(), self.picked * self.cols)?;
        expect_len(Self::NAME, "dx", args.dx.len(), self.rows * self.cols)?;
        check_index(Self::NAME, args.index, self.picked, self.rows)
    }

    fn cost(&self) -> Cost {
        let n = (self.picked * self.cols) as u64;
        Cost { bytes_read: 8 * n, bytes_written: 4 * n, flops: n, int8_ops: 0 }
    }

    fn cpu(&self, args: ScatterAddRowsArgs<'_>) {
        let (dy, index, cols, dx) = (args.dy.host(), args.index.host(), self.cols, args.dx.host());
        for (dy, i) in dy.chunks_exact(cols.max(1)).zip(index) {
            for (a, b) in dx[*i as usize * cols..][..cols].iter_mut().zip(dy) {
                *a += *b;
            }
        }
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
