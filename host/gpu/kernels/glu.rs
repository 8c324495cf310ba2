//! Launches the kernels in `kernels/glu.rs`.

use half::f16;
use kernels::glu::{BLOCK, GEGLU, GROUP, SWIGLU, SWIGLU_CLAMPED, glu, glu_f16, glu_rows_f16};

use super::{count, expect_aligned, expect_len};
use crate::gpu::{Gpu, GpuError, Slice};

/// A gated linear unit: what becomes of a gate and an up projection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Glu {
    /// silu(gate) · up, silu(g) = g · σ(g).
    #[default]
    Swiglu,
    /// gelu(gate) · up, by GELU's tanh form.
    Geglu,
    /// gpt-oss's: g · σ(1.702 · g) · (u + 1), g being the gate held below 7 and u the up projection held within ±7.
    SwigluClamped,
}

impl Glu {
    /// Every unit.
    pub const ALL: [Glu; 3] = [Glu::Swiglu, Glu::Geglu, Glu::SwigluClamped];

    /// As the kernels know it.
    fn activation(self) -> u32 {
        match self {
            Glu::Swiglu => SWIGLU,
            Glu::Geglu => GEGLU,
            Glu::SwigluClamped => SWIGLU_CLAMPED,
        }
    }
}

impl Gpu {
    /// out[i] = the unit of gate[i] and up[i], for the first `n`; `out` may be `gate` or `up`.
    pub fn glu(
        &self,
        unit: Glu,
        gate: &Slice<f32>,
        up: &Slice<f32>,
        out: &Slice<f32>,
        n: usize,
    ) -> Result<(), GpuError> {
        expect_len("gate", gate, n);
        expect_len("up", up, n);
        expect_len("out", out, n);
        let grid = [count(n.div_ceil(BLOCK as usize)), 1, 1];
        // SAFETY: the slices hold what the contract asks for; the kernel waits before it reads.
        unsafe { self.launch_early(glu, grid, BLOCK, (gate, up, out, count(n), unit.activation())) }
    }

    /// out[token] = the unit · out_scale in f16 for rows of `n`, a multiple of 8, gate and up being the halves of
    /// in_scale · gate_up[token].
    #[allow(clippy::too_many_arguments)]
    pub fn glu_f16(
        &self,
        unit: Glu,
        gate_up: &Slice<f16>,
        out: &Slice<f16>,
        n_tokens: usize,
        n: usize,
        in_scale: f32,
        out_scale: f32,
    ) -> Result<(), GpuError> {
        assert!(n.is_multiple_of(GROUP), "rows of {n} values");
        expect_len("gate_up", gate_up, n_tokens * 2 * n);
        expect_len("out", out, n_tokens * n);
        expect_aligned("gate_up", gate_up);
        expect_aligned("out", out);
        let grid = [count(n.div_ceil(GROUP * BLOCK as usize)), count(n_tokens), 1];
        let arguments = (gate_up, out, count(n), unit.activation(), in_scale, out_scale);
        // SAFETY: the slices hold what the contract asks for; the kernel waits before it reads.
        unsafe { self.launch_early(glu_f16, grid, BLOCK, arguments) }
    }

    /// [`Gpu::glu_f16`] of rows that are factors[token] times what is there: the unit is out_factors[token] · out[token], a power of two
    /// of at least 1 that grows with the factor's square, and from it on where that is more than `headroom`.
    #[allow(clippy::too_many_arguments)]
    pub fn glu_rows_f16(
        &self,
        unit: Glu,
        gate_up: &Slice<f16>,
        factors: &Slice<f32>,
        out: &Slice<f16>,
        out_factors: &Slice<f32>,
        n_tokens: usize,
        n: usize,
        in_scale: f32,
        headroom: f32,
    ) -> Result<(), GpuError> {
        assert!(n.is_multiple_of(GROUP), "rows of {n} values");
        expect_len("gate_up", gate_up, n_tokens * 2 * n);
        expect_len("factors", factors, n_tokens);
        expect_len("out", out, n_tokens * n);
        expect_len("out_factors", out_factors, n_tokens);
        expect_aligned("gate_up", gate_up);
        expect_aligned("out", out);
        let grid = [count(n.div_ceil(GROUP * BLOCK as usize)), count(n_tokens), 1];
        let arguments = (gate_up, factors, out, out_factors, count(n), unit.activation(), in_scale, headroom);
        // SAFETY: the slices hold what the contract asks for; the kernel waits before it reads.
        unsafe { self.launch_early(glu_rows_f16, grid, BLOCK, arguments) }
    }
}
