//! Runs the kernels of this workspace on a `cudarc` stream, among an engine's own.
//!
//! ```no_run
//! use kernel_cudarc::OnStream;
//! use norm_gelu::{Act, ActForward, ActForwardArgs};
//! let context = cudarc::driver::CudaContext::new(0)?;
//! let stream = context.new_stream()?;
//! let mut kernels = OnStream::new(&stream);
//! let x = stream.clone_htod(&[1.0f32; 4096])?;
//! let mut y = stream.alloc_zeros::<f32>(4096)?;
//! let gelu = ActForward { rows: 1, cols: 4096, kind: Act::Gelu };
//! let args = ActForwardArgs { x: kernels.input(&x), y: kernels.output(&mut y) };
//! kernels.run(&gelu, args)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
use cudarc::driver::{
    CudaSlice, CudaStream, DevicePtr as _, DevicePtrMut as _, DriverError,
    result::{self, module},
    sys,
};
use kernel_abi::{DevicePtr, Entry, In, Kernel, Launch, LaunchError, Launcher, Module, Out, RunError};
use std::{
    collections::HashMap,
    ffi::{CString, c_void},
    ptr,
    sync::Arc,
};

/// A stream, and the modules and functions loaded so far into its context.
pub struct OnStream {
    stream: Arc<CudaStream>,
    sm: u32,
    modules: Vec<sys::CUmodule>,
    functions: HashMap<(usize, Entry), sys::CUfunction>,
    workspaces: Vec<u64>,
}

impl OnStream {
    /// Launches go to `stream`. Modules are loaded at first use and unloaded when this is dropped.
    ///
    /// # Panics
    /// When the context does not know its compute capability, which is a broken driver.
    pub fn new(stream: &Arc<CudaStream>) -> OnStream {
        let (major, minor) = stream.context().compute_capability().expect("a live context");
        OnStream {
            stream: stream.clone(),
            sm: (10 * major + minor) as u32,
            modules: Vec::new(),
            functions: HashMap::new(),
            workspaces: Vec::new(),
        }
    }

    /// An engine's slice as a kernel's input.
    pub fn input<'a, T>(&self, slice: &'a CudaSlice<T>) -> In<'a, T> {
        let (at, _order) = slice.device_ptr(&self.stream);
        In::Device(DevicePtr(at), slice.len())
    }

    /// An engine's slice as a kernel's output.
    pub fn output<'a, T>(&self, slice: &'a mut CudaSlice<T>) -> Out<'a, T> {
        let len = slice.len();
        let (at, _order) = slice.device_ptr_mut(&self.stream);
        Out::Device(DevicePtr(at), len)
    }

    /// Checks the arguments and submits the kernel's launches to the stream.
    ///
    /// # Errors
    /// Names the argument that does not fit, or what the driver said.
    pub fn run<K: Kernel>(&mut self, kernel: &K, args: K::Args<'_>) -> Result<(), RunError> {
        kernel.check(&args)?;
        let done = kernel.ptx(args, self).map_err(RunError::from);
        for at in self.workspaces.drain(..) {
            // SAFETY: allocated by `workspace` on this stream; freed after the launches that use it.
            let _ = unsafe { result::free_async(at, self.stream.cu_stream()) };
        }
        done
    }

    /// The entry's function, in a module of its own: the driver compiles what runs and nothing else.
    fn function(&mut self, launch: &Launch) -> Result<sys::CUfunction, DriverError> {
        let key = (ptr::from_ref::<Module>(launch.module).addr(), launch.entry);
        if let Some(function) = self.functions.get(&key) {
            return Ok(*function);
        }
        self.stream.context().bind_to_thread()?;
        let source =
            launch.module.only(launch.entry.as_str()).expect("launches name entries of their module");
        let source = CString::new(source).expect("PTX has no NUL");
        // SAFETY: PTX text that ends in NUL.
        let module = unsafe { module::load_data(source.as_ptr().cast()) }?;
        self.modules.push(module);
        let name = CString::new(launch.entry.as_str()).expect("entry names have no NUL");
        // SAFETY: the module is loaded.
        let function = unsafe { module::get_function(module, name) }?;
        // SAFETY: the function was just found. Permission for the most that any launch asks for is harmless.
        unsafe {
            let limit = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            if launch.shared > 48 << 10 {
                result::function::set_function_attribute(function, limit, launch.shared as i32)?;
            }
        }
        self.functions.insert(key, function);
        Ok(function)
    }
}

impl Launcher for OnStream {
    fn sm(&self) -> u32 {
        self.sm
    }

    fn workspace(&mut self, bytes: usize) -> Result<DevicePtr, LaunchError> {
        // SAFETY: freed in `run`, once.
        let at = unsafe { result::malloc_async(self.stream.cu_stream(), bytes.max(1)) };
        let at = at.map_err(|e| LaunchError { kernel: "workspace".into(), problem: e.to_string() })?;
        self.workspaces.push(at);
        Ok(DevicePtr(at))
    }

    fn launch(&mut self, launch: Launch) -> Result<(), LaunchError> {
        if launch.grid.contains(&0) {
            return Ok(());
        }
        let says =
            |e: DriverError| LaunchError { kernel: launch.entry.as_str().into(), problem: e.to_string() };
        let function = self.function(&launch).map_err(says)?;
        let bytes = launch.params.bytes();
        let at = |offset: &u16| bytes[*offset as usize..].as_ptr().cast_mut().cast::<c_void>();
        let mut params: Vec<*mut c_void> = launch.params.offsets().iter().map(at).collect();
        let ([gx, gy, gz], [bx, by, bz]) = (launch.grid, launch.block);
        let stream = self.stream.cu_stream();
        // SAFETY: the parameters are laid out as the entry declares them; the driver copies them.
        unsafe {
            result::launch_kernel(function, (gx, gy, gz), (bx, by, bz), launch.shared, stream, &mut params)
                .map_err(says)
        }
    }
}

impl Drop for OnStream {
    fn drop(&mut self) {
        let _ = self.stream.synchronize();
        for module in &self.modules {
            // SAFETY: loaded by `function`; the stream is idle.
            let _ = unsafe { module::unload(*module) };
        }
    }
}
