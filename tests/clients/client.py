"""NVIDIA's Python driver bindings as a client of the stand-in: python client.py kernels.ptx"""

import ctypes
import sys

from cuda.bindings import driver as cu

OK = cu.CUresult.CUDA_SUCCESS


def ok(result):
    """The values of a call that must succeed."""
    assert result[0] == OK, result[0]
    return result[1] if len(result) == 2 else result[1:]


def fails(result, code):
    assert result[0] == code, result[0]


def main(path):
    ok(cu.cuInit(0))
    device = ok(cu.cuDeviceGet(0))
    name = ok(cu.cuDeviceGetName(100, device)).split(b"\0")[0].decode()
    assert ok(cu.cuDeviceGetCount()) == 1
    major = cu.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
    assert ok(cu.cuDeviceGetAttribute(major, device)) == 8
    context = ok(cu.cuDevicePrimaryCtxRetain(device))
    ok(cu.cuCtxSetCurrent(context))

    ptx = open(path, "rb").read()
    module = ok(cu.cuModuleLoadData(ptx + b"\0"))
    fails(cu.cuModuleGetFunction(module, b"subtract"), cu.CUresult.CUDA_ERROR_NOT_FOUND)
    fails(cu.cuModuleLoadData(b"no ptx at all\0"), cu.CUresult.CUDA_ERROR_INVALID_PTX)
    add = ok(cu.cuModuleGetFunction(module, b"add"))

    n = 1000
    host = (ctypes.c_float * n)(*range(n))
    size = ctypes.sizeof(host)
    stream = ok(cu.cuStreamCreate(cu.CUstream_flags.CU_STREAM_NON_BLOCKING))
    x, y, out = (ok(cu.cuMemAllocAsync(size, stream)) for _ in range(3))
    for buffer in (x, y):
        ok(cu.cuMemcpyHtoDAsync(buffer, ctypes.addressof(host), size, stream))
    start, end = (ok(cu.cuEventCreate(0)) for _ in range(2))
    pointer = ctypes.c_void_p
    params = ((int(x), int(y), int(out), n), (pointer, pointer, pointer, ctypes.c_uint32))
    ok(cu.cuEventRecord(start, stream))
    ok(cu.cuLaunchKernel(add, (n + 255) // 256, 1, 1, 256, 1, 1, 0, stream, params, 0))
    ok(cu.cuEventRecord(end, stream))
    fails(
        cu.cuLaunchKernel(add, 1, 1, 1, 4096, 1, 1, 0, stream, params, 0),
        cu.CUresult.CUDA_ERROR_INVALID_VALUE,
    )
    ok(cu.cuMemcpyDtoHAsync(ctypes.addressof(host), out, size, stream))
    ok(cu.cuStreamSynchronize(stream))
    assert list(host) == [2.0 * i for i in range(n)]
    assert ok(cu.cuEventElapsedTime(start, end)) >= 0

    # The same by capture and replay.
    ok(cu.cuMemsetD32Async(out, 0, n, stream))
    ok(cu.cuStreamBeginCapture(stream, cu.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_GLOBAL))
    ok(cu.cuLaunchKernel(add, (n + 255) // 256, 1, 1, 256, 1, 1, 0, stream, params, 0))
    graph = ok(cu.cuStreamEndCapture(stream))
    runnable = ok(cu.cuGraphInstantiate(graph, 0))
    ok(cu.cuGraphLaunch(runnable, stream))
    ok(cu.cuMemcpyDtoHAsync(ctypes.addressof(host), out, size, stream))
    ok(cu.cuStreamSynchronize(stream))
    assert list(host) == [2.0 * i for i in range(n)]
    for buffer in (x, y, out):
        ok(cu.cuMemFreeAsync(buffer, stream))
    ok(cu.cuStreamSynchronize(stream))

    free, total = ok(cu.cuMemGetInfo())
    fails(cu.cuMemAlloc(total + 1), cu.CUresult.CUDA_ERROR_OUT_OF_MEMORY)
    fails(cu.cuArrayCreate(cu.CUDA_ARRAY_DESCRIPTOR()), cu.CUresult.CUDA_ERROR_NOT_SUPPORTED)

    # A failed launch breaks the context.
    poke = ok(cu.cuModuleGetFunction(module, b"poke"))
    ok(cu.cuLaunchKernel(poke, 1, 1, 1, 1, 1, 1, 0, stream, ((0x1000,), (pointer,)), 0))
    illegal = cu.CUresult.CUDA_ERROR_ILLEGAL_ADDRESS
    fails(cu.cuStreamSynchronize(stream), illegal)
    fails(cu.cuMemAlloc(4), illegal)
    assert ok(cu.cuGetErrorName(illegal)) == b"CUDA_ERROR_ILLEGAL_ADDRESS"
    ok(cu.cuDevicePrimaryCtxRelease(device))
    print(f"{name}: all is well")


main(sys.argv[1])
