//! Which addresses belong to which block.
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::GUARD;
use super::view::{Block, Snapshot};

/// How many freed blocks are remembered, to call an access to them by its name.
const REMEMBERED: usize = 4096;

/// Live blocks, registered host memory, recently freed blocks.
pub(super) struct Table {
    start: u64,
    span: u64,
    /// Where the next block is tried first.
    next: u64,
    live: BTreeMap<u64, Block>,
    freed: VecDeque<(u64, u64)>,
    current: Option<Arc<Snapshot>>,
    /// Bytes allocated now (host memory does not count).
    pub used: usize,
    /// Seed of the content of fresh blocks.
    pub poison: Option<u64>,
}

impl Table {
    pub fn new(start: u64, span: u64) -> Table {
        Table {
            start,
            span,
            next: start,
            live: BTreeMap::new(),
            freed: VecDeque::new(),
            current: None,
            used: 0,
            poison: None,
        }
    }

    /// Finds room: after the last block, else in the first gap that is wide enough.
    pub fn place(&mut self, bytes: u64, align: u64) -> Option<u64> {
        let end = self.start + self.span;
        let fits = |from: u64, until: u64| {
            let addr = from.checked_next_multiple_of(align)?;
            let last = addr.checked_add(bytes)?.checked_add(GUARD as u64)?;
            (last <= until).then_some(addr)
        };
        let addr = fits(self.next, end).or_else(|| {
            let mut from = self.start;
            for block in self.live.range(self.start..end).map(|(_, b)| *b) {
                if let Some(addr) = fits(from, block.start) {
                    return Some(addr);
                }
                from = block.end + GUARD as u64;
            }
            fits(from, end)
        })?;
        self.next = addr + bytes + GUARD as u64;
        self.freed.retain(|&(start, len)| start + len <= addr || start >= addr + bytes);
        self.live.insert(addr, Block { start: addr, end: addr + bytes, host: false, all_written: false });
        self.used += bytes as usize;
        self.current = None;
        Some(addr)
    }

    /// Takes out a device block; its length.
    pub fn remove(&mut self, addr: u64) -> Option<u64> {
        let block = *self.live.get(&addr).filter(|b| !b.host)?;
        self.live.remove(&addr);
        let len = block.end - block.start;
        self.used -= len as usize;
        if self.freed.len() == REMEMBERED {
            self.freed.pop_front();
        }
        self.freed.push_back((addr, len));
        self.current = None;
        Some(len)
    }

    pub fn register(&mut self, addr: u64, bytes: u64) -> bool {
        let end = addr + bytes;
        let overlaps = self.live.range(..end).next_back().is_some_and(|(_, b)| b.end > addr);
        if !overlaps {
            self.live.insert(addr, Block { start: addr, end, host: true, all_written: true });
            self.current = None;
        }
        !overlaps
    }

    pub fn unregister(&mut self, addr: u64) -> bool {
        let known = self.live.get(&addr).is_some_and(|b| b.host);
        if known {
            self.live.remove(&addr);
            self.current = None;
        }
        known
    }

    /// Start and length of the block around `addr`.
    pub fn find(&self, addr: u64) -> Option<(u64, u64)> {
        let (_, block) = self.live.range(..=addr).next_back()?;
        (addr < block.end).then_some((block.start, block.end - block.start))
    }

    /// " (7 bytes after the block of 64 bytes at 0x...)" or the like.
    pub fn hint(&self, addr: u64) -> String {
        near(self.live.range(..=addr).next_back().map(|(_, b)| *b), self.freed.iter().copied(), addr)
    }

    pub fn forget_unwritten(&mut self) {
        if self.live.values().any(|b| !b.all_written) {
            self.live.values_mut().for_each(|b| b.all_written = true);
            self.current = None;
        }
    }

    pub fn snapshot(&mut self) -> Arc<Snapshot> {
        let make = || {
            let blocks = self.live.values().copied().collect();
            Arc::new(Snapshot { blocks, freed: self.freed.iter().copied().collect() })
        };
        self.current.get_or_insert_with(make).clone()
    }
}

/// What lies around an address that is in no block.
pub(super) fn near(before: Option<Block>, mut freed: impl Iterator<Item = (u64, u64)>, addr: u64) -> String {
    if let Some((start, len)) = freed.find(|&(start, len)| addr >= start && addr < start + len) {
        return format!(" (inside a freed block of {len} bytes at {start:#x})");
    }
    match before {
        Some(b) if addr < b.end => format!(" (the block at {:#x} ends at {:#x})", b.start, b.end),
        Some(b) if addr - b.end < 1 << 20 => {
            format!(
                " ({} bytes after the end of the block of {} bytes at {:#x})",
                addr - b.end,
                b.end - b.start,
                b.start
            )
        }
        _ => String::new(),
    }
}
