"""cupy: its wheel has NVIDIA's CUDA runtime linked in, which does without none of the driver's undocumented functions. What
cannot run says so in words; the PTX that cupy compiles runs through the driver API."""

import ctypes
import os
import subprocess
import sys

import numpy as np

if "--alone" in sys.argv:
    import cupy

    module = cupy.RawModule(code='extern "C" __global__ void one(float *out) { out[threadIdx.x] = 1; }', backend="nvrtc")
    out = cupy.zeros(32, cupy.float32)
    module.get_function("one")((1,), (32,), (out,))
    np.testing.assert_array_equal(out.get(), np.ones(32))
    sys.exit()

alone = subprocess.run([sys.executable, __file__, "--alone"], capture_output=True, text=True)
if alone.returncode == 0:
    print("cupy: a RawModule")
    sys.exit()
words = "softcuda: cuGetExportTable: CUDA_ERROR_NOT_SUPPORTED (801): operation not supported: the program has NVIDIA's CUDA runtime"
assert words in alone.stderr, alone.stderr
assert "cudaErrorNotSupported" in alone.stderr, alone.stderr

# What cupy would launch: its own headers, compiled by its own NVRTC program.
import cupy
from cuda.bindings import driver
from cupy.cuda import compiler
from support import Context, call, include_folder, launch, to_device, to_host

headers = os.path.join(os.path.dirname(cupy.__file__), "_core", "include")
parts = [os.path.join(headers, "cupy", "_cccl", part) for part in ("libcudacxx", "thrust", "cub")]
SOURCE = r"""
#include <cupy/complex.cuh>
extern "C" __global__ void squares(const complex<float> *in, complex<float> *out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = in[i] * in[i];
}
"""
folders = tuple(f"-I{folder}" for folder in (headers, *parts, include_folder()))
ptx, _ = compiler._NVRTCProgram(SOURCE, "squares.cu").compile(("-arch=compute_90", *folders))
n = 500
values = (np.arange(n) - 250 + 1j * np.arange(n)).astype(np.complex64)  # small integers: exact
with Context():
    kernel = call(driver.cuModuleGetFunction(call(driver.cuModuleLoadData(ptx)), b"squares"))
    out = to_device(np.zeros_like(values))
    launch(kernel, (4,), (128,), [(to_device(values), None), (out, None), (n, ctypes.c_int)])
    np.testing.assert_array_equal(to_host(out, values), values * values)
print("cupy: its runtime cannot run and says so; a kernel that it compiles runs")
