//! One bit per byte of the arena: was it written since its block was allocated?
//!
//! The bits lie in reserved pages of their own, 64 to a word. A warp's usual access is 128 consecutive bytes: two
//! words to look at, which is what keeps the check cheap.
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::MemoryError;
use super::raw::Arena;

pub(super) struct Shadow {
    words: Arena,
    base: u64,
}

/// The bits of `word` that bytes `from..until` (counted from the arena's start) occupy.
fn bits(word: u64, from: u64, until: u64) -> u64 {
    let low = from.max(word * 64) - word * 64;
    let high = until.min(word * 64 + 64) - word * 64;
    (!0 >> (64 - (high - low))) << low
}

impl Shadow {
    pub fn reserve(base: u64, span: usize) -> Result<Shadow, MemoryError> {
        Ok(Shadow { words: Arena::reserve(span / 8 + 4096)?, base })
    }

    fn word(&self, index: u64) -> &AtomicU64 {
        self.words.atomic64(self.words.start() + index * 8)
    }

    /// Calls `f(word, bits)` for each shadow word of a range; stops when it returns false.
    #[inline]
    fn each(&self, addr: u64, bytes: usize, mut f: impl FnMut(u64, &AtomicU64, u64) -> bool) {
        let from = addr - self.base;
        let until = from + bytes as u64;
        let mut at = from / 64;
        while at * 64 < until {
            if !f(at, self.word(at), bits(at, from, until)) {
                return;
            }
            at += 1;
        }
    }

    /// Marks bytes as written.
    #[inline]
    pub fn mark(&self, addr: u64, bytes: usize) {
        self.each(addr, bytes, |_, word, bits| {
            let old = word.load(Relaxed);
            if bits == !0 {
                word.store(!0, Relaxed);
            } else if old & bits != bits {
                word.fetch_or(bits, Relaxed);
            }
            true
        });
    }

    /// The first byte of a range that was never written.
    #[inline]
    pub fn first_unwritten(&self, addr: u64, bytes: usize) -> Option<u64> {
        let mut found = None;
        self.each(addr, bytes, |at, word, bits| {
            let missing = bits & !word.load(Relaxed);
            if missing != 0 {
                found = Some(self.base + at * 64 + u64::from(missing.trailing_zeros()));
            }
            missing == 0
        });
        found
    }

    /// Nothing in the range is written any more.
    pub fn clear(&self, addr: u64, bytes: usize) {
        let from = addr - self.base;
        let (first, last) = (from.div_ceil(64), (from + bytes as u64) / 64);
        if last > first + 512 {
            self.words.release(self.words.start() + first * 8, ((last - first) * 8) as usize);
        }
        self.each(addr, bytes, |_, word, bits| {
            let old = word.load(Relaxed);
            if old & bits != 0 {
                word.fetch_and(!bits, Relaxed);
            }
            true
        });
    }

    /// Copies the state of a range bit by bit, through a buffer (the ranges may overlap).
    pub fn copy(&self, dst: u64, src: u64, bytes: usize) {
        let states: Vec<bool> =
            (0..bytes as u64).map(|i| self.first_unwritten(src + i, 1).is_none()).collect();
        for (i, written) in states.into_iter().enumerate() {
            let at = dst + i as u64;
            if written { self.mark(at, 1) } else { self.clear(at, 1) }
        }
    }
}
