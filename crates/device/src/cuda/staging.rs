//! Pinned host memory between the program's memory and the device's: the driver copies from it without waiting.

use super::driver::{DeviceError, Driver, Handle};
use std::{ffi::c_void, ptr, slice};

/// Bytes of a chunk: large enough to keep a PCIe link busy, small enough to be taken twice.
const CHUNK: usize = 4 << 20;
const CHUNKS: usize = 2;
const DISABLE_TIMING: u32 = 2;

/// A chunk, and the event after which its last copy is done.
struct Chunk {
    at: *mut c_void,
    done: Handle,
    used: usize,
}

/// Chunks used in turn.
#[derive(Default)]
pub(super) struct Staging {
    chunks: Vec<Chunk>,
    turn: usize,
}

impl Staging {
    fn ready(&mut self, driver: &Driver) -> Result<(), DeviceError> {
        while self.chunks.len() < CHUNKS {
            let (mut at, mut done) = (ptr::null_mut(), ptr::null_mut());
            // SAFETY: the pointers are to locals.
            unsafe {
                driver.alloc_pinned(&mut at, CHUNK)?;
                driver.event_create(&mut done, DISABLE_TIMING)?;
            }
            self.chunks.push(Chunk { at, done, used: 0 });
        }
        Ok(())
    }

    /// The next chunk with room for `bytes`, and where in it: a chunk begun anew has been copied out before.
    fn room(&mut self, driver: &Driver, bytes: usize) -> Result<(*mut u8, Handle), DeviceError> {
        self.ready(driver)?;
        if self.chunks[self.turn].used + bytes > CHUNK {
            self.turn = (self.turn + 1) % CHUNKS;
            self.chunks[self.turn].used = 0;
            // SAFETY: the event is ours; one never recorded counts as done.
            unsafe { driver.event_wait(self.chunks[self.turn].done)? };
        }
        let chunk = &mut self.chunks[self.turn];
        // SAFETY: used + bytes <= CHUNK.
        let at = unsafe { chunk.at.cast::<u8>().add(chunk.used) };
        chunk.used += bytes.next_multiple_of(256);
        Ok((at, chunk.done))
    }

    pub(super) fn upload(
        &mut self,
        driver: &Driver,
        stream: Handle,
        to: u64,
        from: &[u8],
    ) -> Result<(), DeviceError> {
        for (i, part) in from.chunks(CHUNK).enumerate() {
            let (at, done) = self.room(driver, part.len())?;
            // SAFETY: `at` has room for the part; the destination is a live block by the caller.
            unsafe {
                ptr::copy_nonoverlapping(part.as_ptr(), at, part.len());
                driver.to_device(to + (i * CHUNK) as u64, at.cast(), part.len(), stream)?;
                driver.event_record(done, stream)?;
            }
        }
        Ok(())
    }

    pub(super) fn download(
        &mut self,
        driver: &Driver,
        stream: Handle,
        from: u64,
        to: &mut [u8],
    ) -> Result<(), DeviceError> {
        for (i, part) in to.chunks_mut(CHUNK).enumerate() {
            let (at, _) = self.room(driver, part.len())?;
            // SAFETY: `at` has room for the part; the source is a live block by the caller; the wait comes before the
            // read.
            unsafe {
                driver.to_host(at.cast(), from + (i * CHUNK) as u64, part.len(), stream)?;
                driver.stream_wait(stream)?;
                part.copy_from_slice(slice::from_raw_parts(at, part.len()));
            }
        }
        Ok(())
    }

    pub(super) fn free(&mut self, driver: &Driver) {
        for chunk in self.chunks.drain(..) {
            // SAFETY: the stream was waited for.
            unsafe {
                let _ = driver.event_destroy(chunk.done);
                let _ = driver.free_pinned(chunk.at);
            }
        }
    }
}
