//! Modules, libraries and their functions.
use crate::{
    context::{self, Context},
    device::Device,
    handle::{Table, lock},
    image,
    result::{Code, Result},
};
use ptx_vm::{Kernel, Loaded, gpu};
use std::{
    collections::BTreeMap,
    ffi::{CString, c_char},
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicI32, Ordering},
    },
};

/// All modules by handle.
pub static MODULES: Table<Module> = Table::new(5, "module");
/// All functions by handle.
pub static FUNCTIONS: Table<Function> = Table::new(6, "function");
/// All libraries by handle.
pub static LIBRARIES: Table<Library> = Table::new(7, "library");
/// All library kernels by handle.
pub static KERNELS: Table<LibraryKernel> = Table::new(8, "kernel");

/// A module in a context: its globals have addresses.
pub struct Module {
    /// Its handle.
    pub handle: usize,
    /// Its context.
    pub context: Weak<Context>,
    /// The device of that context.
    pub device: &'static Device,
    /// The compiled code.
    pub code: Arc<ptx_vm::Module>,
    loaded: Option<Loaded>,
    functions: Mutex<BTreeMap<String, Arc<Function>>>,
}

/// A function of a module.
pub struct Function {
    /// Its handle.
    pub handle: usize,
    /// Its module, which it keeps loaded.
    pub module: Arc<Module>,
    /// Its name.
    pub name: String,
    /// Its settings.
    pub settings: Settings,
    c_name: CString,
}

/// What clients set on a function.
pub struct Settings {
    /// The most dynamic shared memory a launch may ask for, bytes.
    pub max_dynamic_shared: AtomicI32,
    /// Preferred share of shared memory, kept for the client.
    pub carveout: AtomicI32,
}

/// A library: code that becomes a module in each context that uses it.
pub struct Library {
    /// Its handle.
    pub handle: usize,
    /// The compiled code.
    pub code: Arc<ptx_vm::Module>,
    modules: Mutex<BTreeMap<u64, Arc<Module>>>,
    kernels: Mutex<BTreeMap<String, Arc<LibraryKernel>>>,
}

/// A kernel of a library.
pub struct LibraryKernel {
    /// Its handle.
    pub handle: usize,
    /// Its library.
    pub library: Weak<Library>,
    /// Its name.
    pub name: String,
    c_name: CString,
}

impl Drop for Module {
    fn drop(&mut self) {
        if let Some(loaded) = self.loaded.take() {
            loaded.unload(&self.device.memory);
        }
    }
}

impl Module {
    /// Places compiled code in a context; the module is known by its handle.
    pub fn load(context: &Arc<Context>, code: Arc<ptx_vm::Module>) -> Result<Arc<Module>> {
        let module = Module::place(context, code)?;
        MODULES.insert(module.handle, module.clone());
        Ok(module)
    }

    fn place(context: &Arc<Context>, code: Arc<ptx_vm::Module>) -> Result<Arc<Module>> {
        let device = context.device;
        if code.target_sm() > device.gpu.sm {
            let (target, sm) = (code.target_sm(), device.gpu.sm);
            let why = format!(
                "the PTX is for sm_{target} and this device is sm_{sm}; FERROTUNE_VM_DEVICE picks another device"
            );
            eprintln!("ferrotune-vm: {why}");
            return Err(Code::NO_BINARY_FOR_GPU.because(why));
        }
        let loaded =
            Loaded::new(&code, &device.memory).map_err(|e| Code::OUT_OF_MEMORY.because(e.to_string()))?;
        Ok(Arc::new(Module {
            handle: MODULES.reserve(),
            context: Arc::downgrade(context),
            device,
            code,
            loaded: Some(loaded),
            functions: Mutex::default(),
        }))
    }

    /// The module's place in memory.
    pub fn loaded(&self) -> Result<&Loaded> {
        self.loaded.as_ref().ok_or_else(|| Code::INVALID_HANDLE.because("the module is unloaded"))
    }

    /// A function by name; asked for twice, it is the same one.
    pub fn function(self: &Arc<Self>, name: &str) -> Result<Arc<Function>> {
        let mut functions = lock(&self.functions);
        if let Some(function) = functions.get(name) {
            return Ok(function.clone());
        }
        let kernel = self.code.kernel(name).ok_or_else(|| {
            let names: Vec<&str> = self.code.kernels().map(|k| k.name.as_str()).collect();
            Code::NOT_FOUND.because(format!("no kernel {name}; the module has {}", names.join(", ")))
        })?;
        let handle = FUNCTIONS.reserve();
        let function = Arc::new(Function {
            handle,
            module: self.clone(),
            name: name.into(),
            settings: Settings::new(kernel),
            c_name: c_name(name)?,
        });
        FUNCTIONS.insert(handle, function.clone());
        functions.insert(name.into(), function.clone());
        Ok(function)
    }

    /// A global variable by name: address and size.
    pub fn global(&self, name: &str) -> Result<(u64, usize)> {
        self.loaded()?
            .global(name)
            .ok_or_else(|| Code::NOT_FOUND.because(format!("no global variable {name}")))
    }

    /// Takes the module's functions away; the code lives on until the last launch is done.
    pub fn forget_functions(&self) {
        let functions = std::mem::take(&mut *lock(&self.functions));
        for function in functions.values() {
            let _ = FUNCTIONS.remove(function.handle);
        }
    }
}

/// Takes away all modules of a context.
pub fn remove_all_of(context: &Context) {
    let mine = |m: &Module| std::ptr::eq(m.context.as_ptr(), context);
    for module in MODULES.remove_where(mine) {
        module.forget_functions();
    }
    for library in LIBRARIES.all() {
        lock(&library.modules).remove(&context.id);
    }
}

fn c_name(name: &str) -> Result<CString> {
    CString::new(name).map_err(|_| Code::INVALID_VALUE.because("a name with a NUL in it"))
}

impl Settings {
    fn new(kernel: &Kernel) -> Settings {
        let room = gpu::SHARED_PER_BLOCK as usize;
        Settings {
            max_dynamic_shared: AtomicI32::new(room.saturating_sub(kernel.static_shared) as i32),
            carveout: AtomicI32::new(-1),
        }
    }
}

impl Function {
    /// What the compiler knows of it.
    pub fn kernel(&self) -> Result<&Kernel> {
        self.module.code.kernel(&self.name).ok_or_else(|| Code::NOT_FOUND.into())
    }

    /// The name, as C text that lives as long as the function.
    pub fn c_name(&self) -> *const c_char {
        self.c_name.as_ptr()
    }

    /// Threads of a block that fit: the kernel's own bound and the device's registers.
    pub fn max_threads(&self) -> Result<u32> {
        let kernel = self.kernel()?;
        let by_registers = self.module.device.gpu.limits().registers_per_sm / kernel.registers.max(1);
        let bound = kernel.max_threads.unwrap_or(gpu::THREADS_PER_BLOCK).min(gpu::THREADS_PER_BLOCK);
        Ok(bound.min((by_registers / 32 * 32).max(32)))
    }

    /// Attribute `CU_FUNC_ATTRIBUTE_*` number `attribute`.
    pub fn attribute(&self, attribute: i32) -> Result<i32> {
        let kernel = self.kernel()?;
        Ok(match attribute {
            0 => self.max_threads()? as i32,
            1 => kernel.static_shared as i32,
            2 => 0,
            3 => kernel.local_bytes as i32,
            4 => kernel.registers as i32,
            5 => self.module.code.target_sm() as i32,
            6 => self.module.device.gpu.sm as i32,
            7 => 0,
            8 => self.settings.max_dynamic_shared.load(Ordering::Relaxed),
            9 => self.settings.carveout.load(Ordering::Relaxed),
            10..=17 => 0,
            _ => return Err(Code::INVALID_VALUE.because(format!("no function attribute {attribute}"))),
        })
    }

    /// Sets attribute number `attribute`.
    pub fn set_attribute(&self, attribute: i32, value: i32) -> Result<()> {
        match attribute {
            8 => {
                let optin = self.module.device.gpu.limits().shared_per_block_optin as i32;
                let most = optin - self.kernel()?.static_shared as i32;
                if !(0..=most).contains(&value) {
                    let why = format!("{value} bytes of dynamic shared memory; this kernel may have {most}");
                    return Err(Code::INVALID_VALUE.because(why));
                }
                self.settings.max_dynamic_shared.store(value, Ordering::Relaxed);
            }
            9 if (-1..=100).contains(&value) => self.settings.carveout.store(value, Ordering::Relaxed),
            14 | 15 => {}
            _ => {
                return Err(
                    Code::INVALID_VALUE.because(format!("function attribute {attribute} cannot be {value}"))
                );
            }
        }
        Ok(())
    }

    /// Offset and size of parameter `index`.
    pub fn param(&self, index: usize) -> Result<(usize, usize)> {
        let params = &self.kernel()?.params;
        let param = params.get(index).ok_or_else(|| {
            Code::INVALID_VALUE.because(format!("no parameter {index}; {} has {}", self.name, params.len()))
        })?;
        Ok((param.offset, param.size))
    }
}

impl Library {
    /// A library of compiled code, known by its handle.
    pub fn create(code: Arc<ptx_vm::Module>) -> Arc<Library> {
        let handle = LIBRARIES.reserve();
        let library =
            Arc::new(Library { handle, code, modules: Mutex::default(), kernels: Mutex::default() });
        LIBRARIES.insert(handle, library.clone());
        library
    }

    /// The library's module in a context, loaded on first use.
    pub fn module(&self, context: &Arc<Context>) -> Result<Arc<Module>> {
        let mut modules = lock(&self.modules);
        if let Some(module) = modules.get(&context.id) {
            return Ok(module.clone());
        }
        let module = Module::load(context, self.code.clone())?;
        modules.insert(context.id, module.clone());
        Ok(module)
    }

    /// A kernel by name; asked for twice, it is the same one.
    pub fn kernel(self: &Arc<Self>, name: &str) -> Result<Arc<LibraryKernel>> {
        let mut kernels = lock(&self.kernels);
        if let Some(kernel) = kernels.get(name) {
            return Ok(kernel.clone());
        }
        if self.code.kernel(name).is_none() {
            return Err(Code::NOT_FOUND.because(format!("no kernel {name} in the library")));
        }
        let handle = KERNELS.reserve();
        let library = Arc::downgrade(self);
        let kernel = Arc::new(LibraryKernel { handle, library, name: name.into(), c_name: c_name(name)? });
        KERNELS.insert(handle, kernel.clone());
        kernels.insert(name.into(), kernel.clone());
        Ok(kernel)
    }

    /// Takes the library and everything of it away.
    pub fn unload(&self) {
        for module in std::mem::take(&mut *lock(&self.modules)).into_values() {
            let _ = MODULES.remove(module.handle);
            module.forget_functions();
        }
        for kernel in std::mem::take(&mut *lock(&self.kernels)).into_values() {
            let _ = KERNELS.remove(kernel.handle);
        }
    }
}

impl LibraryKernel {
    /// The kernel as a function of a context.
    pub fn function(&self, context: &Arc<Context>) -> Result<Arc<Function>> {
        let library = self.library.upgrade().ok_or(Code::INVALID_HANDLE)?;
        library.module(context)?.function(&self.name)
    }

    /// The name, as C text that lives as long as the kernel.
    pub fn c_name(&self) -> *const c_char {
        self.c_name.as_ptr()
    }
}

/// The function of a handle; a library kernel's handle stands for its function in the current context.
pub fn function(handle: usize) -> Result<Arc<Function>> {
    match KERNELS.find(handle) {
        Some(kernel) => kernel.function(&context::current()?),
        None => FUNCTIONS.get(handle),
    }
}

/// Compiles an image for a module or a library.
pub fn compile(image: &image::Image, log: &image::JitLog) -> Result<Arc<ptx_vm::Module>> {
    let start = std::time::Instant::now();
    let compiled = ptx_vm::Module::compile(&image.name, &image.text);
    log.wall_time(start.elapsed());
    compiled.map_err(|e| {
        let text = e.to_string();
        log.error(&text);
        image::code_of(&image.text).because(text)
    })
}
