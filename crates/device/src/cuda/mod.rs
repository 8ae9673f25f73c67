//! A CUDA device: one context, one stream in whose order everything happens, so that memory given back by a buffer may
//! be handed out again at once.
//!
//! Uploads go through pinned staging memory and do not wait; only downloads wait for the stream.
mod driver;
mod graph;
mod launch;
mod staging;

pub use driver::DeviceError;
pub use graph::Graph;

use crate::pool::Classes;
use driver::{Driver, Handle};
use kernel_abi::LaunchError;
use launch::Functions;
use staging::Staging;
use std::{cell::Cell, ffi::c_int, path::Path, ptr, sync::Mutex};

/// A driver's device and what is kept on it. Every method may be called from any thread.
pub(crate) struct Gpu {
    driver: Driver,
    device: c_int,
    context: Handle,
    stream: Handle,
    sm: u32,
    name: String,
    state: Mutex<State>,
}

// SAFETY: the handles are opaque to this process and the driver is thread-safe; what is ours is behind the lock.
unsafe impl Send for Gpu {}
// SAFETY: as above.
unsafe impl Sync for Gpu {}

struct State {
    free: Classes<u64>,
    functions: Functions,
    staging: Staging,
    /// While a capture runs: blocks given back, which stay with the graph.
    capture: Option<Classes<u64>>,
}

thread_local! {
    /// The context that this thread last made current.
    static CURRENT: Cell<Handle> = const { Cell::new(ptr::null_mut()) };
}

const COMPUTE_CAPABILITY: [c_int; 2] = [75, 76];
/// Blocks are multiples of this, so every buffer is aligned for 128-bit accesses and whole sectors.
const GRAIN: usize = 512;

/// Blocks of so many bytes and more are weights, mostly.
const LARGE: usize = 32 << 20;

fn class(bytes: usize) -> usize {
    Classes::<u64>::class(bytes.div_ceil(GRAIN).max(1), LARGE / GRAIN)
}

/// Bytes that the allocator takes for a buffer.
pub(crate) fn rounded(bytes: usize) -> usize {
    class(bytes) * GRAIN
}

impl Gpu {
    /// Opens a device of a driver.
    pub(crate) fn open(path: Option<&Path>, ordinal: usize) -> Result<Gpu, DeviceError> {
        let driver = Driver::load(path)?;
        let (mut count, mut device, mut context, mut stream) = (0, 0, ptr::null_mut(), ptr::null_mut());
        let mut sm = [0; 2];
        let mut name = [0; 128];
        // SAFETY: the pointers are to locals of the types the driver writes.
        unsafe {
            driver.init(0)?;
            driver.device_count(&mut count)?;
            if ordinal >= count as usize {
                let problem = format!("device {ordinal} does not exist; the driver sees {count}");
                return Err(DeviceError { call: "cuDeviceGet".into(), problem });
            }
            driver.device_get(&mut device, ordinal as c_int)?;
            driver.device_name(name.as_mut_ptr(), name.len() as c_int, device)?;
            for (out, attribute) in sm.iter_mut().zip(COMPUTE_CAPABILITY) {
                driver.device_attribute(out, attribute, device)?;
            }
            driver.context_retain(&mut context, device)?;
            driver.context_set(context)?;
            const NON_BLOCKING: u32 = 1;
            driver.stream_create(&mut stream, NON_BLOCKING)?;
        }
        CURRENT.set(context);
        let bytes = name.map(|c| c as u8);
        let name = String::from_utf8_lossy(bytes.split(|b| *b == 0).next().unwrap_or_default()).into_owned();
        let state = State {
            free: Classes::default(),
            functions: Functions::default(),
            staging: Staging::default(),
            capture: None,
        };
        let sm = (10 * sm[0] + sm[1]) as u32;
        Ok(Gpu { driver, device, context, stream, sm, name, state: Mutex::new(state) })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The stream, with the context current on this thread.
    pub(crate) fn stream(&self) -> Handle {
        self.enter();
        self.stream
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Makes the context current on this thread.
    fn enter(&self) -> &Driver {
        if CURRENT.get() != self.context {
            // SAFETY: the context lives as long as self.
            unsafe { self.driver.context_set(self.context) }.unwrap_or_else(|e| panic!("{e}"));
            CURRENT.set(self.context);
        }
        &self.driver
    }

    /// A block of at least `bytes`, from the cache or the driver. Returns its class and address.
    pub(crate) fn take(&self, bytes: usize) -> Result<(usize, u64), DeviceError> {
        let class = class(bytes);
        let driver = self.enter();
        let mut state = self.state();
        let captured = state.capture.as_mut().and_then(|free| free.take(class));
        if let Some(at) = captured.or_else(|| state.free.take(class)) {
            return Ok((class, at));
        }
        let fresh = || {
            let mut at = 0;
            // SAFETY: `at` is a local.
            unsafe { driver.alloc(&mut at, class * GRAIN) }.map(|()| at)
        };
        let at = fresh().or_else(|e| {
            // Cached blocks of other classes may be what fills the memory.
            if state.free.is_empty() || state.capture.is_some() {
                return Err(e);
            }
            self.drain(&mut state);
            fresh()
        });
        at.map(|at| (class, at)).map_err(|e| self.out_of_memory(bytes, e))
    }

    /// Free and total bytes of the device's memory, where the driver says.
    fn memory(&self) -> Option<(usize, usize)> {
        let (mut free, mut total) = (0, 0);
        // SAFETY: the pointers are to locals.
        unsafe { self.enter().memory_info(&mut free, &mut total) }.ok().map(|()| (free, total))
    }

    /// Bytes that the driver has free.
    pub(crate) fn free_bytes(&self) -> Option<usize> {
        self.memory().map(|(free, _)| free)
    }

    fn out_of_memory(&self, bytes: usize, e: DeviceError) -> DeviceError {
        let room = match self.memory() {
            Some((free, total)) => format!(": {} MiB of {} MiB are free", free >> 20, total >> 20),
            None => String::new(),
        };
        let problem = format!(
            "{} for a block of {} MiB{room}; use a smaller batch, gradient checkpointing or int8",
            e.problem,
            bytes >> 20
        );
        DeviceError { call: e.call, problem }
    }

    /// Returns a block to the cache: later work in the stream may use it.
    pub(crate) fn give(&self, class: usize, at: u64) {
        let mut state = self.state();
        match &mut state.capture {
            Some(kept) => kept.give(class, at),
            None => state.free.give(class, at),
        }
    }

    /// Returns cached blocks to the driver.
    pub(crate) fn trim(&self) {
        self.enter();
        self.drain(&mut self.state());
    }

    fn drain(&self, state: &mut State) {
        for (_, at) in state.free.drain() {
            // SAFETY: the block is ours and nobody holds it; the driver waits for work that still uses it.
            let _ = unsafe { self.driver.free(at) };
        }
    }

    /// Copies bytes to the device; returns as soon as `from` has been read.
    pub(crate) fn upload(&self, to: u64, from: &[u8]) -> Result<(), DeviceError> {
        self.state().staging.upload(self.enter(), self.stream, to, from)
    }

    /// Copies bytes to the host, after all work before it.
    pub(crate) fn download(&self, from: u64, to: &mut [u8]) -> Result<(), DeviceError> {
        self.state().staging.download(self.enter(), self.stream, from, to)
    }

    /// Copies within the device.
    pub(crate) fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<(), DeviceError> {
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: both blocks are live and at least that long, by the callers in `buffer`.
        unsafe { self.enter().copy(to, from, bytes, self.stream) }
    }

    /// Repeats `pattern` (1, 4 or another number of bytes) `count` times.
    pub(crate) fn fill(&self, at: u64, pattern: &[u8], count: usize) -> Result<(), DeviceError> {
        let driver = self.enter();
        if count == 0 {
            return Ok(());
        }
        // SAFETY: the block is live and long enough, by the caller in `buffer`.
        unsafe {
            match pattern {
                _ if pattern.iter().all(|b| *b == pattern[0]) => {
                    driver.fill_8(at, pattern[0], count * pattern.len(), self.stream)
                }
                [a, b, c, d] => driver.fill_32(at, u32::from_le_bytes([*a, *b, *c, *d]), count, self.stream),
                _ => self.upload(at, &pattern.repeat(count)),
            }
        }
    }

    /// Waits for everything submitted so far.
    pub(crate) fn wait(&self) -> Result<(), DeviceError> {
        // SAFETY: the stream is ours.
        unsafe { self.enter().stream_wait(self.stream) }
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        let _ = self.wait();
        self.trim();
        let mut state = self.state();
        state.staging.free(&self.driver);
        state.functions.unload(&self.driver);
        // SAFETY: nothing uses the stream or the context after this.
        unsafe {
            let _ = self.driver.stream_destroy(self.stream);
            let _ = self.driver.context_release(self.device);
        }
        CURRENT.set(ptr::null_mut());
    }
}

impl From<DeviceError> for LaunchError {
    fn from(e: DeviceError) -> LaunchError {
        LaunchError { kernel: e.call, problem: e.problem }
    }
}
