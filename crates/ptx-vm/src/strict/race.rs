//! Race detection by epochs.
//!
//! Shared memory: each warp has a vector clock; its own entry advances at every barrier it passes, the others are
//! what it knows of the other warps. A byte remembers the clock of its last writer and of two readers; an access is
//! ordered after another when the accessing warp knows the other's clock. (The idea of FastTrack: an epoch per
//! location instead of a clock per location.) Atomic and volatile accesses hand clocks on through their address.
use std::collections::HashMap;

use crate::exec::shared::Touch;

/// A conflict in shared memory.
pub(crate) struct SharedRace {
    pub at: usize,
    pub detail: String,
}

const WARP_BITS: u32 = 5;

/// The race detector of a block's shared memory.
#[derive(Default)]
pub(crate) struct SharedRaces {
    /// `clocks[w][v]`: what warp `w` knows of warp `v`.
    clocks: Vec<[u32; 32]>,
    writers: Vec<u32>,
    readers: Vec<[u32; 2]>,
    /// Clocks handed on by strong accesses, by address.
    flags: HashMap<u64, [u32; 32]>,
    newest: u32,
}

impl SharedRaces {
    /// Starts a block: everything recorded so far lies in the past of every warp.
    pub fn begin(&mut self, bytes: usize, warps: usize) {
        if self.newest > 1 << 26 {
            self.newest = 0;
            self.writers.clear();
            self.readers.clear();
        }
        let base = self.newest + 1;
        self.newest = base + 1;
        self.clocks.clear();
        self.clocks.resize(warps, [base; 32]);
        for (w, clocks) in self.clocks.iter_mut().enumerate() {
            clocks[w] = base + 1;
        }
        self.writers.resize(bytes, 0);
        self.readers.resize(bytes, [0; 2]);
        self.flags.clear();
    }

    fn tag(&self, warp: u32) -> u32 {
        self.clocks[warp as usize][warp as usize] << WARP_BITS | warp
    }

    /// Whether everything up to `clock` of warp `other` lies before what `warp` does now.
    pub fn knows(&self, warp: u32, other: u32, clock: u32) -> bool {
        warp == other || self.clocks[warp as usize][other as usize] >= clock
    }

    /// The clock of a warp.
    pub fn clock(&self, warp: u32) -> u32 {
        self.clocks[warp as usize][warp as usize]
    }

    fn ordered(&self, warp: u32, tag: u32) -> bool {
        tag == 0 || self.knows(warp, tag & 31, tag >> WARP_BITS)
    }

    /// Records an access; the conflict if there is one. Two writes do not conflict where `same` says of a byte that
    /// the second leaves it as it is: warps that hold the same values may all store them, as compilers let them.
    pub fn touch(
        &mut self,
        at: usize,
        bytes: usize,
        warp: u32,
        touch: Touch,
        same: impl Fn(usize) -> bool,
    ) -> Option<SharedRace> {
        let mine = self.tag(warp);
        let race = |at, other: u32, before: &str, now: &str| {
            let detail = format!(
                "warp {} {before} this byte and warp {warp} {now} it with no barrier in between",
                other & 31
            );
            Some(SharedRace { at, detail })
        };
        // Neighbouring bytes mostly have the same history: a tag that was fine a byte ago is fine.
        let mut fine = [mine; 3];
        for b in at..at + bytes {
            let writer = self.writers[b];
            if touch != Touch::Strong && writer != fine[0] {
                if self.ordered(warp, writer) {
                    fine[0] = writer;
                } else if touch == Touch::Read || !same(b) {
                    let now = if touch == Touch::Read { "reads" } else { "writes" };
                    return race(b, writer, "wrote", now);
                }
            }
            match touch {
                Touch::Strong => {}
                Touch::Read => {
                    let r = &mut self.readers[b];
                    if r[0] & 31 != warp || r[0] == 0 {
                        r[1] = r[0];
                    }
                    r[0] = mine;
                }
                Touch::Write => {
                    for i in 0..2 {
                        let reader = self.readers[b][i];
                        if reader != fine[1 + i] {
                            if !self.ordered(warp, reader) {
                                return race(b, reader, "read", "writes");
                            }
                            fine[1 + i] = reader;
                        }
                    }
                    self.readers[b] = [0; 2];
                    self.writers[b] = mine;
                }
            }
        }
        None
    }

    /// Records a write that was checked before.
    pub fn overwrite(&mut self, at: usize, bytes: usize, warp: u32) {
        let mine = self.tag(warp);
        self.writers[at..at + bytes].fill(mine);
        self.readers[at..at + bytes].fill([0; 2]);
    }

    /// A barrier of the warps in `members` (bit per warp): all know what each knew.
    pub fn barrier(&mut self, members: u64) {
        let mut all = [0; 32];
        let inside = |w: usize| members >> w & 1 == 1;
        for (_, c) in self.clocks.iter().enumerate().filter(|(w, _)| inside(*w)) {
            for v in 0..32 {
                all[v] = all[v].max(c[v]);
            }
        }
        for w in (0..self.clocks.len()).filter(|&w| inside(w)) {
            self.clocks[w] = all;
            self.clocks[w][w] += 1;
            self.newest = self.newest.max(self.clocks[w][w]);
        }
    }

    /// A strong access of `warp` to a flag at `key`: it learns what others left there and leaves what it knows.
    pub fn flag(&mut self, warp: u32, key: u64) {
        let mine = &mut self.clocks[warp as usize];
        let left = self.flags.entry(key).or_insert([0; 32]);
        for v in 0..32 {
            mine[v] = mine[v].max(left[v]);
            left[v] = mine[v];
        }
        mine[warp as usize] += 1;
        self.newest = self.newest.max(mine[warp as usize]);
    }
}
