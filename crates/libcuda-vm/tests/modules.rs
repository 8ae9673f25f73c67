//! Code: modules, libraries, the linker, entry points, `ptx_run`.
mod common;

use common::{PTX, client, folder, raw::*, with_stand_in};
use cudarc::driver::sys::{self, CUjit_option as Jit};
use std::{
    ffi::{CStr, CString, c_char, c_void},
    process::Command,
    ptr,
};

const NO_OPTIONS: (*mut Jit, *mut *mut c_void) = (ptr::null_mut(), ptr::null_mut());

#[test]
fn variables_of_a_module_have_addresses() {
    client("variables_of_a_module_have_addresses", &[], || {
        context();
        let text = CString::new(PTX).unwrap();
        let mut module = ptr::null_mut();
        ok!(cuModuleLoadData(&mut module, text.as_ptr().cast()));
        let (mut address, mut bytes) = (0, 0);
        ok!(cuModuleGetGlobal_v2(&mut address, &mut bytes, module, c"table".as_ptr()));
        assert_eq!((bytes, read(address, 4)), (16, vec![2, 3, 5, 7]));
        let missing = cu!(cuModuleGetGlobal_v2(&mut address, &mut bytes, module, c"chair".as_ptr()));
        assert_eq!(missing, CUresult::CUDA_ERROR_NOT_FOUND);
        let mut function = ptr::null_mut();
        ok!(cuModuleGetFunction(&mut function, module, c"affine".as_ptr()));
        let (mut offset, mut size) = (0, 0);
        ok!(cuFuncGetParamInfo(function, 2, &mut offset, &mut size));
        assert_eq!((offset, size), (12, 4));
        ok!(cuModuleUnload(module));
        let gone = CUresult::CUDA_ERROR_INVALID_HANDLE;
        assert_eq!(affine(function, address, 1, 1, ptr::null_mut()), gone);
        assert_eq!(cu!(cuModuleGetFunction(&mut function, module, c"affine".as_ptr())), gone);
    });
}

#[test]
fn diagnostics_fill_the_clients_log() {
    client("diagnostics_fill_the_clients_log", &[], || {
        context();
        let text = CString::new(PTX.replace("add.rn.f32 %f3", "add.rn.f31 %f3")).unwrap();
        let mut log = [0u8; 4096];
        let mut options = [Jit::CU_JIT_ERROR_LOG_BUFFER, Jit::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
        let mut values: [*mut c_void; 2] = [log.as_mut_ptr().cast(), ptr::without_provenance_mut(log.len())];
        let mut module = ptr::null_mut();
        let (o, v) = (options.as_mut_ptr(), values.as_mut_ptr());
        let result = cu!(cuModuleLoadDataEx(&mut module, text.as_ptr().cast(), 2, o, v));
        assert_eq!(result, CUresult::CUDA_ERROR_INVALID_PTX);
        let said = CStr::from_bytes_until_nul(&log).unwrap().to_str().unwrap();
        let line = 1 + PTX.lines().position(|l| l.contains("add.rn.f32 %f3")).unwrap();
        assert!(said.contains(&line.to_string()) && said.contains("f31"), "{said}");
        assert_eq!(values[1].addr(), said.len() + 1, "the size that was written");
    });
}

#[test]
fn a_library_serves_every_context() {
    client("a_library_serves_every_context", &[], || {
        let primary = context();
        let text = CString::new(PTX).unwrap();
        let (mut library, mut k) = (ptr::null_mut(), ptr::null_mut());
        let (o, v) = NO_OPTIONS;
        let code = text.as_ptr().cast();
        ok!(cuLibraryLoadData(&mut library, code, o, v, 0, ptr::null_mut(), ptr::null_mut(), 0));
        ok!(cuLibraryGetKernel(&mut k, library, c"affine".as_ptr()));
        let value = words(&[1]);
        // A kernel's handle stands for its function in the current context.
        assert_eq!(affine(k.cast(), value, 2, 5, ptr::null_mut()), CUresult::CUDA_SUCCESS);
        assert_eq!(read(value, 1), [7]);
        let mut other = ptr::null_mut();
        ok!(cuCtxCreate_v2(&mut other, 0, 0));
        let (mut function, there) = (ptr::null_mut(), words(&[2]));
        ok!(cuKernelGetFunction(&mut function, k));
        assert_eq!(affine(function, there, 2, 5, ptr::null_mut()), CUresult::CUDA_SUCCESS);
        assert_eq!(read(there, 1), [9]);
        ok!(cuCtxDestroy_v2(other));
        let mut current = ptr::null_mut();
        ok!(cuCtxGetCurrent(&mut current));
        assert_eq!(current, primary);
        assert_eq!(affine(function, value, 2, 5, ptr::null_mut()), CUresult::CUDA_ERROR_INVALID_HANDLE);
        ok!(cuLibraryUnload(library));
        assert_eq!(affine(k.cast(), value, 2, 5, ptr::null_mut()), CUresult::CUDA_ERROR_INVALID_HANDLE);
    });
}

const CALLEE: &str = ".version 7.8\n.target sm_80\n.address_size 64
.visible .func (.param .b32 result) triple(.param .b32 x)
{
    .reg .b32 %r<3>;
    ld.param.u32 %r1, [x];
    mul.lo.u32 %r2, %r1, 3;
    st.param.u32 [result], %r2;
    ret;
}
";

const CALLER: &str = ".version 8.0\n.target sm_80\n.address_size 64
.extern .func (.param .b32 result) triple(.param .b32 x);
.visible .entry main(.param .u64 address)
{
    .reg .b32 %r<3>;
    .reg .b64 %rd1;
    ld.param.u64 %rd1, [address];
    ld.global.u32 %r1, [%rd1];
    {
        .param .b32 out;
        .param .b32 in;
        st.param.b32 [in], %r1;
        call.uni (out), triple, (in);
        ld.param.b32 %r2, [out];
    }
    st.global.u32 [%rd1], %r2;
    ret;
}
";

#[test]
fn the_linker_joins_what_modules_share() {
    client("the_linker_joins_what_modules_share", &[], || {
        context();
        let (o, v) = NO_OPTIONS;
        let mut link = ptr::null_mut();
        ok!(cuLinkCreate_v2(0, o, v, &mut link));
        for (name, text) in [(c"caller", CALLER), (c"callee", CALLEE)] {
            let data = text.as_ptr().cast_mut().cast();
            let ptx = sys::CUjitInputType::CU_JIT_INPUT_PTX;
            ok!(cuLinkAddData_v2(link, ptx, data, text.len(), name.as_ptr(), 0, o, v));
        }
        let (mut image, mut size) = (ptr::null_mut(), 0);
        ok!(cuLinkComplete(link, &mut image, &mut size));
        assert!(size > CALLER.len());
        let (mut module, mut function) = (ptr::null_mut(), ptr::null_mut());
        ok!(cuModuleLoadData(&mut module, image));
        ok!(cuLinkDestroy(link));
        ok!(cuModuleGetFunction(&mut function, module, c"main".as_ptr()));
        let value = words(&[14]);
        let mut args = [(&raw const value).cast_mut().cast()];
        let none = ptr::null_mut();
        ok!(cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, none, args.as_mut_ptr(), ptr::null_mut()));
        assert_eq!(read(value, 1), [42]);
    });
}

#[test]
fn parameters_come_by_pointers_or_in_a_buffer() {
    client("parameters_come_by_pointers_or_in_a_buffer", &[], || {
        context();
        let (function, value) = (kernel("affine"), words(&[4]));
        let mut buffer = value.to_le_bytes().to_vec();
        for word in [3u32, 1, 0] {
            buffer.extend(word.to_le_bytes());
        }
        let try_with = |mut size: usize, params: *mut *mut c_void| {
            let at = |n: usize| ptr::without_provenance_mut::<c_void>(n);
            let mut extra = [at(1), buffer.as_ptr().cast_mut().cast(), at(2), (&raw mut size).cast(), at(0)];
            cu!(cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, ptr::null_mut(), params, extra.as_mut_ptr()))
        };
        assert_eq!(try_with(20, ptr::null_mut()), CUresult::CUDA_SUCCESS);
        assert_eq!(read(value, 1), [13]);
        let wrong = CUresult::CUDA_ERROR_INVALID_VALUE;
        assert_eq!(try_with(16, ptr::null_mut()), wrong, "too short");
        let mut args = [ptr::null_mut(); 4];
        assert_eq!(try_with(20, args.as_mut_ptr()), wrong, "both ways at once");
        let none = cu!(cuLaunchKernel(
            function,
            1,
            1,
            1,
            1,
            1,
            1,
            0,
            ptr::null_mut(),
            ptr::null_mut(),
            ptr::null_mut()
        ));
        assert_eq!(none, wrong, "neither");
    });
}

#[test]
fn entry_points_come_by_name_and_version() {
    client("entry_points_come_by_name_and_version", &[], || {
        let find = |name: &CStr, version: i32| {
            let (mut f, mut status) =
                (ptr::null_mut(), sys::CUdriverProcAddressQueryResult::CU_GET_PROC_ADDRESS_SUCCESS);
            ok!(cuGetProcAddress_v2(name.as_ptr(), &mut f, version, 0, &mut status));
            (!f.is_null(), status as u32)
        };
        assert_eq!(find(c"cuMemAlloc", 3020), (true, 0));
        assert_eq!(find(c"cuTeleport", 12_000), (false, 1));
        assert_eq!(find(c"cuGraphCreate", 9000), (false, 2));
        let mut text: *const c_char = ptr::null();
        ok!(cuGetErrorName(CUresult::CUDA_ERROR_ILLEGAL_ADDRESS, &mut text));
        // SAFETY: the driver's texts are constants.
        assert_eq!(unsafe { CStr::from_ptr(text) }, c"CUDA_ERROR_ILLEGAL_ADDRESS");
        let mut table = ptr::null();
        let id = sys::CUuuid { bytes: [0; 16] };
        assert_eq!(cu!(cuGetExportTable(&mut table, &id)), CUresult::CUDA_ERROR_NOT_FOUND);
    });
}

#[test]
fn a_missing_function_says_its_name_once() {
    let name = "a_missing_function_says_its_name_once";
    let mut command = Command::new(std::env::current_exe().unwrap());
    if std::env::var("LIBCUDA_VM_MISSING").is_ok() {
        let none = ptr::null_mut();
        for _ in 0..2 {
            assert_eq!(cu!(cuArrayCreate_v2(none, ptr::null())), CUresult::CUDA_ERROR_NOT_SUPPORTED);
        }
        return;
    }
    command.args([name, "--exact", "--nocapture"]).env("LIBCUDA_VM_MISSING", "1");
    let output = with_stand_in(&mut command, &[]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert_eq!(said.matches("cuArrayCreate_v2 is not supported").count(), 1, "{said}");
}

#[test]
fn cargo_alone_does_not_ask_for_the_vm() {
    let name = "cargo_alone_does_not_ask_for_the_vm";
    if std::env::var("LIBCUDA_VM_UNASKED").is_ok() {
        assert_eq!(cu!(cuInit(0)), CUresult::CUDA_ERROR_NO_DEVICE);
        return;
    }
    if std::path::Path::new("/dev/nvidiactl").exists() {
        eprintln!("skipped: this machine has a GPU, where the refusal is another");
        return;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([name, "--exact", "--nocapture"])
        .env("LIBCUDA_VM_UNASKED", "1")
        .env("CARGO_MANIFEST_DIR", ".");
    let output = with_stand_in(&mut command, &[]).env_remove("FERROTUNE_VM").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("FERROTUNE_VM=1"), "{said}");
}

#[test]
fn ptx_run_takes_host_memory() {
    client("ptx_run_takes_host_memory", &[], || {
        type Run =
            unsafe extern "C" fn(*const c_char, i32, *const u64, i32, i32, i32, i32, i32, i32, i32) -> i32;
        // SAFETY: the stand-in is a library like any other; `ptx_run` has that type.
        let library = unsafe { libloading::Library::new(folder().join("libcuda.so.1")) }.unwrap();
        // SAFETY: as above.
        let run: libloading::Symbol<Run> = unsafe { library.get(b"ptx_run\0") }.unwrap();
        let start = PTX.find("// out[i]").unwrap();
        let end = PTX.find("// *value").unwrap();
        let text =
            CString::new(format!(".version 7.8\n.target sm_80\n.address_size 64\n{}", &PTX[start..end]))
                .unwrap();
        let (x, y) = (vec![1.5f32; 100], (0..100).map(|i| i as f32).collect::<Vec<_>>());
        let mut out = vec![0f32; 100];
        let args = [x.as_ptr() as u64, y.as_ptr() as u64, out.as_mut_ptr() as u64, 100];
        // SAFETY: the kernel reads and writes these buffers.
        assert_eq!(unsafe { run(text.as_ptr(), 4, args.as_ptr(), 32, 1, 1, 4, 1, 1, 0) }, 0);
        assert!(out.iter().zip(&y).all(|(o, y)| *o == 1.5 + y));
        // SAFETY: a call that is refused before anything runs.
        let refused = unsafe { run(text.as_ptr(), 3, args.as_ptr(), 32, 1, 1, 4, 1, 1, 0) };
        assert_eq!(refused, CUresult::CUDA_ERROR_INVALID_VALUE as i32);
        // SAFETY: as above.
        let broken = unsafe { run(c"no ptx".as_ptr(), 4, args.as_ptr(), 32, 1, 1, 4, 1, 1, 0) };
        assert_eq!(broken, CUresult::CUDA_ERROR_INVALID_PTX as i32);
    });
}
