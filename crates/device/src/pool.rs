//! A caching allocator: freed blocks are kept by size class and handed out again, so that a training step
//! after the first touches no fresh page.

use std::collections::BTreeMap;

/// A cache line: the unit of allocation on the host, so that every buffer is 64-byte aligned.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub(crate) struct Line([u8; 64]);

pub(crate) const LINE: usize = 64;

/// Free blocks by size class.
pub(crate) struct Classes<B> {
    free: BTreeMap<usize, Vec<B>>,
}

impl<B> Default for Classes<B> {
    fn default() -> Self {
        Classes { free: BTreeMap::new() }
    }
}

impl<B> Classes<B> {
    /// Sizes are rounded up to eighths of a power of two, so that near sizes share blocks: at most 12.5 % is lost. From
    /// `large` units on, where that would be much and sizes are those of weights, to 64ths: at most 1.6 %.
    pub(crate) fn class(units: usize, large: usize) -> usize {
        let parts = if units < large { 16 } else { 128 };
        let step = (units.next_power_of_two() / parts).max(1);
        units.div_ceil(step) * step
    }

    /// A free block of the class.
    pub(crate) fn take(&mut self, class: usize) -> Option<B> {
        self.free.get_mut(&class).and_then(Vec::pop)
    }

    pub(crate) fn give(&mut self, class: usize, block: B) {
        self.free.entry(class).or_default().push(block);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.free.values().all(Vec::is_empty)
    }

    /// All free blocks with their classes.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = (usize, B)> + use<B> {
        let free = std::mem::take(&mut self.free);
        free.into_iter().flat_map(|(class, blocks)| blocks.into_iter().map(move |b| (class, b)))
    }
}

impl Classes<Vec<Line>> {
    /// A block of at least `lines` lines (contents unspecified), recycled when one of the class is free.
    pub(crate) fn lines(&mut self, lines: usize) -> Vec<Line> {
        // Activations of ragged batches have ever new sizes: fine classes would never be used again.
        let class = Self::class(lines, usize::MAX);
        self.take(class).unwrap_or_else(|| vec![bytemuck::Zeroable::zeroed(); class])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_freed_block_is_reused_for_a_near_size() {
        let mut pool = Classes::default();
        let a = pool.lines(1000);
        let at = a.as_ptr();
        pool.give(a.len(), a);
        let b = pool.lines(990);
        assert_eq!(b.as_ptr(), at);
        let class = Classes::<u64>::class;
        assert!((1..100_000).step_by(37).all(|n| (n..=n + n / 8 + 1).contains(&class(n, usize::MAX))));
        assert!((1..100_000).step_by(37).all(|n| (n..=n + n / 64 + 1).contains(&class(n, 1))));
    }
}
