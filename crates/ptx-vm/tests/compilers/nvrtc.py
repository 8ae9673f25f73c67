"""CUDA C++ to PTX with NVRTC, as found in the site-packages of the Python that runs this.

nvrtc.py SOURCE ARCH: the PTX on standard output; exit code 3 where NVRTC is not installed.
"""

import ctypes
import pathlib
import sys
import sysconfig


def main():
    source, arch = sys.argv[1:]
    site = pathlib.Path(sysconfig.get_paths()["purelib"]) / "nvidia"
    libraries = sorted(site.glob("*/lib/libnvrtc.so.*"))
    headers = sorted(p.parent for p in site.glob("*/include/cuda_fp16.h"))
    if not libraries or not headers:
        sys.exit(3)
    nvrtc = ctypes.CDLL(str(libraries[-1]))

    def call(name, *args):
        code = getattr(nvrtc, name)(*args)
        if code != 0 and name != "nvrtcCompileProgram":
            sys.exit(f"{name}: {code}")
        return code

    def text(kind):
        size = ctypes.c_size_t()
        call(f"nvrtcGet{kind}Size", program, ctypes.byref(size))
        room = ctypes.create_string_buffer(size.value)
        call(f"nvrtcGet{kind}", program, room)
        return room.value.decode()

    program = ctypes.c_void_p()
    code = pathlib.Path(source).read_bytes()
    call("nvrtcCreateProgram", ctypes.byref(program), code, b"kernels.cu", 0, None, None)
    folders = [headers[-1], headers[-1] / "cccl"]
    options = [f"--gpu-architecture=compute_{arch}", "--std=c++17"] + [f"--include-path={f}" for f in folders]
    array = (ctypes.c_char_p * len(options))(*(o.encode() for o in options))
    if call("nvrtcCompileProgram", program, len(options), array) != 0:
        sys.exit(text("ProgramLog"))
    sys.stdout.write(text("PTX"))


if __name__ == "__main__":
    main()
