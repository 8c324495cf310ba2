//! Launches the kernel in `kernels/top_k.rs`.

use kernels::top_k::{BLOCK, BLOCK_VALUES, GROUP, MAX_K, top_k};

use super::{count, expect_aligned, expect_len};
use crate::gpu::{Buffer, Gpu, GpuError, Slice, launch::Launch};

/// The most values that [`Gpu::top_k`] finds.
pub const MAX_TOP_K: usize = MAX_K as usize;

/// What the blocks leave for the last of them.
pub struct TopKScratch {
    groups: Buffer<u64>,
    arrivals: Buffer<u32>,
}

impl TopKScratch {
    /// The elements of its allocations, 4 bytes each, for rows of up to `n` values.
    pub fn elements(n: usize) -> [usize; 2] {
        [2 * n.div_ceil(GROUP as usize), 1]
    }

    /// For rows of up to `n` values.
    pub fn new(gpu: &Gpu, n: usize) -> Result<TopKScratch, GpuError> {
        let [groups, arrivals] = TopKScratch::elements(n);
        let scratch = TopKScratch { groups: gpu.alloc("top-k", groups / 2)?, arrivals: gpu.alloc("top-k", arrivals)? };
        gpu.fill(&scratch.arrivals, 0)?;
        Ok(scratch)
    }
}

impl Gpu {
    /// out[i] = [index, value's bits] of the i-th largest of the first `n` values, for the `k` largest: descending, equal ones
    /// by ascending index. NaN is larger than all others, and −0 counts and is written as 0.
    pub fn top_k(
        &self,
        scratch: &TopKScratch,
        values: &Slice<f32>,
        out: &Slice<u32>,
        n: usize,
        k: usize,
    ) -> Result<(), GpuError> {
        assert!(0 < k && k <= n.min(MAX_TOP_K), "the {k} largest of {n}, of at most {MAX_TOP_K}");
        expect_len("values", values, n);
        expect_aligned("values", values);
        expect_len("out", out, 2 * k);
        expect_len("groups", &scratch.groups, n.div_ceil(GROUP as usize));
        let launch = Launch::new([count(n).div_ceil(BLOCK_VALUES), 1, 1], BLOCK).early();
        let arguments = (values, out, &*scratch.groups, &*scratch.arrivals, count(n), count(k));
        // SAFETY: the slices hold what the contract asks for; the kernel leaves the arrivals at zero, as they began.
        unsafe { self.launch_as(top_k, launch, arguments) }
    }
}
