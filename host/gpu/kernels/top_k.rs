//! Launches the kernel in `kernels/top_k.rs`.

use kernels::top_k::{BLOCK, BLOCK_VALUES, GROUP, MAX_K, top_k};

use super::{count, expect_aligned, expect_len};
use crate::gpu::{Buffer, Gpu, GpuError, Slice, launch::Launch};

/// The most values that [`Gpu::top_k`] finds.
pub const MAX_TOP_K: usize = MAX_K as usize;

/// What the blocks that share a row leave for the last of them.
pub struct TopKScratch {
    groups: Buffer<u64>,
    arrivals: Buffer<u32>,
}

impl TopKScratch {
    /// The elements of its allocations, 4 bytes each, for `rows` rows of up to `n` values.
    pub fn elements(rows: usize, n: usize) -> [usize; 2] {
        [2 * rows * n.div_ceil(GROUP as usize), rows]
    }

    /// For `rows` rows of up to `n` values.
    pub fn new(gpu: &Gpu, rows: usize, n: usize) -> Result<TopKScratch, GpuError> {
        let [groups, arrivals] = TopKScratch::elements(rows, n);
        let scratch = TopKScratch { groups: gpu.alloc("top-k", groups / 2)?, arrivals: gpu.alloc("top-k", arrivals)? };
        gpu.fill(&scratch.arrivals, 0)?;
        Ok(scratch)
    }
}

impl Gpu {
    /// out[row][i] = [index, value's bits] of the i-th largest of the first `n` values of a row, rows `stride` apart, for the `k`
    /// largest: descending, equal ones by ascending index. NaN is larger than all others, and −0 counts and is written as 0.
    #[allow(clippy::too_many_arguments)]
    pub fn top_k(
        &self,
        scratch: &TopKScratch,
        values: &Slice<f32>,
        out: &Slice<u32>,
        rows: usize,
        n: usize,
        stride: usize,
        k: usize,
    ) -> Result<(), GpuError> {
        assert!(0 < k && k <= n.min(MAX_TOP_K), "the {k} largest of {n}, of at most {MAX_TOP_K}");
        assert!(rows == 1 || (n <= stride && stride.is_multiple_of(4)), "rows of {n}, {stride} apart");
        expect_len("values", values, (rows - 1) * stride + n);
        expect_aligned("values", values);
        expect_len("out", out, 2 * rows * k);
        expect_len("groups", &scratch.groups, rows * n.div_ceil(GROUP as usize));
        expect_len("arrivals", &scratch.arrivals, rows);
        let launch = Launch::new([count(n).div_ceil(BLOCK_VALUES), count(rows), 1], BLOCK).early();
        let arguments = (values, out, &*scratch.groups, &*scratch.arrivals, count(n), count(stride), count(k));
        // SAFETY: the slices hold what the contract asks for; the kernel leaves the arrivals at zero, as they began.
        unsafe { self.launch_as(top_k, launch, arguments) }
    }
}
