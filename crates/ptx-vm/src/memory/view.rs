//! How a running kernel sees memory: the table as it was at the launch.
use std::sync::atomic::Ordering::Relaxed;

use super::raw::{Arena, AtomicWidth, word_update};
use super::shadow::Shadow;
use super::table::near;

/// A live range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
    /// Registered host memory.
    pub host: bool,
    /// Every byte counts as written.
    pub all_written: bool,
}

/// The table at one moment.
pub(crate) struct Snapshot {
    pub(super) blocks: Vec<Block>,
    pub(super) freed: Vec<(u64, u64)>,
}

/// The block an access hit last: accesses of a warp rarely leave it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hit(Block);

impl Default for Hit {
    fn default() -> Hit {
        Hit(Block { start: 1, end: 0, host: false, all_written: false })
    }
}

/// Memory as one launch sees it. Copy it freely.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    arena: &'a Arena,
    shadow: &'a Shadow,
    snapshot: &'a Snapshot,
}

impl<'a> View<'a> {
    pub(super) fn new(arena: &'a Arena, shadow: &'a Shadow, snapshot: &'a Snapshot) -> View<'a> {
        View { arena, shadow, snapshot }
    }

    /// Whether one live block contains the range; remembers the block.
    #[inline(always)]
    pub fn contains(&self, hit: &mut Hit, addr: u64, bytes: u64) -> bool {
        let inside = |b: &Block| addr >= b.start && addr < b.end && bytes <= b.end - addr;
        inside(&hit.0) || self.look_up(hit, addr).is_some_and(|b| inside(&b))
    }

    #[cold]
    fn look_up(&self, hit: &mut Hit, addr: u64) -> Option<Block> {
        let after = self.snapshot.blocks.partition_point(|b| b.start <= addr);
        let block = *self.snapshot.blocks.get(after.checked_sub(1)?)?;
        *hit = Hit(block);
        Some(block)
    }

    /// Whether the address lies in a block that was freed, and what is around it.
    pub fn explain(&self, addr: u64) -> (bool, String) {
        let after = self.snapshot.blocks.partition_point(|b| b.start <= addr);
        let before = after.checked_sub(1).map(|i| self.snapshot.blocks[i]);
        let freed = self.snapshot.freed.iter().any(|&(s, len)| addr >= s && addr < s + len);
        (freed, near(before, self.snapshot.freed.iter().copied(), addr))
    }

    /// The first byte of a range inside the block `hit` that nobody wrote.
    #[inline(always)]
    pub fn first_unwritten(&self, hit: &Hit, addr: u64, bytes: usize) -> Option<u64> {
        if hit.0.all_written { None } else { self.shadow.first_unwritten(addr, bytes) }
    }

    /// Marks a range inside the block `hit` as written.
    #[inline(always)]
    pub fn mark(&self, hit: &Hit, addr: u64, bytes: usize) {
        if !hit.0.all_written {
            self.shadow.mark(addr, bytes);
        }
    }

    /// Loads 1, 2, 4 or 8 bytes; the address is aligned and was found by [`View::contains`].
    #[inline(always)]
    pub fn load(&self, addr: u64, bytes: u32) -> u64 {
        match bytes {
            1 => u64::from(self.arena.atomic8(addr).load(Relaxed)),
            2 => u64::from(self.arena.atomic16(addr).load(Relaxed)),
            4 => u64::from(self.arena.atomic32(addr).load(Relaxed)),
            _ => self.arena.atomic64(addr).load(Relaxed),
        }
    }

    /// Stores 1, 2, 4 or 8 bytes; the address is aligned and was found by [`View::contains`].
    #[inline(always)]
    pub fn store(&self, addr: u64, bytes: u32, value: u64) {
        match bytes {
            1 => self.arena.atomic8(addr).store(value as u8, Relaxed),
            2 => self.arena.atomic16(addr).store(value as u16, Relaxed),
            4 => self.arena.atomic32(addr).store(value as u32, Relaxed),
            _ => self.arena.atomic64(addr).store(value, Relaxed),
        }
    }

    /// Read-modify-write of the word at an aligned address found by [`View::contains`]; the old value.
    pub fn update(&self, addr: u64, width: AtomicWidth, f: impl FnMut(u64) -> u64) -> u64 {
        word_update(self.arena, addr, width, f)
    }
}
