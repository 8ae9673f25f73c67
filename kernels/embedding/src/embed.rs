//! Embedding lookup and its gradient.

use crate::ptx;
use elementwise::{GatherRows, GatherRowsArgs, ScatterAddRows, ScatterAddRowsArgs};
use kernel_abi::{
    ArgError, Cost, Float, Half, In, Kernel, Launch, LaunchError, Launcher, Out, expect_len, narrow, typed,
    widen,
};

/// `y[i] (+)= table[ids[i]]`.
///
/// With host arguments [`Kernel::check`] refuses a token past the end; on a device its row becomes NaN.
#[derive(Debug, Clone, Copy)]
pub struct EmbeddingForward {
    /// Tokens.
    pub rows: usize,
    /// Elements per embedding.
    pub cols: usize,
    /// Rows of the table.
    pub vocab: usize,
    /// Add to y instead of overwriting it.
    pub accumulate: bool,
}

/// Arguments of [`EmbeddingForward`].
pub struct EmbeddingForwardArgs<'a, T = f32> {
    /// `[vocab, cols]`.
    pub table: In<'a, T>,
    /// `[rows]`.
    pub ids: In<'a, u32>,
    /// `[rows, cols]`.
    pub y: Out<'a, T>,
}

/// `dtable[ids[i]] += dy[i]`, in ascending i.
///
/// With host arguments [`Kernel::check`] refuses a token past the end; on a device it adds nothing.
#[derive(Debug, Clone, Copy)]
pub struct EmbeddingBackward {
    /// Tokens.
    pub rows: usize,
    /// Elements per embedding.
    pub cols: usize,
    /// Rows of the table.
    pub vocab: usize,
}

/// Arguments of [`EmbeddingBackward`].
pub struct EmbeddingBackwardArgs<'a, T = f32> {
    /// `[rows, cols]`.
    pub dy: In<'a, T>,
    /// `[rows]`.
    pub ids: In<'a, u32>,
    /// `[vocab, cols]`, added to.
    pub dtable: Out<'a, T>,
}

fn check_ids(kernel: &'static str, ids: In<'_, u32>, rows: usize, vocab: usize) -> Result<(), ArgError> {
    expect_len(kernel, "ids", ids.len(), rows)?;
    match ids {
        In::Host(ids) => match ids.iter().find(|i| **i as usize >= vocab) {
            Some(i) => {
                Err(ArgError { kernel, arg: "ids", problem: format!("token {i}, the table has {vocab}") })
            }
            None => Ok(()),
        },
        In::Device(..) | In::Meta(_) => Ok(()),
    }
}

impl EmbeddingForward {
    fn check_args<T>(&self, args: &EmbeddingForwardArgs<'_, T>) -> Result<(), ArgError> {
        expect_len(Self::NAME, "table", args.table.len(), self.vocab * self.cols)?;
        expect_len(Self::NAME, "y", args.y.len(), self.rows * self.cols)?;
        check_ids(Self::NAME, args.ids, self.rows, self.vocab)
    }

    fn rows_of(&self) -> GatherRows {
        GatherRows { rows: self.vocab, picked: self.rows, cols: self.cols }
    }

    /// y += rows of the table.
    fn launch<T: Float>(
        &self,
        args: &EmbeddingForwardArgs<'_, T>,
        on: &mut dyn Launcher,
    ) -> Result<(), LaunchError> {
        if self.rows * self.cols == 0 {
            return Ok(());
        }
        let (table, y, wide) = (args.table.device(), args.y.device(), 16 / size_of::<T>());
        let aligned = (table.0 | y.0).is_multiple_of(16) && self.cols.is_multiple_of(wide);
        let vector = if aligned { wide } else { 1 };
        let launch = Launch::new(&ptx::EMBEDDING, format_args!("embedding_add_{}_v{vector}", T::NAME))
            .grid(self.rows.div_ceil(4), self.cols.div_ceil(256).min(65_535), 1)
            .block(128);
        let launch = launch.arg(table).arg(args.ids.device()).arg(y);
        on.launch(launch.dim(self.vocab).dim(self.rows).dim(self.cols))
    }
}

impl EmbeddingBackward {
    fn rows_of(&self) -> ScatterAddRows {
        ScatterAddRows { rows: self.vocab, picked: self.rows, cols: self.cols }
    }

    fn check_args<T>(&self, args: &EmbeddingBackwardArgs<'_, T>) -> Result<(), ArgError> {
        expect_len(Self::NAME, "dy", args.dy.len(), self.rows * self.cols)?;
        expect_len(Self::NAME, "dtable", args.dtable.len(), self.vocab * self.cols)?;
        check_ids(Self::NAME, args.ids, self.rows, self.vocab)
    }
}

impl Kernel for EmbeddingForward {
    type Args<'a> = EmbeddingForwardArgs<'a>;
    const NAME: &'static str = "embedding_forward";

    fn check(&self, args: &EmbeddingForwardArgs<'_>) -> Result<(), ArgError> {
        self.check_args(args)
    }

    fn cost(&self) -> Cost {
        let n = (self.rows * self.cols) as u64;
        let added = if self.accumulate { n } else { 0 };
        Cost { bytes_read: 4 * (n + added), bytes_written: 4 * n, flops: added, ..Cost::default() }
    }

    fn cpu(&self, args: EmbeddingForwardArgs<'_>) {
        let (table, ids, cols) = (args.table.host(), args.ids.host(), self.cols);
        for (y, id) in args.y.host().chunks_exact_mut(cols.max(1)).zip(ids) {
            let row = &table[*id as usize * cols..][..cols];
            if self.accumulate {
                y.iter_mut().zip(row).for_each(|(y, v)| *y += *v);
            } else {
                y.copy_from_slice(row);
            }
        }
    }

    fn ptx(&self, args: EmbeddingForwardArgs<'_>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        if self.accumulate {
            return self.launch(&args, on);
        }
        self.rows_of().ptx(GatherRowsArgs { x: args.table, index: args.ids, y: args.y }, on)
    }
}

impl Kernel for EmbeddingBackward {
    type Args<'a> = EmbeddingBackwardArgs<'a>;
    const NAME: &'static str = "embedding_backward";

    fn check(&self, args: &EmbeddingBackwardArgs<'_>) -> Result<(), ArgError> {
        self.check_args(args)
    }

    fn cost(&self) -> Cost {
        let n = (self.rows * self.cols) as u64;
        Cost { bytes_read: 8 * n, bytes_written: 4 * n, flops: n, ..Cost::default() }
    }

    fn cpu(&self, args: EmbeddingBackwardArgs<'_>) {
        let (dy, ids, cols, dtable) = (args.dy.host(), args.ids.host(), self.cols, args.dtable.host());
        for (dy, id) in dy.chunks_exact(cols.max(1)).zip(ids) {
            let row = &mut dtable[*id as usize * cols..][..cols];
            row.iter_mut().zip(dy).for_each(|(r, d)| *r += *d);
        }
    }

    fn ptx(&self, args: EmbeddingBackwardArgs<'_>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        self.rows_of().ptx(ScatterAddRowsArgs { dy: args.dy, index: args.ids, dx: args.dtable }, on)
    }
}

typed!(
    /// [`EmbeddingForward`] over 16-bit elements.
    EmbeddingForwardOf,
    EmbeddingForward
);

typed!(
    /// [`EmbeddingBackward`] over 16-bit elements: a row's sum is f32 and rounded once.
    EmbeddingBackwardOf,
    EmbeddingBackward
);

fn halved(cost: Cost) -> Cost {
    Cost { bytes_read: cost.bytes_read / 2, bytes_written: cost.bytes_written / 2, ..cost }
}

impl<T: Half> Kernel for EmbeddingForwardOf<T> {
    type Args<'a> = EmbeddingForwardArgs<'a, T>;
    const NAME: &'static str = "embedding_forward";

    fn check(&self, args: &EmbeddingForwardArgs<'_, T>) -> Result<(), ArgError> {
        self.kernel.check_args(args)
    }

    fn cost(&self) -> Cost {
        halved(self.kernel.cost())
    }

    fn cpu(&self, args: EmbeddingForwardArgs<'_, T>) {
        let y = args.y.host();
        let (table, mut wide) = (widen(args.table.host()), widen(y));
        self.kernel.cpu(EmbeddingForwardArgs {
            table: (&table).into(),
            ids: args.ids,
            y: (&mut wide).into(),
        });
        narrow(&wide, y);
    }

    fn ptx(&self, args: EmbeddingForwardArgs<'_, T>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        if self.kernel.accumulate {
            return self.kernel.launch(&args, on);
        }
        let args = GatherRowsArgs { x: args.table, index: args.ids, y: args.y };
        self.kernel.rows_of().of::<T>().ptx(args, on)
    }
}

impl<T: Half> Kernel for EmbeddingBackwardOf<T> {
    type Args<'a> = EmbeddingBackwardArgs<'a, T>;
    const NAME: &'static str = "embedding_backward";

    fn check(&self, args: &EmbeddingBackwardArgs<'_, T>) -> Result<(), ArgError> {
        self.kernel.check_args(args)
    }

    fn cost(&self) -> Cost {
        halved(self.kernel.cost())
    }

    fn cpu(&self, args: EmbeddingBackwardArgs<'_, T>) {
        let dtable = args.dtable.host();
        let (dy, mut wide) = (widen(args.dy.host()), widen(dtable));
        self.kernel.cpu(EmbeddingBackwardArgs {
            dy: (&dy).into(),
            ids: args.ids,
            dtable: (&mut wide).into(),
        });
        narrow(&wide, dtable);
    }

    fn ptx(&self, args: EmbeddingBackwardArgs<'_, T>, on: &mut dyn Launcher) -> Result<(), LaunchError> {
        let args = ScatterAddRowsArgs { dy: args.dy, index: args.ids, dx: args.dtable };
        self.kernel.rows_of().of::<T>().ptx(args, on)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_up_and_adds_back() {
        let table = [0.0f32, 1.0, 10.0, 11.0, 20.0, 21.0];
        let ids = [2u32, 0, 2];
        let mut y = [1.0f32; 6];
        let k = EmbeddingForward { rows: 3, cols: 2, vocab: 3, accumulate: true };
        k.cpu(EmbeddingForwardArgs {
            table: table[..].into(),
            ids: ids[..].into(),
            y: y[..].as_mut().into(),
        });
        assert_eq!(y, [21.0, 22.0, 1.0, 2.0, 21.0, 22.0]);
        let mut d = [0.0f32; 6];
        let back = EmbeddingBackward { rows: 3, cols: 2, vocab: 3 };
        back.cpu(EmbeddingBackwardArgs {
            dy: y[..].into(),
            ids: ids[..].into(),
            dtable: d[..].as_mut().into(),
        });
        assert_eq!(d, [1.0, 2.0, 0.0, 0.0, 42.0, 44.0]);
        let bad = EmbeddingForwardArgs {
            table: table[..].into(),
            ids: [0u32, 3, 1][..].into(),
            y: y[..].as_mut().into(),
        };
        assert_eq!(
            k.check(&bad).unwrap_err().to_string(),
            "embedding_forward: argument `ids`: token 3, the table has 3"
        );
    }
}
