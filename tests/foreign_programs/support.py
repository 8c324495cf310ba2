"""What the programs share: calls that must succeed, and kernels compiled by NVRTC, which needs no GPU."""

import ctypes
import os

import cuda.pathfinder
import numpy as np
from cuda.bindings import driver, nvrtc


def call(answer):
    """The values of a call of cuda-bindings, which must have succeeded."""
    result, *values = answer
    if result.value != 0:
        library = driver.cuGetErrorString if isinstance(result, driver.CUresult) else nvrtc.nvrtcGetErrorString
        raise RuntimeError(f"{result!r}: {library(result)[1]}")
    return values[0] if len(values) == 1 else values


def fails(answer, *expected):
    """A call that must fail with one of these codes."""
    assert answer[0] in expected, f"{answer[0]!r}; expected {expected}"


def compile_ptx(source, *options):
    """The PTX of CUDA C++, as NVIDIA's run-time compiler makes it for compute capability 9.0."""
    options = [b"--gpu-architecture=compute_90", f"-I{include_folder()}".encode(), *[option.encode() for option in options]]
    program = call(nvrtc.nvrtcCreateProgram(source.encode(), b"program.cu", 0, [], []))
    if nvrtc.nvrtcCompileProgram(program, len(options), options)[0] != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        log = b" " * call(nvrtc.nvrtcGetProgramLogSize(program))
        call(nvrtc.nvrtcGetProgramLog(program, log))
        raise RuntimeError(log.decode())
    ptx = b" " * call(nvrtc.nvrtcGetPTXSize(program))
    call(nvrtc.nvrtcGetPTX(program, ptx))
    return ptx


def include_folder():
    """CUDA's headers, beside NVRTC in NVIDIA's wheels."""
    library = cuda.pathfinder.load_nvidia_dynamic_lib("nvrtc").abs_path
    return os.path.join(os.path.dirname(os.path.dirname(library)), "include")


class Context:
    """The primary context of a device, retained for good; within `with` it is current on this thread."""

    def __init__(self, ordinal=0):
        call(driver.cuInit(0))
        self.device = call(driver.cuDeviceGet(ordinal))
        self.context = call(driver.cuDevicePrimaryCtxRetain(self.device))

    def __enter__(self):
        call(driver.cuCtxPushCurrent(self.context))
        return self

    def __exit__(self, *_):
        call(driver.cuCtxPopCurrent())


def to_device(values):
    address = call(driver.cuMemAlloc(values.nbytes))
    call(driver.cuMemcpyHtoD(address, values.ctypes.data, values.nbytes))
    return address


def to_host(address, like):
    values = np.empty_like(like)
    call(driver.cuMemcpyDtoH(values.ctypes.data, address, values.nbytes))
    return values


def launch(kernel, grid, block, arguments, stream=0, shared=0):
    """A launch that must succeed."""
    call(try_launch(kernel, grid, block, arguments, stream, shared))


def try_launch(kernel, grid, block, arguments, stream=0, shared=0):
    """Launches with (value, ctypes type) for each parameter; None is an address."""
    values = tuple(int(value) if kind is None else value for value, kind in arguments)
    kinds = tuple(ctypes.c_void_p if kind is None else kind for _, kind in arguments)
    grid, block = (tuple(extent) + (1,) * (3 - len(extent)) for extent in (grid, block))
    return driver.cuLaunchKernel(kernel, *grid, *block, shared, stream, (values, kinds), 0)
