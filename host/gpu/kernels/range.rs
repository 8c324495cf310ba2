//! Launches the kernels in `kernels/range.rs`.

use half::{bf16, f16};
use kernels::range::*;

use super::{count, expect_aligned, expect_len};
use crate::gpu::{Element, Gpu, GpuError, Slice};

impl Gpu {
    /// out[row] = (‖matrix[row] ∘ norm‖, the largest magnitude of matrix[row]) for rows of `n`; without a norm, of ones.
    pub fn range_rows_f16(
        &self,
        matrix: &Slice<f16>,
        norm: Option<&Slice<f32>>,
        out: &Slice<f32>,
        n_rows: usize,
        n: usize,
    ) -> Result<(), GpuError> {
        let grid = rows_grid(matrix, norm, out, n_rows, n);
        // SAFETY: the slices hold what the contract asks for, as was just checked.
        unsafe { self.launch(range_rows_f16, grid, BLOCK, (matrix, norm, out, count(n_rows), count(n))) }
    }

    /// [`Gpu::range_rows_f16`] of a matrix of bf16.
    pub fn range_rows_bf16(
        &self,
        matrix: &Slice<bf16>,
        norm: Option<&Slice<f32>>,
        out: &Slice<f32>,
        n_rows: usize,
        n: usize,
    ) -> Result<(), GpuError> {
        let grid = rows_grid(matrix, norm, out, n_rows, n);
        // SAFETY: the slices hold what the contract asks for, as was just checked.
        unsafe { self.launch(range_rows_bf16, grid, BLOCK, (matrix, norm, out, count(n_rows), count(n))) }
    }

    /// out[i] = x[i] · scale in f16.
    pub fn range_to_f16_f16(&self, x: &Slice<f16>, out: &Slice<f16>, scale: f32, n: usize) -> Result<(), GpuError> {
        let grid = conversion_grid(x, out, n);
        // SAFETY: the slices hold what the contract asks for, as was just checked.
        unsafe { self.launch(range_to_f16_f16, grid, BLOCK, (x, out, scale, n as u64)) }
    }

    /// out[i] = x[i] · scale in f16.
    pub fn range_to_f16_f32(&self, x: &Slice<f32>, out: &Slice<f16>, scale: f32, n: usize) -> Result<(), GpuError> {
        let grid = conversion_grid(x, out, n);
        // SAFETY: the slices hold what the contract asks for, as was just checked.
        unsafe { self.launch(range_to_f16_f32, grid, BLOCK, (x, out, scale, n as u64)) }
    }

    /// out[i] = x[i] · scale in f16.
    pub fn range_to_f16_bf16(&self, x: &Slice<bf16>, out: &Slice<f16>, scale: f32, n: usize) -> Result<(), GpuError> {
        let grid = conversion_grid(x, out, n);
        // SAFETY: the slices hold what the contract asks for, as was just checked.
        unsafe { self.launch(range_to_f16_bf16, grid, BLOCK, (x, out, scale, n as u64)) }
    }

    /// out[i] = x[i] · scale, of f16.
    pub fn range_from_f16(&self, x: &Slice<f16>, out: &Slice<f32>, scale: f32, n: usize) -> Result<(), GpuError> {
        expect_len("x", x, n);
        expect_len("out", out, n);
        let grid = [count(n.div_ceil(BLOCK as usize)), 1, 1];
        // SAFETY: the slices hold what the contract asks for; the kernel waits before it reads.
        unsafe { self.launch_early(range_from_f16, grid, BLOCK, (x, out, scale, count(n))) }
    }
}

fn rows_grid<T: Element>(
    matrix: &Slice<T>,
    norm: Option<&Slice<f32>>,
    out: &Slice<f32>,
    n_rows: usize,
    n: usize,
) -> [u32; 3] {
    assert!(n.is_multiple_of(GROUP), "rows of {n} values");
    expect_len("matrix", matrix, n_rows * n);
    expect_aligned("matrix", matrix);
    norm.inspect(|norm| {
        expect_len("norm", norm, n);
        expect_aligned("norm", norm);
    });
    expect_len("out", out, 2 * n_rows);
    [count(n_rows.div_ceil(ROWS as usize)), 1, 1]
}

fn conversion_grid<T: Element>(x: &Slice<T>, out: &Slice<f16>, n: usize) -> [u32; 3] {
    expect_len("x", x, n);
    expect_len("out", out, n);
    expect_aligned("x", x);
    expect_aligned("out", out);
    [count(n.div_ceil(GROUP * BLOCK as usize)), 1, 1]
}
