"""cupy: RawModule with PTX, RawKernel by NVRTC, and its own elementwise kernels, where its wheel lets them run."""
import cupy
