//! Room for the race detector: tags for the words and the bytes of the arena, in reserved pages of their own.
use std::sync::atomic::AtomicU32;

use super::MemoryError;
use super::raw::Arena;

/// Who touched a byte last, in accesses narrower than a word.
#[repr(C)]
pub(crate) struct RaceSlot {
    pub writer: AtomicU32,
    pub reader: AtomicU32,
}

/// For every word of an arena its last writer and two readers, for every byte a [`RaceSlot`]; all zero at first.
pub(crate) struct RaceMap {
    writers: Arena,
    readers: Arena,
    seconds: Arena,
    bytes: Arena,
    base: u64,
    end: u64,
    /// The highest number that a tag in the map may have.
    pub newest: u32,
}

impl RaceMap {
    pub(super) fn reserve(arena: &Arena) -> Result<RaceMap, MemoryError> {
        let (base, end) = (arena.start(), arena.end());
        let span = (end - base) as usize;
        // A tag is as wide as a word: tags lie at the offsets of their words.
        let words = || Arena::reserve(span);
        let bytes = Arena::reserve(span * size_of::<RaceSlot>())?;
        Ok(RaceMap { writers: words()?, readers: words()?, seconds: words()?, bytes, base, end, newest: 0 })
    }

    /// Whether an address has tags (registered host memory has none).
    pub fn covers(&self, addr: u64) -> bool {
        addr >= self.base && addr < self.end
    }

    /// Gives the pages of a block's tags back.
    pub(super) fn forget(&self, addr: u64, bytes: usize) {
        let offset = addr - self.base;
        for words in [&self.writers, &self.readers, &self.seconds] {
            words.release(words.start() + (offset & !3), bytes.next_multiple_of(4));
        }
        let slot = size_of::<RaceSlot>();
        self.bytes.release(self.bytes.start() + offset * slot as u64, bytes * slot);
    }

    fn tags<'a>(&'a self, of: &'a Arena, addr: u64, count: usize) -> &'a [AtomicU32] {
        debug_assert!(self.covers(addr) && addr + 4 * count as u64 <= self.end && addr.is_multiple_of(4));
        let at = of.start() + (addr - self.base);
        // SAFETY: the map has a tag for each word of the arena and lives as long as `self`; zeroed memory is valid
        // for atomics, and atomics may alias atomics.
        unsafe { std::slice::from_raw_parts(at as *const AtomicU32, count) }
    }

    /// The last writers of `count` words.
    pub fn writers(&self, addr: u64, count: usize) -> &[AtomicU32] {
        self.tags(&self.writers, addr, count)
    }

    /// The last readers of `count` words.
    pub fn readers(&self, addr: u64, count: usize) -> &[AtomicU32] {
        self.tags(&self.readers, addr, count)
    }

    /// The readers before the last ones.
    pub fn seconds(&self, addr: u64, count: usize) -> &[AtomicU32] {
        self.tags(&self.seconds, addr, count)
    }

    /// The slot of a byte.
    pub fn byte(&self, addr: u64) -> &RaceSlot {
        debug_assert!(self.covers(addr));
        let at = self.bytes.start() + (addr - self.base) * size_of::<RaceSlot>() as u64;
        // SAFETY: the map has a slot for each covered byte and lives as long as `self`; a slot is two atomics, for
        // which zeroed memory is valid.
        unsafe { &*(at as *const RaceSlot) }
    }
}
