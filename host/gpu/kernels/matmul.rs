//! Launches the kernels in `kernels/matmul.rs`.

use half::{bf16, f16};
use kernels::matmul::{BLOCK, matmul_epilogue, matmul_input_bf16, matmul_input_f16};

use super::{Order, count, expect_len};
use crate::gpu::{Gpu, GpuError, Slice};

impl Gpu {
    /// out[token] = x[token] · 2^k in f16 and inverse_scales[token] = 2^−k, for rows of `n`.
    pub fn matmul_input_f16(
        &self,
        x: &Slice<f32>,
        out: &Slice<f16>,
        inverse_scales: &Slice<f32>,
        n_tokens: usize,
        n: usize,
        order: Order,
    ) -> Result<(), GpuError> {
        order.expect(n);
        expect_len("x", x, n_tokens * n);
        expect_len("out", out, n_tokens * n);
        expect_len("inverse_scales", inverse_scales, n_tokens);
        let arguments = (x, out, inverse_scales, count(n), u32::from(order == Order::Steps));
        // SAFETY: the slices hold what the contract asks for; the kernel waits before it reads.
        unsafe { self.launch_early(matmul_input_f16, [count(n_tokens), 1, 1], BLOCK, arguments) }
    }

    /// high[i] + low[i] = x[i] to 16 bits, both bf16.
    pub fn matmul_input_bf16(
        &self,
        x: &Slice<f32>,
        high: &Slice<bf16>,
        low: &Slice<bf16>,
        n: usize,
    ) -> Result<(), GpuError> {
        expect_len("x", x, n);
        expect_len("high", high, n);
        expect_len("low", low, n);
        let grid = [count(n.div_ceil(BLOCK as usize)), 1, 1];
        // SAFETY: the slices hold what the contract asks for.
        unsafe { self.launch(matmul_input_bf16, grid, BLOCK, (x, high, low, count(n))) }
    }

    /// out[token][o] = product[token][o] · inverse_scales[token] + bias[o] + residual[token][o], what is absent left out;
    /// `product` or `residual` may be `out`.
    #[allow(clippy::too_many_arguments)]
    pub fn matmul_epilogue(
        &self,
        product: &Slice<f32>,
        inverse_scales: Option<&Slice<f32>>,
        bias: Option<&Slice<f32>>,
        residual: Option<&Slice<f32>>,
        out: &Slice<f32>,
        n_tokens: usize,
        n_out: usize,
    ) -> Result<(), GpuError> {
        expect_len("product", product, n_tokens * n_out);
        expect_len("out", out, n_tokens * n_out);
        inverse_scales.inspect(|scales| expect_len("inverse_scales", scales, n_tokens));
        bias.inspect(|bias| expect_len("bias", bias, n_out));
        residual.inspect(|residual| expect_len("residual", residual, n_tokens * n_out));
        let grid = [count(n_out.div_ceil(BLOCK as usize)), count(n_tokens), 1];
        // SAFETY: the slices hold what the contract asks for.
        unsafe {
            let arguments = (product, inverse_scales, bias, residual, out, count(n_out));
            self.launch(matmul_epilogue, grid, BLOCK, arguments)
        }
    }
}
