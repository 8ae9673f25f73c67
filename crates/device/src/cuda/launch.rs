//! Launches on the device's stream.

use super::{
    Gpu,
    driver::{DeviceError, Driver, Handle},
};
use kernel_abi::{DevicePtr, Entry, Launch, LaunchError, Launcher, Module};
use std::{
    collections::HashMap,
    ffi::{CString, c_void},
    ptr,
};

/// Functions, loaded at first use, each in a module of its own: the driver compiles what runs and nothing else.
#[derive(Default)]
pub(super) struct Functions {
    modules: Vec<Handle>,
    functions: HashMap<(usize, Entry), Handle>,
}

/// Dynamic shared memory that needs no permission, bytes.
const SHARED_BY_DEFAULT: u32 = 48 << 10;
const MAX_DYNAMIC_SHARED: i32 = 8;
const ERROR_LOG: i32 = 5;
const ERROR_LOG_BYTES: i32 = 6;

impl Functions {
    fn module(&mut self, driver: &Driver, module: &Module, entry: &str) -> Result<Handle, DeviceError> {
        let source = module.only(entry).ok_or_else(|| {
            let problem = format!("{}.ptx has no entry {entry}", module.name);
            DeviceError { call: "cuModuleLoadDataEx".into(), problem }
        })?;
        let source = CString::new(source).expect("PTX has no NUL");
        let mut log = vec![0u8; 4096];
        let mut names = [ERROR_LOG, ERROR_LOG_BYTES];
        let mut values = [log.as_mut_ptr().cast::<c_void>(), ptr::without_provenance_mut(log.len())];
        let mut handle = ptr::null_mut();
        // SAFETY: the image ends in NUL; the options are a buffer and its size.
        let loaded = unsafe {
            driver.module_load(
                &mut handle,
                source.as_ptr().cast(),
                2,
                names.as_mut_ptr(),
                values.as_mut_ptr(),
            )
        };
        loaded.map_err(|e| {
            let end = log.iter().position(|b| *b == 0).unwrap_or(log.len());
            let problem =
                format!("{}.ptx: {} {}", module.name, e.problem, String::from_utf8_lossy(&log[..end]));
            DeviceError { call: e.call, problem }
        })?;
        self.modules.push(handle);
        Ok(handle)
    }

    fn function(&mut self, driver: &Driver, launch: &Launch) -> Result<Handle, DeviceError> {
        let key = (ptr::from_ref(launch.module).addr(), launch.entry);
        if let Some(handle) = self.functions.get(&key) {
            return Ok(*handle);
        }
        let module = self.module(driver, launch.module, launch.entry.as_str())?;
        let name = CString::new(launch.entry.as_str()).expect("entry names have no NUL");
        let mut handle = ptr::null_mut();
        // SAFETY: the module is loaded, the name ends in NUL.
        unsafe { driver.module_function(&mut handle, module, name.as_ptr()) }?;
        self.functions.insert(key, handle);
        Ok(handle)
    }

    pub(super) fn unload(&mut self, driver: &Driver) {
        self.functions.clear();
        for module in self.modules.drain(..) {
            // SAFETY: the stream was waited for.
            let _ = unsafe { driver.module_unload(module) };
        }
    }
}

/// Takes the launches of one kernel call and gives its workspaces back at the end.
pub(crate) struct Call<'a> {
    gpu: &'a Gpu,
    workspaces: Vec<(usize, u64)>,
    workspace: &'a mut dyn FnMut(usize),
}

impl Gpu {
    /// A launcher for one kernel call; `workspace` is told the bytes of each scratch block.
    pub(crate) fn call<'a>(&'a self, workspace: &'a mut dyn FnMut(usize)) -> Call<'a> {
        Call { gpu: self, workspaces: Vec::new(), workspace }
    }

    fn submit(&self, launch: &Launch) -> Result<(), DeviceError> {
        let driver = self.enter();
        let function = self.state().functions.function(driver, launch)?;
        let ([gx, gy, gz], [bx, by, bz]) = (launch.grid, launch.block);
        let bytes = launch.params.bytes();
        let mut params = [ptr::null_mut::<c_void>(); 64];
        for (to, offset) in params.iter_mut().zip(launch.params.offsets()) {
            *to = bytes[*offset as usize..].as_ptr().cast_mut().cast();
        }
        // SAFETY: the parameters are laid out as the entry declares them (the kernels' tests run every entry on the VM,
        // which compares layouts); the driver copies them before it returns.
        unsafe {
            if launch.shared > SHARED_BY_DEFAULT {
                driver.function_set(function, MAX_DYNAMIC_SHARED, launch.shared as i32)?;
            }
            driver.launch(
                function,
                gx,
                gy,
                gz,
                bx,
                by,
                bz,
                launch.shared,
                self.stream,
                params.as_mut_ptr(),
                ptr::null_mut(),
            )
        }
    }
}

impl Launcher for Call<'_> {
    fn sm(&self) -> u32 {
        self.gpu.sm
    }

    fn workspace(&mut self, bytes: usize) -> Result<DevicePtr, LaunchError> {
        let block = self.gpu.take(bytes)?;
        (self.workspace)(bytes);
        self.workspaces.push(block);
        Ok(DevicePtr(block.1))
    }

    fn launch(&mut self, launch: Launch) -> Result<(), LaunchError> {
        if launch.grid.contains(&0) {
            return Ok(());
        }
        self.gpu
            .submit(&launch)
            .map_err(|e| LaunchError { kernel: launch.entry.as_str().into(), problem: e.to_string() })
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        for (class, at) in self.workspaces.drain(..) {
            self.gpu.give(class, at);
        }
    }
}
