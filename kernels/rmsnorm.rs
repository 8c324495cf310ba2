//! RMSNorm (Zhang and Sennrich, 2019): y = x / √(mean(x²) + ε) · weight, in some places without weights.

use cuda_std::{F16, float, grid, kernel, memory::Vector16, mma::Operand, thread};

use crate::reduce::block_sum;

/// The block's number of threads.
pub const BLOCK: u32 = 256;

/// out[row][i] = x[row][i] / √(mean(x[row]²) + epsilon) · weight[i]; without the weight where it is null. `out` may be `x`.
///
/// One block a row; its threads stride over the row twice, the second time from the cache.
/// Launch: grid (rows), block ([`BLOCK`]).
///
/// # Safety
/// - `x` and `out` are `[rows][n]`, `weight` is null or `[n]`, `n ≥ 1`.
#[kernel]
pub unsafe fn rmsnorm(x: *const f32, weight: *const f32, out: *mut f32, n: u32, epsilon: f32) {
    grid::launch_dependents_and_wait();
    let row = thread::block_idx_x() as usize * n as usize;
    let first = thread::thread_idx_x() as usize;
    let stride = thread::block_dim_x() as usize;
    let mut squares = 0.0;
    let mut index = first;
    while index < n as usize {
        let value = unsafe { *x.add(row + index) };
        squares = float::fma(value, value, squares);
        index += stride;
    }
    let mean = block_sum(squares) / n as f32;
    let scale = float::reciprocal(float::sqrt(mean + epsilon));
    index = first;
    while index < n as usize {
        let weight = if weight.is_null() { 1.0 } else { unsafe { *weight.add(index) } };
        unsafe { *out.add(row + index) = *x.add(row + index) * scale * weight }
        index += stride;
    }
}

/// out[row][i] = x[row][i] / √(mean(x[row]²) + epsilon) · weight[i] · out_scale, rounded to f16: the input of a matrix product.
///
/// One block a row, four elements a thread at a time. Launch: grid (rows), block ([`BLOCK`]).
///
/// # Safety
/// - `x` and `out` are `[rows][n]`, `weight` is `[n]`, all 16-byte aligned; `n` is a multiple of 4, and not 0.
#[kernel]
pub unsafe fn rmsnorm_f16(x: *const f32, weight: *const f32, out: *mut F16, n: u32, epsilon: f32, out_scale: f32) {
    grid::launch_dependents();
    grid::wait();
    let row = thread::block_idx_x() as usize * n as usize;
    let (x, out) = (x.wrapping_add(row), out.wrapping_add(row));
    let four = |values: *const f32, first: u32| {
        let Vector16(bits) = unsafe { *values.add(first as usize).cast::<Vector16>() };
        bits.map(f32::from_bits)
    };
    let mut squares = 0.0;
    let mut first = 4 * thread::thread_idx_x();
    while first < n {
        let [a, b, c, d] = four(x, first);
        squares = float::fma(a, a, float::fma(b, b, float::fma(c, c, float::fma(d, d, squares))));
        first += 4 * thread::block_dim_x();
    }
    let mean = block_sum(squares) / n as f32;
    let scale = float::reciprocal(float::sqrt(mean + epsilon)) * out_scale;
    first = 4 * thread::thread_idx_x();
    while first < n {
        let ([a, b, c, d], [e, f, g, h]) = (four(x, first), four(weight, first));
        let (low, high) = (F16::pack(a * scale * e, b * scale * f), F16::pack(c * scale * g, d * scale * h));
        unsafe { *out.add(first as usize).cast::<u64>() = u64::from(high) << 32 | u64::from(low) }
        first += 4 * thread::block_dim_x();
    }
}
