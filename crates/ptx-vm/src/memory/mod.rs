//! One device's memory: a reserved arena, the table of what is allocated in it, and a shadow of what was written.
//!
//! Device addresses are host virtual addresses inside the arena, so that managed and mapped memory are plain
//! pointers for the host. The ideas:
//!
//! 1. The arena is reserved, not committed: pages come when touched and go back when a block is freed.
//! 2. Blocks lie apart ([`GUARD`] bytes at least) and a freed place is not used again while there is fresh space, so
//!    that an access past the end or after the free hits nothing instead of a neighbour.
//! 3. One shadow bit per byte says whether the byte was ever written since its block was allocated.
//! 4. Kernels go through a [`View`]: an immutable picture of the table taken at the launch, so that the check of an
//!    access is a comparison with the block hit last and takes no lock.
//!
//! **Architecture Invariant**: every raw access to the arena is in `raw.rs`; an address gets there only after a
//! range of the table was found to contain it.

mod races;
mod raw;
mod shadow;
mod table;
mod view;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub(crate) use races::RaceMap;
use raw::Arena;
pub(crate) use raw::AtomicWidth;
use shadow::Shadow;
use table::Table;
pub(crate) use view::{Hit, Snapshot, View};

/// Bytes between two blocks that belong to nobody.
pub const GUARD: usize = 512;

/// The generic address of byte 0 of a block's shared memory. No host address has this bit.
pub const SHARED_WINDOW: u64 = 1 << 56;
/// The generic address of byte 0 of a thread's local memory.
pub const LOCAL_WINDOW: u64 = 2 << 56;
/// The generic address of byte 0 of a kernel's parameters.
pub const PARAM_WINDOW: u64 = 3 << 56;
/// Bytes that a window spans.
pub const WINDOW_BYTES: u64 = 1 << 32;

/// What can be wrong with a request to [`Memory`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemoryError {
    /// The address space could not be reserved.
    #[error("cannot reserve {bytes} bytes of address space for the device: {why}")]
    Reserve {
        /// How much was asked for.
        bytes: usize,
        /// The system's words.
        why: String,
    },
    /// More than the device has.
    #[error("out of device memory: {wanted} bytes asked, {free} of {capacity} free")]
    OutOfMemory {
        /// Bytes asked for.
        wanted: usize,
        /// Bytes not in use.
        free: usize,
        /// Bytes in all.
        capacity: usize,
    },
    /// A size of zero or an alignment that is not a power of two.
    #[error("cannot allocate {bytes} bytes aligned to {align}: sizes are positive, alignments powers of two")]
    BadRequest {
        /// Bytes asked for.
        bytes: usize,
        /// Alignment asked for.
        align: usize,
    },
    /// `free` or `unregister_host` of something that is not the start of a block.
    #[error("{addr:#x} is not the start of a live block")]
    NotABlock {
        /// The address.
        addr: u64,
    },
    /// A host-side copy that leaves its block.
    #[error("{bytes} bytes at {addr:#x} are not inside one live block{hint}")]
    OutOfBounds {
        /// First byte.
        addr: u64,
        /// Length.
        bytes: usize,
        /// What is nearby.
        hint: String,
    },
    /// Host memory registered twice, or inside the arena.
    #[error("host memory at {addr:#x} overlaps memory that is known already")]
    Overlap {
        /// First byte.
        addr: u64,
    },
}

/// One device's address space.
pub struct Memory {
    arena: Arena,
    shadow: Shadow,
    table: Mutex<Table>,
    /// Tags of the race detector, between launches that use it.
    races: Mutex<Option<RaceMap>>,
    capacity: usize,
}

impl Memory {
    /// Reserves a device of `capacity` bytes.
    pub fn new(capacity: usize) -> Result<Memory, MemoryError> {
        // Twice the capacity of addresses: room for guards and for not using a freed place at once.
        let span = capacity.saturating_mul(2).saturating_add(64 << 20).next_multiple_of(1 << 20);
        let arena = Arena::reserve(span)?;
        let shadow = Shadow::reserve(arena.start(), span)?;
        let table = Mutex::new(Table::new(arena.start(), span as u64));
        Ok(Memory { arena, shadow, table, races: Mutex::new(None), capacity })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fills every block allocated from now on with bytes drawn from `seed`, so that a kernel that reads memory
    /// nobody wrote does not find zeros. `None` ends it: fresh memory is then zero.
    pub fn set_poison(&self, seed: Option<u64>) {
        self.table().poison = seed;
    }

    /// A block of `bytes` bytes aligned to `align` (at least 256, as the driver does). Its content is undefined.
    pub fn alloc(&self, bytes: usize, align: usize) -> Result<u64, MemoryError> {
        if bytes == 0 || !align.is_power_of_two() {
            return Err(MemoryError::BadRequest { bytes, align });
        }
        let mut table = self.table();
        let free = self.capacity - table.used.min(self.capacity);
        let out = MemoryError::OutOfMemory { wanted: bytes, free, capacity: self.capacity };
        if bytes > free {
            return Err(out);
        }
        let addr = table.place(bytes as u64, align.max(256) as u64).ok_or(out)?;
        if let Some(seed) = table.poison {
            self.arena.poison(addr, bytes, seed ^ (addr - self.arena.start()));
        }
        Ok(addr)
    }

    /// Gives a block back. Its address must be the start of a live block.
    pub fn free(&self, addr: u64) -> Result<(), MemoryError> {
        let mut table = self.table();
        let bytes = table.remove(addr).ok_or(MemoryError::NotABlock { addr })? as usize;
        self.arena.release(addr, bytes);
        self.shadow.clear(addr, bytes);
        if let Some(races) = &*self.kept_races() {
            races.forget(addr, bytes);
        }
        Ok(())
    }

    /// Makes a live block as good as new: what it held is gone, and its content is undefined.
    pub fn renew(&self, addr: u64) -> Result<(), MemoryError> {
        let table = self.table();
        let block = table.find(addr).filter(|(start, _)| *start == addr);
        let (_, bytes) = block.ok_or(MemoryError::NotABlock { addr })?;
        let bytes = bytes as usize;
        self.arena.release(addr, bytes);
        self.shadow.clear(addr, bytes);
        if let Some(seed) = table.poison {
            self.arena.poison(addr, bytes, seed ^ (addr - self.arena.start()));
        }
        Ok(())
    }

    fn check(&self, addr: u64, bytes: usize) -> Result<(), MemoryError> {
        let table = self.table();
        match table.find(addr) {
            Some((start, len)) if addr - start + bytes as u64 <= len => Ok(()),
            _ => Err(MemoryError::OutOfBounds { addr, bytes, hint: table.hint(addr) }),
        }
    }

    /// Copies `out.len()` bytes from the device. They must lie in one block.
    pub fn read(&self, addr: u64, out: &mut [u8]) -> Result<(), MemoryError> {
        self.check(addr, out.len())?;
        self.arena.read_bytes(addr, out);
        Ok(())
    }

    /// Copies `data` to the device.
    pub fn write(&self, addr: u64, data: &[u8]) -> Result<(), MemoryError> {
        self.check(addr, data.len())?;
        self.arena.write_bytes(addr, data);
        self.shadow.mark(addr, data.len());
        Ok(())
    }

    /// Writes `pattern` `count` times in a row.
    pub fn fill(&self, addr: u64, pattern: &[u8], count: usize) -> Result<(), MemoryError> {
        let bytes = pattern.len().saturating_mul(count);
        self.check(addr, bytes)?;
        self.arena.fill(addr, pattern, count);
        self.shadow.mark(addr, bytes);
        Ok(())
    }

    /// Copies between two places of the device (they may overlap). Bytes never written stay "never written".
    pub fn copy(&self, dst: u64, src: u64, bytes: usize) -> Result<(), MemoryError> {
        self.check(src, bytes)?;
        self.check(dst, bytes)?;
        self.arena.copy(dst, src, bytes);
        if self.shadow.first_unwritten(src, bytes).is_none() {
            self.shadow.mark(dst, bytes);
        } else {
            self.shadow.copy(dst, src, bytes);
        }
        Ok(())
    }

    /// The block that contains `addr`: its start and its length in bytes.
    pub fn range_of(&self, addr: u64) -> Option<(u64, usize)> {
        self.table().find(addr).map(|(start, len)| (start, len as usize))
    }

    /// Bytes allocated now.
    pub fn used(&self) -> usize {
        self.table().used
    }

    /// Bytes the device has.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Makes host memory addressable by kernels at its own address. It counts as written.
    ///
    /// # Safety
    /// `ptr..ptr + bytes` must be valid for reads and writes until it is unregistered and every launch that began
    /// before that has ended, and the host must not hold references into it while a kernel runs.
    pub unsafe fn register_host(&self, ptr: *mut u8, bytes: usize) -> Result<(), MemoryError> {
        let addr = ptr as u64;
        if bytes == 0 {
            return Err(MemoryError::BadRequest { bytes, align: 1 });
        }
        let inside = addr < self.arena.end() && addr + bytes as u64 > self.arena.start();
        if inside || !self.table().register(addr, bytes as u64) {
            return Err(MemoryError::Overlap { addr });
        }
        Ok(())
    }

    /// Ends [`Memory::register_host`].
    pub fn unregister_host(&self, ptr: u64) -> Result<(), MemoryError> {
        if self.table().unregister(ptr) { Ok(()) } else { Err(MemoryError::NotABlock { addr: ptr }) }
    }

    /// The table as it is now, for a launch.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.table().snapshot()
    }

    /// From now on nobody knows which bytes of the live blocks were written (a kernel ran unchecked).
    pub(crate) fn forget_unwritten(&self) {
        self.table().forget_unwritten();
    }

    fn kept_races(&self) -> MutexGuard<'_, Option<RaceMap>> {
        self.races.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A map of who touched what: the one that an earlier launch left, or a fresh one.
    pub(crate) fn race_map(&self) -> Result<RaceMap, MemoryError> {
        self.kept_races().take().map_or_else(|| RaceMap::reserve(&self.arena), Ok)
    }

    /// Takes the map back when a launch is over.
    pub(crate) fn keep_race_map(&self, map: Option<RaceMap>) {
        *self.kept_races() = map;
    }

    /// What kernels of one launch go through.
    pub(crate) fn view<'a>(&'a self, snapshot: &'a Snapshot) -> View<'a> {
        View::new(&self.arena, &self.shadow, snapshot)
    }
}

#[cfg(test)]
mod tests;
