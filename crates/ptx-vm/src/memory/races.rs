//! Room for the race detector: two tags for each byte of the arena, in reserved pages of their own.
use std::sync::atomic::AtomicU32;

use super::MemoryError;
use super::raw::Arena;

/// Who touched a byte last.
#[repr(C)]
pub(crate) struct RaceSlot {
    pub writer: AtomicU32,
    pub reader: AtomicU32,
}

/// A [`RaceSlot`] for every byte of an arena, all zero at first.
pub(crate) struct RaceMap {
    slots: Arena,
    base: u64,
    end: u64,
}

impl RaceMap {
    pub(super) fn reserve(arena: &Arena) -> Result<RaceMap, MemoryError> {
        let (base, end) = (arena.start(), arena.end());
        let slots = Arena::reserve((end - base) as usize * size_of::<RaceSlot>())?;
        Ok(RaceMap { slots, base, end })
    }

    /// Whether an address has a slot (registered host memory has none).
    pub fn covers(&self, addr: u64) -> bool {
        addr >= self.base && addr < self.end
    }

    /// The slot of an address that is covered.
    pub fn slot(&self, addr: u64) -> &RaceSlot {
        debug_assert!(self.covers(addr));
        let at = self.slots.start() + (addr - self.base) * size_of::<RaceSlot>() as u64;
        // SAFETY: the map has a slot for each covered byte and lives as long as `self`; a slot is two atomics, for
        // which zeroed memory is valid.
        unsafe { &*(at as *const RaceSlot) }
    }
}
