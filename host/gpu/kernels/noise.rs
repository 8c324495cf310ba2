//! Launches the kernels in `kernels/noise.rs`.

use half::{bf16, f16};
use kernels::noise::*;

use super::count;
use crate::gpu::{Gpu, GpuError, Slice};

/// A float type that noise is made in.
pub trait NoiseFloat: crate::gpu::Element {
    /// The type's kernel.
    const KERNEL: cuda_std::Kernel<(*mut Self, u64, f32, f32, u32)>;
}

impl NoiseFloat for f32 {
    const KERNEL: cuda_std::Kernel<(*mut f32, u64, f32, f32, u32)> = noise_f32;
}

impl NoiseFloat for f16 {
    const KERNEL: cuda_std::Kernel<(*mut f16, u64, f32, f32, u32)> = noise_f16;
}

impl NoiseFloat for bf16 {
    const KERNEL: cuda_std::Kernel<(*mut bf16, u64, f32, f32, u32)> = noise_bf16;
}

/// A block's parts that [`Gpu::noise_scales`] and [`Gpu::noise_exponents`] set: one in each `stride` bytes.
#[derive(Clone, Copy, Debug)]
pub struct Strided {
    /// Where in the slice the first is.
    pub first: usize,
    /// Bytes from one to the next.
    pub stride: usize,
    /// How many there are.
    pub n: usize,
}

impl Strided {
    fn expect_within(self, bytes: &Slice<u8>, size: usize) {
        let Strided { first, stride, n } = self;
        let needed = if n == 0 { 0 } else { first + (n - 1) * stride + size };
        assert!(bytes.len() >= needed, "{} bytes, the kernel touches {needed}", bytes.len());
    }
}

impl Gpu {
    /// out = random bytes.
    pub fn noise_bits(&self, out: &Slice<u8>, stream: u32) -> Result<(), GpuError> {
        assert!(out.address().is_multiple_of(16), "noise starts on a 16-byte boundary");
        let n = out.len() as u64;
        self.noise_grid(n.div_ceil(BITS_BYTES), |grid| {
            // SAFETY: the slice is that long.
            unsafe { self.launch(noise_bits, grid, BLOCK, (out, n, stream)) }
        })
    }

    /// Sets the half-precision numbers at `places`: each is `scale` times a factor near 1 of either sign. The same stream
    /// gives the same factors.
    pub fn noise_scales(&self, blocks: &Slice<u8>, places: Strided, scale: f32, stream: u32) -> Result<(), GpuError> {
        places.expect_within(blocks, 2);
        let Strided { first, stride, n } = places;
        assert!(stride.is_multiple_of(2), "half-precision numbers {stride} bytes apart");
        let blocks = blocks.slice(first..blocks.len());
        assert!(blocks.address().is_multiple_of(2), "half-precision numbers at odd addresses");
        self.noise_grid(n as u64, |grid| {
            // SAFETY: the places are within the slice.
            unsafe { self.launch(noise_scales, grid, BLOCK, (&*blocks, count(n), count(stride), scale, stream)) }
        })
    }

    /// Sets the bytes at `places` to `exponent`.
    pub fn noise_exponents(&self, blocks: &Slice<u8>, places: Strided, exponent: u8) -> Result<(), GpuError> {
        places.expect_within(blocks, 1);
        let Strided { first, stride, n } = places;
        let blocks = blocks.slice(first..blocks.len());
        self.noise_grid(n as u64, |grid| {
            // SAFETY: the places are within the slice.
            unsafe {
                self.launch(noise_exponents, grid, BLOCK, (&*blocks, count(n), count(stride), u32::from(exponent)))
            }
        })
    }

    /// out[i] = evenly from `centre − spread` to `centre + spread`.
    pub fn noise_floats<T: NoiseFloat>(
        &self,
        out: &Slice<T>,
        centre: f32,
        spread: f32,
        stream: u32,
    ) -> Result<(), GpuError> {
        let n = out.len() as u64;
        self.noise_grid(n.div_ceil(FLOATS), |grid| {
            // SAFETY: the slice is that long.
            unsafe { self.launch(T::KERNEL, grid, BLOCK, (out, n, centre, spread, stream)) }
        })
    }

    /// Launches for so many threads, if there are any.
    fn noise_grid(&self, threads: u64, launch: impl Fn([u32; 3]) -> Result<(), GpuError>) -> Result<(), GpuError> {
        match threads {
            0 => Ok(()),
            n => launch([count(n.div_ceil(u64::from(BLOCK)) as usize), 1, 1]),
        }
    }
}
