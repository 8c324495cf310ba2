"""NVRTC: CUDA C++ compiled at run time by NVIDIA's compiler, which needs no GPU, and run on softcuda."""

import ctypes

import numpy as np
from cuda.bindings import driver
from support import Context, call, compile_ptx, launch, to_device, to_host

SOURCE = r"""
template <typename T, int ROWS> __device__ T polynomial(const T (&c)[ROWS], T x) {
    T sum = 0;
    #pragma unroll
    for (int i = ROWS - 1; i >= 0; i--) sum = sum * x + c[i];
    return sum;
}

// Shared memory, a barrier, shuffles and an atomic: the sum of all values.
extern "C" __global__ void sum(const float *in, float *out, int n) {
    __shared__ float parts[32];
    float own = 0;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) own += in[i];
    for (int offset = 16; offset > 0; offset /= 2) own += __shfl_down_sync(0xffffffffu, own, offset);
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = own;
    __syncthreads();
    if (threadIdx.x < 32) {
        own = threadIdx.x < blockDim.x / 32 ? parts[threadIdx.x] : 0;
        for (int offset = 16; offset > 0; offset /= 2) own += __shfl_down_sync(0xffffffffu, own, offset);
        if (threadIdx.x == 0) atomicAdd(out, own);
    }
}

// Dynamic shared memory, two dimensions of threads.
extern "C" __global__ void transpose(const float *in, float *out, int rows, int columns) {
    extern __shared__ float tile[];
    int x = blockIdx.x * 32 + threadIdx.x, y = blockIdx.y * 32 + threadIdx.y;
    for (int j = 0; j < 32; j += 8)
        if (x < columns && y + j < rows) tile[(threadIdx.y + j) * 33 + threadIdx.x] = in[(y + j) * columns + x];
    __syncthreads();
    x = blockIdx.y * 32 + threadIdx.x, y = blockIdx.x * 32 + threadIdx.y;
    for (int j = 0; j < 32; j += 8)
        if (x < rows && y + j < columns) out[(y + j) * rows + x] = tile[threadIdx.x * 33 + threadIdx.y + j];
}

// Integers, branches, double precision.
extern "C" __global__ void collatz(unsigned *steps, double *values, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    unsigned long long v = i + 1;
    unsigned count = 0;
    while (v != 1) { v = v % 2 ? 3 * v + 1 : v / 2; count++; }
    steps[i] = count;
    const double c[4] = {1.0, -0.5, 0.25, 2.0};
    values[i] = polynomial(c, (double)i / n);
}
"""

random = np.random.default_rng(1)
ptx = compile_ptx(SOURCE)
with Context():
    module = call(driver.cuModuleLoadData(ptx))
    kernel = {name: call(driver.cuModuleGetFunction(module, name)) for name in (b"sum", b"transpose", b"collatz")}

    values = random.integers(-8, 9, 5000).astype(np.float32)  # sums of small integers are exact in any order
    total = to_device(np.zeros(1, np.float32))
    launch(kernel[b"sum"], (6,), (256,), [(to_device(values), None), (total, None), (values.size, ctypes.c_int)])
    assert to_host(total, np.zeros(1, np.float32))[0] == values.sum(dtype=np.float64)

    matrix = random.standard_normal((70, 45)).astype(np.float32)
    out = to_device(np.zeros((45, 70), np.float32))
    shape = [(to_device(matrix), None), (out, None), (70, ctypes.c_int), (45, ctypes.c_int)]
    launch(kernel[b"transpose"], (2, 3), (32, 8), shape, shared=32 * 33 * 4)
    np.testing.assert_array_equal(to_host(out, matrix.T.copy()), matrix.T)

    n = 1000
    steps, curve = to_device(np.zeros(n, np.uint32)), to_device(np.zeros(n))
    launch(kernel[b"collatz"], (4,), (256,), [(steps, None), (curve, None), (n, ctypes.c_int)])

    def collatz(v):
        count = 0
        while v != 1:
            v, count = (3 * v + 1 if v % 2 else v // 2), count + 1
        return count

    np.testing.assert_array_equal(to_host(steps, np.zeros(n, np.uint32)), [collatz(i + 1) for i in range(n)])
    t = np.arange(n) / n
    np.testing.assert_allclose(to_host(curve, t), 1 + t * (-0.5 + t * (0.25 + t * 2)), rtol=1e-14)
print("nvrtc: a sum, a transposition and integers, compiled at run time")
