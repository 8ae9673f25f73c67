"""An exported kernel in a Python program, through NVIDIA's driver bindings (pip install cuda-bindings):

    cargo xtask ptx --out kernels-ptx
    python mean.py kernels-ptx

With no GPU: cargo xtask vm -- python mean.py kernels-ptx
"""

import ctypes
import json
import math
import pathlib
import sys

from cuda.bindings import driver as cu


def ok(result):
    """The value of a call that must succeed."""
    assert result[0] == cu.CUresult.CUDA_SUCCESS, result[0]
    return result[1] if len(result) == 2 else result[1:]


class Kernels:
    """The exported kernels by name, loaded at first use."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.families = json.loads((self.folder / "manifest.json").read_text())["families"]
        self.modules = {}

    def launch(self, family, module, entry, grid, block, *values):
        listed = self.families[family][module]
        params = listed["entries"][entry]["params"]
        assert len(params) == len(values), f"{entry} takes {[p['name'] for p in params]}"
        if module not in self.modules:
            text = (self.folder / listed["file"]).read_bytes()
            self.modules[module] = ok(cu.cuModuleLoadData(text + b"\0"))
        function = ok(cu.cuModuleGetFunction(self.modules[module], entry.encode()))
        kinds = {4: ctypes.c_float, 8: ctypes.c_void_p}
        types = tuple(
            ctypes.c_uint32 if p["bytes"] == 4 and isinstance(v, int) else kinds[p["bytes"]]
            for p, v in zip(params, values)
        )
        ok(cu.cuLaunchKernel(function, *grid, *block, 0, 0, (values, types), 0))


def main(folder):
    ok(cu.cuInit(0))
    ok(cu.cuCtxSetCurrent(ok(cu.cuDevicePrimaryCtxRetain(ok(cu.cuDeviceGet(0))))))
    kernels = Kernels(folder)
    rows, cols = 37, 64
    x = (ctypes.c_float * (rows * cols))(*(math.sin(i) for i in range(rows * cols)))
    means = (ctypes.c_float * rows)()
    dx, dy = (ok(cu.cuMemAlloc(ctypes.sizeof(host))) for host in (x, means))
    ok(cu.cuMemcpyHtoD(dx, ctypes.addressof(x), ctypes.sizeof(x)))
    # A warp a row, four to a block (the manifest's notes say so); a row of 64 is one segment.
    grid, block = ((rows + 3) // 4, 1, 1), (128, 1, 1)
    values = (int(dx), int(dy), rows, cols, 1, float(cols))
    kernels.launch("elementwise", "reduce", "reduce_sum_f32_v4", grid, block, *values)
    ok(cu.cuMemcpyDtoH(ctypes.addressof(means), dy, ctypes.sizeof(means)))
    for i in range(rows):
        want = sum(x[i * cols : (i + 1) * cols]) / cols
        assert abs(means[i] - want) < 1e-6, (i, means[i], want)
    print(f"{rows} means by reduce_sum_f32_v4")


main(*sys.argv[1:])
