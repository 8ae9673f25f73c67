//! Outputs that parallel tasks write side by side.

use std::marker::PhantomData;

/// An output that tasks write side by side, each its own elements.
#[derive(Clone, Copy)]
pub struct Shared<'a> {
    start: *mut f32,
    len: usize,
    borrow: PhantomData<&'a mut [f32]>,
}
// SAFETY: `slice`'s contract makes tasks write disjoint elements.
unsafe impl Send for Shared<'_> {}
// SAFETY: as above.
unsafe impl Sync for Shared<'_> {}

impl<'a> Shared<'a> {
    /// Shares `out` for as long as it is borrowed.
    pub fn new(out: &'a mut [f32]) -> Self {
        Shared { start: out.as_mut_ptr(), len: out.len(), borrow: PhantomData }
    }

    /// Asks for the cache line of element `at`, to be written soon.
    #[inline(always)]
    pub fn prefetch(&self, at: usize) {
        crate::prefetch_write(self.start.wrapping_add(at));
    }

    /// The elements `at..at + len`.
    ///
    /// # Safety
    /// No other task may touch them meanwhile.
    ///
    /// # Panics
    /// When they lie outside the buffer.
    #[inline]
    pub unsafe fn slice(&self, at: usize, len: usize) -> &'a mut [f32] {
        assert!(at + len <= self.len, "slice {at}..{} of {}", at + len, self.len);
        // SAFETY: in bounds by the assert; exclusive by the caller's contract.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(at), len) }
    }
}
