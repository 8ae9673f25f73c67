//! Libraries: code that is loaded once and used from every context.
use crate::{
    context, driver,
    ffi::{In, Out, Text, api},
    image::{Image, JitLog},
    module::{self, KERNELS, LIBRARIES, Library, LibraryKernel},
    result::{Code, Result},
};
use std::{ffi::c_char, sync::Arc};

api! {
    fn cuLibraryLoadData(
        out: Out<usize>, code: In<u8>, options: In<i32>, values: In<usize>, count: u32,
        _library_options: In<i32>, _library_values: In<usize>, _library_count: u32,
    ) {
        let out = out.required()?;
        let log = JitLog::read(count, options, values)?;
        load(out, Image::from_memory("ptx", code, None)?, &log)
    }

    fn cuLibraryLoadFromFile(
        out: Out<usize>, path: Text, options: In<i32>, values: In<usize>, count: u32,
        _library_options: In<i32>, _library_values: In<usize>, _library_count: u32,
    ) {
        let (out, path) = (out.required()?, path.get()?);
        let log = JitLog::read(count, options, values)?;
        load(out, Image::from_file(&path)?, &log)
    }

    fn cuLibraryUnload(library: usize) {
        LIBRARIES.remove(library)?.unload();
        Ok(())
    }

    fn cuLibraryGetKernel(out: Out<usize>, library: usize, name: Text) {
        let (out, name) = (out.required()?, name.get()?);
        out.set(LIBRARIES.get(library)?.kernel(&name)?.handle)
    }

    fn cuLibraryGetKernelCount(count: Out<u32>, library: usize) {
        let count = count.required()?;
        count.set(LIBRARIES.get(library)?.code.kernels().count() as u32)
    }

    fn cuLibraryEnumerateKernels(kernels: Out<usize>, count: u32, library: usize) {
        let kernels = kernels.required()?;
        let library = LIBRARIES.get(library)?;
        for (i, kernel) in library.code.kernels().take(count as usize).enumerate() {
            kernels.put_at(i, library.kernel(&kernel.name)?.handle);
        }
        Ok(())
    }

    fn cuLibraryGetModule(out: Out<usize>, library: usize) {
        let out = out.required()?;
        out.set(LIBRARIES.get(library)?.module(&context::current()?)?.handle)
    }

    fn cuLibraryGetGlobal(address: Out<u64>, bytes: Out<usize>, library: usize, name: Text) {
        let name = name.get()?;
        let (at, size) = LIBRARIES.get(library)?.module(&context::current()?)?.global(&name)?;
        address.put(at);
        bytes.put(size);
        Ok(())
    }

    fn cuLibraryGetManaged(_address: Out<u64>, _bytes: Out<usize>, library: usize, name: Text) {
        LIBRARIES.get(library)?;
        Err(Code::NOT_FOUND.because(format!("no managed variable {}", name.get()?)))
    }

    fn cuKernelGetFunction(out: Out<usize>, kernel: usize) {
        let out = out.required()?;
        out.set(kernel_of(kernel)?.function(&context::current()?)?.handle)
    }

    fn cuKernelGetLibrary(out: Out<usize>, kernel: usize) {
        let out = out.required()?;
        out.set(library_of(kernel)?.handle)
    }

    fn cuKernelGetName(name: Out<*const c_char>, kernel: usize) {
        let name = name.required()?;
        name.set(kernel_of(kernel)?.c_name())
    }

    fn cuKernelGetAttribute(value: Out<i32>, attribute: i32, kernel: usize, dev: i32) {
        let value = value.required()?;
        driver::device(dev)?;
        value.set(kernel_of(kernel)?.function(&context::current()?)?.attribute(attribute)?)
    }

    fn cuKernelSetAttribute(attribute: i32, value: i32, kernel: usize, dev: i32) {
        driver::device(dev)?;
        kernel_of(kernel)?.function(&context::current()?)?.set_attribute(attribute, value)
    }

    fn cuKernelSetCacheConfig(kernel: usize, config: i32, dev: i32) {
        driver::device(dev)?;
        kernel_of(kernel)?;
        if (0..=3).contains(&config) { Ok(()) } else { Err(Code::INVALID_VALUE.into()) }
    }

    fn cuKernelGetParamInfo(kernel: usize, index: usize, offset: Out<usize>, size: Out<usize>) {
        let offset = offset.required()?;
        let kernel = kernel_of(kernel)?;
        let library = kernel.library.upgrade().ok_or(Code::INVALID_HANDLE)?;
        let param = library.code.kernel(&kernel.name).and_then(|k| k.params.get(index));
        let param = param.ok_or_else(|| Code::INVALID_VALUE.because(format!("no parameter {index}")))?;
        offset.put(param.offset);
        size.put(param.size);
        Ok(())
    }

    fn cuKernelGetParamCount(kernel: usize, count: Out<usize>) {
        let count = count.required()?;
        let kernel = kernel_of(kernel)?;
        let library = kernel.library.upgrade().ok_or(Code::INVALID_HANDLE)?;
        count.set(library.code.kernel(&kernel.name).map_or(0, |k| k.params.len()))
    }
}

fn load(out: Out<usize>, image: Image, log: &JitLog) -> Result<()> {
    out.set(Library::create(module::compile(&image, log)?).handle)
}

fn kernel_of(handle: usize) -> Result<Arc<LibraryKernel>> {
    KERNELS.get(handle)
}

fn library_of(kernel: usize) -> Result<Arc<Library>> {
    kernel_of(kernel)?.library.upgrade().ok_or_else(|| Code::INVALID_HANDLE.into())
}
