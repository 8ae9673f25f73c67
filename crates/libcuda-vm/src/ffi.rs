//! The border to C: pointers that clients pass, and the frame around every exported function.
//!
//! **Architecture Invariant:** a client's pointer is dereferenced in this file and in the copies of [`crate::op`],
//! nowhere else; handles are never dereferenced at all (see [`crate::handle`]). No panic leaves the library.
use crate::{
    driver,
    result::{Code, Failure, Result},
};
use std::{
    ffi::{CStr, c_char},
    panic::{AssertUnwindSafe, catch_unwind},
};

/// Where a function stores a result.
#[repr(transparent)]
pub struct Out<T>(*mut T);

/// Where a function reads an argument or an array of them.
#[repr(transparent)]
pub struct In<T>(*const T);

/// A NUL-terminated string.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Text(*const c_char);

impl<T> Clone for Out<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Out<T> {}
impl<T> Clone for In<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for In<T> {}

impl<T> Out<T> {
    /// Whether the client wants no answer here.
    pub fn is_null(self) -> bool {
        self.0.is_null()
    }

    /// Itself when there is somewhere to store: checked first, so that nothing is done for a call that then fails.
    pub fn required(self) -> Result<Out<T>> {
        if self.is_null() { Err(Code::INVALID_VALUE.because("a result pointer is null")) } else { Ok(self) }
    }

    /// Stores the result; a null pointer is an error.
    pub fn set(self, value: T) -> Result<()> {
        self.required()?.put(value);
        Ok(())
    }

    /// Stores the result where there is somewhere to store it.
    pub fn put(self, value: T) {
        self.put_at(0, value);
    }

    /// Stores element `i` of a result array.
    pub fn put_at(self, i: usize, value: T) {
        if !self.is_null() {
            // SAFETY: the driver API's contract: a result pointer is null or points to room for the results.
            unsafe { self.0.add(i).write_unaligned(value) }
        }
    }

    /// What the client left there: some calls read and write the same place.
    pub fn get(self) -> Result<T>
    where
        T: Copy,
    {
        In(self.0.cast_const()).get()
    }

    /// The same place, as another type of result.
    pub fn cast<U>(self) -> Out<U> {
        Out(self.0.cast())
    }
}

impl Out<c_char> {
    /// Stores a NUL-terminated string, cut to `room` bytes with its NUL; gives the bytes stored.
    pub fn put_text(self, text: &str, room: usize) -> usize {
        if room == 0 || self.is_null() {
            return 0;
        }
        let bytes = &text.as_bytes()[..text.len().min(room - 1)];
        for (i, &b) in bytes.iter().chain(&[0]).enumerate() {
            self.put_at(i, b as c_char);
        }
        bytes.len() + 1
    }
}

impl<T: Copy> In<T> {
    /// Whether the client passes nothing.
    pub fn is_null(self) -> bool {
        self.0.is_null()
    }

    /// The address, as a number.
    pub fn address(self) -> usize {
        self.0.addr()
    }

    /// The value; a null pointer is an error.
    pub fn get(self) -> Result<T> {
        self.at(0)
    }

    /// Element `i` of an array; a null pointer is an error.
    pub fn at(self, i: usize) -> Result<T> {
        if self.is_null() {
            return Err(Code::INVALID_VALUE.because("an argument pointer is null"));
        }
        // SAFETY: the driver API's contract: an argument pointer points to as many values as the call says.
        Ok(unsafe { self.0.add(i).read_unaligned() })
    }

    /// An array of `n` values; empty when `n` is 0, whatever the pointer.
    pub fn array(self, n: usize) -> Result<Vec<T>> {
        (0..n).map(|i| self.at(i)).collect()
    }

    /// The same place, as another type of argument.
    pub fn cast<U>(self) -> In<U> {
        In(self.0.cast())
    }
}

impl<T> In<T> {
    /// An argument at a numeric address, which a client packed into an integer or an array.
    pub fn from_address(address: usize) -> In<T> {
        In(std::ptr::with_exposed_provenance(address))
    }
}

impl<T> Out<T> {
    /// A place for a result at a numeric address, which a client packed into an integer or an array.
    pub fn from_address(address: usize) -> Out<T> {
        Out(std::ptr::with_exposed_provenance_mut(address))
    }
}

impl Text {
    /// The string; null or ill-encoded text is an error.
    pub fn get(self) -> Result<String> {
        let bytes = self.bytes()?;
        String::from_utf8(bytes).map_err(|_| Code::INVALID_VALUE.because("a string is not UTF-8"))
    }

    /// The bytes before the NUL.
    pub fn bytes(self) -> Result<Vec<u8>> {
        if self.0.is_null() {
            return Err(Code::INVALID_VALUE.because("a string is null"));
        }
        // SAFETY: the driver API's contract: a string argument is NUL-terminated.
        Ok(unsafe { CStr::from_ptr(self.0) }.to_bytes().to_vec())
    }

    /// Whether there is no string.
    pub fn is_null(self) -> bool {
        self.0.is_null()
    }
}

/// Runs the body of an exported function: no call before `cuInit`, no panic out of the library, failures logged.
pub fn call(name: &'static str, body: impl FnOnce() -> Result<()>) -> i32 {
    let guarded = || {
        driver::require_init()?;
        body()
    };
    call_any_time(name, guarded)
}

/// Like [`call`], for the few functions that work before `cuInit`.
pub fn call_any_time(name: &'static str, body: impl FnOnce() -> Result<()>) -> i32 {
    let result = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
        let what = panic_text(&*panic);
        eprintln!("ferrotune-vm: {name}: internal error: {what}");
        Err(Code::UNKNOWN.because("internal error"))
    });
    match result {
        Ok(()) => 0,
        Err(failure) => {
            log(name, &failure);
            failure.code.0
        }
    }
}

/// What a panic said.
pub fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("a panic")
}

fn log(name: &str, failure: &Failure) {
    if crate::config::get().log && failure.code != Code::NOT_READY {
        eprintln!("ferrotune-vm: {name}: {failure}");
    }
}

/// Declares exported functions: `fn NAME(arguments) { body }`, where the body gives `Result<()>`.
///
/// `ptsz fn` (a stream argument) and `ptds fn` (a call on the implicit default stream) also export the per-thread
/// form, in which the default stream is the calling thread's own. `early fn` works before `cuInit`.
macro_rules! api {
    () => {};
    ($(#[$meta:meta])* fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $body:block $($rest:tt)*) => {
        $crate::ffi::api!(@export call, $(#[$meta])* $name($($arg: $ty),*) $body);
        $crate::ffi::api!($($rest)*);
    };
    ($(#[$meta:meta])* early fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $body:block $($rest:tt)*) => {
        $crate::ffi::api!(@export call_any_time, $(#[$meta])* $name($($arg: $ty),*) $body);
        $crate::ffi::api!($($rest)*);
    };
    ($(#[$meta:meta])* ptsz fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $body:block $($rest:tt)*) => {
        $crate::ffi::api!(@export call, $(#[$meta])* $name($($arg: $ty),*) $body);
        $crate::ffi::api!(@per_thread "_ptsz", $name($($arg: $ty),*));
        $crate::ffi::api!($($rest)*);
    };
    ($(#[$meta:meta])* ptds fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $body:block $($rest:tt)*) => {
        $crate::ffi::api!(@export call, $(#[$meta])* $name($($arg: $ty),*) $body);
        $crate::ffi::api!(@per_thread "_ptds", $name($($arg: $ty),*));
        $crate::ffi::api!($($rest)*);
    };
    (@export $frame:ident, $(#[$meta:meta])* $name:ident($($arg:ident: $ty:ty),*) $body:block) => {
        $(#[$meta])*
        #[unsafe(no_mangle)]
        pub extern "C" fn $name($($arg: $ty),*) -> i32 {
            $crate::ffi::$frame(stringify!($name), move || -> $crate::result::Result<()> { $body })
        }
    };
    (@per_thread $suffix:literal, $name:ident($($arg:ident: $ty:ty),*)) => {
        const _: () = {
            #[unsafe(export_name = concat!(stringify!($name), $suffix))]
            extern "C" fn per_thread($($arg: $ty),*) -> i32 {
                let _default = $crate::stream::per_thread_default();
                $name($($arg),*)
            }
        };
    };
}
pub(crate) use api;
