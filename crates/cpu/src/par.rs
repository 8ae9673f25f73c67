//! Parallel loops over rayon's pool that stay serial when the work is too small to share.

use rayon::prelude::*;

/// Work below this many scalar operations is done by the calling thread: waking a worker costs more.
const GRAIN: usize = 32 * 1024;

/// Threads in the current pool.
pub fn threads() -> usize {
    rayon::current_num_threads()
}

/// Calls `f(i)` for `i` in `0..tasks`, in parallel when `tasks * work` (scalar operations) is worth it.
pub fn par_for(tasks: usize, work: usize, f: impl Fn(usize) + Sync + Send) {
    if tasks <= 1 || threads() == 1 || tasks.saturating_mul(work) < 2 * GRAIN {
        return (0..tasks).for_each(f);
    }
    let min_len = GRAIN.div_ceil(work.max(1)).clamp(1, tasks);
    (0..tasks).into_par_iter().with_min_len(min_len).for_each(f);
}

/// Splits `out` into blocks of `rows_per_task` rows of `cols` elements and calls `f(first_row, block)` for
/// each; the blocks do not depend on the number of threads. `work` is scalar operations per row.
pub fn par_rows<T: Send>(
    out: &mut [T],
    cols: usize,
    rows_per_task: usize,
    work: usize,
    f: impl Fn(usize, &mut [T]) + Sync + Send,
) {
    if out.is_empty() || cols == 0 {
        return;
    }
    let block = rows_per_task.max(1) * cols;
    let rows = out.len() / cols;
    if threads() == 1 || rows.saturating_mul(work) < 2 * GRAIN || rows <= rows_per_task {
        out.chunks_mut(block).enumerate().for_each(|(i, b)| f(i * rows_per_task.max(1), b));
    } else {
        out.par_chunks_mut(block).enumerate().for_each(|(i, b)| f(i * rows_per_task.max(1), b));
    }
}
