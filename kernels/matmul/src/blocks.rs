//! How a product is split over threads.

use std::ops::Range;

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
