//! NCCL on CUDA devices, found at run time.
//!
//! Signatures and constants are those of NCCL's API reference (version 2.4 and later). Work goes to the device's own stream, so it is
//! ordered with the kernels. NCCL wants a GPU per rank: with none it can be loaded, which a test does, and no more.

use crate::{
    comm::{Comm, expect},
    error::{CommError, Result},
    link::Link,
};
use device::{Buffer, Device};
use std::{
    env,
    ffi::{CStr, c_char, c_int, c_void},
    ptr,
    sync::Arc,
};

type Handle = *mut c_void;

/// What rank 0 makes and all ranks of a group need.
#[repr(C)]
#[derive(Clone, Copy)]
struct UniqueId([u8; 128]);

macro_rules! nccl {
    ($($(#[$doc:meta])* $name:ident = $symbol:literal ( $($arg:ident : $type:ty),* );)*) => {
        /// The functions this crate calls, by the names the library exports.
        pub struct Nccl {
            $($name: unsafe extern "C" fn($($type),*) -> c_int,)*
            error_string: unsafe extern "C" fn(c_int) -> *const c_char,
            _library: libloading::Library,
        }

        impl Nccl {
            fn bind(library: libloading::Library) -> Result<Nccl, libloading::Error> {
                // SAFETY: the signatures are those of NCCL's API reference for these exported names.
                unsafe {
                    Ok(Nccl {
                        $($name: *library.get(concat!($symbol, "\0").as_bytes())?,)*
                        error_string: *library.get(b"ncclGetErrorString\0")?,
                        _library: library,
                    })
                }
            }

            $(
                $(#[$doc])*
                ///
                /// # Safety
                /// Handles and addresses are live, and the lengths those of the buffers.
                unsafe fn $name(&self, $($arg: $type),*) -> Result<()> {
                    // SAFETY: by the caller's contract.
                    let code = unsafe { (self.$name)($($arg),*) };
                    if code == 0 { Ok(()) } else { Err(self.error($symbol, code)) }
                }
            )*
        }
    };
}

nccl! {
    get_version = "ncclGetVersion"(out: *mut c_int);
    get_unique_id = "ncclGetUniqueId"(out: *mut UniqueId);
    init_rank = "ncclCommInitRank"(out: *mut Handle, size: c_int, id: UniqueId, rank: c_int);
    destroy = "ncclCommDestroy"(comm: Handle);
    all_reduce = "ncclAllReduce"(
        from: *const c_void, to: *mut c_void, count: usize, kind: c_int, op: c_int, comm: Handle, stream: Handle
    );
    all_gather = "ncclAllGather"(
        from: *const c_void, to: *mut c_void, count: usize, kind: c_int, comm: Handle, stream: Handle
    );
    reduce_scatter = "ncclReduceScatter"(
        from: *const c_void, to: *mut c_void, count: usize, kind: c_int, op: c_int, comm: Handle, stream: Handle
    );
    broadcast = "ncclBroadcast"(
        from: *const c_void, to: *mut c_void, count: usize, kind: c_int, root: c_int, comm: Handle, stream: Handle
    );
    send = "ncclSend"(from: *const c_void, count: usize, kind: c_int, to: c_int, comm: Handle, stream: Handle);
    recv = "ncclRecv"(to: *mut c_void, count: usize, kind: c_int, from: c_int, comm: Handle, stream: Handle);
    group_start = "ncclGroupStart"();
    group_end = "ncclGroupEnd"();
}

const FLOAT32: c_int = 7;
const SUM: c_int = 0;

/// The library's file, where the system's loader does not find it.
const LIBRARY: &str = "FERROTUNE_NCCL";

impl Nccl {
    /// Loads the library: the file that FERROTUNE_NCCL names, or the system's.
    ///
    /// # Errors
    /// When it is not found, or lacks a function.
    pub fn load() -> Result<Nccl> {
        let named = env::var(LIBRARY).ok();
        let files = named.as_deref().map_or(vec!["libnccl.so.2", "libnccl.so"], |f| vec![f]);
        let mut problem = String::new();
        for file in &files {
            // SAFETY: NCCL's library; its initialisers have no preconditions.
            match unsafe { libloading::Library::new(*file) }.and_then(Nccl::bind) {
                Ok(nccl) => return Ok(nccl),
                Err(e) if problem.is_empty() => problem = e.to_string(),
                Err(_) => {}
            }
        }
        let hint = format!("install NCCL, or set {LIBRARY} to libnccl.so.2, or use --engine local or mpi");
        Err(CommError::new(files[0], format!("{problem}; {hint}")))
    }

    /// The version, as 10000 * major + 100 * minor + patch.
    ///
    /// # Errors
    /// What the library says.
    pub fn version(&self) -> Result<i32> {
        let mut version = 0;
        // SAFETY: the pointer is to a local.
        unsafe { self.get_version(&mut version) }?;
        Ok(version)
    }

    fn error(&self, call: &str, code: c_int) -> CommError {
        // SAFETY: NCCL gives the address of a constant string for any code.
        let words = unsafe {
            let text = (self.error_string)(code);
            if text.is_null() { "".into() } else { CStr::from_ptr(text).to_string_lossy() }
        };
        CommError::new(call, format!("{words} (error {code})"))
    }
}

/// A group's communicator on a device.
pub(crate) struct NcclComm {
    nccl: Arc<Nccl>,
    device: Device,
    comm: Handle,
    rank: usize,
    size: usize,
}

// SAFETY: NCCL's communicators may be used from any thread, one at a time; this process's collectives come from one thread
// (see `Link`).
unsafe impl Send for NcclComm {}
// SAFETY: as above.
unsafe impl Sync for NcclComm {}

impl NcclComm {
    /// Joins the group's ranks; `link` carries the unique id from rank 0 to the others.
    pub(crate) fn new(nccl: Arc<Nccl>, device: &Device, link: &dyn Link) -> Result<NcclComm> {
        let mut id = UniqueId([0; 128]);
        if device.stream().is_none() {
            return Err(CommError::new("ncclCommInitRank", "works on CUDA devices only; use --device cuda"));
        }
        if link.rank() == 0 {
            // SAFETY: the pointer is to a local.
            unsafe { nccl.get_unique_id(&mut id) }?;
        }
        link.broadcast(&mut id.0, 0)?;
        let mut comm = ptr::null_mut();
        let (rank, size) = (link.rank(), link.size());
        // SAFETY: the device's context is current (`Device::stream`); the pointer is to a local.
        unsafe { nccl.init_rank(&mut comm, size as c_int, id, rank as c_int) }?;
        Ok(NcclComm { nccl, device: device.clone(), comm, rank, size })
    }

    /// The stream, with the device's context current.
    fn stream(&self) -> Handle {
        self.device.stream().expect("a CUDA device has a stream")
    }

    /// Submits several calls as one.
    fn group(&self, calls: impl FnOnce() -> Result<()>) -> Result<()> {
        // SAFETY: no arguments; every start has its end.
        unsafe {
            self.nccl.group_start()?;
            let done = calls();
            let ended = self.nccl.group_end();
            done.and(ended)
        }
    }
}

/// The address of a buffer's elements.
fn from(x: &Buffer) -> *const c_void {
    ptr::without_provenance(x.arg().device().0 as usize)
}

/// As [`from`], for writing.
fn to(x: &mut Buffer) -> *mut c_void {
    ptr::without_provenance_mut(x.arg_mut().device().0 as usize)
}

impl Comm for NcclComm {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn name(&self) -> &'static str {
        "nccl"
    }

    fn on_stream(&self) -> bool {
        true
    }

    fn all_reduce(&self, parts: &mut [&mut Buffer]) -> Result<()> {
        let stream = self.stream();
        self.group(|| {
            parts.iter_mut().try_for_each(|x| {
                let (n, at) = (x.len(), to(x));
                // SAFETY: the buffer is live and so long; work on it is ordered by the stream.
                unsafe { self.nccl.all_reduce(at, at, n, FLOAT32, SUM, self.comm, stream) }
            })
        })
    }

    fn all_gather(&self, x: &Buffer, all: &mut Buffer) -> Result<()> {
        expect("ncclAllGather", all.len(), self.size * x.len())?;
        // SAFETY: as above; the lengths are checked.
        unsafe { self.nccl.all_gather(from(x), to(all), x.len(), FLOAT32, self.comm, self.stream()) }
    }

    fn reduce_scatter(&self, x: &Buffer, part: &mut Buffer) -> Result<()> {
        expect("ncclReduceScatter", x.len(), self.size * part.len())?;
        let n = part.len();
        // SAFETY: as above; the lengths are checked.
        unsafe { self.nccl.reduce_scatter(from(x), to(part), n, FLOAT32, SUM, self.comm, self.stream()) }
    }

    fn broadcast(&self, x: &mut Buffer, root: usize) -> Result<()> {
        let (n, at) = (x.len(), to(x));
        // SAFETY: as above.
        unsafe { self.nccl.broadcast(at, at, n, FLOAT32, root as c_int, self.comm, self.stream()) }
    }

    fn exchange(&self, send: Option<(&Buffer, usize)>, receive: Option<(&mut Buffer, usize)>) -> Result<()> {
        let stream = self.stream();
        self.group(|| {
            if let Some((x, peer)) = send {
                // SAFETY: as above.
                unsafe { self.nccl.send(from(x), x.len(), FLOAT32, peer as c_int, self.comm, stream) }?;
            }
            if let Some((x, peer)) = receive {
                let n = x.len();
                // SAFETY: as above.
                unsafe { self.nccl.recv(to(x), n, FLOAT32, peer as c_int, self.comm, stream) }?;
            }
            Ok(())
        })
    }

    fn barrier(&self) -> Result<()> {
        let mut one = self.device.zeros(1);
        self.all_reduce(&mut [&mut one])?;
        self.device.wait();
        Ok(())
    }
}

impl Drop for NcclComm {
    fn drop(&mut self) {
        self.device.wait();
        self.stream();
        // SAFETY: nothing of this communicator is under way.
        let _ = unsafe { self.nccl.destroy(self.comm) };
    }
}
