//! The driver API without a wrapper, for what `cudarc`'s safe interface does not show.
pub use cudarc::driver::sys::{CUcontext, CUdeviceptr, CUevent, CUfunction, CUresult, CUstream};
use std::{ffi::CString, ptr};

/// Calls a driver function.
#[macro_export]
macro_rules! cu {
    ($name:ident($($arg:expr),* $(,)?)) => {
        // SAFETY: the arguments are what the driver API asks for: the tests own the memory behind every pointer.
        unsafe { cudarc::driver::sys::$name($($arg),*) }
    };
}

/// Calls a driver function that must succeed.
#[macro_export]
macro_rules! ok {
    ($name:ident($($arg:expr),* $(,)?)) => {
        assert_eq!($crate::cu!($name($($arg),*)), cudarc::driver::sys::CUresult::CUDA_SUCCESS, stringify!($name))
    };
}

/// A primary context, current on this thread.
pub fn context() -> CUcontext {
    let mut context = ptr::null_mut();
    ok!(cuInit(0));
    ok!(cuDevicePrimaryCtxRetain(&mut context, 0));
    ok!(cuCtxSetCurrent(context));
    context
}

/// A stream; `CU_STREAM_NON_BLOCKING` is 1.
pub fn stream(flags: u32) -> CUstream {
    let mut stream = ptr::null_mut();
    ok!(cuStreamCreate(&mut stream, flags));
    stream
}

/// An event.
pub fn event() -> CUevent {
    let mut event = ptr::null_mut();
    ok!(cuEventCreate(&mut event, 0));
    event
}

/// Device memory with these words in it.
pub fn words(values: &[u32]) -> CUdeviceptr {
    let mut address = 0;
    ok!(cuMemAlloc_v2(&mut address, size_of_val(values)));
    ok!(cuMemcpyHtoD_v2(address, values.as_ptr().cast(), size_of_val(values)));
    address
}

/// The first `n` words there.
pub fn read(address: CUdeviceptr, n: usize) -> Vec<u32> {
    let mut out = vec![0u32; n];
    ok!(cuMemcpyDtoH_v2(out.as_mut_ptr().cast(), address, 4 * n));
    out
}

/// A kernel of the clients' module.
pub fn kernel(name: &str) -> CUfunction {
    let text = CString::new(super::PTX).expect("PTX holds no NUL");
    let (mut module, mut function) = (ptr::null_mut(), ptr::null_mut());
    ok!(cuModuleLoadData(&mut module, text.as_ptr().cast()));
    let name = CString::new(name).expect("a name holds no NUL");
    ok!(cuModuleGetFunction(&mut function, module, name.as_ptr()));
    function
}

/// Launches `*value = *value * factor + term` on one thread.
pub fn affine(
    function: CUfunction,
    value: CUdeviceptr,
    factor: u32,
    term: u32,
    stream: CUstream,
) -> CUresult {
    let (value, factor, term, rounds) = (value, factor, term, 0u32);
    let mut args = [
        (&raw const value).cast_mut().cast(),
        (&raw const factor).cast_mut().cast(),
        (&raw const term).cast_mut().cast(),
        (&raw const rounds).cast_mut().cast(),
    ];
    cu!(cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, stream, args.as_mut_ptr(), ptr::null_mut()))
}

/// A word of page-locked memory that streams can wait for.
pub fn gate() -> *mut u32 {
    let mut word = ptr::null_mut();
    ok!(cuMemHostAlloc(&mut word, 4, 0));
    word.cast()
}

/// Opens a gate.
pub fn open(gate: *mut u32) {
    // SAFETY: `gate` gave the word; streams read it as the driver does, with no reference to it.
    unsafe { gate.write_volatile(1) };
}

/// Makes a stream wait until the gate is open.
pub fn wait_for(gate: *mut u32, stream: CUstream) {
    ok!(cuStreamWaitValue32_v2(stream, gate as CUdeviceptr, 1, 0));
}
