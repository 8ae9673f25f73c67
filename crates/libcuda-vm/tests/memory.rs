//! Memory: kinds of it, copies and fills in all shapes, what the driver says of addresses.
mod common;

use common::{client, raw::*};
use cudarc::driver::sys::{self, CUDA_MEMCPY2D, CUmemorytype, CUpointer_attribute as Attribute};
use std::{ffi::c_void, ptr};

const WRONG: CUresult = CUresult::CUDA_ERROR_INVALID_VALUE;

#[test]
fn wrong_arguments_are_refused() {
    client("wrong_arguments_are_refused", &[], || {
        let mut address = 0;
        assert_eq!(cu!(cuMemAlloc_v2(&mut address, 4)), CUresult::CUDA_ERROR_NOT_INITIALIZED);
        ok!(cuInit(0));
        assert_eq!(cu!(cuMemAlloc_v2(&mut address, 4)), CUresult::CUDA_ERROR_INVALID_CONTEXT);
        context();
        assert_eq!(cu!(cuMemAlloc_v2(ptr::null_mut(), 4)), WRONG);
        assert_eq!(cu!(cuMemAlloc_v2(&mut address, 0)), WRONG);
        assert_eq!(cu!(cuMemAlloc_v2(&mut address, 1 << 50)), CUresult::CUDA_ERROR_OUT_OF_MEMORY);
        let block = words(&[1, 2, 3, 4]);
        assert_eq!(cu!(cuMemFree_v2(block + 4)), WRONG, "the middle of an allocation");
        let mut host = [0u32; 8];
        assert_eq!(cu!(cuMemcpyDtoH_v2(host.as_mut_ptr().cast(), block, 17)), WRONG, "one byte too many");
        assert_eq!(cu!(cuMemcpyDtoH_v2(ptr::null_mut(), block, 16)), WRONG);
        assert_eq!(cu!(cuMemcpyHtoD_v2(0x1000, host.as_ptr().cast(), 4)), WRONG);
        assert_eq!(cu!(cuMemsetD32_v2(block + 2, 0, 1)), WRONG, "misaligned");
        ok!(cuMemcpyDtoH_v2(ptr::null_mut(), 0, 0));
        ok!(cuMemFree_v2(0));
        ok!(cuMemFree_v2(block));
        assert_eq!(cu!(cuMemFree_v2(block)), WRONG, "freed twice");
        assert_eq!(cu!(cuMemcpyDtoH_v2(host.as_mut_ptr().cast(), block, 4)), WRONG, "used after the free");
    });
}

#[test]
fn fills_of_every_width() {
    client("fills_of_every_width", &[], || {
        context();
        let block = words(&[0; 8]);
        ok!(cuMemsetD32_v2(block, 0x0102_0304, 8));
        ok!(cuMemsetD16_v2(block + 2, 0xaaaa, 1));
        ok!(cuMemsetD8_v2(block + 5, 0xbb, 2));
        assert_eq!(read(block, 3), [0xaaaa_0304, 0x01bb_bb04, 0x0102_0304]);
        // Two rows of three words, four words apart.
        ok!(cuMemsetD2D32_v2(block, 16, 7, 3, 2));
        assert_eq!(read(block, 8), [7, 7, 7, 0x0102_0304, 7, 7, 7, 0x0102_0304]);
        let s = stream(1);
        ok!(cuMemsetD2D8Async(block, 16, 9, 1, 2, s));
        ok!(cuStreamSynchronize(s));
        assert_eq!(read(block, 5), [0x09, 7, 7, 0x0102_0304, 0x09]);
        assert_eq!(cu!(cuMemsetD2D32_v2(block, 8, 0, 3, 2)), WRONG, "rows overlap");
    });
}

fn rows(
    src: (CUmemorytype, usize, usize),
    dst: (CUmemorytype, usize, usize),
    x: [usize; 2],
) -> CUDA_MEMCPY2D {
    let host = |side: (CUmemorytype, usize, usize)| ptr::with_exposed_provenance_mut(side.1);
    CUDA_MEMCPY2D {
        srcXInBytes: x[0],
        srcY: 1,
        srcMemoryType: src.0,
        srcHost: host(src),
        srcDevice: src.1 as u64,
        srcArray: ptr::null_mut(),
        srcPitch: src.2,
        dstXInBytes: x[1],
        dstY: 0,
        dstMemoryType: dst.0,
        dstHost: host(dst),
        dstDevice: dst.1 as u64,
        dstArray: ptr::null_mut(),
        dstPitch: dst.2,
        WidthInBytes: 8,
        Height: 2,
    }
}

#[test]
fn copies_of_rectangles() {
    client("copies_of_rectangles", &[], || {
        context();
        let (host, device) = (CUmemorytype::CU_MEMORYTYPE_HOST, CUmemorytype::CU_MEMORYTYPE_DEVICE);
        let source: Vec<u32> = (0..12).collect();
        let (mut pitched, mut pitch) = (0, 0);
        ok!(cuMemAllocPitch_v2(&mut pitched, &mut pitch, 12, 2, 4));
        assert_eq!((pitch % 512, pitched % 256), (0, 0));
        ok!(cuMemsetD8_v2(pitched, 0, 2 * pitch));
        // Rows 1 and 2 of three, columns 1 and 2 of four, to columns 1 and 2.
        let up = rows((host, source.as_ptr() as usize, 16), (device, pitched as usize, pitch), [4, 4]);
        ok!(cuMemcpy2D_v2(&up));
        assert_eq!(read(pitched, 3), [0, 5, 6]);
        assert_eq!(read(pitched + pitch as u64, 3), [0, 9, 10]);
        let mut back = [0u32; 4];
        let mut down = rows((device, pitched as usize, pitch), (host, back.as_mut_ptr() as usize, 8), [4, 0]);
        down.srcY = 0;
        let s = stream(1);
        ok!(cuMemcpy2DAsync_v2(&down, s));
        assert_eq!(back, [5, 6, 9, 10], "pageable memory: done when the call returns");
        down.srcPitch = 8;
        assert_eq!(cu!(cuMemcpy2D_v2(&down)), WRONG, "a row is longer than its pitch");
    });
}

#[test]
fn pageable_memory_is_the_clients_again_at_once() {
    client("pageable_memory_is_the_clients_again_at_once", &[], || {
        context();
        let (block, s, word) = (words(&[0]), stream(1), gate());
        wait_for(word, s);
        let mut value = 5u32;
        ok!(cuMemcpyHtoDAsync_v2(block, (&raw const value).cast(), 4, s));
        value += 1;
        open(word);
        ok!(cuStreamSynchronize(s));
        assert_eq!((read(block, 1), value), (vec![5], 6));
    });
}

#[test]
fn host_and_managed_memory_are_seen_by_kernels() {
    client("host_and_managed_memory_are_seen_by_kernels", &[], || {
        context();
        let f = kernel("affine");
        let bump = |address: u64| {
            assert_eq!(affine(f, address, 2, 1, ptr::null_mut()), CUresult::CUDA_SUCCESS);
            ok!(cuCtxSynchronize());
        };
        let mut managed = 0;
        ok!(cuMemAllocManaged(&mut managed, 8, 1));
        let word: *mut u32 = ptr::with_exposed_provenance_mut(managed as usize);
        // SAFETY: managed memory is the host's too, while no kernel runs.
        unsafe { word.write(20) };
        bump(managed);
        // SAFETY: as above.
        assert_eq!(unsafe { word.read() }, 41);
        ok!(cuMemFree_v2(managed));

        let mut own = vec![3u32; 1024];
        let at: *mut c_void = own.as_mut_ptr().cast();
        ok!(cuMemHostRegister_v2(at, 4096, 2));
        let again = CUresult::CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
        assert_eq!(cu!(cuMemHostRegister_v2(at, 4096, 2)), again);
        let mut device = 0;
        ok!(cuMemHostGetDevicePointer_v2(&mut device, at, 0));
        bump(device);
        ok!(cuMemHostUnregister(at));
        assert_eq!(cu!(cuMemHostUnregister(at)), CUresult::CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
        assert_eq!(own[..2], [7, 3]);
        affine(f, device, 2, 1, ptr::null_mut());
        assert_eq!(cu!(cuCtxSynchronize()), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS, "no longer the kernels'");
    });
}

#[test]
fn stream_ordered_allocation() {
    let settings = [("FERROTUNE_VM_MEMORY", "4M")];
    client("stream_ordered_allocation", &settings, || {
        context();
        let (s, word) = (stream(1), gate());
        let (mut a, mut b) = (0, 0);
        ok!(cuMemAllocAsync(&mut a, 3 << 20, s));
        wait_for(word, s);
        ok!(cuMemsetD8Async(a, 1, 3 << 20, s));
        ok!(cuMemFreeAsync(a, s));
        let (mut pool, mut used) = (ptr::null_mut(), 0u64);
        ok!(cuDeviceGetDefaultMemPool(&mut pool, 0));
        let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT;
        ok!(cuMemPoolGetAttribute(pool, attribute, (&raw mut used).cast()));
        assert_eq!(used, 3 << 20, "freed in stream order: not yet");
        open(word);
        ok!(cuMemAllocAsync(&mut b, 3 << 20, s));
        ok!(cuMemPoolGetAttribute(pool, attribute, (&raw mut used).cast()));
        assert_eq!(used, 3 << 20, "the allocation waited for the free");
        ok!(cuMemFreeAsync(b, s));
        ok!(cuStreamSynchronize(s));
        assert_eq!(cu!(cuMemFreeAsync(b, s)), WRONG);
    });
}

#[test]
fn addresses_have_attributes() {
    client("addresses_have_attributes", &[], || {
        let context = context();
        let block = words(&[1, 2, 3, 4]);
        let get = |attribute: Attribute, address: u64| {
            let mut value = 0u64;
            let result = cu!(cuPointerGetAttribute((&raw mut value).cast(), attribute, address));
            (result == CUresult::CUDA_SUCCESS).then_some(value)
        };
        assert_eq!(get(Attribute::CU_POINTER_ATTRIBUTE_MEMORY_TYPE, block + 4), Some(2));
        assert_eq!(get(Attribute::CU_POINTER_ATTRIBUTE_CONTEXT, block), Some(context as u64));
        assert_eq!(get(Attribute::CU_POINTER_ATTRIBUTE_RANGE_START_ADDR, block + 15), Some(block));
        assert_eq!(get(Attribute::CU_POINTER_ATTRIBUTE_RANGE_SIZE, block), Some(16));
        assert_eq!(get(Attribute::CU_POINTER_ATTRIBUTE_MEMORY_TYPE, gate() as u64), Some(1));
        assert_eq!(get(Attribute::CU_POINTER_ATTRIBUTE_MEMORY_TYPE, &raw const block as u64), None);
        let (mut base, mut size) = (0, 0);
        ok!(cuMemGetAddressRange_v2(&mut base, &mut size, block + 9));
        assert_eq!((base, size), (block, 16));
    });
}
