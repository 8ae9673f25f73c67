//! Rows of A times one panel, tile by tile; the other kernel families build on this.

pub use crate::micro::Strided;
use crate::micro::{MAX_COLS, MAX_ROWS, shape, tile};

/// Columns of a panel on this machine: packed weights are laid out in panels of this width.
pub fn tile_cols() -> usize {
    shape().1
}

/// Rows of the register tile on this machine.
pub fn tile_rows() -> usize {
    shape().0
}

/// For each row i of `rows`, calls `store(i, values)` with the panel's `tile_cols()` products
/// sum_k A[i, k] panel[k, j], each a single fused chain over ascending k.
#[inline]
pub fn panel_product(
    a: Strided<'_>,
    rows: std::ops::Range<usize>,
    k: usize,
    panel: &[f32],
    mut store: impl FnMut(usize, &[f32]),
) {
    let (tile_rows, cols) = shape();
    let mut out = [[0.0f32; MAX_COLS]; MAX_ROWS];
    let mut first = rows.start;
    while first < rows.end {
        let n = tile_rows.min(rows.end - first);
        tile(a, first, n, k, panel, &mut out);
        for (i, row) in out.iter().enumerate().take(n) {
            store(first + i, &row[..cols]);
        }
        first += n;
    }
}
