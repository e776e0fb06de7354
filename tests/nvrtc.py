"""NVRTC without CuPy and without a GPU: whether kernels compile, and to what."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
from functools import cache
from importlib.util import find_spec
from pathlib import Path


@cache
def library() -> ctypes.CDLL | None:
    """Return NVRTC: of a wheel (nvidia-cuda-nvrtc-cu12 and its like), of CUDA, or of the system."""
    folders = []
    spec = find_spec("nvidia")
    for root in (spec.submodule_search_locations or []) if spec else []:
        folders += [Path(root) / "cuda_nvrtc" / "lib", *sorted(Path(root).glob("cu*/lib"))]
    for name in ("CUDA_PATH", "CUDA_HOME"):
        if os.environ.get(name):
            folders.append(Path(os.environ[name]) / "lib64")
    files = [str(file) for folder in folders for file in sorted(folder.glob("libnvrtc.so.*"))]
    for file in [*files, ctypes.util.find_library("nvrtc")]:
        if file:
            try:
                return ctypes.CDLL(file)
            except OSError:
                continue
    return None


def compile_for(architecture: str, source: str, names: tuple[str, ...], options: tuple[str, ...]) -> bytes:
    """Return the PTX (compute_90) or machine code (sm_90) of the kernels of these names, in C++."""
    nvrtc, program = library(), ctypes.c_void_p()
    assert nvrtc is not None

    def call(function: str, *arguments: object) -> None:
        status = getattr(nvrtc, function)(*arguments)
        if status:
            size = ctypes.c_size_t()
            nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
            log = ctypes.create_string_buffer(size.value)
            nvrtc.nvrtcGetProgramLog(program, log)
            raise AssertionError(f"{function}: {status}\n{log.value.decode()}")

    call("nvrtcCreateProgram", ctypes.byref(program), source.encode(), b"kernels.cu", 0, None, None)
    try:
        for name in names:
            call("nvrtcAddNameExpression", program, name.encode())
        given = [x.encode() for x in (f"--gpu-architecture={architecture}", *options)]
        call("nvrtcCompileProgram", program, len(given), (ctypes.c_char_p * len(given))(*given))
        for name in names:
            lowered = ctypes.c_char_p()
            call("nvrtcGetLoweredName", program, name.encode(), ctypes.byref(lowered))
            assert lowered.value
        kind = "PTX" if architecture.startswith("compute") else "CUBIN"
        size = ctypes.c_size_t()
        call(f"nvrtcGet{kind}Size", program, ctypes.byref(size))
        out = ctypes.create_string_buffer(size.value)
        call(f"nvrtcGet{kind}", program, out)
        return out.raw
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
