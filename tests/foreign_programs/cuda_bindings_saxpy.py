"""cuda-bindings: NVIDIA's own binding of the driver API. A saxpy, and what programs use around it."""

import ctypes

import numpy as np
from cuda.bindings import driver
from support import Context, call, compile_ptx, fails, launch, to_device, to_host, try_launch

SAXPY = r"""
__constant__ float bias = 0.0f;
extern "C" __global__ void saxpy(float a, const float *x, const float *y, float *out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = a * x[i] + y[i] + bias;
}
extern "C" __global__ void twice(float *values, int n) {
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) values[i] *= 2.0f;
}
"""
N = 10_007
A = np.float32(2.5)
random = np.random.default_rng(16)
x, y = (random.standard_normal(N).astype(np.float32) for _ in range(2))
# Contracted to a fused product and sum, so one rounding less than numpy's.
expected = (np.float64(A) * x + y).astype(np.float32)
ptx = compile_ptx(SAXPY)


def arguments(out, dx, dy):
    return [(A, ctypes.c_float), (dx, None), (dy, None), (out, None), (N, ctypes.c_int)]


with Context() as context:
    assert call(driver.cuDeviceGetName(64, context.device)).split(b"\0")[0] == b"softcuda"
    grid, block = ((N + 255) // 256,), (256,)
    dx, dy = to_device(x), to_device(y)
    out = call(driver.cuMemAlloc(x.nbytes))

    # A module, its kernel and its variable.
    module = call(driver.cuModuleLoadData(ptx))
    kernel = call(driver.cuModuleGetFunction(module, b"saxpy"))
    launch(kernel, grid, block, arguments(out, dx, dy))
    call(driver.cuCtxSynchronize())
    np.testing.assert_array_equal(to_host(out, x), expected)
    bias, bytes_ = call(driver.cuModuleGetGlobal(module, b"bias"))
    assert bytes_ == 4
    one = np.ones(1, np.float32)
    call(driver.cuMemcpyHtoD(bias, one.ctypes.data, 4))
    launch(kernel, grid, block, arguments(out, dx, dy))
    np.testing.assert_allclose(to_host(out, x), expected + 1, rtol=1e-6, atol=1e-6)

    # A library, whose kernels need no context of their own; occupancy and attributes.
    library = call(driver.cuLibraryLoadData(ptx, [], [], 0, [], [], 0))
    assert call(driver.cuLibraryGetKernelCount(library)) == 2
    library_kernel = call(driver.cuLibraryGetKernel(library, b"saxpy"))
    function = call(driver.cuKernelGetFunction(library_kernel))
    assert call(driver.cuFuncGetName(function)) == b"saxpy"
    assert call(driver.cuFuncGetParamInfo(function, 1)) == [8, 8]
    threads = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK
    assert call(driver.cuKernelGetAttribute(threads, library_kernel, context.device)) == 1024
    assert call(driver.cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(function, 256, 0, 0)) == 8
    call(driver.cuMemsetD32(out, 0, N))
    launch(driver.CUfunction(int(library_kernel)), grid, block, arguments(out, dx, dy))
    np.testing.assert_array_equal(to_host(out, x), expected)

    # In stream order, from a pool, captured into a graph.
    stream = call(driver.cuStreamCreate(driver.CUstream_flags.CU_STREAM_NON_BLOCKING))
    pooled = call(driver.cuMemAllocAsync(x.nbytes, stream))
    pool = call(driver.cuDeviceGetDefaultMemPool(context.device))
    used = driver.CUmemPool_attribute.CU_MEMPOOL_ATTR_USED_MEM_CURRENT
    assert int(call(driver.cuMemPoolGetAttribute(pool, used))) == x.nbytes
    call(driver.cuStreamBeginCapture(stream, driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL))
    launch(function, grid, block, arguments(pooled, dx, dy), stream)
    twice = call(driver.cuKernelGetFunction(call(driver.cuLibraryGetKernel(library, b"twice"))))
    launch(twice, (3,), (128,), [(pooled, None), (N, ctypes.c_int)], stream)
    graph = call(driver.cuStreamEndCapture(stream))
    executable = call(driver.cuGraphInstantiate(graph, 0))
    call(driver.cuGraphLaunch(executable, stream))
    start, end = (call(driver.cuEventCreate(0)) for _ in range(2))
    call(driver.cuEventRecord(start, stream))
    call(driver.cuGraphLaunch(executable, stream))
    call(driver.cuEventRecord(end, stream))
    call(driver.cuStreamSynchronize(stream))
    assert call(driver.cuEventElapsedTime(start, end)) > 0
    np.testing.assert_array_equal(to_host(pooled, x), 2 * expected)
    call(driver.cuMemFreeAsync(pooled, stream))
    assert int(call(driver.cuMemPoolGetAttribute(pool, used))) == 0

    # Memory that host and kernels share: managed, page-locked, registered.
    kinds = driver.CUpointer_attribute
    managed = call(driver.cuMemAllocManaged(x.nbytes, driver.CUmemAttach_flags.CU_MEM_ATTACH_GLOBAL.value))
    assert call(driver.cuPointerGetAttribute(kinds.CU_POINTER_ATTRIBUTE_IS_MANAGED, managed))
    seen = np.ctypeslib.as_array(ctypes.cast(int(managed), ctypes.POINTER(ctypes.c_float)), (N,))
    seen[:] = x
    launch(twice, (3,), (128,), [(managed, None), (N, ctypes.c_int)])
    call(driver.cuCtxSynchronize())
    np.testing.assert_array_equal(seen, 2 * x)
    call(driver.cuMemFree(managed))
    own = x.copy()
    call(driver.cuMemHostRegister(own.ctypes.data, own.nbytes, driver.CU_MEMHOSTREGISTER_DEVICEMAP))
    launch(twice, (3,), (128,), [(call(driver.cuMemHostGetDevicePointer(own.ctypes.data, 0)), None), (N, ctypes.c_int)])
    np.testing.assert_array_equal(own, 2 * x)
    call(driver.cuMemHostUnregister(own.ctypes.data))
    kind = call(driver.cuPointerGetAttribute(kinds.CU_POINTER_ATTRIBUTE_MEMORY_TYPE, out))
    assert int(kind) == driver.CUmemorytype.CU_MEMORYTYPE_DEVICE.value

    # Rows of a larger matrix, to the host and packed.
    rows = driver.CUDA_MEMCPY2D()
    packed = np.zeros((10, 7), np.float32)
    rows.srcMemoryType, rows.srcDevice, rows.srcPitch = driver.CUmemorytype.CU_MEMORYTYPE_DEVICE, dx, 100 * 4
    rows.srcXInBytes, rows.srcY = 3 * 4, 5
    rows.dstMemoryType, rows.dstHost, rows.dstPitch = driver.CUmemorytype.CU_MEMORYTYPE_HOST, packed.ctypes.data, 7 * 4
    rows.WidthInBytes, rows.Height = 7 * 4, 10
    call(driver.cuMemcpy2D(rows))
    np.testing.assert_array_equal(packed, x[:10_000].reshape(100, 100)[5:15, 3:10])

    # The linker makes one module of several texts.
    link = call(driver.cuLinkCreate(0, [], []))
    call(driver.cuLinkAddData(link, driver.CUjitInputType.CU_JIT_INPUT_PTX, ptx, len(ptx), b"saxpy.ptx", 0, [], []))
    image, length = call(driver.cuLinkComplete(link))
    linked = call(driver.cuModuleLoadData(ctypes.string_at(image, length)))
    launch(call(driver.cuModuleGetFunction(linked, b"saxpy")), grid, block, arguments(out, dx, dy))
    np.testing.assert_array_equal(to_host(out, x), expected)
    call(driver.cuLinkDestroy(link))

    # What cannot run says so: machine code, and a kernel that goes too far.
    fails(driver.cuModuleLoadData(b"\x7fELF" + bytes(64)), driver.CUresult.CUDA_ERROR_NO_BINARY_FOR_GPU)
    too_many = arguments(out, dx, dy)[:-1] + [(N + 5000, ctypes.c_int)]
    fails(try_launch(kernel, (60,), block, too_many), driver.CUresult.CUDA_ERROR_ILLEGAL_ADDRESS)
    call(driver.cuModuleUnload(module))
    call(driver.cuLibraryUnload(library))
print("cuda-bindings: saxpy and 10 kinds of calls around it")
