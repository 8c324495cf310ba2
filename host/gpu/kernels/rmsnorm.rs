//! Launches the kernel in `kernels/rmsnorm.rs`.

use half::f16;
use kernels::rmsnorm::{BLOCK, rmsnorm, rmsnorm_f16};

use super::{count, expect_aligned, expect_len};
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
        self.rmsnorm_of_rows(x, Some(weight), out, rows, weight.len(), epsilon)
    }

    /// out[row] = x[row] / √(mean(x[row]²) + epsilon), for rows of `n`; `out` may be `x`.
    pub fn rmsnorm_without_weight(
        &self,
        x: &Slice<f32>,
        out: &Slice<f32>,
        rows: usize,
        n: usize,
        epsilon: f32,
    ) -> Result<(), GpuError> {
        self.rmsnorm_of_rows(x, None, out, rows, n, epsilon)
    }

    fn rmsnorm_of_rows(
        &self,
        x: &Slice<f32>,
        weight: Option<&Slice<f32>>,
        out: &Slice<f32>,
        rows: usize,
        n: usize,
        epsilon: f32,
    ) -> Result<(), GpuError> {
        assert!(n > 0, "rows of no values");
        expect_len("x", x, rows * n);
        expect_len("out", out, rows * n);
        let arguments = (x, weight, out, count(n), epsilon);
        // SAFETY: the slices hold what the contract asks for; the kernel waits before it reads.
        unsafe { self.launch_early(rmsnorm, [count(rows), 1, 1], BLOCK, arguments) }
    }

    /// out[row] = x[row] / √(mean(x[row]²) + epsilon) · weight · out_scale in f16, for rows of the weight's length, a multiple
    /// of 4.
    pub fn rmsnorm_f16(
        &self,
        x: &Slice<f32>,
        weight: &Slice<f32>,
        out: &Slice<f16>,
        rows: usize,
        epsilon: f32,
        out_scale: f32,
    ) -> Result<(), GpuError> {
        let n = weight.len();
        assert!(n > 0 && n.is_multiple_of(4), "rows of {n} values");
        expect_len("x", x, rows * n);
        expect_len("out", out, rows * n);
        expect_aligned("x", x);
        expect_aligned("weight", weight);
        expect_aligned("out", out);
        let arguments = (x, weight, out, count(n), epsilon, out_scale);
        // SAFETY: the slices hold what the contract asks for; the kernel waits before it reads.
        unsafe { self.launch_early(rmsnorm_f16, [count(rows), 1, 1], BLOCK, arguments) }
    }
}
