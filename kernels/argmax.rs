//! Argmax: the greedy choice of the next token.
//!
//! One block a row. Each thread keeps the best of a strided share; the block then agrees on the largest value and, among
//! the places that hold it, on the lowest, so that a tie goes to the lower token id as in a serial scan.

use cuda_std::{kernel, shared_array, thread, warp};

/// The block's number of threads.
pub const BLOCK: u32 = 1024;

shared_array! {
    argmax_values: [f32; 32];
    argmax_indices: [u32; 32];
}

/// out[row] = the lowest index of the largest value among the first `n` of logits[row][..].
/// NaN is never larger; a row of nothing but NaN gives 0.
///
/// Launch: grid (rows), block ([`BLOCK`]).
///
/// # Safety
/// - `logits` holds `rows × stride` values, `n ≤ stride`, `n ≥ 1`; `out` holds `rows`.
#[kernel]
pub unsafe fn argmax(logits: *const f32, out: *mut u32, n: u32, stride: u32) {
    let (values, indices) = (argmax_values(), argmax_indices());
    let row = thread::block_idx_x();
    let logits = unsafe { logits.add(row as usize * stride as usize) };
    let mut best = (f32::NEG_INFINITY, u32::MAX);
    let mut index = thread::thread_idx_x();
    while index < n {
        best = better(best, (unsafe { *logits.add(index as usize) }, index));
        index += thread::block_dim_x();
    }
    best = warp_best(best);
    if thread::lane() == 0 {
        unsafe {
            values.set(thread::warp(), best.0);
            indices.set(thread::warp(), best.1);
        }
    }
    thread::sync_threads();
    if thread::warp() == 0 {
        // SAFETY: BLOCK threads are 32 warps, so all 32 elements were written, behind the barrier.
        let best = warp_best(unsafe { (values.get(thread::lane()), indices.get(thread::lane())) });
        if thread::lane() == 0 {
            unsafe { *out.add(row as usize) = if best.1 == u32::MAX { 0 } else { best.1 } }
        }
    }
}

/// The candidate with the larger value; of equals, the one with the lower index.
#[inline(always)]
fn better(a: (f32, u32), b: (f32, u32)) -> (f32, u32) {
    if b.0 > a.0 || (b.0 == a.0 && b.1 < a.1) { b } else { a }
}

#[inline(always)]
fn warp_best(candidate: (f32, u32)) -> (f32, u32) {
    let mut best = candidate;
    let mut distance = 16;
    while distance > 0 {
        let other = (warp::shuffle_xor(best.0, distance), warp::shuffle_xor_bits(best.1, distance));
        best = better(best, other);
        distance /= 2;
    }
    best
}
