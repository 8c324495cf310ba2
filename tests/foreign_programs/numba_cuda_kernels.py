"""numba-cuda: Python functions compiled to PTX."""

import ctypes

import numpy as np
from cuda.bindings import driver
from numba import cuda, float32, int32
from support import Context, call, launch, to_device, to_host


def saxpy(a, x, y, out):
    i = cuda.grid(1)
    if i < out.size:
        out[i] = a * x[i] + y[i]


n = 1000
random = np.random.default_rng(3)
x, y = (random.standard_normal(n).astype(np.float32) for _ in range(2))
a = np.float32(0.75)
expected = (np.float64(a) * x + y).astype(np.float32)

# Compiled to PTX by numba, loaded and launched through the driver API. An array is seven parameters: two that say who holds
# it, the number of values and of bytes of one, the address, the extent and the stride.
ptx, _ = cuda.compile_ptx(saxpy, (float32, float32[::1], float32[::1], float32[::1]), cc=(9, 0))
with Context():
    module = call(driver.cuModuleLoadData(ptx.encode()))
    kernel = call(driver.cuModuleEnumerateFunctions(1, module))[0]

    def array(address):
        number = ctypes.c_int64
        return [(0, None), (0, None), (n, number), (4, number), (address, None), (n, number), (4, number)]

    out = to_device(np.zeros_like(x))
    arguments = [(a, ctypes.c_float), *array(to_device(x)), *array(to_device(y)), *array(out)]
    launch(kernel, (8,), (128,), arguments)
    np.testing.assert_allclose(to_host(out, x), expected, rtol=1e-6, atol=1e-6)
print("numba-cuda: saxpy compiled to PTX")
