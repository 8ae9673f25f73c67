//! A thread's local memory: frames of functions, parameters of calls, `alloca`.
use crate::strict::written::Written;

/// Local memory of one thread. Ranges are checked before they get here.
#[derive(Default)]
pub(crate) struct Local {
    bytes: Vec<u8>,
    written: Written,
}

impl Local {
    /// Makes `from..to` a part of the stack that nobody has written to yet. New bytes hold `junk`.
    pub fn open(&mut self, from: usize, to: usize, junk: u8, checked: bool) {
        if self.bytes.len() < to {
            self.bytes.resize(to, junk);
        }
        if checked && from < to {
            self.written.grow(to);
            self.written.forget(from, to - from);
        }
    }

    /// Bytes there are.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The first byte of a range that the present frames have not written.
    pub fn first_unwritten(&self, at: usize, bytes: usize) -> Option<usize> {
        self.written.first_missing(at, bytes)
    }

    /// Up to 8 bytes as a number.
    pub fn load(&self, at: usize, bytes: usize) -> u64 {
        let mut raw = [0; 8];
        raw[..bytes].copy_from_slice(&self.bytes[at..at + bytes]);
        u64::from_le_bytes(raw)
    }

    /// The same, where there are such bytes.
    pub fn get(&self, at: usize, bytes: usize) -> Option<u64> {
        (at.checked_add(bytes)? <= self.bytes.len()).then(|| self.load(at, bytes))
    }

    /// Writes the low `bytes` bytes of a number, 8 at most.
    pub fn store(&mut self, at: usize, bytes: usize, value: u64) {
        self.bytes[at..at + bytes].copy_from_slice(&value.to_le_bytes()[..bytes]);
        self.written.mark(at, bytes);
    }

    /// Copies a range with what is known of its bytes.
    pub fn copy(&mut self, from: usize, to: usize, bytes: usize) {
        self.bytes.copy_within(from..from + bytes, to);
        let holes: Vec<usize> = (0..bytes).filter(|i| self.first_unwritten(from + i, 1).is_some()).collect();
        self.written.mark(to, bytes);
        holes.into_iter().for_each(|i| self.written.forget(to + i, 1));
    }
}
