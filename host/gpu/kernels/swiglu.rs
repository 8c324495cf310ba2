//! Launches the kernel in `kernels/swiglu.rs`.

use half::f16;
use kernels::swiglu::{BLOCK, GROUP, swiglu, swiglu_f16};

use super::{count, expect_aligned, expect_len};
use crate::gpu::{Gpu, GpuError, Slice};

impl Gpu {
    /// out[i] = silu(gate[i]) · up[i] for the first `n`; `out` may be `gate` or `up`.
    pub fn swiglu(&self, gate: &Slice<f32>, up: &Slice<f32>, out: &Slice<f32>, n: usize) -> Result<(), GpuError> {
        expect_len("gate", gate, n);
        expect_len("up", up, n);
        expect_len("out", out, n);
        // SAFETY: the slices hold what the contract asks for.
        unsafe { self.launch(swiglu, [count(n.div_ceil(BLOCK as usize)), 1, 1], BLOCK, (gate, up, out, count(n))) }
    }

    /// out[token] = silu(gate) · up · out_scale in f16 for rows of `n`, a multiple of 8, gate and up being the halves of
    /// in_scale · gate_up[token].
    pub fn swiglu_f16(
        &self,
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
        // SAFETY: the slices hold what the contract asks for; the kernel waits before it reads.
        unsafe { self.launch_early(swiglu_f16, grid, BLOCK, (gate_up, out, count(n), in_scale, out_scale)) }
    }
}
