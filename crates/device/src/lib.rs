//! Devices, buffers and the caching allocator with exact peak accounting.
//!
//! Everything above this crate sees only kernels, buffers and devices, and never asks which device it is on.
//!
//! **Architecture Invariant:** this crate knows kernels only through `kernel-abi`'s [`Kernel`] trait.
mod buffer;
mod pool;

pub use buffer::{Buffer, Element};
pub use kernel_abi::{Cost, In, Kernel, Out};

use pool::Pool;
use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

/// Where kernels run. Cloning is cheap and refers to the same device and memory pool.
#[derive(Clone)]
pub struct Device(Arc<Inner>);

struct Inner {
    kind: Kind,
    pool: Mutex<Pool>,
    cost: Mutex<Cost>,
    live: AtomicUsize,
    peak: AtomicUsize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Cpu,
    Meta,
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Device({:?})", self.0.kind)
    }
}

impl Device {
    /// The native CPU device.
    pub fn cpu() -> Device {
        Device::new(Kind::Cpu)
    }

    /// A dry run: allocates shapes, computes nothing, adds up the kernels' costs.
    pub fn meta() -> Device {
        Device::new(Kind::Meta)
    }

    fn new(kind: Kind) -> Device {
        Device(Arc::new(Inner {
            kind,
            pool: Mutex::new(Pool::default()),
            cost: Mutex::new(Cost::default()),
            live: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
        }))
    }

    /// The name of the device, as `--device` takes it.
    pub fn name(&self) -> &'static str {
        match self.0.kind {
            Kind::Cpu => "cpu",
            Kind::Meta => "meta",
        }
    }

    /// True when buffers hold no values, so that code that branches on results can skip the branch.
    pub fn is_dry_run(&self) -> bool {
        self.0.kind == Kind::Meta
    }

    /// Runs a kernel.
    ///
    /// # Panics
    /// When the arguments do not fit the kernel's shape: shapes are checked where they enter the system
    /// (model configuration, file headers), so a mismatch here is a bug of the caller. Use
    /// [`Device::try_run`] to get the error as a value.
    #[inline]
    pub fn run<K: Kernel>(&self, kernel: &K, args: K::Args<'_>) {
        if let Err(e) = self.try_run(kernel, args) {
            panic!("{e}");
        }
    }

    /// Runs a kernel, or says which argument does not fit.
    #[inline]
    pub fn try_run<K: Kernel>(&self, kernel: &K, args: K::Args<'_>) -> Result<(), kernel_abi::ArgError> {
        kernel.check(&args)?;
        match self.0.kind {
            Kind::Cpu => kernel.cpu(args),
            Kind::Meta => *self.0.cost.lock().expect("cost lock") += kernel.cost(),
        }
        Ok(())
    }

    /// A buffer of `len` elements whose contents are unspecified (NaN bytes in debug builds): for outputs
    /// that a kernel overwrites.
    pub fn alloc<T: Element>(&self, len: usize) -> Buffer<T> {
        Buffer::new(self, len)
    }

    /// A buffer of zeros.
    pub fn zeros<T: Element>(&self, len: usize) -> Buffer<T> {
        let mut b = Buffer::new(self, len);
        b.fill(T::zeroed());
        b
    }

    /// A buffer with a copy of `values`.
    pub fn upload<T: Element>(&self, values: &[T]) -> Buffer<T> {
        let mut b = Buffer::new(self, values.len());
        b.write(values);
        b
    }

    /// Bytes in live buffers.
    pub fn live_bytes(&self) -> usize {
        self.0.live.load(Ordering::Relaxed)
    }

    /// Most bytes ever live at once since the last [`Device::reset_peak`].
    pub fn peak_bytes(&self) -> usize {
        self.0.peak.load(Ordering::Relaxed)
    }

    /// Starts a new peak measurement at the present level.
    pub fn reset_peak(&self) {
        self.0.peak.store(self.live_bytes(), Ordering::Relaxed);
    }

    /// Returns cached, unused memory to the system.
    pub fn trim(&self) {
        self.0.pool.lock().expect("pool lock").clear();
    }

    /// The summed cost of all kernels run on a dry-run device.
    pub fn cost(&self) -> Cost {
        *self.0.cost.lock().expect("cost lock")
    }

    fn count_alloc(&self, bytes: usize) {
        let live = self.0.live.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.0.peak.fetch_max(live, Ordering::Relaxed);
    }

    fn count_free(&self, bytes: usize) {
        self.0.live.fetch_sub(bytes, Ordering::Relaxed);
    }
}
