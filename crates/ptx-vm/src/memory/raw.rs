//! The only file that touches arena bytes.
//!
//! Kernels race by nature (that is theirs to get right), the VM must not: whatever a kernel thread can reach is
//! read and written through relaxed atomics of the access's width, which are plain moves on every host.
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};

use memmap2::{MmapOptions, MmapRaw, UncheckedAdvice};

use super::MemoryError;

/// Reserved address space; pages appear when touched and read as zero until then.
pub(crate) struct Arena {
    map: MmapRaw,
    span: usize,
}

/// The widths of an atomic access to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AtomicWidth {
    /// 16 bits
    W16,
    /// 32 bits
    W32,
    /// 64 bits
    W64,
}

macro_rules! atomic_at {
    ($name:ident, $atomic:ty, $align:literal) => {
        #[doc = concat!("The `", stringify!($atomic), "` at an address of the arena or of registered host memory.")]
        #[inline(always)]
        pub fn $name(&self, addr: u64) -> &$atomic {
            debug_assert!(addr.is_multiple_of($align));
            // SAFETY: the callers in this module pass addresses that a live range of the table contains (or that
            // lie in the shadow's own map); the arena lives as long as `self`, registered memory by the contract
            // of `register_host`; atomics may alias atomics.
            unsafe { &*(addr as *const $atomic) }
        }
    };
}

impl Arena {
    pub fn reserve(span: usize) -> Result<Arena, MemoryError> {
        let failed = |e: std::io::Error| MemoryError::Reserve { bytes: span, why: e.to_string() };
        let map = MmapOptions::new().len(span).no_reserve_swap().map_anon().map_err(failed)?;
        Ok(Arena { map: map.into(), span })
    }

    pub fn start(&self) -> u64 {
        self.map.as_mut_ptr() as u64
    }

    pub fn end(&self) -> u64 {
        self.start() + self.span as u64
    }

    atomic_at!(atomic8, AtomicU8, 1);
    atomic_at!(atomic16, AtomicU16, 2);
    atomic_at!(atomic32, AtomicU32, 4);
    atomic_at!(atomic64, AtomicU64, 8);

    /// Gives the whole pages of a range back to the system and zeroes the rest.
    pub fn release(&self, addr: u64, bytes: usize) {
        const PAGE: u64 = 4096;
        let end = addr + bytes as u64;
        let (first, last) = (addr.next_multiple_of(PAGE), end / PAGE * PAGE);
        if first >= last {
            self.fill(addr, &[0], bytes);
            return;
        }
        self.fill(addr, &[0], (first - addr) as usize);
        self.fill(last, &[0], (end - last) as usize);
        let offset = (first - self.start()) as usize;
        // SAFETY: the pages belong to this private anonymous map; all access to them is atomic or through raw
        // copies, so that their turning to zero is an ordinary write.
        let advised = unsafe {
            self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, offset, (last - first) as usize)
        };
        if advised.is_err() {
            self.fill(first, &[0], (last - first) as usize);
        }
    }

    /// Pseudo-random bytes that look neither like zero nor like small numbers.
    pub fn poison(&self, addr: u64, bytes: usize, seed: u64) {
        let mut state = seed | 1;
        for at in (addr..addr + bytes as u64).step_by(4) {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let word = (state >> 32) as u32;
            if at + 4 <= addr + bytes as u64 {
                self.atomic32(at).store(word, Relaxed);
            } else {
                (at..addr + bytes as u64).for_each(|b| self.atomic8(b).store(word as u8, Relaxed));
            }
        }
    }

    pub fn read_bytes(&self, addr: u64, out: &mut [u8]) {
        // SAFETY: the caller checked the source range against the table; `out` is a distinct Rust object.
        unsafe { std::ptr::copy_nonoverlapping(addr as *const u8, out.as_mut_ptr(), out.len()) }
    }

    pub fn write_bytes(&self, addr: u64, data: &[u8]) {
        // SAFETY: the caller checked the target range against the table; `data` is a distinct Rust object.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), addr as *mut u8, data.len()) }
    }

    pub fn copy(&self, dst: u64, src: u64, bytes: usize) {
        // SAFETY: the caller checked both ranges against the table; overlap is allowed by `copy`.
        unsafe { std::ptr::copy(src as *const u8, dst as *mut u8, bytes) }
    }

    pub fn fill(&self, addr: u64, pattern: &[u8], count: usize) {
        if let [byte] = pattern {
            // SAFETY: the caller checked the range against the table.
            unsafe { std::ptr::write_bytes(addr as *mut u8, *byte, count) }
        } else {
            (0..count).for_each(|i| self.write_bytes(addr + (i * pattern.len()) as u64, pattern));
        }
    }
}

/// Atomically replaces the word at `addr` by `f(old)`; returns the old value.
pub(crate) fn word_update(
    arena: &Arena,
    addr: u64,
    width: AtomicWidth,
    mut f: impl FnMut(u64) -> u64,
) -> u64 {
    macro_rules! update {
        ($at:ident, $int:ty) => {{
            let cell = arena.$at(addr);
            let mut old = cell.load(Relaxed);
            loop {
                let new = f(u64::from(old)) as $int;
                match cell.compare_exchange_weak(old, new, std::sync::atomic::Ordering::SeqCst, Relaxed) {
                    Ok(_) => return u64::from(old),
                    Err(now) => old = now,
                }
            }
        }};
    }
    match width {
        AtomicWidth::W16 => update!(atomic16, u16),
        AtomicWidth::W32 => update!(atomic32, u32),
        AtomicWidth::W64 => update!(atomic64, u64),
    }
}
