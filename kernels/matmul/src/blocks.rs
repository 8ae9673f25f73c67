//! How a product is split over threads.

use std::ops::Range;

/// Multiply-adds of a task below which splitting further costs more than it balances.
const TASK: usize = 512 * 1024;

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
    if m == 0 || panels == 0 {
        return;
    }
    let most = (128 * 1024 / k.max(1)).clamp(tile_rows, 96);
    let rows = m.div_ceil(m.div_ceil(most)).next_multiple_of(tile_rows);
    let row_blocks = m.div_ceil(rows);
    let groups = groups(panels, m.min(rows) * panel_cols * k, row_blocks);
    let group = panels.div_ceil(groups);
    cpu::par_for(row_blocks * groups, m.min(rows) * group * panel_cols * k / 8, |t| {
        let (r, g) = (t / groups, t % groups);
        let panels = (g * group).min(panels)..((g + 1) * group).min(panels);
        task(r * rows..((r + 1) * rows).min(m), panels);
    });
}

/// Into how many slices to cut the panels so that `row_blocks` times as many tasks balance the threads.
pub(crate) fn groups(panels: usize, work_per_panel: usize, row_blocks: usize) -> usize {
    let threads = cpu::threads();
    if threads == 1 {
        return 1;
    }
    let wanted = (8 * threads).div_ceil(row_blocks);
    let least = TASK.div_ceil(work_per_panel.max(1));
    panels.div_ceil(least).min(wanted).clamp(1, panels)
}

/// Calls `task(panels)` for slices that together cover the panels of `n` columns, each small enough to be
/// packed into the core's cache.
pub(crate) fn for_slices(m: usize, n: usize, k: usize, task: impl Fn(Range<usize>) + Sync + Send) {
    const SLICE_BYTES: usize = 256 * 1024;
    let cols = crate::panel::tile_cols();
    let panels = n.div_ceil(cols);
    let most = (SLICE_BYTES / (4 * cols * k.max(1))).max(1);
    let work = (m + 8) * cols * k;
    let groups = groups(panels, work, 1).max(panels.div_ceil(most));
    let group = panels.div_ceil(groups);
    cpu::par_for(groups, work * group / 8, |g| task((g * group).min(panels)..((g + 1) * group).min(panels)));
}
