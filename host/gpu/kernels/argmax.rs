//! Launches the kernel in `kernels/argmax.rs`.

use kernels::argmax::{BLOCK, argmax};

use super::{count, expect_len};
use crate::gpu::{Gpu, GpuError, Slice};

impl Gpu {
    /// out[row] = the lowest index of the largest of the first `n` values of logits[row], rows `stride` apart.
    pub fn argmax(
        &self,
        logits: &Slice<f32>,
        out: &Slice<u32>,
        rows: usize,
        n: usize,
        stride: usize,
    ) -> Result<(), GpuError> {
        assert!(0 < n && n <= stride, "argmax over {n} of {stride}");
        expect_len("logits", logits, rows * stride);
        expect_len("out", out, rows);
        // SAFETY: the slices hold what the contract asks for.
        unsafe { self.launch(argmax, [count(rows), 1, 1], BLOCK, (logits, out, count(n), count(stride))) }
    }
}
