//! Launches the kernel in `kernels/rmsnorm.rs`.

use kernels::rmsnorm::{BLOCK, rmsnorm};

use super::{count, expect_len};
use crate::gpu::{Gpu, GpuError, Slice};

impl Gpu {
    /// out[row] = x[row] / √(mean(x[row]²) + epsilon) · weight, for rows of the weight's length; `out` may be `x`.
    pub fn rmsnorm(
        &self,
        x: &Slice<f32>,
        weight: &Slice<f32>,
        out: &Slice<f32>,
        rows: usize,
        epsilon: f32,
    ) -> Result<(), GpuError> {
        let n = weight.len();
        expect_len("x", x, rows * n);
        expect_len("out", out, rows * n);
        // SAFETY: the slices hold what the contract asks for.
        unsafe { self.launch(rmsnorm, [count(rows), 1, 1], BLOCK, (x, weight, out, count(n), epsilon)) }
    }
}
