// CUDA C++ as people write it, for the test of what NVRTC makes of it: see ../compilers.rs, which launches each kernel.
#include <cooperative_groups.h>
#include <cooperative_groups/reduce.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_pipeline_primitives.h>
#include <mma.h>
#if __CUDA_ARCH__ >= 890
#include <cuda_fp8.h>
#endif
#define INFINITY __int_as_float(0x7f800000)
namespace cg = cooperative_groups;
namespace wmma = nvcuda::wmma;

// ---- sums over a block

__device__ float warp_sum(float x) {
    for (int d = 16; d > 0; d /= 2) x += __shfl_xor_sync(0xffffffff, x, d);
    return x;
}

/// The sum over the block, in every thread.
__device__ float block_sum(float x) {
    __shared__ float partial[32];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    x = warp_sum(x);
    __syncthreads();
    if (lane == 0) partial[warp] = x;
    __syncthreads();
    return warp_sum(lane < blockDim.x / 32 ? partial[lane] : 0.f);
}

/// A row a block, four columns a load.
extern "C" __global__ void layer_norm(const float *__restrict__ x, const float *__restrict__ gain,
                                      const float *__restrict__ bias, float *__restrict__ y, int cols, float eps) {
    const float4 *row = reinterpret_cast<const float4 *>(x + (size_t)blockIdx.x * cols);
    float4 *out = reinterpret_cast<float4 *>(y + (size_t)blockIdx.x * cols);
    float sum = 0.f;
    for (int i = threadIdx.x; i < cols / 4; i += blockDim.x) {
        float4 v = row[i];
        sum += v.x + v.y + v.z + v.w;
    }
    float mean = block_sum(sum) / cols, square = 0.f;
    for (int i = threadIdx.x; i < cols / 4; i += blockDim.x) {
        float4 v = row[i];
        square += (v.x - mean) * (v.x - mean) + (v.y - mean) * (v.y - mean) + (v.z - mean) * (v.z - mean) +
                  (v.w - mean) * (v.w - mean);
    }
    float scale = rsqrtf(block_sum(square) / cols + eps);
    for (int i = threadIdx.x; i < cols / 4; i += blockDim.x) {
        float4 v = row[i];
        float4 g = __ldg(reinterpret_cast<const float4 *>(gain) + i);
        float4 b = __ldg(reinterpret_cast<const float4 *>(bias) + i);
        out[i] = make_float4((v.x - mean) * scale * g.x + b.x, (v.y - mean) * scale * g.y + b.y,
                             (v.z - mean) * scale * g.z + b.z, (v.w - mean) * scale * g.w + b.w);
    }
}

/// A row a warp, f16 in and out, maximum and sum in one pass.
extern "C" __global__ void softmax(const __half *x, __half *y, int rows, int cols) {
    auto warp = cg::tiled_partition<32>(cg::this_thread_block());
    int row = blockIdx.x * warp.meta_group_size() + warp.meta_group_rank();
    if (row >= rows) return;
    float top = -INFINITY, sum = 0.f;
    for (int i = warp.thread_rank(); i < cols; i += 32) {
        float v = __half2float(x[row * cols + i]);
        float next = fmaxf(top, v);
        sum = sum * __expf(top - next) + __expf(v - next);
        top = next;
    }
    float all = cg::reduce(warp, top, cg::greater<float>());
    sum = cg::reduce(warp, top == -INFINITY ? 0.f : sum * __expf(top - all), cg::plus<float>());
    for (int i = warp.thread_rank(); i < cols; i += 32) {
        y[row * cols + i] = __float2half(__expf(__half2float(x[row * cols + i]) - all) / sum);
    }
}

// ---- products: c[m, n] = a[m, k] b[k, n]

extern "C" __global__ void matmul_plain(const float *a, const float *b, float *c, int m, int n, int k) {
    int row = blockIdx.y * blockDim.y + threadIdx.y, col = blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= m || col >= n) return;
    float sum = 0.f;
    for (int i = 0; i < k; ++i) sum += a[row * k + i] * b[i * n + col];
    c[row * n + col] = sum;
}

/// Tiles of 32 x 32 in shared memory, 8 threads a column; edges are zero.
extern "C" __global__ void matmul_tiled(const float *a, const float *b, float *c, int m, int n, int k) {
    __shared__ float ta[32][33], tb[32][33];
    int col = blockIdx.x * 32 + threadIdx.x;
    float sum[4] = {};
    for (int base = 0; base < k; base += 32) {
#pragma unroll
        for (int r = 0; r < 4; ++r) {
            int row = threadIdx.y + 8 * r, at = blockIdx.y * 32 + row;
            ta[row][threadIdx.x] = at < m && base + threadIdx.x < k ? a[at * k + base + threadIdx.x] : 0.f;
            tb[row][threadIdx.x] = base + row < k && col < n ? b[(base + row) * n + col] : 0.f;
        }
        __syncthreads();
#pragma unroll
        for (int i = 0; i < 32; ++i)
            for (int r = 0; r < 4; ++r) sum[r] += ta[threadIdx.y + 8 * r][i] * tb[i][threadIdx.x];
        __syncthreads();
    }
    for (int r = 0; r < 4; ++r) {
        int row = blockIdx.y * 32 + threadIdx.y + 8 * r;
        if (row < m && col < n) c[row * n + col] = sum[r];
    }
}

/// Tensor cores: four warps, a tile of 32 x 32, two stages of asynchronous copies. Sizes are multiples of 32.
extern "C" __global__ void matmul_wmma(const __half *a, const __half *b, float *c, int m, int n, int k) {
    __shared__ __align__(16) __half ta[2][32][40], tb[2][32][40];
    int warp = threadIdx.x / 32, row0 = blockIdx.y * 32, col0 = blockIdx.x * 32;
    auto fetch = [&](int stage, int base) {
        int r = threadIdx.x / 4, q = threadIdx.x % 4 * 8;
        __pipeline_memcpy_async(&ta[stage][r][q], a + (row0 + r) * k + base + q, 16);
        __pipeline_memcpy_async(&tb[stage][r][q], b + (base + r) * n + col0 + q, 16);
        __pipeline_commit();
    };
    wmma::fragment<wmma::accumulator, 16, 16, 16, float> sum;
    wmma::fill_fragment(sum, 0.f);
    fetch(0, 0);
    for (int step = 0; step < k / 32; ++step) {
        if (step + 1 < k / 32) fetch((step + 1) % 2, (step + 1) * 32);
        __pipeline_wait_prior(step + 1 < k / 32 ? 1 : 0);
        __syncthreads();
        for (int i = 0; i < 32; i += 16) {
            wmma::fragment<wmma::matrix_a, 16, 16, 16, __half, wmma::row_major> fa;
            wmma::fragment<wmma::matrix_b, 16, 16, 16, __half, wmma::row_major> fb;
            wmma::load_matrix_sync(fa, &ta[step % 2][warp / 2 * 16][i], 40);
            wmma::load_matrix_sync(fb, &tb[step % 2][i][warp % 2 * 16], 40);
            wmma::mma_sync(sum, fa, fb, sum);
        }
        __syncthreads();
    }
    wmma::store_matrix_sync(c + (row0 + warp / 2 * 16) * n + col0 + warp % 2 * 16, sum, n, wmma::mem_row_major);
}

// ---- causal attention of one head: q, k, v, o are [len, 64]

/// A query a thread, keys and values in tiles of 32; the row of scores never exists.
extern "C" __global__ void attention(const float *q, const float *k, const float *v, float *o, int len, float scale) {
    constexpr int D = 64, TILE = 32;
    __shared__ float tk[TILE][D], tv[TILE][D];
    int row = blockIdx.x * blockDim.x + threadIdx.x;
    float query[D], sum[D] = {};
    for (int d = 0; d < D; ++d) query[d] = row < len ? q[row * D + d] * scale : 0.f;
    float top = -INFINITY, total = 0.f;
    int last = min(len, (int)((blockIdx.x + 1) * blockDim.x));
    for (int base = 0; base < last; base += TILE) {
        __syncthreads();
        for (int i = threadIdx.x; i < TILE * D; i += blockDim.x) {
            bool in = base + i / D < len;
            tk[i / D][i % D] = in ? k[base * D + i] : 0.f;
            tv[i / D][i % D] = in ? v[base * D + i] : 0.f;
        }
        __syncthreads();
        for (int j = 0; j < TILE && base + j <= row; ++j) {
            float score = 0.f;
#pragma unroll
            for (int d = 0; d < D; ++d) score += query[d] * tk[j][d];
            float next = fmaxf(top, score), keep = expf(top - next), p = expf(score - next);
            total = total * keep + p;
#pragma unroll
            for (int d = 0; d < D; ++d) sum[d] = sum[d] * keep + p * tv[j][d];
            top = next;
        }
    }
    if (row < len)
        for (int d = 0; d < D; ++d) o[row * D + d] = sum[d] / total;
}

// ---- the rest of the language

struct Node {
    double weight;
    short left, right;
};

/// Recursion, a struct in memory, a function pointer, a local array with a moving index.
__device__ __noinline__ double walk(const Node *tree, int at) {
    if (at < 0) return 0.0;
    return tree[at].weight + walk(tree, tree[at].left) + walk(tree, tree[at].right);
}
__device__ __noinline__ float twice(float x) { return 2.f * x; }
__device__ __noinline__ float square(float x) { return x * x; }
__device__ float (*const table[])(float) = {twice, square};

extern "C" __global__ void language(const Node *tree, const int *digits, float *out, int n) {
    int t = threadIdx.x;
    int count[10];
    for (int i = 0; i < 10; ++i) count[i] = 0;
    for (int i = 0; i < n; ++i) count[digits[(t + i) % n] % 10] += i + 1;
    float f = table[t % 2]((float)count[t % 10]);
    double w = walk(tree, t % 7);
    switch (t % 5) {
        case 0: f += (float)w; break;
        case 1: f -= (float)w; break;
        case 2: f += (float)sqrt(w); break;
        case 3: f += __popc(t) + __clz(t) + __brev(t) % 1000; break;
        default: f += (float)((long long)(w * 1e6) % 1000003);
    }
    out[t] = f;
}

struct Best {
    float value;
    int at;
};

/// The place of the largest value; both stay unset when there are none.
__device__ __noinline__ Best best(const float *x, int n) {
    Best found;
    for (int i = 0; i < n; ++i)
        if (i == 0 || x[i] > found.value) found = {x[i], i};
    return found;
}

/// Values that are set on some ways only, and used there: the compiler leaves registers that nothing writes.
extern "C" __global__ void unset(const float *x, float *y, int n) {
    int t = threadIdx.x;
    __half2 pair;
    pair.x = __float2half(x[t % 8]);
    y[t] = __half2float(__hadd2(pair, pair).x);
    float v, last;
    if (t < n) v = x[t];
    for (int i = 0; i < t; ++i) {
        if (i > 0) y[t] += last * 0.5f;
        last = x[i % 8];
    }
    v = v * 2.f + 1.f;
    Best found = best(x, t % 3);
    if (t % 3) y[t] += found.value + found.at;
    if (t < n) y[t] += v;
    __half low;
    if (t & 1) low = __float2half(y[t]);
    unsigned bits = 0xffff0000u;
    asm volatile("{ .reg .b16 lo, hi; mov.b32 {lo, hi}, %0; mov.b32 %0, {%1, hi}; }"
                 : "+r"(bits)
                 : "h"(__half_as_ushort(low)));
    if (t & 1) y[t] += (float)(bits & 0xffff);
}

/// Atomics of every kind that C++ has a name for; integers make the float sums exact.
extern "C" __global__ void atomics(const int *x, float *f, double *d, int *i, unsigned long long *u, __half2 *h,
                                   __nv_bfloat162 *b, int n) {
    __shared__ int local[8];
    if (threadIdx.x < 8) local[threadIdx.x] = 0;
    __syncthreads();
    int at = blockIdx.x * blockDim.x + threadIdx.x;
    if (at < n) {
        int v = x[at];
        atomicAdd(f, (float)v);
        atomicAdd(d, (double)v * 0.5);
        atomicAdd(&i[0], v);
        atomicMin(&i[1], v);
        atomicMax(&i[2], v);
        atomicXor(&i[3], v);
        atomicAdd(u, (unsigned long long)v * 1000000007ull);
        atomicAdd(h, __floats2half2_rn(v % 4, 1.f));
        atomicAdd(b, __floats2bfloat162_rn(v % 2, 0.f));
        int old = i[4], seen;
        do {
            seen = old;
            old = atomicCAS(&i[4], seen, seen + v % 3);
        } while (old != seen);
        atomicAdd(&local[v % 8], 1);
    }
    __syncthreads();
    if (threadIdx.x < 8) atomicAdd(&i[8 + threadIdx.x], local[threadIdx.x]);
}

/// f32 to 8 bits and back through f16: both formats where the GPU has them.
extern "C" __global__ void round_to_bytes(const float *x, unsigned char *e4m3, float *back) {
#if __CUDA_ARCH__ >= 890
    int t = blockIdx.x * blockDim.x + threadIdx.x;
    __nv_fp8_e4m3 small(x[t]);
    e4m3[t] = small.__x;
    back[t] = float(small) + float(__nv_fp8_e5m2(x[t]));
#endif
}
