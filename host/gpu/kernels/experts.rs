//! Launches the kernels in `kernels/experts.rs`.

use kernels::experts::{COMBINE_BLOCK, ROUTE_BLOCK, experts_combine, experts_route};

use super::{count, expect_len};
use crate::{
    gpu::{Gpu, GpuError, Slice},
    model::Experts,
};

impl Gpu {
    /// experts[token], weights[token], each `[n_used]`: the experts that a token uses, from its logits `[n_experts]`.
    pub fn experts_route(
        &self,
        shape: Experts,
        logits: &Slice<f32>,
        experts: &Slice<u32>,
        weights: &Slice<f32>,
        n_tokens: usize,
    ) -> Result<(), GpuError> {
        let Experts { n_experts, n_used, normalise, scale } = shape;
        assert!(0 < n_used && n_used <= n_experts, "{n_used} of {n_experts} experts");
        expect_len("logits", logits, n_tokens * n_experts);
        expect_len("experts", experts, n_tokens * n_used);
        expect_len("weights", weights, n_tokens * n_used);
        let arguments = (logits, experts, weights, count(n_experts), count(n_used), u32::from(normalise), scale);
        // SAFETY: the slices hold what the contract asks for.
        unsafe { self.launch_early(experts_route, [count(n_tokens), 1, 1], ROUTE_BLOCK, arguments) }
    }

    /// out[token] = residual[token] + Σ_slot weights[token][slot] · parts[token][slot], rows of `n`; `residual` may be `out`.
    #[allow(clippy::too_many_arguments)]
    pub fn experts_combine(
        &self,
        parts: &Slice<f32>,
        weights: &Slice<f32>,
        residual: Option<&Slice<f32>>,
        out: &Slice<f32>,
        n_tokens: usize,
        n: usize,
        n_used: usize,
    ) -> Result<(), GpuError> {
        expect_len("parts", parts, n_tokens * n_used * n);
        expect_len("weights", weights, n_tokens * n_used);
        expect_len("out", out, n_tokens * n);
        residual.inspect(|residual| expect_len("residual", residual, n_tokens * n));
        let grid = [count(n.div_ceil(COMBINE_BLOCK as usize)), count(n_tokens), 1];
        let arguments = (parts, weights, residual, out, count(n), count(n_used));
        // SAFETY: the slices hold what the contract asks for.
        unsafe { self.launch_early(experts_combine, grid, COMBINE_BLOCK, arguments) }
    }
}
