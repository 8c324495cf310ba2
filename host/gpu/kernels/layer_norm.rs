//! Launches the kernel in `kernels/layer_norm.rs`.

use kernels::layer_norm::{BLOCK, layer_norm};

use super::{count, expect_len};
use crate::gpu::{Gpu, GpuError, Slice};

impl Gpu {
    /// out[row] = (x[row] − mean) / √(variance + epsilon) · weight + bias, for rows of the weight's length; `out` may be `x`.
    pub fn layer_norm(
        &self,
        x: &Slice<f32>,
        weight: &Slice<f32>,
        bias: Option<&Slice<f32>>,
        out: &Slice<f32>,
        rows: usize,
        epsilon: f32,
    ) -> Result<(), GpuError> {
        let n = weight.len();
        assert!(n > 0, "rows of no values");
        expect_len("x", x, rows * n);
        expect_len("out", out, rows * n);
        bias.inspect(|bias| expect_len("bias", bias, n));
        let arguments = (x, weight, bias, out, count(n), epsilon);
        // SAFETY: the slices hold what the contract asks for; the kernel waits before it reads.
        unsafe { self.launch_early(layer_norm, [count(rows), 1, 1], BLOCK, arguments) }
    }
}
