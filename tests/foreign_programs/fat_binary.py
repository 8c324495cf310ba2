"""nvFatbin: NVIDIA's library packs PTX of two architectures into a fat binary, compressed in each of its ways."""

import numpy as np
from cuda.bindings import driver, nvfatbin
from support import Context, call, compile_ptx, launch, to_device, to_host

SOURCE = r"""
extern "C" __global__ void which(int *out) { out[threadIdx.x] = %d + threadIdx.x; }
"""


def pack(options, entries):
    handle = nvfatbin.create(options, len(options))
    for ptx, architecture in entries:
        nvfatbin.add_ptx(handle, ptx, len(ptx), architecture, "which", "")
    image = bytearray(nvfatbin.size(handle))
    nvfatbin.get(handle, image)
    nvfatbin.destroy(handle)
    return bytes(image)


ptx = {architecture: compile_ptx(SOURCE % architecture) for architecture in (80, 90)}
with Context():
    for mode in ("none", "speed", "size", "balance"):
        for architectures in ((80,), (80, 90)):
            entries = [(ptx[architecture], str(architecture)) for architecture in architectures]
            image = pack(["-64", f"-compress-mode={mode}"], entries)
            module = call(driver.cuModuleLoadData(image))
            out = to_device(np.zeros(32, np.int32))
            launch(call(driver.cuModuleGetFunction(module, b"which")), (1,), (32,), [(out, None)])
            np.testing.assert_array_equal(to_host(out, np.zeros(32, np.int32)), max(architectures) + np.arange(32))
            call(driver.cuModuleUnload(module))
print("nvFatbin: PTX out of fat binaries, plain, lz4 and zstd")
