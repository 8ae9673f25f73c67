//! How a product is split over threads, and the output that the tasks share.

use std::{marker::PhantomData, ops::Range};

/// An output that tasks write side by side, each its own elements.
#[derive(Clone, Copy)]
pub struct Shared<'a> {
    start: *mut f32,
    len: usize,
    borrow: PhantomData<&'a mut [f32]>,
}
// SAFETY: `slice`'s contract makes tasks write disjoint elements.
unsafe impl Send for Shared<'_> {}
// SAFETY: as above.
unsafe impl Sync for Shared<'_> {}

impl<'a> Shared<'a> {
    /// Shares `out` for as long as it is borrowed.
    pub fn new(out: &'a mut [f32]) -> Self {
        Shared { start: out.as_mut_ptr(), len: out.len(), borrow: PhantomData }
    }

    /// The elements `at..at + len`.
    ///
    /// # Safety
    /// No other task may touch them meanwhile.
    ///
    /// # Panics
    /// When they lie outside the buffer.
    pub unsafe fn slice(&self, at: usize, len: usize) -> &'a mut [f32] {
        assert!(at + len <= self.len, "slice {at}..{} of {}", at + len, self.len);
        // SAFETY: in bounds by the assert; exclusive by the caller's contract.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(at), len) }
    }
}

/// Calls `task(rows, panels)` for blocks that together cover `m` rows and the panels of `n` columns, in
/// parallel when the product is large enough. Rows of a block stay in the core's cache while panels stream
/// past; with few rows a task is a slice of the panels, so that weights are read once.
pub fn for_blocks(
    m: usize,
    n: usize,
    panel_cols: usize,
    tile_rows: usize,
    k: usize,
    task: impl Fn(Range<usize>, Range<usize>) + Sync + Send,
) {
    let panels = n.div_ceil(panel_cols);
    let rows = ((128 * 1024 / k.max(1)).clamp(tile_rows, 96) / tile_rows) * tile_rows;
    let row_blocks = m.div_ceil(rows);
    // Enough tasks to balance the threads, each with as many panels as possible.
    let wanted = (4 * cpu::threads()).div_ceil(row_blocks.max(1));
    let group = panels.div_ceil(wanted).max(1);
    let groups = panels.div_ceil(group);
    let work = m.min(rows) * group * panel_cols * k / 8;
    cpu::par_for(row_blocks * groups, work, |t| {
        let (r, g) = (t / groups, t % groups);
        task(r * rows..((r + 1) * rows).min(m), g * group..((g + 1) * group).min(panels));
    });
}
