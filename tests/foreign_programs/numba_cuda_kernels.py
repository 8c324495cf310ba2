"""numba-cuda: Python functions as kernels, launched by numba, and compiled to PTX for the driver API."""

import ctypes
import warnings

import numpy as np
from cuda.bindings import driver
from numba import cuda, float32
from support import Context, call, launch, to_device, to_host

# Of small grids, copies of host arrays, and of the driver's linker, which is what is to be used here.
warnings.simplefilter("ignore")


@cuda.jit
def saxpy(a, x, y, out):
    i = cuda.grid(1)
    if i < out.size:
        out[i] = a * x[i] + y[i]


@cuda.jit
def histogram(values, counts):
    local = cuda.shared.array(16, np.int32)
    if cuda.threadIdx.x < 16:
        local[cuda.threadIdx.x] = 0
    cuda.syncthreads()
    for i in range(cuda.grid(1), values.size, cuda.gridsize(1)):
        cuda.atomic.add(local, values[i] % 16, 1)
    cuda.syncthreads()
    if cuda.threadIdx.x < 16:
        cuda.atomic.add(counts, cuda.threadIdx.x, local[cuda.threadIdx.x])


n = 1000
random = np.random.default_rng(3)
x, y = (random.standard_normal(n).astype(np.float32) for _ in range(2))
a = np.float32(0.75)
expected = (np.float64(a) * x + y).astype(np.float32)

# As numba's own programs do it: compiled at the first launch, linked by the driver, arrays copied there and back.
out = np.zeros_like(x)
saxpy[8, 128](a, x, y, out)
np.testing.assert_allclose(out, expected, rtol=1e-6, atol=1e-6)
values = random.integers(0, 1000, n, dtype=np.int32)
counts = cuda.to_device(np.zeros(16, np.int32))
histogram[3, 64](cuda.to_device(values), counts)
np.testing.assert_array_equal(counts.copy_to_host(), np.bincount(values % 16, minlength=16))

# Compiled to PTX, loaded and launched through the driver API. An array is seven parameters: two that say who holds it, the
# number of values and of bytes of one, the address, the extent and the stride.
ptx, _ = cuda.compile_ptx(saxpy.py_func, (float32, float32[::1], float32[::1], float32[::1]), cc=(9, 0))
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
print("numba-cuda: saxpy and a histogram, launched by numba; saxpy compiled to PTX")
