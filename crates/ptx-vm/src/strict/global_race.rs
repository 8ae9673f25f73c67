//! Races in global memory, by epochs.
//!
//! An epoch is a stretch of a warp's life between two synchronisations; a word of memory remembers the epochs of its
//! last writer and its last two readers. Inside a block, barriers order epochs by the vector clocks of
//! [`super::race`]. Between blocks ticks take the place of clocks: a fence or a strong store (release) and a strong
//! load (acquire) of any block takes a tick; a write is ordered before another block's access when its block released
//! after it and the other block acquired after it. That is generous (it does not ask whether the two met on the same
//! flag), so that a synchronised program is never accused.
//!
//! What makes it cheap: tags are kept per word, those of bytes are looked at only once a kernel made accesses narrower
//! than a word; neighbouring words mostly have the same history, so a tag that was fine a word ago is fine; the tags
//! outlive the launch (numbers of epochs only grow), so that their pages are not cleared and faulted in each time.
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use crate::memory::RaceMap;

/// A conflict that was found.
pub(crate) struct Race {
    /// First byte of the conflict.
    pub at: u64,
    pub detail: String,
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
    /// Bytes that one lane accesses at once.
    pub width: u64,
}

const STRONG: u32 = 1 << 31;
const ID: u32 = STRONG - 1;
/// Numbers of epochs after which the map begins anew.
const MOST: u32 = 1 << 30;

/// The race detector of a launch.
pub(crate) struct GlobalRaces {
    map: RaceMap,
    /// Epochs up to this one belong to earlier launches.
    past: u32,
    epochs: Mutex<Vec<Epoch>>,
    tick: AtomicU64,
    /// The last release and the last acquire of each block.
    released: Vec<AtomicU64>,
    acquired: Vec<AtomicU64>,
    /// An access narrower than a word happened.
    narrow: AtomicBool,
    /// A word was read in two epochs.
    second: AtomicBool,
}

impl GlobalRaces {
    pub fn new(map: RaceMap, blocks: u64) -> GlobalRaces {
        let zeros = || (0..blocks).map(|_| AtomicU64::new(0)).collect();
        GlobalRaces {
            past: map.newest,
            map,
            epochs: Mutex::new(vec![Epoch { block: 0, warp: 0, clock: 0, start: 0 }]),
            tick: AtomicU64::new(1),
            released: zeros(),
            acquired: zeros(),
            narrow: AtomicBool::new(false),
            second: AtomicBool::new(false),
        }
    }

    /// The map for the next launch; `None` when its numbers are used up.
    pub fn into_map(mut self) -> Option<RaceMap> {
        let newest = self.past as usize + self.lock().len();
        self.map.newest = newest as u32;
        (newest < MOST as usize).then_some(self.map)
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
            state.id = self.past.wrapping_add(epochs.len() as u32) & ID;
            let EpochState { block, warp, clock, start, .. } = *state;
            epochs.push(Epoch { block, warp, clock, start });
        }
        state.id
    }

    /// The epoch of a tag, unless it lies before what the warp of `mine` does now.
    #[cold]
    fn conflict(&self, tag: u32, mine: &EpochState, knows: &dyn Fn(u32, u32) -> bool) -> Option<Epoch> {
        let e = self.lock()[((tag & ID) - self.past) as usize];
        if e.block == mine.block && (e.warp == mine.warp || knows(e.warp, e.clock)) {
            return None;
        }
        let released = self.released[e.block as usize].load(Relaxed);
        let acquired = self.acquired[mine.block as usize].load(Relaxed);
        if released > e.start && acquired > e.start { None } else { Some(e) }
    }

    /// Records an access to `bytes` bytes by lanes side by side; the conflict if there is one. `knows(warp, clock)`:
    /// whether a barrier of the block lies in between.
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
        let mine = self.id(state) | if access.strong { STRONG } else { 0 };
        let look = Look { races: self, mine, access, state, knows };
        if access.width < 4 {
            self.narrow.store(true, Relaxed);
            return (addr..addr + bytes).find_map(|at| look.byte(at));
        }
        look.words(addr, (bytes / 4) as usize)
    }
}

/// One access, looking at tags.
struct Look<'a> {
    races: &'a GlobalRaces,
    mine: u32,
    access: Access,
    state: &'a EpochState,
    knows: &'a dyn Fn(u32, u32) -> bool,
}

impl Look<'_> {
    fn check(&self, slot: &AtomicU32, wrote: bool, at: u64) -> Option<Race> {
        let tag = slot.load(Relaxed);
        let past = tag & ID <= self.races.past || tag & ID == self.mine & ID;
        if past || (self.access.strong && tag & STRONG != 0) {
            return None;
        }
        let e = self.races.conflict(tag, self.state, self.knows)?;
        let before = if wrote { "wrote" } else { "read" };
        let now = if self.access.write { "writes" } else { "reads" };
        let detail = format!(
            "warp {} of block number {} {before} this byte and this thread {now} it, unsynchronised",
            e.warp, e.block
        );
        Some(Race { at, detail })
    }

    fn words(&self, addr: u64, count: usize) -> Option<Race> {
        let GlobalRaces { map, narrow, second, past, .. } = self.races;
        let (writers, readers) = (map.writers(addr, count), map.readers(addr, count));
        let (narrow, twice) = (narrow.load(Relaxed), second.load(Relaxed));
        let (mut fine_writer, mut fine_reader) = (0, 0);
        for i in 0..count {
            let at = addr + 4 * i as u64;
            let (writer, reader) = (writers[i].load(Relaxed), readers[i].load(Relaxed));
            if writer != fine_writer {
                if let Some(race) = self.check(&writers[i], true, at) {
                    return Some(race);
                }
                fine_writer = writer;
            }
            if narrow && let Some(race) = (at..at + 4).find_map(|b| self.check_byte(b)) {
                return Some(race);
            }
            if self.access.write {
                if reader != fine_reader {
                    if let Some(race) = self.check(&readers[i], false, at) {
                        return Some(race);
                    }
                    fine_reader = reader;
                }
                if twice && let Some(race) = self.check(&map.seconds(at, 1)[0], false, at) {
                    return Some(race);
                }
                writers[i].store(self.mine, Relaxed);
            } else if (reader ^ self.mine) & ID != 0 {
                if reader & ID > *past {
                    map.seconds(at, 1)[0].store(reader, Relaxed);
                    second.store(true, Relaxed);
                }
                readers[i].store(self.mine, Relaxed);
            }
        }
        None
    }

    fn check_byte(&self, at: u64) -> Option<Race> {
        let slot = self.races.map.byte(at);
        let race = self.check(&slot.writer, true, at);
        race.or_else(|| if self.access.write { self.check(&slot.reader, false, at) } else { None })
    }

    /// An access narrower than a word.
    fn byte(&self, at: u64) -> Option<Race> {
        let map = &self.races.map;
        let word = at & !3;
        let mut race = self.check_byte(at).or_else(|| self.check(&map.writers(word, 1)[0], true, at));
        if self.access.write {
            race = race.or_else(|| self.check(&map.readers(word, 1)[0], false, at));
            race = race.or_else(|| self.check(&map.seconds(word, 1)[0], false, at));
        }
        if race.is_none() {
            let slot = map.byte(at);
            let own = if self.access.write { &slot.writer } else { &slot.reader };
            own.store(self.mine, Relaxed);
        }
        race
    }
}
