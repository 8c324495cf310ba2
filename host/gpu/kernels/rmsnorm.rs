//! Launches the kernel in `kernels/rmsnorm.rs`.

use half::f16;
use kernels::rmsnorm::{
    BLOCK, block_of_few, rmsnorm, rmsnorm_add, rmsnorm_f16, rmsnorm_f16_few, rmsnorm_power_f16, rmsnorm_qk,
};

use super::{Order, count, expect_aligned, expect_len};
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

    /// out[row] = x[row] / √(mean(x[row]²) + epsilon) · weight + residual[row], for rows of the weight's length, a multiple of 4, and
    /// x[row] being factors[row] times what is there, where there are factors; `out` may be `x` or `residual`.
    #[allow(clippy::too_many_arguments)]
    pub fn rmsnorm_add(
        &self,
        x: &Slice<f32>,
        factors: Option<&Slice<f32>>,
        weight: &Slice<f32>,
        residual: &Slice<f32>,
        out: &Slice<f32>,
        rows: usize,
        epsilon: f32,
    ) -> Result<(), GpuError> {
        let n = weight.len();
        assert!(n > 0 && n.is_multiple_of(4), "rows of {n} values");
        for (name, slice) in [("x", x), ("residual", residual), ("out", out)] {
            expect_len(name, slice, rows * n);
            expect_aligned(name, slice);
        }
        expect_aligned("weight", weight);
        factors.inspect(|factors| expect_len("factors", factors, rows));
        let arguments = (x, factors, weight, residual, out, count(n), epsilon);
        // SAFETY: the slices hold what the contract asks for; the kernel waits before it reads.
        unsafe { self.launch_early(rmsnorm_add, [count(rows), 1, 1], BLOCK, arguments) }
    }

    /// In place: of rows `[queries][keys][values]` of so many values, each over all of its heads, queries and keys become
    /// x / √(mean(x²) + epsilon) · weight where they have weights, and all are factors[row] times what was there, where there are
    /// factors. `stride` values are from a row to the next.
    #[allow(clippy::too_many_arguments)]
    pub fn rmsnorm_qk(
        &self,
        x: &Slice<f32>,
        factors: Option<&Slice<f32>>,
        weights: [Option<&Slice<f32>>; 2],
        widths: [usize; 2],
        stride: usize,
        rows: usize,
        epsilon: f32,
    ) -> Result<(), GpuError> {
        let [n_q, n_k] = widths;
        let in_fours = [n_q, n_k, stride].iter().all(|n| *n > 0 && n.is_multiple_of(4));
        assert!(in_fours && n_q + 2 * n_k <= stride, "{n_q} queries and {n_k} keys of {stride} values");
        expect_len("x", x, (rows - 1) * stride + n_q + 2 * n_k);
        expect_aligned("x", x);
        for (weight, n) in weights.iter().zip(widths) {
            weight.inspect(|weight| {
                expect_len("weight", weight, n);
                expect_aligned("weight", weight);
            });
        }
        factors.inspect(|factors| expect_len("factors", factors, rows));
        let grid = [if factors.is_some() { 3 } else { 2 }, count(rows), 1];
        let [q_weight, k_weight] = weights;
        let arguments = (x, factors, q_weight, k_weight, count(n_q), count(n_k), count(stride), epsilon);
        // SAFETY: the slices hold what the contract asks for; the kernel waits before it reads.
        unsafe { self.launch_early(rmsnorm_qk, grid, BLOCK, arguments) }
    }

    /// factors[row] = the power of two above √mean(x[row]²), and out[row] = x[row] / factors[row] in f16, for rows of `n`, a multiple of
    /// 4.
    pub fn rmsnorm_power_f16(
        &self,
        x: &Slice<f32>,
        out: &Slice<f16>,
        factors: &Slice<f32>,
        rows: usize,
        n: usize,
    ) -> Result<(), GpuError> {
        assert!(n > 0 && n.is_multiple_of(4), "rows of {n} values");
        expect_len("x", x, rows * n);
        expect_len("out", out, rows * n);
        expect_len("factors", factors, rows);
        expect_aligned("x", x);
        expect_aligned("out", out);
        // SAFETY: the slices hold what the contract asks for; the kernel waits before it reads.
        unsafe { self.launch_early(rmsnorm_power_f16, [count(rows), 1, 1], BLOCK, (x, out, factors, count(n))) }
    }

    /// out[row] = x[row] / √(mean(x[row]²) + epsilon) · weight · out_scale in f16, for rows of the weight's length, a multiple
    /// of 4; in the order of [`Order`]. Where it is a step that `decodes`, by the kernel for few rows: a row's last bits are those of its kernel.
    #[allow(clippy::too_many_arguments)]
    pub fn rmsnorm_f16(
        &self,
        x: &Slice<f32>,
        weight: &Slice<f32>,
        out: &Slice<f16>,
        rows: usize,
        epsilon: f32,
        out_scale: f32,
        order: Order,
        decodes: bool,
    ) -> Result<(), GpuError> {
        let n = weight.len();
        assert!(n > 0 && n.is_multiple_of(4), "rows of {n} values");
        order.expect(n);
        expect_len("x", x, rows * n);
        expect_len("out", out, rows * n);
        expect_aligned("x", x);
        expect_aligned("weight", weight);
        expect_aligned("out", out);
        let arguments = (x, weight, out, count(n), epsilon, out_scale, u32::from(order == Order::Steps));
        let (kernel, block) = match decodes {
            true => (rmsnorm_f16_few, block_of_few(count(n))),
            false => (rmsnorm_f16, BLOCK),
        };
        // SAFETY: the slices hold what the contract asks for; the kernel waits before it reads.
        unsafe { self.launch_early(kernel, [count(rows), 1, 1], block, arguments) }
    }
}
