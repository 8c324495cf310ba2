//! Launches the kernel in `kernels/argmax.rs`.

pub use kernels::argmax::NO_CHOICE;
use kernels::argmax::{BLOCK, MAX_BLOCKS, VALUES_PER_BLOCK, argmax};

use super::{count, expect_len};
use crate::gpu::{Buffer, Gpu, GpuError, Slice, launch::Launch};

/// What the blocks that share a row leave for the last of them.
pub struct ArgmaxScratch {
    parts: Buffer<u32>,
    arrivals: Buffer<u32>,
}

impl ArgmaxScratch {
    /// The elements of its allocations, 4 bytes each, for up to `rows` rows.
    pub fn elements(rows: usize) -> [usize; 2] {
        [2 * rows * MAX_BLOCKS as usize, rows]
    }

    /// For up to `rows` rows.
    pub fn new(gpu: &Gpu, rows: usize) -> Result<ArgmaxScratch, GpuError> {
        let [parts, arrivals] = ArgmaxScratch::elements(rows);
        let scratch = ArgmaxScratch { parts: gpu.alloc("argmax", parts)?, arrivals: gpu.alloc("argmax", arrivals)? };
        gpu.fill(&scratch.arrivals, 0)?;
        Ok(scratch)
    }
}

impl Gpu {
    /// out[row] = the lowest index of the largest of the first `n` values of logits[row], rows `stride` apart, or [`NO_CHOICE`]
    /// where these hold a NaN or nothing above −∞.
    #[allow(clippy::too_many_arguments)]
    pub fn argmax(
        &self,
        scratch: &ArgmaxScratch,
        logits: &Slice<f32>,
        out: &Slice<u32>,
        rows: usize,
        n: usize,
        stride: usize,
    ) -> Result<(), GpuError> {
        assert!(0 < n && n <= stride, "argmax over {n} of {stride}");
        expect_len("logits", logits, rows * stride);
        expect_len("out", out, rows);
        let blocks = count(n).div_ceil(VALUES_PER_BLOCK).min(MAX_BLOCKS);
        expect_len("parts", &scratch.parts, 2 * rows * blocks as usize);
        expect_len("arrivals", &scratch.arrivals, rows);
        let launch = Launch::new([blocks, count(rows), 1], BLOCK).early();
        let arguments = (logits, out, &*scratch.parts, &*scratch.arrivals, count(n), count(stride));
        // SAFETY: the slices hold what the contract asks for; the kernel leaves the arrivals at zero, as they began.
        unsafe { self.launch_as(argmax, launch, arguments) }
    }
}
