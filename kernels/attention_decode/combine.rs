//! The merge of the splits of a block's query heads.
//!
//! Each block leaves, for its split, the largest score and the sum of weights of each head, and the values weighted
//! relative to that. The last one to arrive merges them all, in an order that depends on nothing but their number.

use cuda_std::{float, memory::Vector16, shared::Shared, shared_array, thread, warp};

use super::{BLOCK, MAX_SPLITS, softmax::HEADS};

/// 16-byte loads a thread has in flight.
const IN_FLIGHT: usize = 16;

shared_array! {
    attention_decode_weights: [f32; HEADS * MAX_SPLITS as usize];
}

/// What the splits of a block's query heads leave in global memory.
#[derive(Clone, Copy)]
pub struct Parts {
    /// `[n_splits][HEADS][head_dim]`, 16-byte aligned.
    pub values: *mut f32,
    /// `[HEADS][n_splits]` largest scores, in units of ln 2.
    pub largest: *mut f32,
    /// `[HEADS][n_splits]` sums of 2^(score − largest).
    pub sums: *mut f32,
    /// How many splits there is room for.
    pub n_splits: u32,
}

/// Over how many threads each element's splits are spread.
pub const fn subsets(head_dim: usize) -> u32 {
    let subsets = BLOCK / head_dim as u32;
    if subsets > 0 { subsets } else { 1 }
}

/// Merges the first `n_used` splits of the first `n_heads` heads into `merged` in shared memory, `[subsets][HEADS]
/// [HEAD_DIM]`: the sum over the subsets is the output. Collective over the block, which meets a barrier after the last write.
///
/// # Safety
/// - The splits are written, and ordered before this.
/// - Nobody else accesses `merged`, which has room for that much.
#[inline(always)]
pub unsafe fn combine<const HEAD_DIM: usize>(parts: Parts, warp: u32, n_used: u32, n_heads: u32, merged: Shared<f32>) {
    let subsets = const { subsets(HEAD_DIM) };
    let weights = attention_decode_weights();
    // A thread takes four neighbouring elements of every `subsets`-th split. There are HEADS · HEAD_DIM / 4 such fours.
    let n_fours = const { (HEADS * HEAD_DIM / 4) as u32 };
    let (mut four, subset) = (thread::thread_idx_x() % n_fours, thread::thread_idx_x() / n_fours);
    let load = |four: u32, first: u32| {
        let mut loaded = [Vector16([0; 4]); IN_FLIGHT];
        unrolled!(index < IN_FLIGHT => {
            let split = first + index as u32 * subsets;
            let split = if split < n_used { split } else { n_used - 1 };
            let at = split as usize * (HEADS * HEAD_DIM) + 4 * four as usize;
            loaded[index] = unsafe { *parts.values.add(at).cast::<Vector16>() };
        });
        loaded
    };
    let works = |four: u32| subset < subsets && four < n_heads * const { HEAD_DIM as u32 / 4 };
    let mut loaded = [Vector16([0; 4]); IN_FLIGHT];
    if works(four) {
        loaded = load(four, subset);
    }

    // A warp takes a head's weights, two splits a lane.
    let lane = thread::lane();
    if warp < n_heads {
        let of_split = |split: u32| {
            if split < n_used {
                let at = (warp * parts.n_splits + split) as usize;
                unsafe { (*parts.largest.add(at), *parts.sums.add(at)) }
            } else {
                (f32::MIN, 0.0)
            }
        };
        let (low, high) = (of_split(lane), of_split(lane + 32));
        let largest = warp::max(float::max(low.0, high.0));
        let (keep_low, keep_high) =
            (float::exp2_approx_flushed(low.0 - largest), float::exp2_approx_flushed(high.0 - largest));
        let inverse = float::reciprocal(warp::sum(float::fma(keep_low, low.1, keep_high * high.1)));
        unsafe {
            weights.set(warp * MAX_SPLITS + lane, keep_low * inverse);
            weights.set(warp * MAX_SPLITS + lane + 32, keep_high * inverse);
        }
    }
    thread::sync_threads();

    while works(four) {
        let head = four / const { HEAD_DIM as u32 / 4 };
        let mut sums = [0.0; 4];
        let mut first = subset;
        loop {
            unrolled!(index < IN_FLIGHT => {
                let split = first + index as u32 * subsets;
                let weight = if split < n_used { unsafe { weights.get(head * MAX_SPLITS + split) } } else { 0.0 };
                let Vector16(values) = loaded[index];
                let mut element = 0;
                while element < 4 {
                    sums[element] = float::fma(weight, f32::from_bits(values[element]), sums[element]);
                    element += 1;
                }
            });
            first += IN_FLIGHT as u32 * subsets;
            if first >= n_used {
                break;
            }
            loaded = load(four, first);
        }
        unsafe { merged.set_four(subset * const { (HEADS * HEAD_DIM) as u32 } + 4 * four, sums) }
        four += BLOCK;
        if works(four) {
            loaded = load(four, subset);
        }
    }
    thread::sync_threads();
}
