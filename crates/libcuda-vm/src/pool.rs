//! Memory pools: accounts over the device's memory.
//!
//! A pool holds nothing back here: freed memory is free for everybody at once, so use after free shows. Its attributes
//! are kept and its use is counted.
use crate::handle::{Table, lock};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

/// All pools by handle.
pub static POOLS: Table<Pool> = Table::new(4, "memory pool");

/// A pool.
pub struct Pool {
    /// Its handle.
    pub handle: usize,
    /// The number of its device.
    pub device: usize,
    /// The most bytes it gives out; 0 for no bound.
    pub max_bytes: usize,
    use_: Mutex<Use>,
    /// Attributes that the client set, by number.
    pub attributes: Mutex<BTreeMap<i32, u64>>,
}

#[derive(Default)]
struct Use {
    now: u64,
    high: u64,
}

impl Pool {
    /// A new pool, known by its handle.
    pub fn new(device: usize, max_bytes: usize) -> Arc<Pool> {
        let handle = POOLS.reserve();
        let attributes = Mutex::new(BTreeMap::from([(1, 1), (2, 1), (3, 1), (4, 0)]));
        let pool = Arc::new(Pool { handle, device, max_bytes, use_: Mutex::default(), attributes });
        POOLS.insert(handle, pool.clone());
        pool
    }

    /// Whether it may give out so many bytes more.
    pub fn has_room(&self, bytes: usize) -> bool {
        self.max_bytes == 0 || lock(&self.use_).now + bytes as u64 <= self.max_bytes as u64
    }

    /// Counts bytes given out.
    pub fn took(&self, bytes: usize) {
        let mut u = lock(&self.use_);
        u.now += bytes as u64;
        u.high = u.high.max(u.now);
    }

    /// Counts bytes given back.
    pub fn gave_back(&self, bytes: usize) {
        let mut u = lock(&self.use_);
        u.now = u.now.saturating_sub(bytes as u64);
    }

    /// Bytes in use now, and the most since the last reset.
    pub fn used(&self) -> (u64, u64) {
        let u = lock(&self.use_);
        (u.now, u.high)
    }

    /// Starts a new high-water mark.
    pub fn reset_high(&self) {
        let mut u = lock(&self.use_);
        u.high = u.now;
    }
}
