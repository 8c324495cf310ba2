//! LayerNorm (Ba, Kiros and Hinton, 2016): y = (x − mean(x)) / √(variance(x) + ε) · weight + bias.

use cuda_std::{float, grid, kernel, thread};

use crate::reduce::block_sum;

/// The block's number of threads.
pub const BLOCK: u32 = 256;

/// out[row][i] = (x[row][i] − mean) / √(variance + epsilon) · weight[i] + bias[i], with the row's mean and variance (over `n`,
/// not n − 1); nothing is added where `bias` is null. `out` may be `x`.
///
/// One block a row; its threads stride over the row three times, all but the first from the cache: the variance is of what
/// is left when the mean is off, so that a large mean costs it no digits.
/// Launch: grid (rows), block ([`BLOCK`]).
///
/// # Safety
/// - `x` and `out` are `[rows][n]`, `weight` is `[n]`, `bias` is null or `[n]`; `n ≥ 1`.
#[kernel]
pub unsafe fn layer_norm(x: *const f32, weight: *const f32, bias: *const f32, out: *mut f32, n: u32, epsilon: f32) {
    grid::launch_dependents_and_wait();
    let row = thread::block_idx_x() as usize * n as usize;
    let (x, out, n) = (x.wrapping_add(row), out.wrapping_add(row), n as usize);
    let each = |visit: &mut dyn FnMut(usize)| {
        let mut index = thread::thread_idx_x() as usize;
        while index < n {
            visit(index);
            index += thread::block_dim_x() as usize;
        }
    };
    let mut sum = 0.0;
    each(&mut |index| sum += unsafe { *x.add(index) });
    let mean = block_sum(sum) / n as f32;
    let mut squares = 0.0;
    each(&mut |index| {
        let deviation = unsafe { *x.add(index) } - mean;
        squares = float::fma(deviation, deviation, squares);
    });
    let variance = block_sum(squares) / n as f32;
    let scale = float::reciprocal(float::sqrt(variance + epsilon));
    each(&mut |index| unsafe {
        let bias = if bias.is_null() { 0.0 } else { *bias.add(index) };
        *out.add(index) = float::fma((*x.add(index) - mean) * scale, *weight.add(index), bias);
    });
}
