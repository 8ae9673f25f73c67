//! Set-up, versions, errors, entry points.
use crate::{
    driver,
    ffi::{In, Out, Text, api},
    result::{Code, Result},
    symbols::{self, Found},
};
use std::{ffi::c_char, ptr};

/// `CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM`.
const PER_THREAD: u64 = 2;

api! {
    early fn cuInit(flags: u32) {
        match flags {
            0 => driver::init(),
            _ => Err(Code::INVALID_VALUE.because("the flags of cuInit are 0")),
        }
    }

    early fn cuDriverGetVersion(version: Out<i32>) {
        version.set(driver::VERSION)
    }

    early fn cuGetErrorName(error: i32, text: Out<*const c_char>) {
        error_text(error, text, |(name, _)| name.as_ptr())
    }

    early fn cuGetErrorString(error: i32, text: Out<*const c_char>) {
        error_text(error, text, |(_, meaning)| meaning.as_ptr())
    }

    early fn cuGetProcAddress(symbol: Text, function: Out<*const ()>, version: i32, flags: u64) {
        match proc_address(symbol, function, version, flags)? {
            0 => Ok(()),
            _ => Err(Code::NOT_FOUND.into()),
        }
    }

    early fn cuGetProcAddress_v2(symbol: Text, function: Out<*const ()>, version: i32, flags: u64, status: Out<i32>) {
        let found = proc_address(symbol, function, version, flags)?;
        if found != 0 && status.is_null() {
            return Err(Code::NOT_FOUND.into());
        }
        status.put(found);
        Ok(())
    }

    early fn cuGetExportTable(table: Out<*const ()>, _id: In<[u8; 16]>) {
        table.put(ptr::null());
        Err(Code::NOT_FOUND.because("the driver's private tables are not there; programs built on the CUDA runtime need them"))
    }

    fn cuProfilerStart() {
        Ok(())
    }

    fn cuProfilerStop() {
        crate::counters::flush();
        Ok(())
    }
}

type ErrorText = (&'static std::ffi::CStr, &'static std::ffi::CStr);

fn error_text(error: i32, out: Out<*const c_char>, pick: fn(ErrorText) -> *const c_char) -> Result<()> {
    let out = out.required()?;
    let text = Code(error).text();
    out.put(text.map_or(ptr::null(), pick));
    text.map(|_| ()).ok_or_else(|| Code::INVALID_VALUE.because(format!("there is no error {error}")))
}

/// Stores the function, or null; gives the `CU_GET_PROC_ADDRESS_*` status.
fn proc_address(symbol: Text, function: Out<*const ()>, version: i32, flags: u64) -> Result<i32> {
    let function = function.required()?;
    function.put(ptr::null());
    if flags > 3 {
        return Err(Code::INVALID_VALUE.because("unknown flags"));
    }
    match symbols::find(&symbol.get()?, version, flags & PER_THREAD != 0) {
        Found::Function(f) => {
            function.put(f as *const ());
            Ok(0)
        }
        Found::NoSuchName => Ok(1),
        Found::TooOld => Ok(2),
    }
}
