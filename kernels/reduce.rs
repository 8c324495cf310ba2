//! Reductions over a block, used by the kernels.

use cuda_std::{float, shared_array, thread, warp};

shared_array! {
    block_partials: [f32; 32];
}

/// The sum of `value` over the block, known to every thread, in an order that depends on the block's shape alone.
///
/// Collective: every thread of the block calls it. The block has whole warps, at most 32.
#[inline(always)]
pub fn block_sum(value: f32) -> f32 {
    let value = warp::sum(value);
    block_combine(value, 0.0, |a, b| a + b)
}

/// The largest `value` of the block, known to every thread. Collective, as [`block_sum`].
#[inline(always)]
pub fn block_max(value: f32) -> f32 {
    let value = warp::max(value);
    block_combine(value, f32::NEG_INFINITY, float::max)
}

/// Combines one value a warp over the block.
#[inline(always)]
fn block_combine(value: f32, neutral: f32, combine: impl Fn(f32, f32) -> f32) -> f32 {
    let partial = block_partials();
    let n_warps = thread::block_dim_x() / 32;
    if thread::lane() == 0 {
        // SAFETY: at most 32 warps, each writing its own element.
        unsafe { partial.set(thread::warp(), value) }
    }
    thread::sync_threads();
    let mut result = neutral;
    let mut index = 0;
    while index < n_warps {
        // SAFETY: written above by every warp, behind the barrier.
        result = combine(result, unsafe { partial.get(index) });
        index += 1;
    }
    // The array may be written again by the next reduction.
    thread::sync_threads();
    result
}
