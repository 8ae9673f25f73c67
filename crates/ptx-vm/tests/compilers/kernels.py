"""Triton kernels as people write them, for the test of what its compiler makes of them.

kernels.py FOLDER ARCH...: writes NAME.ARCH.ptx and a line `NAME ARCH THREADS SHARED` to standard output for each
kernel; ../compilers.rs launches them. Exit code 3 where Triton is not installed. No GPU and no torch is needed.
"""

import pathlib
import sys

try:
    import triton
    import triton.language as tl
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
except ImportError:
    sys.exit(3)


@triton.jit
def layer_norm(x, gain, bias, y, mean, rstd, cols, eps, BLOCK: tl.constexpr):
    """A row a program, in steps of BLOCK columns."""
    row = tl.program_id(0)
    x += row * cols
    y += row * cols
    total = tl.zeros([BLOCK], tl.float32)
    for at in range(0, cols, BLOCK):
        i = at + tl.arange(0, BLOCK)
        total += tl.load(x + i, mask=i < cols, other=0.0)
    m = tl.sum(total) / cols
    square = tl.zeros([BLOCK], tl.float32)
    for at in range(0, cols, BLOCK):
        i = at + tl.arange(0, BLOCK)
        d = tl.where(i < cols, tl.load(x + i, mask=i < cols, other=0.0) - m, 0.0)
        square += d * d
    r = 1 / tl.sqrt(tl.sum(square) / cols + eps)
    tl.store(mean + row, m)
    tl.store(rstd + row, r)
    for at in range(0, cols, BLOCK):
        i = at + tl.arange(0, BLOCK)
        inside = i < cols
        v = (tl.load(x + i, mask=inside) - m) * r
        tl.store(y + i, v * tl.load(gain + i, mask=inside) + tl.load(bias + i, mask=inside), mask=inside)


@triton.jit
def layer_norm_gain(x, dy, mean, rstd, dgain, lock, count, cols, GROUPS: tl.constexpr, BLOCK: tl.constexpr):
    """The gradient of the gain: rows are summed into GROUPS partial sums, each behind a spin lock."""
    row = tl.program_id(0)
    i = tl.arange(0, BLOCK)
    inside = i < cols
    v = (tl.load(x + row * cols + i, mask=inside, other=0.0) - tl.load(mean + row)) * tl.load(rstd + row)
    part = v * tl.load(dy + row * cols + i, mask=inside, other=0.0)
    group = row % GROUPS
    while tl.atomic_cas(lock + group, 0, 1) == 1:
        pass
    at = dgain + group * cols + i
    if tl.load(count + group) == 0:
        tl.atomic_xchg(count + group, 1)
    else:
        part += tl.load(at, mask=inside)
    tl.store(at, part, mask=inside)
    tl.debug_barrier()
    tl.atomic_xchg(lock + group, 0)


@triton.jit
def softmax(x, y, rows, cols, BLOCK: tl.constexpr):
    """Rows by a persistent grid, a whole row at once."""
    for row in range(tl.program_id(0), rows, tl.num_programs(0)):
        i = tl.arange(0, BLOCK)
        v = tl.load(x + row * cols + i, mask=i < cols, other=-float("inf")).to(tl.float32)
        e = tl.exp(v - tl.max(v))
        tl.store(y + row * cols + i, (e / tl.sum(e)).to(y.dtype.element_ty), mask=i < cols)


@triton.jit
def matmul(
    a, b, c, m, n, k, sa, sb, sc, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, GROUP: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """A tile of M x N a program, tiles in groups of GROUP rows for the cache, edges masked."""
    pid = tl.program_id(0)
    down, across = tl.cdiv(m, M), tl.cdiv(n, N)
    first = pid // (GROUP * across) * GROUP
    height = min(down - first, GROUP)
    row = first + pid % (GROUP * across) % height
    col = pid % (GROUP * across) // height
    ri = (row * M + tl.arange(0, M)) % m
    ci = (col * N + tl.arange(0, N)) % n
    ki = tl.arange(0, K)
    pa = a + ri[:, None] * sa + ki[None, :]
    pb = b + ki[:, None] * sb + ci[None, :]
    acc = tl.zeros([M, N], ACC)
    for at in range(0, tl.cdiv(k, K)):
        va = tl.load(pa, mask=ki[None, :] < k - at * K, other=0.0)
        vb = tl.load(pb, mask=ki[:, None] < k - at * K, other=0.0)
        acc = tl.dot(va, vb, acc, out_dtype=ACC)
        pa += K
        pb += K * sb
    ri = row * M + tl.arange(0, M)
    ci = col * N + tl.arange(0, N)
    tl.store(c + ri[:, None] * sc + ci[None, :], acc, mask=(ri[:, None] < m) & (ci[None, :] < n))


@triton.jit
def attention(q, k, v, o, lse, length, scale, M: tl.constexpr, N: tl.constexpr, D: tl.constexpr):
    """Causal: M queries of one head a program; blocks left of the diagonal need no mask."""
    start, head = tl.program_id(0) * M, tl.program_id(1)
    base = head * length * D
    ri = start + tl.arange(0, M)
    di = tl.arange(0, D)
    query = tl.load(q + base + ri[:, None] * D + di[None, :], mask=ri[:, None] < length, other=0.0)
    top = tl.full([M], -float("inf"), tl.float32)
    total = tl.zeros([M], tl.float32)
    acc = tl.zeros([M, D], tl.float32)
    factor = scale * 1.4426950408889634
    for at in range(0, tl.minimum(start + M, length), N):
        ci = at + tl.arange(0, N)
        key = tl.load(k + base + ci[None, :] * D + di[:, None], mask=ci[None, :] < length, other=0.0)
        score = tl.dot(query, key) * factor
        score = tl.where(ri[:, None] >= ci[None, :], score, -float("inf"))
        high = tl.maximum(top, tl.max(score, 1))
        p = tl.exp2(score - high[:, None])
        keep = tl.exp2(top - high)
        total = total * keep + tl.sum(p, 1)
        value = tl.load(v + base + ci[:, None] * D + di[None, :], mask=ci[:, None] < length, other=0.0)
        acc = tl.dot(p.to(value.dtype), value, acc * keep[:, None])
        top = high
    inside = ri[:, None] < length
    tl.store(o + base + ri[:, None] * D + di[None, :], (acc / total[:, None]).to(o.dtype.element_ty), mask=inside)
    tl.store(lse + head * length + ri, (top + tl.log2(total)) * 0.6931471805599453, mask=ri < length)


@triton.jit
def add_up(a, b):
    return a + b


@triton.jit
def language(x, sums, sorted_to, counts, kept, seed, N: tl.constexpr):
    """Scan, sort, histogram, random numbers, a gather."""
    i = tl.arange(0, N)
    v = tl.load(x + i)
    tl.store(sums + i, tl.associative_scan(v, 0, add_up))
    tl.store(sorted_to + i, tl.sort(v))
    tl.atomic_add(counts + tl.arange(0, 16), tl.histogram(v & 15, 16))
    tl.store(kept + i, tl.where(tl.rand(seed, i) < 0.25, tl.gather(v, N - 1 - i, 0), 0))


def kernel(function, types, constants, warps=4, stages=3, name=None, archs=(80, 89)):
    return name or function.__name__, function, types.split(), constants, warps, stages, archs


TILE = {"M": 32, "N": 32, "K": 32, "GROUP": 4}
SIZES = "i32 i32 i32 i32 i32 i32"
KERNELS = [
    kernel(layer_norm, "*fp32 *fp32 *fp32 *fp32 *fp32 *fp32 i32 fp32", {"BLOCK": 256}),
    kernel(layer_norm_gain, "*fp32 *fp32 *fp32 *fp32 *fp32 *i32 *i32 i32", {"GROUPS": 2, "BLOCK": 256}),
    kernel(softmax, "*fp16 *fp16 i32 i32", {"BLOCK": 256}),
    kernel(matmul, f"*fp16 *fp16 *fp32 {SIZES}", TILE | {"ACC": tl.float32}, name="matmul_f16"),
    kernel(matmul, f"*bf16 *bf16 *fp32 {SIZES}", TILE | {"ACC": tl.float32}, stages=2, name="matmul_bf16"),
    kernel(matmul, f"*fp32 *fp32 *fp32 {SIZES}", TILE | {"ACC": tl.float32}, stages=4, name="matmul_tf32"),
    kernel(matmul, f"*i8 *i8 *i32 {SIZES}", TILE | {"ACC": tl.int32}, name="matmul_i8"),
    kernel(matmul, f"*fp8e4nv *fp8e4nv *fp32 {SIZES}", TILE | {"ACC": tl.float32}, name="matmul_e4m3", archs=(89,)),
    kernel(matmul, f"*fp8e5 *fp8e5 *fp32 {SIZES}", TILE | {"ACC": tl.float32}, name="matmul_e5m2"),
    kernel(attention, "*fp16 *fp16 *fp16 *fp16 *fp32 i32 fp32", {"M": 32, "N": 32, "D": 64}, stages=2),
    kernel(language, "*i32 *i32 *i32 *i32 *i32 i32", {"N": 256}),
]


def main():
    folder = pathlib.Path(sys.argv[1])
    for name, function, types, constants, warps, stages, archs in KERNELS:
        signature = dict(zip(function.arg_names, types)) | {c: "constexpr" for c in constants}
        # Pointers, sizes and strides of matrices are multiples of 16, as the just-in-time compiler finds for most.
        names = ("m", "n", "k", "sa", "sb", "sc")
        aligned = [i for i, t in enumerate(types) if t.startswith("*") or function.arg_names[i] in names]
        attrs = {(i,): [["tt.divisibility", 16]] for i in aligned}
        for arch in map(int, sys.argv[2:]):
            if arch not in archs:
                continue
            source = ASTSource(fn=function, signature=signature, constexprs=constants, attrs=attrs)
            options = {"num_warps": warps, "num_stages": stages}
            made = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
            (folder / f"{name}.{arch}.ptx").write_text(made.asm["ptx"])
            print(name, arch, made.metadata.num_warps * 32, made.metadata.shared)


if __name__ == "__main__":
    main()
