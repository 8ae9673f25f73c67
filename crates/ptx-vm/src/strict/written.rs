//! Which bytes of a block's shared or a thread's local memory were written: a bit per byte.

/// The bits. Without checks there are none, and every byte counts as written.
#[derive(Default)]
pub(crate) struct Written(Vec<u64>);

/// Calls `f(word, bits)` for each word of a range until it returns true.
fn each(at: usize, bytes: usize, mut f: impl FnMut(usize, u64) -> bool) {
    let mut b = at;
    while b < at + bytes {
        let n = (64 - b % 64).min(at + bytes - b);
        if f(b / 64, (!0u64 >> (64 - n)) << (b % 64)) {
            return;
        }
        b += n;
    }
}

impl Written {
    /// Room for so many bytes; new ones are unwritten.
    pub fn grow(&mut self, bytes: usize) {
        self.0.resize(bytes.div_ceil(64).max(self.0.len()), 0);
    }

    /// Nothing is written.
    pub fn clear(&mut self) {
        self.0.fill(0);
    }

    /// The range was written.
    pub fn mark(&mut self, at: usize, bytes: usize) {
        if !self.0.is_empty() {
            each(at, bytes, |word, bits| {
                self.0[word] |= bits;
                false
            });
        }
    }

    /// The range holds nothing any more.
    pub fn forget(&mut self, at: usize, bytes: usize) {
        if !self.0.is_empty() {
            each(at, bytes, |word, bits| {
                self.0[word] &= !bits;
                false
            });
        }
    }

    /// The first byte of the range that was not written.
    pub fn first_missing(&self, at: usize, bytes: usize) -> Option<usize> {
        let mut found = None;
        if !self.0.is_empty() {
            each(at, bytes, |word, bits| {
                let missing = bits & !self.0[word];
                if missing != 0 {
                    found = Some(word * 64 + missing.trailing_zeros() as usize);
                }
                missing != 0
            });
        }
        found
    }
}
