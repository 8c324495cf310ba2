//! Launches the kernels in `kernels/elementwise.rs`.

use kernels::elementwise::{
    BLOCK, elementwise_add_scaled, elementwise_join, elementwise_multiply_sigmoid, elementwise_scale,
    elementwise_soft_cap, elementwise_take_columns, elementwise_temper,
};

use super::{count, expect_len};
use crate::gpu::{Gpu, GpuError, Slice};

/// Where the gates of rows are.
#[derive(Clone, Copy)]
pub enum SigmoidGate<'a> {
    /// A gate for each value, a row's gates contiguous and each row's `stride` values behind the one's before.
    PerValue {
        /// From the first row's gates on.
        gate: &'a Slice<f32>,
        /// Values from a row's gates to the next row's.
        stride: usize,
    },
    /// One gate a row.
    PerRow(&'a Slice<f32>),
}

/// Blocks for rows of `width`.
fn grid(width: usize, rows: usize) -> [u32; 3] {
    [count(width.div_ceil(BLOCK as usize)), count(rows), 1]
}

/// Values from the first of the first row to the last of the last, of rows of `width` that begin `stride` apart.
fn extent(rows: usize, stride: usize, width: usize) -> usize {
    rows.saturating_sub(1) * stride + width
}

impl Gpu {
    /// out[i] = factor · x[i] for the first `n`; `out` may be `x`.
    pub fn scale(&self, x: &Slice<f32>, out: &Slice<f32>, factor: f32, n: usize) -> Result<(), GpuError> {
        expect_len("x", x, n);
        expect_len("out", out, n);
        // SAFETY: the slices hold what the contract asks for; the kernel waits before it reads.
        unsafe { self.launch_early(elementwise_scale, grid(n, 1), BLOCK, (x, out, count(n), factor)) }
    }

    /// out[i] = a[i] + factor · b[i] for the first `n`; `out` may be `a` or `b`.
    pub fn add_scaled(
        &self,
        a: &Slice<f32>,
        b: &Slice<f32>,
        factor: f32,
        out: &Slice<f32>,
        n: usize,
    ) -> Result<(), GpuError> {
        expect_len("a", a, n);
        expect_len("b", b, n);
        expect_len("out", out, n);
        // SAFETY: the slices hold what the contract asks for; the kernel waits before it reads.
        unsafe { self.launch_early(elementwise_add_scaled, grid(n, 1), BLOCK, (a, b, out, count(n), factor)) }
    }

    /// out[i] = cap · tanh(x[i] / cap) for the first `n`; `out` may be `x`.
    pub fn soft_cap(&self, x: &Slice<f32>, out: &Slice<f32>, cap: f32, n: usize) -> Result<(), GpuError> {
        assert!(cap > 0.0, "a soft cap of {cap}");
        expect_len("x", x, n);
        expect_len("out", out, n);
        // SAFETY: the slices hold what the contract asks for; the kernel waits before it reads.
        unsafe { self.launch_early(elementwise_soft_cap, grid(n, 1), BLOCK, (x, out, count(n), cap)) }
    }

    /// out[row] = x[row] · σ(gate of it) for rows of `width`; `out` may be `x`.
    pub fn multiply_sigmoid(
        &self,
        x: &Slice<f32>,
        gate: SigmoidGate,
        out: &Slice<f32>,
        rows: usize,
        width: usize,
    ) -> Result<(), GpuError> {
        expect_len("x", x, rows * width);
        expect_len("out", out, rows * width);
        let (gate, stride, step) = match gate {
            SigmoidGate::PerValue { gate, stride } => (gate, stride, 1),
            SigmoidGate::PerRow(gate) => (gate, 1, 0),
        };
        expect_len("gate", gate, extent(rows, stride, if step == 1 { width } else { 1 }));
        let arguments = (x, gate, out, count(width), count(stride), step);
        // SAFETY: the slices hold what the contract asks for; the kernel waits before it reads.
        unsafe { self.launch_early(elementwise_multiply_sigmoid, grid(width, rows), BLOCK, arguments) }
    }

    /// out[row] = the first `width` values of each of the rows that begin `stride` apart in `x`. The two do not overlap.
    pub fn take_columns(
        &self,
        x: &Slice<f32>,
        stride: usize,
        out: &Slice<f32>,
        rows: usize,
        width: usize,
    ) -> Result<(), GpuError> {
        expect_len("x", x, extent(rows, stride, width));
        expect_len("out", out, rows * width);
        let arguments = (x, out, count(width), count(stride));
        // SAFETY: the slices hold what the contract asks for; the kernel waits before it reads.
        unsafe { self.launch_early(elementwise_take_columns, grid(width, rows), BLOCK, arguments) }
    }

    /// out[row] = a[row], then b[row], of `rows` rows of so many values of each. `out` overlaps neither.
    pub fn join(
        &self,
        a: &Slice<f32>,
        b: &Slice<f32>,
        out: &Slice<f32>,
        rows: usize,
        [a_width, b_width]: [usize; 2],
    ) -> Result<(), GpuError> {
        expect_len("a", a, rows * a_width);
        expect_len("b", b, rows * b_width);
        expect_len("out", out, rows * (a_width + b_width));
        let arguments = (a, b, out, count(a_width), count(b_width));
        // SAFETY: the slices hold what the contract asks for; the kernel waits before it reads.
        unsafe { self.launch_early(elementwise_join, grid(a_width + b_width, rows), BLOCK, arguments) }
    }

    /// out[token] = x[token] · (1 + scale · ln(⌊positions[token] ÷ length⌋ + 1)), rows of `width`; `out` may be `x`.
    #[allow(clippy::too_many_arguments)]
    pub fn temper(
        &self,
        x: &Slice<f32>,
        positions: &Slice<u32>,
        out: &Slice<f32>,
        n_tokens: usize,
        width: usize,
        scale: f32,
        length: usize,
    ) -> Result<(), GpuError> {
        assert!(length > 0, "positions in groups of none");
        expect_len("x", x, n_tokens * width);
        expect_len("out", out, n_tokens * width);
        expect_len("positions", positions, n_tokens);
        let arguments = (x, positions, out, count(width), scale, count(length));
        // SAFETY: the slices hold what the contract asks for; the kernel waits before it reads.
        unsafe { self.launch_early(elementwise_temper, grid(width, n_tokens), BLOCK, arguments) }
    }
}
