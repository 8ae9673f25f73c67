//! Modules: loading PTX, finding functions and variables.
use crate::{
    capture, context,
    ffi::{In, Out, Text, api},
    image::{Image, JitLog},
    module::{self, MODULES, Module},
    result::{Code, Result},
};

api! {
    fn cuModuleLoad(out: Out<usize>, path: Text) {
        let (out, path) = (out.required()?, path.get()?);
        context::current()?;
        load(out, Image::from_file(&path)?, &JitLog::default())
    }

    fn cuModuleLoadData(out: Out<usize>, image: In<u8>) {
        let out = out.required()?;
        context::current()?;
        load(out, Image::from_memory("ptx", image, None)?, &JitLog::default())
    }

    fn cuModuleLoadDataEx(out: Out<usize>, image: In<u8>, count: u32, options: In<i32>, values: In<usize>) {
        let out = out.required()?;
        context::current()?;
        let log = JitLog::read(count, options, values)?;
        load(out, Image::from_memory("ptx", image, None)?, &log)
    }

    fn cuModuleLoadFatBinary(out: Out<usize>, image: In<u8>) {
        let out = out.required()?;
        context::current()?;
        load(out, Image::from_memory("fat binary", image, None)?, &JitLog::default())
    }

    fn cuModuleUnload(module: usize) {
        let context = context::current()?;
        let module = MODULES.remove(module)?;
        // Launches under way keep the code; the client's handles end here.
        module.forget_functions();
        context.synchronize()
    }

    fn cuModuleGetLoadingMode(mode: Out<i32>) {
        // CU_MODULE_EAGER_LOADING
        mode.set(1)
    }

    fn cuModuleGetFunction(out: Out<usize>, module: usize, name: Text) {
        let out = out.required()?;
        let name = name.get()?;
        context::current()?;
        out.set(MODULES.get(module)?.function(&name)?.handle)
    }

    fn cuModuleGetFunctionCount(count: Out<u32>, module: usize) {
        let count = count.required()?;
        count.set(MODULES.get(module)?.code.kernels().count() as u32)
    }

    fn cuModuleEnumerateFunctions(functions: Out<usize>, count: u32, module: usize) {
        let functions = functions.required()?;
        let module = MODULES.get(module)?;
        for (i, kernel) in module.code.kernels().take(count as usize).enumerate() {
            functions.put_at(i, module.function(&kernel.name)?.handle);
        }
        Ok(())
    }

    fn cuModuleGetGlobal_v2(address: Out<u64>, bytes: Out<usize>, module: usize, name: Text) {
        let name = name.get()?;
        if address.is_null() && bytes.is_null() {
            return Err(Code::INVALID_VALUE.because("nothing is asked for"));
        }
        context::current()?;
        let (at, size) = MODULES.get(module)?.global(&name)?;
        address.put(at);
        bytes.put(size);
        Ok(())
    }
}

fn load(out: Out<usize>, image: Image, log: &JitLog) -> Result<()> {
    let context = context::current()?;
    capture::forbid()?;
    let module = Module::load(&context, module::compile(&image, log)?)?;
    out.set(module.handle)
}
