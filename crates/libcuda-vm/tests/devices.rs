//! Two devices in one process: memory and contexts of their own, copies between them, kernels that keep to theirs.
mod common;

use common::{client, raw::*};
use cudarc::driver::sys::{self, CUpointer_attribute as Attribute};
use std::ptr;

const TWO: &[(&str, &str)] = &[("FERROTUNE_VM_DEVICES", "2"), ("FERROTUNE_VM_MEMORY", "64M")];

/// The primary contexts of both devices; the first is current.
fn contexts() -> [CUcontext; 2] {
    ok!(cuInit(0));
    let contexts = [0, 1].map(|device| {
        let mut context = ptr::null_mut();
        ok!(cuDevicePrimaryCtxRetain(&mut context, device));
        context
    });
    ok!(cuCtxSetCurrent(contexts[0]));
    contexts
}

fn on<T>(context: CUcontext, f: impl FnOnce() -> T) -> T {
    ok!(cuCtxPushCurrent_v2(context));
    let result = f();
    let mut popped = ptr::null_mut();
    ok!(cuCtxPopCurrent_v2(&mut popped));
    assert_eq!(popped, context);
    result
}

fn free_bytes() -> usize {
    let (mut free, mut total) = (0, 0);
    ok!(cuMemGetInfo_v2(&mut free, &mut total));
    assert_eq!(total, 64 << 20);
    free
}

#[test]
fn each_device_is_its_own() {
    client("each_device_is_its_own", TWO, || {
        let [a, b] = contexts();
        let (mut count, mut beyond) = (0, 0);
        ok!(cuDeviceGetCount(&mut count));
        assert_eq!(count, 2);
        assert_eq!(cu!(cuDeviceGet(&mut beyond, 2)), CUresult::CUDA_ERROR_INVALID_DEVICE);
        let uuid = |device| {
            let mut uuid = sys::CUuuid { bytes: [0; 16] };
            ok!(cuDeviceGetUuid_v2(&mut uuid, device));
            uuid.bytes
        };
        assert_ne!(uuid(0), uuid(1));
        // What one device allocates the other still has.
        let before = [a, b].map(|c| on(c, free_bytes));
        let mine = on(a, || {
            let mut address = 0;
            ok!(cuMemAlloc_v2(&mut address, 40 << 20));
            address
        });
        assert_eq!([a, b].map(|c| on(c, free_bytes)), [before[0] - (40 << 20), before[1]]);
        let theirs = on(b, || words(&[1, 2, 3]));
        // An address says whose it is, whatever the current context.
        for (address, device, context) in [(mine, 0, a), (theirs, 1, b)] {
            let (mut ordinal, mut owner) = (-1i32, ptr::null_mut::<u8>());
            let (number, whose) =
                (Attribute::CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, Attribute::CU_POINTER_ATTRIBUTE_CONTEXT);
            ok!(cuPointerGetAttribute((&raw mut ordinal).cast(), number, address));
            ok!(cuPointerGetAttribute((&raw mut owner).cast(), whose, address));
            assert_eq!((ordinal, owner.addr()), (device, context.addr()));
        }
        // A context that ends takes its own device's memory along and no other's.
        ok!(cuMemFree_v2(mine));
        ok!(cuDevicePrimaryCtxReset_v2(0));
        ok!(cuCtxSetCurrent(b));
        assert_eq!(read(theirs, 3), [1, 2, 3]);
    });
}

#[test]
fn copies_go_between_devices() {
    client("copies_go_between_devices", TWO, || {
        let [a, b] = contexts();
        let values: Vec<u32> = (0..5000).collect();
        let (from, to) = (words(&values), on(b, || words(&[0; 5000])));
        ok!(cuMemcpyPeer(to, b, from, a, 20_000));
        assert_eq!(read(to, 5000), values);
        // By address alone; part of a range; back again.
        ok!(cuMemcpyDtoD_v2(to + 8, from, 8));
        ok!(cuMemcpy(from + 400, to, 16));
        assert_eq!(read(from + 400, 5), [0, 1, 0, 1, 104]);
        assert_eq!(
            cu!(cuMemcpyPeer(to, b, from, a, 20_001)),
            CUresult::CUDA_ERROR_INVALID_VALUE,
            "one byte too many"
        );
        // In order with kernels of both devices: 7 there, times 3, over here, plus 1.
        let (here, there) = (kernel("affine"), on(b, || kernel("affine")));
        let (s, t, done) = (stream(1), on(b, || stream(1)), on(b, event));
        ok!(cuMemsetD32_v2(to, 7, 1));
        on(b, || {
            assert_eq!(affine(there, to, 3, 0, t), CUresult::CUDA_SUCCESS);
            ok!(cuMemcpyPeerAsync(from, a, to, b, 4, t));
            ok!(cuEventRecord(done, t));
        });
        ok!(cuStreamWaitEvent(s, done, 0));
        assert_eq!(affine(here, from, 1, 1, s), CUresult::CUDA_SUCCESS);
        ok!(cuStreamSynchronize(s));
        assert_eq!(read(from, 2), [22, 1]);
        // Rows of a box.
        let device = sys::CUmemorytype::CU_MEMORYTYPE_DEVICE;
        let rows = sys::CUDA_MEMCPY3D_PEER {
            srcXInBytes: 40,
            srcY: 0,
            srcZ: 0,
            srcLOD: 0,
            srcMemoryType: device,
            srcHost: ptr::null(),
            srcDevice: from,
            srcArray: ptr::null_mut(),
            srcContext: a,
            srcPitch: 80,
            srcHeight: 3,
            dstXInBytes: 0,
            dstY: 0,
            dstZ: 0,
            dstLOD: 0,
            dstMemoryType: device,
            dstHost: ptr::null_mut(),
            dstDevice: to,
            dstArray: ptr::null_mut(),
            dstContext: b,
            dstPitch: 8,
            dstHeight: 3,
            WidthInBytes: 8,
            Height: 3,
            Depth: 1,
        };
        ok!(cuMemcpy3DPeer(&rows));
        assert_eq!(read(to, 6), [10, 11, 30, 31, 50, 51]);
    });
}

#[test]
fn a_kernel_reaches_its_own_device_only() {
    client("a_kernel_reaches_its_own_device_only", TWO, || {
        let [_, b] = contexts();
        let mut can = -1;
        ok!(cuDeviceCanAccessPeer(&mut can, 0, 1));
        assert_eq!(can, 0);
        assert_eq!(cu!(cuCtxEnablePeerAccess(b, 0)), CUresult::CUDA_ERROR_PEER_ACCESS_UNSUPPORTED);
        let (mine, theirs) = (words(&[5]), on(b, || words(&[6])));
        let (here, there) = (kernel("affine"), on(b, || kernel("affine")));
        // A function belongs to the context that it was loaded in.
        assert_eq!(affine(there, mine, 2, 0, ptr::null_mut()), CUresult::CUDA_ERROR_INVALID_HANDLE);
        assert_eq!(
            affine(here, theirs, 2, 0, ptr::null_mut()),
            CUresult::CUDA_SUCCESS,
            "the fault comes later"
        );
        assert_eq!(cu!(cuCtxSynchronize()), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
        let mut address = 0;
        assert_eq!(
            cu!(cuMemAlloc_v2(&mut address, 4)),
            CUresult::CUDA_ERROR_ILLEGAL_ADDRESS,
            "the context is broken"
        );
        // The other device's goes on.
        ok!(cuCtxSetCurrent(b));
        assert_eq!(affine(there, theirs, 2, 1, ptr::null_mut()), CUresult::CUDA_SUCCESS);
        ok!(cuCtxSynchronize());
        assert_eq!(read(theirs, 1), [13]);
    });
}
