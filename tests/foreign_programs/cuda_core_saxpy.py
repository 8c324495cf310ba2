"""cuda.core: NVIDIA's Python interface above the bindings. It compiles with NVRTC, allocates in stream order and launches."""

import numpy as np
from cuda.bindings import driver
from cuda.core import Device, LaunchConfig, Program, ProgramOptions, launch

SOURCE = r"""
template <typename T> __global__ void saxpy(T a, const T *x, const T *y, T *out, size_t n) {
    const size_t stride = gridDim.x * blockDim.x;
    for (size_t i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += stride) out[i] = a * x[i] + y[i];
}
"""
device = Device()
device.set_current()
stream = device.create_stream()
assert device.compute_capability == (9, 0), device.compute_capability
program = Program(SOURCE, code_type="c++", options=ProgramOptions(std="c++17", arch="compute_90"))
module = program.compile("ptx", name_expressions=("saxpy<float>", "saxpy<double>"))

n = 4321
random = np.random.default_rng(2)
for kind, name in ((np.float32, "saxpy<float>"), (np.float64, "saxpy<double>")):
    kernel = module.get_kernel(name)
    assert kernel.attributes.max_threads_per_block == 1024
    a = kind(1.5)
    x, y = (random.standard_normal(n).astype(kind) for _ in range(2))
    buffers = [device.allocate(x.nbytes, stream=stream) for _ in range(3)]
    for values, buffer in zip((x, y), buffers):
        assert driver.cuMemcpyHtoD(int(buffer.handle), values.ctypes.data, values.nbytes)[0] == 0
    arguments = (a, buffers[0], buffers[1], buffers[2], np.uint64(n))
    launch(stream, LaunchConfig(grid=8, block=128), kernel, *arguments)
    stream.sync()
    out = np.empty_like(x)
    assert driver.cuMemcpyDtoH(out.ctypes.data, int(buffers[2].handle), out.nbytes)[0] == 0
    expected = np.float64(a) * x + y if kind == np.float32 else a * x + y
    np.testing.assert_allclose(out, expected.astype(kind), rtol=4 * np.finfo(kind).eps, atol=4 * np.finfo(kind).eps)
    for buffer in buffers:
        buffer.close(stream)
stream.close()
print("cuda.core: saxpy of float and double")
