//! Reductions over a block, used by the kernels.

use cuda_std::{shared_array, thread, warp};

shared_array! {
    block_partials: [f32; 32];
}

/// The sum of `value` over the block, known to every thread, in an order that depends on the block's shape alone.
///
/// Collective: every thread of the block calls it. The block has whole warps, at most 32.
#[inline(always)]
pub fn block_sum(value: f32) -> f32 {
    block_combine(value, 0.0, warp::sum)
}

/// The largest `value` of the block, known to every thread. Collective, as [`block_sum`].
#[inline(always)]
pub fn block_max(value: f32) -> f32 {
    block_combine(value, f32::NEG_INFINITY, warp::max)
}

/// Combines the values of each warp, and then one value a warp over the block: each warp once more, as their exchange takes less than a loop over the warps.
#[inline(always)]
fn block_combine(value: f32, neutral: f32, of_warp: impl Fn(f32) -> f32) -> f32 {
    let partial = block_partials();
    let (n_warps, lane) = (thread::block_dim_x() / 32, thread::lane());
    let value = of_warp(value);
    if lane == 0 {
        // SAFETY: at most 32 warps, each writing its own element.
        unsafe { partial.set(thread::warp(), value) }
    }
    thread::sync_threads();
    // SAFETY: written above by every warp, behind the barrier.
    let result = of_warp(if lane < n_warps { unsafe { partial.get(lane) } } else { neutral });
    // The array may be written again by the next reduction.
    thread::sync_threads();
    result
}
