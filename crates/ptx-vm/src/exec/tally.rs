//! Counting while a block runs: per instruction, and per memory request.
use super::regs::LANES;
use crate::counters::{Counters, GlobalTraffic, SharedTraffic};
use crate::decode::program::{Kind, Program};

/// Executions of one instruction.
#[derive(Clone, Copy, Default)]
struct Count {
    full: u64,
    partial: u64,
    lanes: u64,
}

/// What one thread counted.
pub(crate) struct Tally {
    counts: Vec<Count>,
    pub counters: Counters,
}

impl Tally {
    pub fn new(instructions: usize) -> Tally {
        Tally { counts: vec![Count::default(); instructions], counters: Counters::default() }
    }

    /// One issue of instruction `pc` by the lanes of `mask`.
    #[inline(always)]
    pub fn issue(&mut self, pc: u32, mask: u32) {
        let c = &mut self.counts[pc as usize];
        if mask == !0 {
            c.full += 1;
        } else {
            c.partial += 1;
            c.lanes += u64::from(mask.count_ones());
        }
    }

    /// The counters, with the instructions sorted into classes.
    pub fn finish(mut self, program: &Program) -> Counters {
        for (count, inst) in self.counts.iter().zip(&program.code) {
            let Some(class) = inst.class else { continue };
            let warps = count.full + count.partial;
            if warps == 0 {
                continue;
            }
            let executed = self.counters.instructions.entry(class).or_default();
            executed.warps += warps;
            executed.lanes += 32 * count.full + count.lanes;
            if inst.mma_loop {
                self.counters.mma_loop_instructions += warps;
            }
            if let Kind::Mma(mma) = &inst.kind {
                *self.counters.mma.entry(mma.name.clone()).or_default() += warps;
                self.counters.mma_macs += warps * mma.macs;
                if inst.mma_loop {
                    self.counters.mma_loop_mma += warps;
                }
            }
        }
        self.counters
    }
}

/// The lanes of a mask.
#[inline]
pub(crate) fn lanes_of(mut mask: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        if mask == 0 {
            return None;
        }
        let l = mask.trailing_zeros() as usize;
        mask &= mask - 1;
        Some(l)
    })
}

/// Distinct values among `values` (reordered).
fn distinct(values: &mut [u64]) -> u64 {
    if !values.is_sorted() {
        values.sort_unstable();
    }
    let changes = values.windows(2).filter(|w| w[0] != w[1]).count();
    changes as u64 + u64::from(!values.is_empty())
}

const SECTOR: u64 = 32;

/// Counts a request to global memory: `bytes` bytes at each lane's address.
pub(crate) fn global(traffic: &mut GlobalTraffic, addrs: &[u64; LANES], mask: u32, bytes: u32) {
    let bytes = u64::from(bytes);
    let lanes = u64::from(mask.count_ones());
    traffic.requests += 1;
    traffic.bytes += lanes * bytes;
    let (mut sectors, mut starts, mut n) = ([0; 2 * LANES], [0; LANES], 0);
    let mut m = 0;
    for l in lanes_of(mask) {
        if n > 0 && starts[n - 1] == addrs[l] {
            continue;
        }
        starts[n] = addrs[l];
        n += 1;
        let (first, last) = (addrs[l] / SECTOR, (addrs[l] + bytes - 1) / SECTOR);
        sectors[m] = first;
        m += 1;
        if last != first {
            sectors[m] = last;
            m += 1;
        }
    }
    traffic.sectors += distinct(&mut sectors[..m]);
    traffic.ideal_sectors += (distinct(&mut starts[..n]) * bytes).div_ceil(SECTOR);
}

/// The same for 32 lanes side by side from `base`.
#[inline]
pub(crate) fn global_row(traffic: &mut GlobalTraffic, base: u64, bytes: u32) {
    let total = u64::from(bytes) * LANES as u64;
    traffic.requests += 1;
    traffic.bytes += total;
    traffic.sectors += (base % SECTOR + total).div_ceil(SECTOR);
    traffic.ideal_sectors += total.div_ceil(SECTOR);
}

const BANKS: usize = 32;

/// Passes over the banks for lanes of one phase: the most distinct words that fall on one bank.
fn phase(addrs: &[u64; LANES], mask: u32, words: u64) -> u64 {
    // The first word on each bank, and the words that came after another on theirs.
    let (mut first, mut count) = ([0u64; BANKS], [0u8; BANKS]);
    let (mut more, mut n) = ([0u64; 4 * LANES], 0);
    let mut last = None;
    for l in lanes_of(mask) {
        if last.replace(addrs[l]) == Some(addrs[l]) {
            continue;
        }
        for w in 0..words {
            let word = addrs[l] / 4 + w;
            let bank = (word % BANKS as u64) as usize;
            if count[bank] == 0 {
                (first[bank], count[bank]) = (word, 1);
            } else if first[bank] != word && !more[..n].contains(&word) {
                more[n] = word;
                n += 1;
                count[bank] += 1;
            }
        }
    }
    u64::from(count.into_iter().max().unwrap_or(0))
}

/// Counts a request to shared memory. An access of 8 bytes goes in two phases of 16 lanes, one of 16 bytes in four
/// of 8 lanes; each phase takes as many passes as its most loaded bank has distinct words.
pub(crate) fn shared(traffic: &mut SharedTraffic, addrs: &[u64; LANES], mask: u32, bytes: u32) {
    let (lanes_per_phase, words) = match bytes {
        0..=4 => (32, 1),
        8 => (16, 2),
        _ => (8, u64::from(bytes) / 4),
    };
    traffic.requests += 1;
    traffic.bytes += u64::from(bytes) * u64::from(mask.count_ones());
    let (mut wavefronts, mut ideal) = (0, 0);
    for first in (0..LANES).step_by(lanes_per_phase) {
        let part = mask & (((1u64 << lanes_per_phase) - 1) << first) as u32;
        if part != 0 {
            wavefronts += phase(addrs, part, words);
            ideal += 1;
        }
    }
    traffic.wavefronts += wavefronts;
    traffic.conflicts += wavefronts.saturating_sub(ideal);
}

/// The same for 32 lanes side by side.
#[inline]
pub(crate) fn shared_row(traffic: &mut SharedTraffic, bytes: u32) {
    traffic.requests += 1;
    traffic.bytes += u64::from(bytes) * LANES as u64;
    traffic.wavefronts += u64::from(bytes).div_ceil(4);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn wavefronts(addrs: &[u64; LANES], mask: u32, bytes: u32) -> u64 {
        let mut traffic = SharedTraffic::default();
        shared(&mut traffic, addrs, mask, bytes);
        traffic.wavefronts
    }

    #[test]
    fn banks_are_passed_as_often_as_their_words_ask() {
        let at = |f: fn(u64) -> u64| std::array::from_fn(|l| f(l as u64));
        assert_eq!(wavefronts(&at(|_| 64), !0, 4), 1, "one word for all");
        assert_eq!(wavefronts(&at(|l| 4 * l), !0, 4), 1, "a row");
        assert_eq!(wavefronts(&at(|l| 8 * l), !0, 4), 2, "every other word");
        assert_eq!(wavefronts(&at(|l| 128 * l), !0, 4), 32, "one bank");
        assert_eq!(wavefronts(&at(|l| 132 * l), !0, 4), 1, "a column of 33 words a row");
        assert_eq!(wavefronts(&at(|l| 128 * l), 7, 4), 3, "three lanes");
        assert_eq!(wavefronts(&at(|l| 16 * l), !0, 16), 4, "16 bytes a lane, four phases");
        // Against sets of words, bank by bank.
        let mut rng = super::super::context::Rng::new(5);
        for _ in 0..200 {
            let addrs = std::array::from_fn(|_| 4 * rng.below(300));
            let mask = rng.next() as u32 | 1;
            let words: HashSet<u64> = lanes_of(mask).map(|l| addrs[l] / 4).collect();
            let most = (0..32).map(|bank| words.iter().filter(|w| *w % 32 == bank).count()).max();
            assert_eq!(Some(wavefronts(&addrs, mask, 4) as usize), most);
        }
    }
}
