//! Runs the kernels of this workspace on a `cust` stream, among an engine's own.
use cust::{
    error::CudaError,
    memory::{DeviceBuffer, DeviceCopy},
    module::Module,
    stream::Stream,
    sys,
};
use kernel_abi::{DevicePtr, Entry, In, Kernel, Launch, LaunchError, Launcher, Out, RunError};
use std::{collections::HashMap, ffi::c_void, ptr};

/// A stream, and the functions loaded so far.
pub struct OnStream<'s> {
    stream: &'s Stream,
    sm: u32,
    modules: HashMap<(usize, Entry), Module>,
    workspaces: Vec<DeviceBuffer<u8>>,
}

/// An engine's buffer as a kernel's input.
pub fn input<T: DeviceCopy>(buffer: &DeviceBuffer<T>) -> In<'_, T> {
    In::Device(DevicePtr(buffer.as_device_ptr().as_raw()), buffer.len())
}

/// An engine's buffer as a kernel's output.
pub fn output<T: DeviceCopy>(buffer: &mut DeviceBuffer<T>) -> Out<'_, T> {
    Out::Device(DevicePtr(buffer.as_device_ptr().as_raw()), buffer.len())
}

impl<'s> OnStream<'s> {
    /// Launches go to `stream`, on a device of compute capability `sm / 10`.`sm % 10`.
    pub fn new(stream: &'s Stream, sm: u32) -> OnStream<'s> {
        OnStream { stream, sm, modules: HashMap::new(), workspaces: Vec::new() }
    }

    /// Checks the arguments and submits the kernel's launches to the stream. A kernel that needs scratch memory waits for
    /// the stream at its end.
    ///
    /// # Errors
    /// Names the argument that does not fit, or what the driver said.
    pub fn run<K: Kernel>(&mut self, kernel: &K, args: K::Args<'_>) -> Result<(), RunError> {
        kernel.check(&args)?;
        let done = kernel.ptx(args, self).map_err(RunError::from);
        if !self.workspaces.is_empty() {
            let waited = self.stream.synchronize();
            self.workspaces.clear();
            done?;
            return waited.map_err(|e| says(K::NAME, e).into());
        }
        done
    }
}

fn says(kernel: &str, e: CudaError) -> LaunchError {
    LaunchError { kernel: kernel.into(), problem: e.to_string() }
}

impl Launcher for OnStream<'_> {
    fn sm(&self) -> u32 {
        self.sm
    }

    fn workspace(&mut self, bytes: usize) -> Result<DevicePtr, LaunchError> {
        // SAFETY: scratch memory that the kernel writes before it reads.
        let block =
            unsafe { DeviceBuffer::<u8>::uninitialized(bytes.max(1)) }.map_err(|e| says("workspace", e))?;
        let at = DevicePtr(block.as_device_ptr().as_raw());
        self.workspaces.push(block);
        Ok(at)
    }

    fn launch(&mut self, launch: Launch) -> Result<(), LaunchError> {
        if launch.grid.contains(&0) {
            return Ok(());
        }
        let name = launch.entry.as_str();
        let key = (ptr::from_ref(launch.module).addr(), launch.entry);
        if !self.modules.contains_key(&key) {
            // A module with this entry alone: the driver compiles what runs and nothing else.
            let source = launch.module.only(name).expect("launches name entries of their module");
            let module = Module::from_ptx(source, &[]).map_err(|e| says(name, e))?;
            self.modules.insert(key, module);
        }
        let function = self.modules[&key].get_function(name).map_err(|e| says(name, e))?;
        if launch.shared > 48 << 10 {
            // Beyond 48 KiB a kernel needs permission; `cust` has no call for it.
            let limit = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function was just found.
            let code = unsafe { sys::cuFuncSetAttribute(function.to_raw(), limit, launch.shared as i32) };
            if code != sys::CUresult::CUDA_SUCCESS {
                return Err(LaunchError {
                    kernel: name.into(),
                    problem: format!("{code:?} for {} shared bytes", launch.shared),
                });
            }
        }
        let bytes = launch.params.bytes();
        let at = |offset: &u16| bytes[*offset as usize..].as_ptr().cast_mut().cast::<c_void>();
        let params: Vec<*mut c_void> = launch.params.offsets().iter().map(at).collect();
        let ([gx, gy, gz], [bx, by, bz]) = (launch.grid, launch.block);
        // SAFETY: the parameters are laid out as the entry declares them; the driver copies them.
        unsafe { self.stream.launch(&function, (gx, gy, gz), (bx, by, bz), launch.shared, &params) }
            .map_err(|e| says(name, e))
    }
}
