//! A caching allocator: freed blocks are kept by size class and handed out again, so that a training step
//! after the first touches no fresh page.

use std::collections::BTreeMap;

/// A cache line: the unit of allocation, so that every buffer is 64-byte aligned.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub(crate) struct Line([u8; 64]);

pub(crate) const LINE: usize = 64;

#[derive(Default)]
pub(crate) struct Pool {
    free: BTreeMap<usize, Vec<Vec<Line>>>,
}

/// Sizes are rounded up to eighths of a power of two: at most 12.5 % is lost, and near sizes share blocks.
fn class(lines: usize) -> usize {
    if lines <= 8 {
        return lines;
    }
    let step = lines.next_power_of_two() / 16;
    lines.div_ceil(step) * step
}

impl Pool {
    /// A block of at least `lines` lines (contents unspecified), recycled when one of the class is free.
    pub(crate) fn take(&mut self, lines: usize) -> Vec<Line> {
        let class = class(lines);
        match self.free.get_mut(&class).and_then(Vec::pop) {
            Some(block) => block,
            None => vec![bytemuck::Zeroable::zeroed(); class],
        }
    }

    pub(crate) fn give(&mut self, block: Vec<Line>) {
        self.free.entry(block.len()).or_default().push(block);
    }

    pub(crate) fn clear(&mut self) {
        self.free.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_freed_block_is_reused_for_a_near_size() {
        let mut pool = Pool::default();
        let a = pool.take(1000);
        let at = a.as_ptr();
        pool.give(a);
        let b = pool.take(990);
        assert_eq!(b.as_ptr(), at);
        assert!((1..100_000).step_by(37).all(|n| class(n) >= n && class(n) <= n + n / 8 + 1));
    }
}
