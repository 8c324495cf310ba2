//! What surrounds a cuBLAS matmul in prefill: its input in the weights' type, and what is added to its output.
//!
//! cuBLAS multiplies matrices of one 16-bit type. An activation beyond 65504 would be an infinity in f16, and some models
//! have such activations. So each token's row is first multiplied by the power of two that brings its largest magnitude
//! into [2^14, 2^15): exact, and it also keeps small rows away from f16's subnormals. The epilogue takes the factor out.

use cuda_std::{BF16, F16, float, grid, kernel, thread, unroll::unroll};

use crate::{gemm::steps, reduce::block_max};

/// The block's number of threads.
pub const BLOCK: u32 = 256;

/// Values that a thread loads before it looks at one: each trip to the memory takes as long as all of the arithmetic.
const AT_ONCE: usize = 8;

/// The power of two that brings `largest` (finite, not negative) into [2^14, 2^15), and its inverse; 1 for zero.
#[inline(always)]
fn row_scale(largest: f32) -> (f32, f32) {
    if largest == 0.0 {
        return (1.0, 1.0);
    }
    // The biased exponent of a subnormal reads 0; treating it as 2^-126 is within a row's own precision.
    let exponent = ((largest.to_bits() >> 23) & 0xff).max(1);
    // 2^14 / 2^(exponent - 127), clamped so that both factors are normal numbers.
    let scale = (127 + 14 + 127 - exponent).clamp(1, 253);
    (f32::from_bits(scale << 23), f32::from_bits((254 - scale) << 23))
}

/// out[token][i] = x[token][i] · 2^k(token) rounded to f16, and inverse_scales[token] = 2^-k(token). `out` is in [steps](crate::gemm::steps) where `in_steps` is
/// not 0.
///
/// Launch: grid (n_tokens), block ([`BLOCK`]).
///
/// # Safety
/// - `x` and `out` are `[n_tokens][n]`, `inverse_scales` is `[n_tokens]`; `n` is a multiple of 128 with `in_steps`.
#[kernel]
pub unsafe fn matmul_input_f16(x: *const f32, out: *mut F16, inverse_scales: *mut f32, n: u32, in_steps: u32) {
    grid::launch_dependents_and_wait();
    let (token, n_tokens) = (thread::block_idx_x() as usize, thread::grid_dim_x());
    let (row, first) = (token * n as usize, thread::thread_idx_x() as usize);
    let stride = thread::block_dim_x() as usize;
    let load = |index: usize| {
        let mut loaded = [0.0; AT_ONCE];
        unroll(
            AT_ONCE,
            #[inline(always)]
            |of| {
                if index + of * stride < n as usize {
                    loaded[of] = unsafe { *x.add(row + index + of * stride) };
                }
            },
        );
        loaded
    };
    let mut largest = 0.0;
    let mut index = first;
    while index < n as usize {
        largest = load(index).into_iter().fold(largest, |largest, value| float::max(largest, float::abs(value)));
        index += AT_ONCE * stride;
    }
    let (scale, inverse) = row_scale(block_max(largest));
    index = first;
    while index < n as usize {
        let values = load(index);
        unroll(
            AT_ONCE,
            #[inline(always)]
            |of| {
                let index = index + of * stride;
                if index < n as usize {
                    let at = if in_steps == 0 {
                        row + index
                    } else {
                        steps::index(token as u32, index as u32, n_tokens) as usize
                    };
                    unsafe { *out.add(at) = F16::from_f32(values[of] * scale) }
                }
            },
        );
        index += AT_ONCE * stride;
    }
    if first == 0 {
        unsafe { *inverse_scales.add(token) = inverse }
    }
}

/// high[i] = x[i] rounded to bf16 and low[i] = the rest rounded to bf16.
///
/// bf16 has f32's range but 8 bits: activations rounded to it move the logits by a percent. The sum of two has 16 bits.
///
/// One thread an element. Launch: grid (⌈n ÷ BLOCK⌉), block ([`BLOCK`]).
///
/// # Safety
/// - `x`, `high` and `low` hold `n` values.
#[kernel]
pub unsafe fn matmul_input_bf16(x: *const f32, high: *mut BF16, low: *mut BF16, n: u32) {
    let index = thread::index_1d();
    if index < n {
        let index = index as usize;
        unsafe {
            let value = *x.add(index);
            let rounded = BF16::from_f32(value);
            *high.add(index) = rounded;
            *low.add(index) = BF16::from_f32(value - rounded.to_f32());
        }
    }
}

/// out[token][o] = product[token][o] · inverse_scales[token] + bias[o] + residual[token][o], each of the three only
/// where its pointer is not null. `product` or `residual` may be `out`.
///
/// One thread an element. Launch: grid (⌈n_out ÷ BLOCK⌉, n_tokens), block ([`BLOCK`]).
///
/// # Safety
/// - `product`, `out` and `residual` (or null) are `[n_tokens][n_out]`, `inverse_scales` (or null) is `[n_tokens]`, `bias`
///   (or null) is `[n_out]`.
#[kernel]
pub unsafe fn matmul_epilogue(
    product: *const f32,
    inverse_scales: *const f32,
    bias: *const f32,
    residual: *const f32,
    out: *mut f32,
    n_out: u32,
) {
    let column = thread::index_1d() as usize;
    if column >= n_out as usize {
        return;
    }
    let token = thread::block_idx_y() as usize;
    let index = token * n_out as usize + column;
    unsafe {
        let mut value = *product.add(index);
        if !inverse_scales.is_null() {
            value *= *inverse_scales.add(token);
        }
        if !bias.is_null() {
            value += *bias.add(column);
        }
        if !residual.is_null() {
            value += *residual.add(index);
        }
        *out.add(index) = value;
    }
}
