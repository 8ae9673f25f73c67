//! Devices, buffers and the caching allocator with exact peak accounting.
//!
//! Everything above this crate sees only kernels, buffers and devices, and never asks which device it is on.
//!
//! **Architecture Invariant:** this crate knows kernels only through `kernel-abi`'s [`Kernel`] trait.
mod buffer;
mod cuda;
mod host;
mod ledger;
mod pool;

pub use buffer::{Buffer, Element};
pub use cuda::{DeviceError, Graph};
pub use kernel_abi::{Cost, In, Kernel, Out};
pub use ledger::{Label, Labelled, Peak, label};

use cuda::Gpu;
use kernel_abi::Recorder;
use ledger::Ledger;
use pool::{Classes, Line};
use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Where kernels run. Cloning is cheap and refers to the same device and memory pool.
#[derive(Clone)]
pub struct Device(Arc<Inner>);

struct Inner {
    kind: Kind,
    gpu: Option<Arc<Gpu>>,
    pool: Mutex<Classes<Vec<Line>>>,
    cost: Mutex<Cost>,
    ledger: Mutex<Ledger>,
    launches: AtomicUsize,
    live: AtomicUsize,
    peak: AtomicUsize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Cpu,
    Cuda,
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
        Device::new(Kind::Cpu, None)
    }

    /// A GPU of the system's CUDA driver, by its number.
    ///
    /// # Errors
    /// When there is no driver or no such device.
    pub fn cuda(ordinal: usize) -> Result<Device, DeviceError> {
        Ok(Device::new(Kind::Cuda, Some(Arc::new(Gpu::open(None, ordinal)?))))
    }

    /// A GPU of the driver library at `path`, such as the stand-in that runs PTX on the CPU.
    ///
    /// # Errors
    /// When it is no CUDA driver or has no such device.
    pub fn cuda_from(path: &Path, ordinal: usize) -> Result<Device, DeviceError> {
        Ok(Device::new(Kind::Cuda, Some(Arc::new(Gpu::open(Some(path), ordinal)?))))
    }

    /// The system's first GPU if there is one, else the CPU.
    pub fn auto() -> Device {
        Device::cuda(0).unwrap_or_else(|_| Device::cpu())
    }

    /// A dry run: allocates shapes, computes nothing, adds up the kernels' costs.
    pub fn meta() -> Device {
        Device::new(Kind::Meta, None)
    }

    fn new(kind: Kind, gpu: Option<Arc<Gpu>>) -> Device {
        Device(Arc::new(Inner {
            kind,
            gpu,
            pool: Mutex::new(Classes::default()),
            cost: Mutex::new(Cost::default()),
            ledger: Mutex::default(),
            launches: AtomicUsize::new(0),
            live: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
        }))
    }

    /// The name of the device, as `--device` takes it.
    pub fn name(&self) -> &'static str {
        match self.0.kind {
            Kind::Cpu => "cpu",
            Kind::Cuda => "cuda",
            Kind::Meta => "meta",
        }
    }

    /// What the device is, in words: the GPU's name, or as [`Device::name`].
    pub fn description(&self) -> String {
        match &self.0.gpu {
            Some(gpu) => gpu.name().to_string(),
            None => self.name().to_string(),
        }
    }

    /// True when kernels run on the host's threads, so that more than one caller at a time makes sense.
    pub fn runs_on_host(&self) -> bool {
        self.0.kind == Kind::Cpu
    }

    /// Whether [`Device::capture`] captures.
    pub fn has_graphs(&self) -> bool {
        self.0.gpu.is_some()
    }

    /// True when buffers hold no values, so that code that branches on results can skip the branch.
    pub fn is_dry_run(&self) -> bool {
        self.0.kind == Kind::Meta
    }

    /// Runs a kernel.
    ///
    /// # Panics
    /// When the arguments do not fit the kernel's shape: shapes are checked where they enter the system
    /// (model configuration, file headers), so a mismatch here is a bug of the caller. Or when a GPU fails; the
    /// panic's payload is then a [`DeviceError`]. Use [`Device::try_run`] to get the error of a shape as a value.
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
            Kind::Cuda => {
                let mut scratch = 0;
                let mut workspace = |bytes| {
                    scratch += bytes;
                    self.count_alloc(bytes);
                };
                let done = kernel.ptx(args, &mut self.gpu().call(&mut workspace));
                self.count_free(scratch);
                done.unwrap_or_else(|e| fail(DeviceError { call: e.kernel, problem: e.problem }));
            }
            Kind::Meta => self.note(kernel, args),
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
        self.0.ledger.lock().expect("ledger lock").reset();
        self.0.peak.store(self.live_bytes(), Ordering::Relaxed);
    }

    /// Adds up what a GPU would be asked for: the kernel's cost, its launches, its workspace.
    fn note<K: Kernel>(&self, kernel: &K, args: K::Args<'_>) {
        *self.0.cost.lock().expect("cost lock") += kernel.cost();
        let mut recorder = Recorder::default();
        kernel
            .ptx(args, &mut recorder)
            .unwrap_or_else(|e| fail(DeviceError { call: e.kernel, problem: e.problem }));
        self.0.launches.fetch_add(recorder.launches.len(), Ordering::Relaxed);
        let _workspace = label("workspace", K::NAME);
        let scratch: Vec<Buffer<u8>> = recorder.workspaces.iter().map(|bytes| self.alloc(*bytes)).collect();
        drop(scratch);
    }

    /// What a dry run's memory held when it was fullest since the last [`Device::reset_peak`]; nothing on other devices.
    pub fn peak(&self) -> Peak {
        self.0.ledger.lock().expect("ledger lock").peak()
    }

    /// Launches that a dry run's kernels would have been.
    pub fn launches(&self) -> usize {
        self.0.launches.load(Ordering::Relaxed)
    }

    /// Waits until everything submitted so far is done.
    pub fn wait(&self) {
        if let Some(gpu) = &self.0.gpu {
            gpu.wait().unwrap_or_else(|e| fail(e));
        }
    }

    /// The CUDA stream in whose order all work of the device happens, for other libraries that work on its buffers. Its
    /// context is current on this thread when this returns. None where kernels do not run on a GPU.
    pub fn stream(&self) -> Option<*mut std::ffi::c_void> {
        self.0.gpu.as_ref().map(|gpu| gpu.stream())
    }

    fn gpu(&self) -> &Gpu {
        self.0.gpu.as_ref().expect("a CUDA device has a GPU")
    }

    /// Bytes that new buffers can take, by the word of the GPU's driver or of the system; none on a dry run, and where
    /// the system does not say.
    pub fn free_bytes(&self) -> Option<usize> {
        match self.0.kind {
            Kind::Cpu => host::free_bytes(),
            Kind::Cuda => self.gpu().free_bytes(),
            Kind::Meta => None,
        }
    }

    /// Returns cached, unused memory to the system.
    pub fn trim(&self) {
        if let Some(gpu) = &self.0.gpu {
            gpu.trim();
        }
        self.0.pool.lock().expect("pool lock").drain().for_each(drop);
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

/// A GPU that failed has nothing to go on with: the error travels as the panic's payload, past code that has no use for
/// it, to whoever runs the stage.
fn fail(error: DeviceError) -> ! {
    // Not `panic_any`: no message of a crash for what is reported as an error.
    std::panic::resume_unwind(Box::new(error))
}
