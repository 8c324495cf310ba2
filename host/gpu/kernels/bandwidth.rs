//! Launches the kernels in `kernels/bandwidth.rs`.

use kernels::bandwidth::{BLOCK, bandwidth_copy, bandwidth_read};

use super::{count, expect_len};
use crate::gpu::{Gpu, GpuError, Slice};

/// Words of the vectors that the kernels read: a buffer's length is a multiple of it.
pub const BANDWIDTH_VECTOR: usize = 4;

/// Blocks for each multiprocessor: with [`BLOCK`] threads each, all that one holds.
const BLOCKS_PER_MULTIPROCESSOR: u32 = 8;

impl Gpu {
    fn bandwidth_grid(&self) -> u32 {
        count(self.multiprocessors()) * BLOCKS_PER_MULTIPROCESSOR
    }

    /// How many words [`Gpu::bandwidth_read`] writes.
    pub fn bandwidth_parts(&self) -> usize {
        (self.bandwidth_grid() * BLOCK / 32) as usize
    }

    /// Reads all of `data`. The exclusive or of all `parts` is that of all words.
    pub fn bandwidth_read(&self, data: &Slice<u32>, parts: &Slice<u32>) -> Result<(), GpuError> {
        assert!(data.len().is_multiple_of(BANDWIDTH_VECTOR), "{} words are no whole vectors", data.len());
        expect_len("parts", parts, self.bandwidth_parts());
        let n_vectors = (data.len() / BANDWIDTH_VECTOR) as u64;
        // SAFETY: the slices hold what the contract asks for; allocations are 256-byte aligned.
        unsafe { self.launch(bandwidth_read, [self.bandwidth_grid(), 1, 1], BLOCK, (data, parts, n_vectors)) }
    }

    /// out = data.
    pub fn bandwidth_copy(&self, data: &Slice<u32>, out: &Slice<u32>) -> Result<(), GpuError> {
        assert!(data.len().is_multiple_of(BANDWIDTH_VECTOR), "{} words are no whole vectors", data.len());
        expect_len("out", out, data.len());
        assert_ne!(data.address(), out.address(), "a copy onto itself");
        let n_vectors = (data.len() / BANDWIDTH_VECTOR) as u64;
        // SAFETY: as above.
        unsafe { self.launch(bandwidth_copy, [self.bandwidth_grid(), 1, 1], BLOCK, (data, out, n_vectors)) }
    }
}
