//! Parallel loops that stay serial when the work is too small to share.

use crate::team::{run, threads};
use std::marker::PhantomData;

/// Least work of a range of tasks, in scalar operations: some microseconds.
const GRAIN: usize = 8 * 1024;

/// Calls `f(i)` for `i` in `0..tasks`, in parallel when `tasks * work` (scalar operations) is worth it.
pub fn par_for(tasks: usize, work: usize, f: impl Fn(usize) + Sync) {
    let threads = threads();
    if tasks <= 1 || threads == 1 || tasks.saturating_mul(work) < 2 * GRAIN {
        return (0..tasks).for_each(f);
    }
    // Ranges small enough that the last one keeps nobody waiting for long.
    let even = tasks.div_ceil(8 * threads);
    let least = GRAIN.div_ceil(work.max(1)).min(tasks.div_ceil(threads));
    run(tasks, even.max(least), f);
}

/// Splits `out` into blocks of `rows_per_task` rows of `cols` elements and calls `f(first_row, block)` for
/// each; the blocks do not depend on the number of threads. `work` is scalar operations per row.
pub fn par_rows<T: Send>(
    out: &mut [T],
    cols: usize,
    rows_per_task: usize,
    work: usize,
    f: impl Fn(usize, &mut [T]) + Sync,
) {
    if out.is_empty() || cols == 0 {
        return;
    }
    let rows = rows_per_task.max(1);
    let block = rows * cols;
    let blocks = Blocks { start: out.as_mut_ptr(), len: out.len(), borrow: PhantomData };
    par_for(out.len().div_ceil(block), rows.saturating_mul(work), |i| {
        // SAFETY: every task takes another block.
        f(i * rows, unsafe { blocks.block(i * block, block) });
    });
}

/// A slice that is cut into blocks, each for one task.
struct Blocks<'a, T> {
    start: *mut T,
    len: usize,
    borrow: PhantomData<&'a mut [T]>,
}
// SAFETY: `block`'s contract gives every element to one task only.
unsafe impl<T: Send> Sync for Blocks<'_, T> {}

impl<T> Blocks<'_, T> {
    /// Elements `at..at + len`, fewer at the end.
    ///
    /// # Safety
    /// No other block may overlap.
    #[allow(clippy::mut_from_ref)]
    unsafe fn block(&self, at: usize, len: usize) -> &mut [T] {
        // SAFETY: inside the slice; exclusive by the caller's contract.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(at), len.min(self.len - at)) }
    }
}
