//! How rows are laid over threads: which variant of a template, and how many threads.

use kernel_abi::{ArgError, DevicePtr, Float};

/// Elements of a row that a thread holds where the row fits (see `ptx/_rows.ptx`).
pub const NARROW: usize = 8;
/// The same in the variants that give up prefetching and resident weights for width.
pub const WIDE: usize = 24;
/// Most threads of a block.
pub const BLOCK: usize = 1024;
/// Threads of a block that narrow rows share.
const SHARED_BLOCK: usize = 256;

/// Threads for a row when each holds `each` elements: a power of two from 8 to 32, or whole warps.
pub fn team(cols: usize, each: usize) -> usize {
    let threads = cols.div_ceil(each).max(8);
    if threads <= 32 { threads.next_power_of_two() } else { threads.next_multiple_of(32) }
}

/// Teams of so many threads in a block.
pub fn teams(team: usize) -> usize {
    (SHARED_BLOCK / team).max(1)
}

/// The suffix of the entry that rows of `cols` elements at those addresses (null ones aside) allow: none for 16 bytes an
/// access. The order of every sum depends on `cols` alone, so all entries give the same bits.
pub fn access<T: Float>(cols: usize, addresses: &[DevicePtr]) -> &'static str {
    let whole = cols.is_multiple_of(16 / size_of::<T>());
    if whole && addresses.iter().all(|a| a.0.is_multiple_of(16)) { "" } else { "_any" }
}

/// Blocks of `threads` that walk over `rounds` of rows: as many as are resident together on some hundred multiprocessors, of
/// whose threads `resident` find registers, so that none waits for another to end; and at most `most`, which keep memory busy:
/// what a block reads and writes once besides its rows grows with their number.
pub fn blocks(rounds: usize, threads: usize, resident: usize, most: usize) -> usize {
    const MULTIPROCESSORS: usize = 96;
    rounds.min(most).min(MULTIPROCESSORS * (resident / threads).max(1))
}

/// Threads that fill a GPU when each has two rows under way.
const THREADS: usize = 1 << 16;
/// Rows of a thread that keeps its columns, at most: then what it reads and writes once is a few percent.
const MOST_COLUMN_ROWS: usize = 64;

/// Blocks across and down for threads that keep one of `chunks` each and share the rows out, `lanes` of a block side by side,
/// the others below them.
pub fn columns(rows: usize, chunks: usize, lanes: usize) -> (usize, usize) {
    let each = (rows * chunks / THREADS).clamp(1, MOST_COLUMN_ROWS);
    let down = rows.div_ceil(each * (SHARED_BLOCK / lanes)).min(65535);
    (chunks.div_ceil(lanes), down)
}

/// Refuses shapes whose numbers of rows, columns or bytes of a row do not fit the kernels' 32-bit counters.
pub fn check(kernel: &'static str, rows: usize, cols: usize) -> Result<(), ArgError> {
    let limit = |arg, n: usize, most: usize| match n <= most {
        true => Ok(()),
        false => Err(ArgError { kernel, arg, problem: format!("has {n} of them, at most {most}") }),
    };
    limit("rows", rows, 1 << 30)?;
    limit("cols", cols, 1 << 28)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernel_abi::f16;

    #[test]
    fn teams_fit_rows() {
        let want = [(1, 8), (64, 8), (65, 16), (256, 32), (257, 64), (768, 96), (2048, 256), (8192, 1024)];
        for (cols, threads) in want {
            assert_eq!(team(cols, NARROW), threads, "{cols} columns");
        }
        assert_eq!([8, 32, 96, 1024].map(teams), [32, 8, 2, 1]);
    }

    #[test]
    fn blocks_are_resident_together() {
        assert_eq!([256, 512, 1024].map(|t| blocks(9999, t, 1024, 256)), [256, 192, 96]);
        assert_eq!((blocks(7, 256, 1024, 256), blocks(9999, 512, 540, 160)), (7, 96));
    }

    #[test]
    fn access_follows_columns_and_addresses() {
        let at = |a: u64| DevicePtr(4096 + a);
        assert_eq!(access::<f32>(12, &[at(0), at(16)]), "");
        assert_eq!(access::<f32>(12, &[at(0), at(4), DevicePtr::NULL]), "_any");
        assert_eq!(access::<f32>(13, &[at(0)]), "_any");
        assert_eq!(access::<f16>(12, &[at(0)]), "_any");
    }
}
