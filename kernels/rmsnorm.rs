//! RMSNorm (Zhang and Sennrich, 2019): y = x / √(mean(x²) + ε) · weight.

use cuda_std::{float, kernel, thread};

use crate::reduce::block_sum;

/// The block's number of threads.
pub const BLOCK: u32 = 256;

/// out[row][i] = x[row][i] / √(mean(x[row]²) + epsilon) · weight[i]. `out` may be `x`.
///
/// One block a row; its threads stride over the row twice, the second time from the cache.
/// Launch: grid (rows), block ([`BLOCK`]).
///
/// # Safety
/// - `x` and `out` are `[rows][n]`, `weight` is `[n]`, `n ≥ 1`.
#[kernel]
pub unsafe fn rmsnorm(x: *const f32, weight: *const f32, out: *mut f32, n: u32, epsilon: f32) {
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
        unsafe { *out.add(row + index) = *x.add(row + index) * scale * *weight.add(index) }
        index += stride;
    }
}
