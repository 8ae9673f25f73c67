//! The PTX VM as a launcher.

use kernel_abi::{DevicePtr, In, Kernel, Launch, LaunchError, Launcher, Module, Out};
use ptx_vm::{Checks, Counters, Fault, Loaded, Memory, Options};
use std::{
    collections::HashMap,
    marker::PhantomData,
    sync::{Arc, LazyLock, Mutex},
};

/// Device memory of a [`Gpu`], and how many elements of it.
pub struct Vram<T> {
    memory: Arc<Memory>,
    at: u64,
    len: usize,
    element: PhantomData<T>,
}

impl<T: bytemuck::Pod> Vram<T> {
    /// As a kernel's input.
    pub fn arg(&self) -> In<'_, T> {
        In::Device(DevicePtr(self.at), self.len)
    }

    /// As a kernel's output.
    pub fn arg_mut(&mut self) -> Out<'_, T> {
        Out::Device(DevicePtr(self.at), self.len)
    }

    /// A copy of the elements on the host.
    pub fn to_vec(&self) -> Vec<T> {
        let mut out = vec![T::zeroed(); self.len];
        self.memory.read(self.at, bytemuck::cast_slice_mut(&mut out)).expect("a live block");
        out
    }

    /// Overwrites the elements.
    pub fn write(&mut self, values: &[T]) {
        assert_eq!(values.len(), self.len, "write: length");
        self.memory.write(self.at, bytemuck::cast_slice(values)).expect("a live block");
    }
}

impl<T> Drop for Vram<T> {
    fn drop(&mut self) {
        let _ = self.memory.free(self.at);
    }
}

/// A GPU of the VM's kind.
pub struct Gpu {
    memory: Arc<Memory>,
    options: Options,
    loaded: HashMap<*const Module, Loaded>,
    workspaces: Vec<u64>,
    counters: Counters,
    /// Launches since the last [`Gpu::run`] began.
    pub launches: Vec<Launch>,
}

impl Gpu {
    /// All checks on, no adversary: for comparisons and counts.
    pub fn new() -> Gpu {
        Gpu::with(Options { checks: Checks::All, ..Options::default() })
    }

    /// A GPU that runs launches with those options; a seed also poisons fresh memory.
    pub fn with(options: Options) -> Gpu {
        let memory = Memory::new(1 << 30).expect("address space");
        memory.set_poison(options.seed);
        Gpu {
            memory: Arc::new(memory),
            options,
            loaded: HashMap::new(),
            workspaces: Vec::new(),
            counters: Counters::default(),
            launches: Vec::new(),
        }
    }

    /// Memory for `len` elements that nobody wrote: reading it is a fault.
    pub fn alloc<T: bytemuck::Pod>(&self, len: usize) -> Vram<T> {
        let at = self.memory.alloc((len * size_of::<T>()).max(1), 256).expect("room");
        Vram { memory: self.memory.clone(), at, len, element: PhantomData }
    }

    /// A copy of `values`.
    pub fn upload<T: bytemuck::Pod>(&self, values: &[T]) -> Vram<T> {
        let mut v = self.alloc(values.len());
        v.write(values);
        v
    }

    /// Runs a kernel's PTX and counts what it did.
    ///
    /// # Panics
    /// With the VM's words when an argument does not fit, the PTX does not load, or a launch faults.
    pub fn run<K: Kernel>(&mut self, kernel: &K, args: K::Args<'_>) -> Counters {
        kernel.check(&args).unwrap_or_else(|e| panic!("{e}"));
        self.counters = Counters::default();
        self.launches.clear();
        let done = kernel.ptx(args, self);
        for at in self.workspaces.drain(..) {
            self.memory.free(at).expect("a workspace is live until here");
        }
        done.unwrap_or_else(|e| panic!("{} on the VM with {:?}: {e}", K::NAME, self.options));
        std::mem::take(&mut self.counters)
    }

    fn loaded(&mut self, module: &'static Module) -> Result<&Loaded, LaunchError> {
        let says = |problem: String| LaunchError { kernel: format!("{}.ptx", module.name), problem };
        let key: *const Module = module;
        if !self.loaded.contains_key(&key) {
            let compiled = compiled(module).map_err(|e| says(e.to_string()))?;
            let loaded = Loaded::new(&compiled, &self.memory).map_err(|e| says(e.to_string()))?;
            self.loaded.insert(key, loaded);
        }
        Ok(&self.loaded[&key])
    }
}

/// The module, decoded once in this process.
fn compiled(module: &'static Module) -> Result<Arc<ptx_vm::Module>, ptx_vm::LoadError> {
    static DECODED: LazyLock<Mutex<HashMap<usize, Arc<ptx_vm::Module>>>> = LazyLock::new(Default::default);
    let key = std::ptr::from_ref(module) as usize;
    if let Some(found) = DECODED.lock().expect("no panic with the lock held").get(&key) {
        return Ok(found.clone());
    }
    let decoded = ptx_vm::Module::compile(&format!("{}.ptx", module.name), module.ptx)?;
    DECODED.lock().expect("no panic with the lock held").insert(key, decoded.clone());
    Ok(decoded)
}

impl Default for Gpu {
    fn default() -> Gpu {
        Gpu::new()
    }
}

impl Launcher for Gpu {
    fn sm(&self) -> u32 {
        self.options.device.sm
    }

    fn workspace(&mut self, bytes: usize) -> Result<DevicePtr, LaunchError> {
        let at = self.memory.alloc(bytes.max(1), 256);
        let at = at.map_err(|e| LaunchError { kernel: "workspace".into(), problem: e.to_string() })?;
        self.workspaces.push(at);
        Ok(DevicePtr(at))
    }

    fn launch(&mut self, launch: Launch) -> Result<(), LaunchError> {
        let options = self.options.clone();
        let memory = self.memory.clone();
        let loaded = self.loaded(launch.module)?;
        let says = |problem: String| LaunchError { kernel: launch.entry.as_str().into(), problem };
        let kernel = loaded.module().kernel(launch.entry.as_str());
        let kernel = kernel.ok_or_else(|| says(format!("{}.ptx has no such entry", launch.module.name)))?;
        let offsets: Vec<u16> = kernel.params.iter().map(|p| p.offset as u16).collect();
        if offsets != launch.params.offsets() || kernel.param_bytes != launch.params.bytes().len() {
            let (have, want) = (launch.params.offsets(), kernel.param_bytes);
            return Err(says(format!(
                "parameters at {have:?}, {} bytes; the entry declares {offsets:?}, {want} bytes",
                launch.params.bytes().len()
            )));
        }
        let l = ptx_vm::Launch {
            grid: launch.grid,
            block: launch.block,
            shared_bytes: launch.shared,
            params: launch.params.bytes().to_vec(),
            cooperative: false,
        };
        let done: Result<Counters, Fault> =
            ptx_vm::launch(&memory, loaded, launch.entry.as_str(), &l, &options);
        self.counters.add(
            &done
                .map_err(|e| LaunchError { kernel: launch.entry.as_str().into(), problem: e.to_string() })?,
        );
        self.launches.push(launch);
        Ok(())
    }
}

/// Calls `test` with strict GPUs: without an adversary, then with three of them (random schedules, poisoned memory,
/// perturbed `.approx` results).
pub fn every_way(mut test: impl FnMut(&mut Gpu)) {
    for seed in [None, Some(1), Some(77), Some(4242)] {
        test(&mut Gpu::with(Options { checks: Checks::All, seed, ..Options::default() }));
    }
}
