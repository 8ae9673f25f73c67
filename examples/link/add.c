/* An exported kernel in a C program:
 *
 *   cargo xtask ptx --out kernels-ptx
 *   cc add.c -lcuda && ./a.out kernels-ptx/elementwise/add.ptx
 *
 * With no GPU: cc add.c -L"$(cargo xtask vm --path)" -lcuda && cargo xtask vm -- ./a.out kernels-ptx/elementwise/add.ptx
 * The few declarations that it needs are written out, so that no CUDA headers have to be installed. */
#include <stdio.h>
#include <stdlib.h>

typedef int CUresult, CUdevice;
typedef unsigned long long CUdeviceptr;
typedef struct CUctx_st *CUcontext;
typedef struct CUmod_st *CUmodule;
typedef struct CUfunc_st *CUfunction;
typedef struct CUstream_st *CUstream;

CUresult cuInit(unsigned);
CUresult cuDeviceGet(CUdevice *, int);
CUresult cuDevicePrimaryCtxRetain(CUcontext *, CUdevice);
CUresult cuCtxSetCurrent(CUcontext);
CUresult cuModuleLoad(CUmodule *, const char *);
CUresult cuModuleGetFunction(CUfunction *, CUmodule, const char *);
CUresult cuMemAlloc_v2(CUdeviceptr *, size_t);
CUresult cuMemcpyHtoD_v2(CUdeviceptr, const void *, size_t);
CUresult cuMemcpyDtoH_v2(void *, CUdeviceptr, size_t);
CUresult cuLaunchKernel(CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, CUstream,
                        void **, void **);

static void ok(CUresult code, const char *what) {
    if (code) {
        fprintf(stderr, "%s failed with error %d\n", what, code);
        exit(1);
    }
}
#define OK(call) ok(call, #call)

enum { N = 1003, FLOATS_IN_16_BYTES = 4 };

int main(int argc, char **argv) {
    CUdevice device;
    CUcontext context;
    CUmodule module;
    CUfunction add;
    CUdeviceptr x, y;
    static float host[N];

    if (argc != 2) {
        fprintf(stderr, "usage: %s add.ptx\n", argv[0]);
        return 2;
    }
    OK(cuInit(0));
    OK(cuDeviceGet(&device, 0));
    OK(cuDevicePrimaryCtxRetain(&context, device));
    OK(cuCtxSetCurrent(context));
    OK(cuModuleLoad(&module, argv[1]));
    OK(cuModuleGetFunction(&add, module, "add_f32"));
    for (int i = 0; i < N; i++)
        host[i] = i;
    OK(cuMemAlloc_v2(&x, sizeof host));
    OK(cuMemAlloc_v2(&y, sizeof host));
    OK(cuMemcpyHtoD_v2(x, host, sizeof host));
    OK(cuMemcpyHtoD_v2(y, host, sizeof host));

    /* The parameters as manifest.json lists them: x, y, whole vectors of 16 bytes, elements. */
    unsigned long long len = N, vectors = N / FLOATS_IN_16_BYTES;
    void *params[] = {&x, &y, &vectors, &len};
    unsigned blocks = (unsigned)((vectors + 511) / 512);
    OK(cuLaunchKernel(add, blocks, 1, 1, 256, 1, 1, 0, 0, params, 0));
    OK(cuMemcpyDtoH_v2(host, y, sizeof host));
    for (int i = 0; i < N; i++)
        if (host[i] != 2.0f * i) {
            fprintf(stderr, "element %d is %g\n", i, host[i]);
            return 1;
        }
    printf("%d sums by add_f32\n", N);
    return 0;
}
