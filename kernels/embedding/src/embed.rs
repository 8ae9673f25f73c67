//! Embedding lookup and its gradient.

use kernel_abi::{ArgError, Cost, In, Kernel, Out, expect_len};

/// `y[i] (+)= table[ids[i]]`.
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
pub struct EmbeddingForwardArgs<'a> {
    /// `[vocab, cols]`.
    pub table: In<'a>,
    /// `[rows]`.
    pub ids: In<'a, u32>,
    /// `[rows, cols]`.
    pub y: Out<'a>,
}

/// `dtable[ids[i]] += dy[i]`, in ascending i.
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
pub struct EmbeddingBackwardArgs<'a> {
    /// `[rows, cols]`.
    pub dy: In<'a>,
    /// `[rows]`.
    pub ids: In<'a, u32>,
    /// `[vocab, cols]`, added to.
    pub dtable: Out<'a>,
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

impl Kernel for EmbeddingForward {
    type Args<'a> = EmbeddingForwardArgs<'a>;
    const NAME: &'static str = "embedding_forward";

    fn check(&self, args: &EmbeddingForwardArgs<'_>) -> Result<(), ArgError> {
        expect_len(Self::NAME, "table", args.table.len(), self.vocab * self.cols)?;
        expect_len(Self::NAME, "y", args.y.len(), self.rows * self.cols)?;
        check_ids(Self::NAME, args.ids, self.rows, self.vocab)
    }

    fn cost(&self) -> Cost {
        let n = (self.rows * self.cols) as u64;
        Cost { bytes_read: 4 * n, bytes_written: 4 * n, ..Cost::default() }
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
}

impl Kernel for EmbeddingBackward {
    type Args<'a> = EmbeddingBackwardArgs<'a>;
    const NAME: &'static str = "embedding_backward";

    fn check(&self, args: &EmbeddingBackwardArgs<'_>) -> Result<(), ArgError> {
        expect_len(Self::NAME, "dy", args.dy.len(), self.rows * self.cols)?;
        expect_len(Self::NAME, "dtable", args.dtable.len(), self.vocab * self.cols)?;
        check_ids(Self::NAME, args.ids, self.rows, self.vocab)
    }

    fn cost(&self) -> Cost {
        let n = (self.rows * self.cols) as u64;
        Cost { bytes_read: 8 * n, bytes_written: 4 * n, flops: n, int8_ops: 0 }
    }

    fn cpu(&self, args: EmbeddingBackwardArgs<'_>) {
        let (dy, ids, cols, dtable) = (args.dy.host(), args.ids.host(), self.cols, args.dtable.host());
        for (dy, id) in dy.chunks_exact(cols.max(1)).zip(ids) {
            let row = &mut dtable[*id as usize * cols..][..cols];
            row.iter_mut().zip(dy).for_each(|(r, d)| *r += *d);
        }
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
