//! MPI's functions and constants, found at run time in whichever implementation is installed.
//!
//! MPI's C interface is a standard of source code, not of binaries: handles are pointers to structures in Open MPI and integers in
//! MPICH and its relatives (the MPICH ABI Compatibility Initiative: Intel MPI, MVAPICH, Cray MPICH). Both fit a machine word:
//! a 32-bit integer is passed in the low half of the register that a pointer takes, and a 32-bit handle that MPI stores goes
//! to the low half of a zeroed word on the little-endian machines that this is built for.

use crate::error::{CommError, Result};
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use std::{
    env,
    ffi::{CStr, c_char, c_int, c_void},
    ptr,
};

#[cfg(not(target_endian = "little"))]
compile_error!("MPI handles are kept in words whose low half comes first");

/// A communicator, datatype, request or error handler.
pub(super) type Handle = usize;

/// Room for the status of either implementation (Open MPI: 24 bytes, MPICH: 20).
#[repr(C, align(16))]
pub(super) struct Status(pub [u8; 64]);

macro_rules! mpi {
    ($($(#[$doc:meta])* $name:ident = $symbol:literal ( $($arg:ident : $type:ty),* );)*) => {
        /// The functions this crate calls.
        pub(super) struct Mpi {
            $($name: unsafe extern "C" fn($($type),*) -> c_int,)*
            error_string: unsafe extern "C" fn(c_int, *mut c_char, *mut c_int) -> c_int,
            pub world: Handle,
            pub byte: Handle,
            errors_return: Handle,
            /// What the library says it is.
            pub version: String,
            _library: Library,
        }

        impl Mpi {
            fn bind(library: Library) -> Result<Mpi, String> {
                let text = |e: libloading::Error| e.to_string();
                let constants = constants(&library)?;
                let version = version(&library)?;
                if constants.is_none() && !MPICH_FAMILY.iter().any(|name| version.contains(name)) {
                    return Err(format!("neither Open MPI nor of MPICH's family: {version}"));
                }
                let [world, byte, errors_return] = constants.unwrap_or(MPICH);
                // SAFETY: the signatures are those of the MPI standard's C bindings for these names, with handles as above.
                unsafe {
                    Ok(Mpi {
                        $($name: *library.get(concat!($symbol, "\0").as_bytes()).map_err(text)?,)*
                        error_string: *library.get(b"MPI_Error_string\0").map_err(text)?,
                        world,
                        byte,
                        errors_return,
                        version,
                        _library: library,
                    })
                }
            }

            $(
                $(#[$doc])*
                ///
                /// # Safety
                /// Handles are live, and pointers valid for what MPI reads or writes there.
                pub(super) unsafe fn $name(&self, $($arg: $type),*) -> Result<()> {
                    // SAFETY: by the caller's contract.
                    let code = unsafe { (self.$name)($($arg),*) };
                    if code == 0 { Ok(()) } else { Err(self.error($symbol, code)) }
                }
            )*
        }
    };
}

mpi! {
    init = "MPI_Init_thread"(argc: *mut c_int, argv: *mut c_void, wanted: c_int, provided: *mut c_int);
    finalize = "MPI_Finalize"();
    set_errors = "MPI_Comm_set_errhandler"(comm: Handle, handler: Handle);
    comm_rank = "MPI_Comm_rank"(comm: Handle, out: *mut c_int);
    comm_size = "MPI_Comm_size"(comm: Handle, out: *mut c_int);
    comm_split = "MPI_Comm_split"(comm: Handle, color: c_int, key: c_int, out: *mut Handle);
    isend = "MPI_Isend"(
        from: *const c_void, count: c_int, kind: Handle, to: c_int, tag: c_int, comm: Handle, request: *mut Handle
    );
    recv = "MPI_Recv"(
        to: *mut c_void, count: c_int, kind: Handle, from: c_int, tag: c_int, comm: Handle, status: *mut Status
    );
    probe = "MPI_Probe"(from: c_int, tag: c_int, comm: Handle, status: *mut Status);
    get_count = "MPI_Get_count"(status: *const Status, kind: Handle, out: *mut c_int);
    test = "MPI_Test"(request: *mut Handle, done: *mut c_int, status: *mut Status);
    all_gather = "MPI_Allgather"(
        from: *const c_void, count: c_int, kind: Handle, to: *mut c_void, each: c_int, as_kind: Handle, comm: Handle
    );
    all_to_all = "MPI_Alltoall"(
        from: *const c_void, count: c_int, kind: Handle, to: *mut c_void, each: c_int, as_kind: Handle, comm: Handle
    );
    broadcast = "MPI_Bcast"(data: *mut c_void, count: c_int, kind: Handle, root: c_int, comm: Handle);
    barrier = "MPI_Barrier"(comm: Handle);
}

/// MPI_COMM_WORLD, MPI_BYTE and MPI_ERRORS_RETURN of MPICH and its relatives.
const MPICH: [Handle; 3] = [0x4400_0000, 0x4c00_010d, 0x5400_0001];
const MPICH_FAMILY: [&str; 4] = ["MPICH", "Intel", "MVAPICH", "CRAY"];

/// The same of Open MPI: the addresses of its exported structures. None when the library has no such symbols.
fn constants(library: &Library) -> Result<Option<[Handle; 3]>, String> {
    let names = ["ompi_mpi_comm_world\0", "ompi_mpi_byte\0", "ompi_mpi_errors_return\0"];
    let mut found = [0; 3];
    for (i, (name, out)) in names.iter().zip(&mut found).enumerate() {
        // SAFETY: only the symbol's address is used.
        match unsafe { library.get::<*const c_void>(name.as_bytes()) } {
            Ok(symbol) => *out = symbol.into_raw().addr(),
            Err(_) if i == 0 => return Ok(None),
            Err(e) => return Err(e.to_string()),
        }
    }
    Ok(Some(found))
}

fn version(library: &Library) -> Result<String, String> {
    type Version = unsafe extern "C" fn(*mut c_char, *mut c_int) -> c_int;
    let mut text = vec![0u8; 8192];
    let mut len = 0;
    // SAFETY: MPI 3.0 section 8.1.1: may be called before MPI_Init; the text is at most MPI_MAX_LIBRARY_VERSION_STRING long, which is
    // at most 8192 in the known implementations.
    unsafe {
        let get = library.get::<Version>(b"MPI_Get_library_version\0").map_err(|e| e.to_string())?;
        get(text.as_mut_ptr().cast(), &mut len);
    }
    let end = text.iter().position(|b| *b == 0).unwrap_or(text.len());
    let all = String::from_utf8_lossy(&text[..end]);
    Ok(all.lines().next().unwrap_or_default().trim().to_string())
}

/// The library's file, where the system's loader does not find it or finds another.
const LIBRARY: &str = "FERROTUNE_MPI";
const OPEN_MPI_FILES: [&str; 3] = ["libmpi.so.40", "libmpi.so", "libmpi.40.dylib"];
const MPICH_FILES: [&str; 3] = ["libmpich.so.12", "libmpi.so.12", "libmpi.12.dylib"];

impl Mpi {
    /// Loads the library of the starter's family: Open MPI's, or MPICH's.
    pub(super) fn load(open_mpi: bool) -> Result<Mpi> {
        let named = env::var(LIBRARY).ok();
        let own = if open_mpi { OPEN_MPI_FILES } else { MPICH_FILES };
        let files: Vec<&str> = named.as_deref().map_or(own.to_vec(), |f| vec![f]);
        let mut problem = String::new();
        for file in &files {
            // Global: Open MPI's own plug-ins look for its symbols in the process.
            // SAFETY: an MPI library; its initialisers have no preconditions.
            let opened = unsafe { Library::open(Some(*file), RTLD_NOW | RTLD_GLOBAL) };
            match opened.map_err(|e| e.to_string()).and_then(Mpi::bind) {
                Ok(mpi) => return Ok(mpi),
                Err(e) if problem.is_empty() => problem = e,
                Err(_) => {}
            }
        }
        let hint = format!("install the library of the starter that is used, or set {LIBRARY} to its file");
        Err(CommError::new(files[0], format!("{problem}; {hint}")))
    }

    /// Initialises MPI; from then on its errors are returned.
    pub(super) fn start(&self) -> Result<()> {
        const SERIALIZED: c_int = 2;
        let mut provided = 0;
        // SAFETY: null arguments are allowed since MPI 2.0; the pointer is to a local.
        unsafe {
            self.init(ptr::null_mut(), ptr::null_mut(), SERIALIZED, &mut provided)?;
            self.set_errors(self.world, self.errors_return)
        }
    }

    fn error(&self, call: &str, code: c_int) -> CommError {
        let mut text = [0 as c_char; 1024];
        let mut len = 0;
        // SAFETY: the text has room for MPI_MAX_ERROR_STRING characters (at most 512 in the known implementations).
        let known = unsafe { (self.error_string)(code, text.as_mut_ptr(), &mut len) } == 0;
        // SAFETY: zeroed before, so that it ends in NUL.
        let words = unsafe { CStr::from_ptr(text.as_ptr()) }.to_string_lossy();
        CommError::new(call, if known { words.into_owned() } else { format!("error {code}") })
    }
}
