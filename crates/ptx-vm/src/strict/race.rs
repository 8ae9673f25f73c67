//! Race detection by epochs.
//!
//! Shared memory: each warp has a vector clock; its own entry advances at every barrier it passes, the others are
//! what it knows of the other warps. A byte remembers the clock of its last writer and of two readers; an access is
//! ordered after another when the accessing warp knows the other's clock. (The idea of FastTrack: an epoch per
//! location instead of a clock per location.) Atomic and volatile accesses hand clocks on through their address.
//!
//! Global memory: the same per launch, where the place of a clock is taken by ticks: a fence or a strong store
//! (release) and a strong load (acquire) of any block takes a tick; a write is ordered before another block's
//! access when its block released after it and the other block acquired after it. That is generous (it does not
//! ask whether the two met on the same flag), so that a synchronised program is never accused.
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use crate::exec::shared::Touch;
use crate::memory::RaceMap;

/// A conflict that was found.
pub(crate) struct Race {
    /// First byte of the conflict.
    pub at: u64,
    pub detail: String,
}

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

    /// Records an access; the conflict if there is one.
    pub fn touch(&mut self, at: usize, bytes: usize, warp: u32, touch: Touch) -> Option<SharedRace> {
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
                if !self.ordered(warp, writer) {
                    let now = if touch == Touch::Read { "reads" } else { "writes" };
                    return race(b, writer, "wrote", now);
                }
                fine[0] = writer;
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

/// A stretch of a warp's life between two synchronisations.
#[derive(Clone, Copy)]
struct Epoch {
    block: u64,
    warp: u32,
    clock: u32,
    start: u64,
}

/// A warp's place in the global detector.
#[derive(Clone, Debug, Default)]
pub(crate) struct EpochState {
    /// Index of the epoch, 0 when it has none yet.
    id: u32,
    pub block: u64,
    pub warp: u32,
    pub clock: u32,
    start: u64,
}

impl EpochState {
    pub fn new(block: u64, warp: u32) -> EpochState {
        EpochState { block, warp, ..EpochState::default() }
    }
}

/// What an access is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Access {
    pub write: bool,
    pub strong: bool,
}

/// The tag covers the whole word, not only its byte.
const WORD: u32 = 1 << 31;
const STRONG: u32 = 1 << 30;
const ID: u32 = STRONG - 1;

/// The race detector of a launch.
pub(crate) struct GlobalRaces {
    map: RaceMap,
    epochs: Mutex<Vec<Epoch>>,
    tick: AtomicU64,
    /// The last release and the last acquire of each block.
    released: Vec<AtomicU64>,
    acquired: Vec<AtomicU64>,
    /// An access narrower than a word happened.
    narrow: AtomicBool,
}

impl GlobalRaces {
    pub fn new(map: RaceMap, blocks: u64) -> GlobalRaces {
        let zeros = || (0..blocks).map(|_| AtomicU64::new(0)).collect();
        GlobalRaces {
            map,
            epochs: Mutex::new(vec![Epoch { block: 0, warp: 0, clock: 0, start: 0 }]),
            tick: AtomicU64::new(1),
            released: zeros(),
            acquired: zeros(),
            narrow: AtomicBool::new(false),
        }
    }

    fn next_tick(&self) -> u64 {
        self.tick.fetch_add(1, Relaxed) + 1
    }

    /// Earlier accesses of the block are published; the warp's next ones belong to a new epoch.
    pub fn release(&self, state: &mut EpochState) {
        let now = self.next_tick();
        self.released[state.block as usize].store(now, Relaxed);
        state.id = 0;
        state.start = now;
    }

    /// The block sees what was published.
    pub fn acquire(&self, state: &EpochState) {
        self.acquired[state.block as usize].store(self.next_tick(), Relaxed);
    }

    /// A barrier: the warp's next accesses belong to a new epoch.
    pub fn advance(&self, state: &mut EpochState, clock: u32) {
        state.id = 0;
        state.clock = clock;
        state.start = self.tick.load(Relaxed);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Epoch>> {
        self.epochs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn id(&self, state: &mut EpochState) -> u32 {
        if state.id == 0 {
            let mut epochs = self.lock();
            state.id = (epochs.len() as u32) & ID;
            let EpochState { block, warp, clock, start, .. } = *state;
            epochs.push(Epoch { block, warp, clock, start });
        }
        state.id
    }

    #[cold]
    fn conflict(&self, tag: u32, mine: &EpochState, knows: &dyn Fn(u32, u32) -> bool) -> Option<Epoch> {
        let e = self.lock()[(tag & ID) as usize];
        if e.block == mine.block && (e.warp == mine.warp || knows(e.warp, e.clock)) {
            return None;
        }
        let released = self.released[e.block as usize].load(Relaxed);
        let acquired = self.acquired[mine.block as usize].load(Relaxed);
        if released > e.start && acquired > e.start { None } else { Some(e) }
    }

    /// Records an access of `bytes` bytes; the conflict if there is one. `knows(warp, clock)`: whether a barrier of
    /// the block lies in between.
    pub fn touch(
        &self,
        addr: u64,
        bytes: u64,
        access: Access,
        state: &mut EpochState,
        knows: &dyn Fn(u32, u32) -> bool,
    ) -> Option<Race> {
        if !self.map.covers(addr) {
            return None;
        }
        let strong = if access.strong { STRONG } else { 0 };
        let mine = self.id(state) | strong;
        let check = |slot: &AtomicU32, wrote: bool, at: u64| -> Option<Race> {
            let tag = slot.load(Relaxed);
            let same = tag & ID == mine & ID;
            if tag == 0 || same || (access.strong && tag & STRONG != 0) {
                return None;
            }
            let e = self.conflict(tag, state, knows)?;
            let (before, now) =
                (if wrote { "wrote" } else { "read" }, if access.write { "writes" } else { "reads" });
            let detail = format!(
                "warp {} of block number {} {before} this byte and this thread {now} it, unsynchronised",
                e.warp, e.block
            );
            Some(Race { at, detail })
        };
        let narrow = bytes < 4;
        if narrow && !self.narrow.load(Relaxed) {
            self.narrow.store(true, Relaxed);
        }
        let (step, kind) = if narrow { (1, 0) } else { (4, WORD) };
        for at in (addr..addr + bytes).step_by(step) {
            let own = self.map.slot(at);
            let second = self.map.slot(at & !3 | 1);
            let mut race = check(&own.writer, true, at);
            if access.write {
                race = race.or_else(|| check(&own.reader, false, at));
                race = race.or_else(|| if narrow { None } else { check(&second.reader, false, at) });
            }
            if narrow {
                let first = self.map.slot(at & !3);
                if first.writer.load(Relaxed) & WORD != 0 {
                    race = race.or_else(|| check(&first.writer, true, at));
                }
                if access.write && first.reader.load(Relaxed) & WORD != 0 {
                    race = race.or_else(|| check(&first.reader, false, at));
                }
            } else if self.narrow.load(Relaxed) {
                for b in at + 1..at + 4 {
                    let s = self.map.slot(b);
                    race = race.or_else(|| check(&s.writer, true, b));
                    if access.write {
                        race = race.or_else(|| check(&s.reader, false, b));
                    }
                }
            }
            if race.is_some() {
                return race;
            }
            let tag = mine | kind;
            if access.write {
                own.writer.store(tag, Relaxed);
            } else {
                let last = own.reader.load(Relaxed);
                if last & ID != mine & ID {
                    if last != 0 && !narrow {
                        second.reader.store(last, Relaxed);
                    }
                    own.reader.store(tag, Relaxed);
                }
            }
        }
        None
    }
}
