/* A C program that links libcuda: cc client.c -lcuda && ./a.out kernels.ptx
 *
 * The few declarations that it needs are written out, so that no CUDA headers have to be installed. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int CUresult, CUdevice;
typedef unsigned long long CUdeviceptr;
typedef struct CUctx_st *CUcontext;
typedef struct CUmod_st *CUmodule;
typedef struct CUfunc_st *CUfunction;
typedef struct CUstream_st *CUstream;
typedef struct CUevent_st *CUevent;

CUresult cuInit(unsigned);
CUresult cuDeviceGet(CUdevice *, int);
CUresult cuDeviceGetName(char *, int, CUdevice);
CUresult cuCtxCreate_v2(CUcontext *, unsigned, CUdevice);
CUresult cuCtxDestroy_v2(CUcontext);
CUresult cuModuleLoad(CUmodule *, const char *);
CUresult cuModuleGetFunction(CUfunction *, CUmodule, const char *);
CUresult cuMemAlloc_v2(CUdeviceptr *, size_t);
CUresult cuMemFree_v2(CUdeviceptr);
CUresult cuMemcpyHtoD_v2(CUdeviceptr, const void *, size_t);
CUresult cuMemcpyDtoH_v2(void *, CUdeviceptr, size_t);
CUresult cuStreamCreate(CUstream *, unsigned);
CUresult cuStreamSynchronize(CUstream);
CUresult cuEventCreate(CUevent *, unsigned);
CUresult cuEventRecord(CUevent, CUstream);
CUresult cuEventElapsedTime(float *, CUevent, CUevent);
CUresult cuLaunchKernel(CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, CUstream,
                        void **, void **);
CUresult cuGetErrorName(CUresult, const char **);

static void expect(CUresult wanted, CUresult got, const char *what) {
    if (got != wanted) {
        const char *name = "an unknown error";
        cuGetErrorName(got, &name);
        fprintf(stderr, "%s gave %s (%d), not %d\n", what, name, got, wanted);
        exit(1);
    }
}
#define OK(call) expect(0, call, #call)

enum { N = 1000 };

int main(int argc, char **argv) {
    CUdevice device;
    CUcontext context;
    CUmodule module;
    CUfunction add;
    CUstream stream;
    CUevent start, end;
    CUdeviceptr x, y, out;
    static float host[N];
    char name[100];
    unsigned n = N;
    float ms = -1;

    if (argc != 2) return 2;
    OK(cuInit(0));
    expect(101, cuDeviceGet(&device, 7), "a device that is not there");
    OK(cuDeviceGet(&device, 0));
    OK(cuDeviceGetName(name, sizeof name, device));
    expect(201, cuMemAlloc_v2(&x, 4), "an allocation with no context");
    OK(cuCtxCreate_v2(&context, 0, device));
    expect(301, cuModuleLoad(&module, "/nonexistent.ptx"), "a file that is not there");
    OK(cuModuleLoad(&module, argv[1]));
    expect(500, cuModuleGetFunction(&add, module, "subtract"), "a kernel that is not there");
    OK(cuModuleGetFunction(&add, module, "add"));
    OK(cuMemAlloc_v2(&x, sizeof host));
    OK(cuMemAlloc_v2(&y, sizeof host));
    OK(cuMemAlloc_v2(&out, sizeof host));
    for (int i = 0; i < N; i++) host[i] = (float)i;
    OK(cuMemcpyHtoD_v2(x, host, sizeof host));
    OK(cuMemcpyHtoD_v2(y, host, sizeof host));
    OK(cuStreamCreate(&stream, 1));
    OK(cuEventCreate(&start, 0));
    OK(cuEventCreate(&end, 0));
    void *params[] = {&x, &y, &out, &n};
    OK(cuEventRecord(start, stream));
    expect(1, cuLaunchKernel(add, 1, 1, 1, 4096, 1, 1, 0, stream, params, NULL), "a block of 4096 threads");
    OK(cuLaunchKernel(add, (N + 255) / 256, 1, 1, 256, 1, 1, 0, stream, params, NULL));
    OK(cuEventRecord(end, stream));
    OK(cuStreamSynchronize(stream));
    OK(cuEventElapsedTime(&ms, start, end));
    OK(cuMemcpyDtoH_v2(host, out, sizeof host));
    for (int i = 0; i < N; i++) {
        if (host[i] != 2.0f * (float)i) {
            fprintf(stderr, "element %d is %g\n", i, host[i]);
            return 1;
        }
    }
    OK(cuMemFree_v2(x));
    expect(1, cuMemFree_v2(x), "a second free");
    OK(cuCtxDestroy_v2(context));
    printf("%s: %d sums in %.3f ms\n", name, N, ms);
    return ms >= 0 ? 0 : 1;
}
