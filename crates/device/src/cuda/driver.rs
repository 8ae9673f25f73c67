//! The CUDA driver's functions, found at run time: the crate builds with no CUDA installed.

use std::{
    ffi::{CStr, c_char, c_int, c_uint, c_void},
    path::{Path, PathBuf},
    ptr,
};

/// Why a device cannot be used, or what went wrong on it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{call}: {problem}")]
pub struct DeviceError {
    /// The driver's function, or the library.
    pub call: String,
    /// The driver's words.
    pub problem: String,
}

/// A handle of the driver: context, stream, module, function, event, graph.
pub(crate) type Handle = *mut c_void;

macro_rules! driver {
    ($($(#[$doc:meta])* $name:ident = $symbol:literal ( $($arg:ident : $type:ty),* );)*) => {
        /// The functions this crate calls, by the names the library exports.
        pub(crate) struct Driver {
            $($name: unsafe extern "C" fn($($type),*) -> c_int,)*
            error_string: unsafe extern "C" fn(c_int, *mut *const c_char) -> c_int,
            _library: libloading::Library,
        }

        impl Driver {
            fn bind(library: libloading::Library) -> Result<Driver, libloading::Error> {
                // SAFETY: the signatures are those of the CUDA driver API's reference for these exported names.
                unsafe {
                    Ok(Driver {
                        $($name: *library.get(concat!($symbol, "\0").as_bytes())?,)*
                        error_string: *library.get(b"cuGetErrorString\0")?,
                        _library: library,
                    })
                }
            }

            $(
                $(#[$doc])*
                ///
                /// # Safety
                /// Handles and addresses are live, and pointers valid for what the driver reads or writes there.
                pub(crate) unsafe fn $name(&self, $($arg: $type),*) -> Result<(), DeviceError> {
                    // SAFETY: by the caller's contract.
                    let code = unsafe { (self.$name)($($arg),*) };
                    if code == 0 { Ok(()) } else { Err(self.error($symbol, code)) }
                }
            )*
        }
    };
}

driver! {
    init = "cuInit"(flags: c_uint);
    device_count = "cuDeviceGetCount"(out: *mut c_int);
    device_get = "cuDeviceGet"(out: *mut c_int, ordinal: c_int);
    device_name = "cuDeviceGetName"(out: *mut c_char, room: c_int, device: c_int);
    device_attribute = "cuDeviceGetAttribute"(out: *mut c_int, attribute: c_int, device: c_int);
    context_retain = "cuDevicePrimaryCtxRetain"(out: *mut Handle, device: c_int);
    context_release = "cuDevicePrimaryCtxRelease_v2"(device: c_int);
    context_set = "cuCtxSetCurrent"(context: Handle);
    memory_info = "cuMemGetInfo_v2"(free: *mut usize, total: *mut usize);
    alloc = "cuMemAlloc_v2"(out: *mut u64, bytes: usize);
    free = "cuMemFree_v2"(at: u64);
    alloc_pinned = "cuMemAllocHost_v2"(out: *mut *mut c_void, bytes: usize);
    free_pinned = "cuMemFreeHost"(at: *mut c_void);
    to_device = "cuMemcpyHtoDAsync_v2"(to: u64, from: *const c_void, bytes: usize, stream: Handle);
    to_host = "cuMemcpyDtoHAsync_v2"(to: *mut c_void, from: u64, bytes: usize, stream: Handle);
    copy = "cuMemcpyDtoDAsync_v2"(to: u64, from: u64, bytes: usize, stream: Handle);
    fill_8 = "cuMemsetD8Async"(at: u64, value: u8, count: usize, stream: Handle);
    fill_32 = "cuMemsetD32Async"(at: u64, value: c_uint, count: usize, stream: Handle);
    stream_create = "cuStreamCreate"(out: *mut Handle, flags: c_uint);
    stream_destroy = "cuStreamDestroy_v2"(stream: Handle);
    stream_wait = "cuStreamSynchronize"(stream: Handle);
    event_create = "cuEventCreate"(out: *mut Handle, flags: c_uint);
    event_destroy = "cuEventDestroy_v2"(event: Handle);
    event_record = "cuEventRecord"(event: Handle, stream: Handle);
    event_wait = "cuEventSynchronize"(event: Handle);
    module_load = "cuModuleLoadDataEx"(
        out: *mut Handle, image: *const c_void, options: c_uint, names: *mut c_int, values: *mut *mut c_void
    );
    module_unload = "cuModuleUnload"(module: Handle);
    module_function = "cuModuleGetFunction"(out: *mut Handle, module: Handle, name: *const c_char);
    function_set = "cuFuncSetAttribute"(function: Handle, attribute: c_int, value: c_int);
    launch = "cuLaunchKernel"(
        function: Handle, gx: c_uint, gy: c_uint, gz: c_uint, bx: c_uint, by: c_uint, bz: c_uint, shared: c_uint,
        stream: Handle, params: *mut *mut c_void, extra: *mut *mut c_void
    );
    capture_begin = "cuStreamBeginCapture_v2"(stream: Handle, mode: c_int);
    capture_end = "cuStreamEndCapture"(stream: Handle, graph: *mut Handle);
    graph_instantiate = "cuGraphInstantiateWithFlags"(out: *mut Handle, graph: Handle, flags: u64);
    graph_destroy = "cuGraphDestroy"(graph: Handle);
    graph_launch = "cuGraphLaunch"(graph: Handle, stream: Handle);
    graph_exec_destroy = "cuGraphExecDestroy"(graph: Handle);
}

impl Driver {
    /// Loads the driver from a file, or the system's.
    pub(crate) fn load(path: Option<&Path>) -> Result<Driver, DeviceError> {
        let names: Vec<PathBuf> = match path {
            Some(path) => vec![path.to_path_buf()],
            None => ["libcuda.so.1", "libcuda.so", "nvcuda.dll"].map(PathBuf::from).to_vec(),
        };
        let mut problem = String::new();
        for name in &names {
            // SAFETY: a CUDA driver library; its initialisers have no preconditions.
            match unsafe { libloading::Library::new(name) }.and_then(Driver::bind) {
                Ok(driver) => return Ok(driver),
                Err(e) if problem.is_empty() => problem = e.to_string(),
                Err(_) => {}
            }
        }
        Err(DeviceError { call: names[0].display().to_string(), problem })
    }

    fn error(&self, call: &str, code: c_int) -> DeviceError {
        let mut text = ptr::null();
        // SAFETY: the driver stores the address of a constant string, or nothing for an unknown code.
        let known = unsafe { (self.error_string)(code, &mut text) } == 0 && !text.is_null();
        let mut words = String::new();
        if known {
            // SAFETY: as above.
            words = unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned();
        }
        DeviceError { call: call.to_string(), problem: format!("{words} (error {code})") }
    }
}
