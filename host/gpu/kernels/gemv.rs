//! Launches the kernels in `kernels/gemv.rs`, and those on packed blocks.

use half::{bf16, f16};
use kernels::gemv::{BLOCK, ROWS_PER_BLOCK, gemv_bf16, gemv_f16, gemv_f32};

use super::{blocks::block_kernels, count, expect_len};
use crate::{
    gguf::TensorType,
    gpu::{Gpu, GpuError, Slice, Weights},
};

/// What is added to a product, and how many vectors there are.
#[derive(Default)]
struct Extras<'a> {
    experts: Option<&'a Slice<u32>>,
    bias: Option<&'a Slice<f32>>,
    residual: Option<&'a Slice<f32>>,
}

impl Gpu {
    /// out = weights · x (+ bias) (+ residual), for one token's `x` of `[n_in]`; `residual` may be `out`.
    pub fn gemv(
        &self,
        weights: &Weights,
        x: &Slice<f32>,
        bias: Option<&Slice<f32>>,
        residual: Option<&Slice<f32>>,
        out: &Slice<f32>,
    ) -> Result<(), GpuError> {
        expect_len("x", x, weights.n_in);
        expect_len("out", out, weights.n_out);
        bias.inspect(|bias| expect_len("bias", bias, weights.n_out));
        residual.inspect(|residual| expect_len("residual", residual, weights.n_out));
        self.launch_gemv(weights, x, Extras { experts: None, bias, residual }, out, 1, 1)
    }

    /// out[v] = weights[experts[v]] · x[v / share] for each of `n_vectors`, each expert below the stack's height.
    pub fn expert_gemv(
        &self,
        weights: &Weights,
        experts: &Slice<u32>,
        x: &Slice<f32>,
        out: &Slice<f32>,
        n_vectors: usize,
        share: usize,
    ) -> Result<(), GpuError> {
        assert!(share > 0 && n_vectors.is_multiple_of(share), "{n_vectors} vectors, {share} to an x");
        assert!(weights.n_in.is_multiple_of(4), "several vectors of {} values are not all aligned", weights.n_in);
        expect_len("experts", experts, n_vectors);
        expect_len("x", x, n_vectors / share * weights.n_in);
        expect_len("out", out, n_vectors * weights.n_out);
        let extras = Extras { experts: Some(experts), ..Extras::default() };
        self.launch_gemv(weights, x, extras, out, n_vectors, share)
    }

    fn launch_gemv(
        &self,
        weights: &Weights,
        x: &Slice<f32>,
        extras: Extras,
        out: &Slice<f32>,
        n_vectors: usize,
        share: usize,
    ) -> Result<(), GpuError> {
        assert!(x.address().is_multiple_of(16), "x starts on a 16-byte boundary");
        let Extras { experts, bias, residual } = extras;
        let grid = [count(weights.n_out.div_ceil(ROWS_PER_BLOCK as usize)), count(n_vectors), 1];
        let (n_in, n_out, share) = (count(weights.n_in), count(weights.n_out), count(share));
        macro_rules! launch {
            ($kernel:ident, $element:ty) => {{
                let data = weights.data.cast::<$element>();
                let arguments = (&*data, experts, x, bias, residual, out, n_in, n_out, share);
                // SAFETY: the slices hold what the contract asks for; allocations are 256-byte aligned; the experts are
                // the callers' promise.
                unsafe { self.launch($kernel, grid, BLOCK, arguments) }
            }};
        }
        match weights.tensor_type {
            TensorType::F32 => launch!(gemv_f32, f32),
            TensorType::F16 => launch!(gemv_f16, f16),
            TensorType::BF16 => launch!(gemv_bf16, bf16),
            packed => {
                let arguments = (&*weights.data, experts, x, bias, residual, out, n_in, n_out, share);
                // SAFETY: as above; rows are whole blocks, as the file's reader checked.
                unsafe { self.launch(block_kernels(packed).gemv, grid, kernels::blocks::BLOCK, arguments) }
            }
        }
    }
}
