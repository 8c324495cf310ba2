"""cuda-bindings on two devices: memory of each, a fault without peer access, a kernel over both with it, peer copies."""

import ctypes
import os
import subprocess
import sys

import numpy as np

if os.environ.get("SOFTCUDA_DEVICES") != "2":
    sys.exit(subprocess.run([sys.executable, __file__], env={**os.environ, "SOFTCUDA_DEVICES": "2"}).returncode)

from cuda.bindings import driver
from support import Context, call, compile_ptx, fails, launch, to_device, to_host, try_launch

ADD = r"""
extern "C" __global__ void add(const int *near, const int *far, int *out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = near[i] + far[i];
}
"""
n = 300
random = np.random.default_rng(4)
values = [random.integers(-1000, 1000, n, dtype=np.int32) for _ in range(2)]
ptx = compile_ptx(ADD)
first, second = Context(0), Context(1)
assert call(driver.cuDeviceGetCount()) == 2
assert call(driver.cuDeviceGetUuid(first.device)).bytes != call(driver.cuDeviceGetUuid(second.device)).bytes
with second:
    far = to_device(values[1])
    copied = to_device(np.zeros(n, np.int32))
with first:
    near, out = to_device(values[0]), to_device(np.zeros(n, np.int32))
    kernel = call(driver.cuModuleGetFunction(call(driver.cuModuleLoadData(ptx)), b"add"))
    arguments = [(near, None), (far, None), (out, None), (n, ctypes.c_int)]
    assert call(driver.cuDeviceCanAccessPeer(first.device, second.device)) == 1
    fails(try_launch(kernel, (3,), (128,), arguments), driver.CUresult.CUDA_ERROR_ILLEGAL_ADDRESS)
    call(driver.cuCtxEnablePeerAccess(second.context, 0))
    launch(kernel, (3,), (128,), arguments)
    np.testing.assert_array_equal(to_host(out, values[0]), values[0] + values[1])
    call(driver.cuMemcpyPeer(copied, second.context, out, first.context, 4 * n))
    np.testing.assert_array_equal(to_host(copied, values[0]), values[0] + values[1])
    call(driver.cuCtxDisablePeerAccess(second.context))
    fails(try_launch(kernel, (3,), (128,), arguments), driver.CUresult.CUDA_ERROR_ILLEGAL_ADDRESS)
print("two devices: a fault without peer access, a sum over both with it")
