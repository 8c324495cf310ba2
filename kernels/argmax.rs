//! Argmax: the greedy choice of the next token.
//!
//! Several blocks share a row, for a vocabulary is long and one block would read it for longer than a layer takes. Each thread
//! keeps the best of a strided share; the block agrees on the largest value and, among the places that hold it, on the
//! lowest, so that a tie goes to the lower token id as in a serial scan; and leaves that in global memory. The block that
//! arrives last, by a counter, does the same with what the blocks left.
//!
//! A NaN is larger than everything here, so the largest value of a row itself tells whether there was one, at the price of
//! nothing: the GPU's maximum is one instruction with either rule. Such a row, whose forward pass went wrong, has no choice.

use cuda_std::{atomic, float, grid, kernel, memory::Vector16, shared_array, thread, warp};

/// The block's number of threads.
pub const BLOCK: u32 = 256;

/// The most blocks that share a row: each thread of the last to arrive takes one's candidate at most.
pub const MAX_BLOCKS: u32 = BLOCK;

/// Values that are worth a block.
pub const VALUES_PER_BLOCK: u32 = 4 * BLOCK;

/// The choice by a row that allows none: it holds a NaN, or nothing above −∞.
pub const NO_CHOICE: u32 = u32::MAX;

const WARPS: u32 = BLOCK / 32;

shared_array! {
    argmax_values: [f32; WARPS as usize];
    argmax_indices: [u32; WARPS as usize];
    argmax_arrived: [u32; 1];
}

/// What no value has been compared with.
const NONE: (f32, u32) = (f32::NEG_INFINITY, u32::MAX);

/// out[row] = the lowest index of the largest value among the first `n` of logits[row][..].
/// [`NO_CHOICE`] where these hold a NaN, or nothing above −∞.
///
/// Launch: grid (1 to [`MAX_BLOCKS`], rows), block ([`BLOCK`]).
///
/// # Safety
/// - `logits` holds `rows × stride` values, 16-byte aligned, `n ≤ stride`, `n ≥ 1`; `out` holds `rows`.
/// - `parts` holds two words for each block, `arrivals` one for each row, all zero, which they are again afterwards. No launch
///   that uses the same runs at the same time.
#[kernel]
pub unsafe fn argmax(logits: *const f32, out: *mut u32, parts: *mut u32, arrivals: *mut u32, n: u32, stride: u32) {
    grid::launch_dependents();
    grid::wait();
    let (row, block, n_blocks) = (thread::block_idx_y(), thread::block_idx_x(), thread::grid_dim_x());
    let logits = unsafe { logits.add(row as usize * stride as usize) };
    let first = block * BLOCK + thread::thread_idx_x();
    let mut best = NONE;
    // Four values at a time where all rows are aligned for it, and what is left one by one.
    let n_vectors = if stride.is_multiple_of(4) { n / 4 } else { 0 };
    let mut vector = first;
    while vector < n_vectors {
        let Vector16(four) = unsafe { *logits.add(4 * vector as usize).cast::<Vector16>() };
        let mut index = 0;
        while index < 4 {
            best = better(best, (f32::from_bits(four[index as usize]), 4 * vector + index));
            index += 1;
        }
        vector += n_blocks * BLOCK;
    }
    let mut index = 4 * n_vectors + first;
    while index < n {
        best = better(best, (unsafe { *logits.add(index as usize) }, index));
        index += n_blocks * BLOCK;
    }
    best = unsafe { block_best(best) };
    if n_blocks > 1 {
        let parts = unsafe { parts.add(2 * (row * n_blocks) as usize) };
        if thread::thread_idx_x() == 0 {
            let arrived = unsafe {
                let part = parts.add(2 * block as usize);
                *part = best.0.to_bits();
                *part.add(1) = best.1;
                atomic::increment_wrapping(arrivals.add(row as usize), n_blocks - 1)
            };
            unsafe { argmax_arrived().set(0, arrived) }
        }
        thread::sync_threads();
        if unsafe { argmax_arrived().get(0) } != n_blocks - 1 {
            return;
        }
        best = NONE;
        if thread::thread_idx_x() < n_blocks {
            let part = unsafe { parts.add(2 * thread::thread_idx_x() as usize) };
            best = unsafe { (f32::from_bits(*part), *part.add(1)) };
        }
        best = unsafe { block_best(best) };
    }
    if thread::thread_idx_x() == 0 {
        unsafe {
            // False for NaN too.
            *out.add(row as usize) = if best.0 > f32::NEG_INFINITY { best.1 } else { NO_CHOICE };
        }
    }
}

/// The candidate with the larger value; of equals, the one with the lower index. NaN, with either index, where one is NaN.
#[inline(always)]
fn better(a: (f32, u32), b: (f32, u32)) -> (f32, u32) {
    let index = if b.0 > a.0 || (b.0 == a.0 && b.1 < a.1) { b.1 } else { a.1 };
    (float::max_or_nan(a.0, b.0), index)
}

/// The best candidate of the block, known to every thread. Collective over the block.
#[inline(always)]
unsafe fn block_best(candidate: (f32, u32)) -> (f32, u32) {
    let (values, indices) = (argmax_values(), argmax_indices());
    let best = warp_best(candidate, 32);
    // Where this is called again, all have read what they need of the last time.
    thread::sync_threads();
    if thread::lane() == 0 {
        unsafe {
            values.set(thread::warp(), best.0);
            indices.set(thread::warp(), best.1);
        }
    }
    thread::sync_threads();
    let warp = thread::lane() % WARPS;
    warp_best(unsafe { (values.get(warp), indices.get(warp)) }, WARPS)
}

/// The best of each `lanes` neighbouring lanes.
#[inline(always)]
fn warp_best(candidate: (f32, u32), lanes: u32) -> (f32, u32) {
    let mut best = candidate;
    let mut distance = lanes / 2;
    while distance > 0 {
        let other = (warp::shuffle_xor(best.0, distance), warp::shuffle_xor_bits(best.1, distance));
        best = better(best, other);
        distance /= 2;
    }
    best
}
