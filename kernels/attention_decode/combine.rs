//! The end of a block: what its warps found, and where there are several splits, what all blocks of the same heads found.
//!
//! With several splits each block leaves, for its split, the largest score and the sum of weights of each head, and the values
//! weighted relative to that. The last one to arrive merges them all, in an order that depends on nothing but their number.

use cuda_std::{F16, atomic, float, memory::Vector16, shared::Shared, shared_array, thread, unroll::unroll, warp};

use crate::{gemm::steps, gemv::activations};

use super::{BLOCK, MAX_HEADS, MAX_SPLITS, N_WARPS, Operands, Split, words::CacheWords};

/// 16-byte loads a thread has in flight.
const IN_FLIGHT: usize = 16;

/// Elements between heads in shared memory beyond those of a head: they put heads into different banks.
const PADDING: u32 = 4;

shared_array! {
    // What each warp found, `[warp][head]`, and its values, `[warp][head][head_dim + PADDING]`, as large as needed.
    attention_decode_largest: [f32; N_WARPS as usize * MAX_HEADS];
    attention_decode_sums: [f32; N_WARPS as usize * MAX_HEADS];
    attention_decode_values_256: [f32; N_WARPS as usize * (256 + 8 * PADDING as usize)];
    attention_decode_values_512: [f32; N_WARPS as usize * (512 + 8 * PADDING as usize)];
    attention_decode_values_1024: [f32; N_WARPS as usize * (1024 + 8 * PADDING as usize)];
    // How many splits had arrived before this one.
    attention_decode_before: [u32; 1];
    attention_decode_weights: [f32; MAX_HEADS * MAX_SPLITS as usize];
}

/// Where a block's warps leave what they found.
#[derive(Clone, Copy)]
pub struct Found {
    n_heads: u32,
    head_dim: u32,
    /// `[warp][head][head_dim + PADDING]`.
    pub values: Shared<f32>,
}

impl Found {
    #[inline(always)]
    pub fn new<const HEAD_DIM: usize, const HEADS: usize>() -> Found {
        let values = match HEADS * HEAD_DIM {
            0..=256 => attention_decode_values_256(),
            257..=512 => attention_decode_values_512(),
            _ => attention_decode_values_1024(),
        };
        Found { n_heads: HEADS as u32, head_dim: HEAD_DIM as u32, values }
    }

    /// Where in `values` a warp's sums for a head begin.
    #[inline(always)]
    pub fn row(self, warp: u32, head: u32) -> u32 {
        (warp * self.n_heads + head) * (self.head_dim + PADDING)
    }

    /// The largest score that a warp found for a head, in units of ln 2, and the sum of 2^(score − largest), up to a factor
    /// that is the same everywhere.
    ///
    /// # Safety
    /// - Nobody else accesses that warp's and head's place.
    #[inline(always)]
    pub unsafe fn set_weights(self, warp: u32, head: u32, largest: f32, sum: f32) {
        unsafe {
            attention_decode_largest().set(warp * self.n_heads + head, largest);
            attention_decode_sums().set(warp * self.n_heads + head, sum);
        }
    }
}

/// Merges what the warps found, to the output or, with several splits in use, by way of global memory. Collective over the
/// block, whose warps have left what they found behind a barrier.
///
/// # Safety
/// - The kernels' launch contract.
#[inline(always)]
pub unsafe fn finish<T: CacheWords, const HEAD_DIM: usize, const HEADS: usize>(
    o: &Operands<T>,
    split: Split,
    warp: u32,
    found: Found,
) {
    let part = thread::block_idx_x();
    let (first_head, heads) = o.heads::<HEADS>();
    let (n_parts, n_splits) = (thread::grid_dim_x(), thread::grid_dim_y());
    let parts = unsafe {
        let (row, n_rows) =
            ((thread::block_idx_z() * n_parts + part) as usize, (thread::grid_dim_z() * n_parts) as usize);
        let n = n_splits as usize * HEADS; // a row's heads, one for each split
        let largest = o.parts.add(n_rows * n * HEAD_DIM + 2 * row * n);
        Parts { values: o.parts.add(row * n * HEAD_DIM), largest, sums: largest.add(n), n_splits }
    };
    let (own_split, n_used) = (thread::block_idx_y(), split.n_used());
    for_columns::<HEAD_DIM>(warp, heads, |head, columns| {
        // The warps' weights, relative to the block's largest score.
        let mut weights = [0.0; N_WARPS as usize];
        let mut largest = f32::MIN;
        let mut other = 0;
        while other < N_WARPS as usize {
            weights[other] = unsafe { attention_decode_largest().get(other as u32 * HEADS as u32 + head) };
            largest = float::max(largest, weights[other]);
            other += 1;
        }
        let mut sum = 0.0;
        other = 0;
        while other < N_WARPS as usize {
            weights[other] = float::exp2_approx_flushed(weights[other] - largest);
            sum = float::fma(
                weights[other],
                unsafe { attention_decode_sums().get(other as u32 * HEADS as u32 + head) },
                sum,
            );
            other += 1;
        }
        let inverse = float::reciprocal(sum);
        let merged = |column: u32| {
            let mut value = 0.0;
            let mut other = 0;
            while other < N_WARPS as usize {
                let row = found.row(other as u32, head);
                value = float::fma(weights[other], unsafe { found.values.get(row + column) }, value);
                other += 1;
            }
            value
        };
        let kept = unsafe { parts.values.add((own_split as usize * HEADS + head as usize) * HEAD_DIM) };
        unroll(
            2,
            #[inline(always)]
            |index| {
                let column = columns[index];
                let value = if column < HEAD_DIM as u32 { merged(column) } else { 0.0 };
                if n_used == 1 {
                    unsafe { write::<T, HEAD_DIM>(o, first_head + head, column, value * inverse) }
                } else if column < HEAD_DIM as u32 {
                    unsafe { *kept.add(column as usize) = value }
                }
            },
        );
        if n_used > 1 && columns[0] == 0 {
            let at = (head * n_splits + own_split) as usize;
            unsafe {
                *parts.largest.add(at) = largest;
                *parts.sums.add(at) = sum;
            }
        }
    });
    if n_used == 1 {
        return;
    }

    let before = attention_decode_before();
    thread::sync_threads();
    if thread::thread_idx_x() == 0 {
        let counter = unsafe { o.arrivals.add((thread::block_idx_z() * n_parts + part) as usize) };
        unsafe { before.set(0, atomic::increment_wrapping(counter, n_used - 1)) }
    }
    thread::sync_threads();
    if unsafe { before.get(0) } != n_used - 1 {
        return;
    }
    unsafe { combine::<HEAD_DIM, HEADS>(parts, warp, n_used, heads, found.values) }
    for_columns::<HEAD_DIM>(warp, heads, |head, columns| {
        unroll(
            2,
            #[inline(always)]
            |index| {
                let column = columns[index];
                let (mut value, mut subset) = (0.0, 0);
                while column < HEAD_DIM as u32 && subset < const { subsets(HEAD_DIM * HEADS) } {
                    let row = (subset * HEADS as u32 + head) * HEAD_DIM as u32;
                    value += unsafe { found.values.get(row + column) };
                    subset += 1;
                }
                unsafe { write::<T, HEAD_DIM>(o, first_head + head, column, value) }
            },
        );
    });
}

/// Writes an element of a head's output, which may lie beyond the head, to where outputs go. Collective over the warp, whose lanes
/// have 32 neighbouring elements.
///
/// # Safety
/// - The kernels' launch contract.
#[inline(always)]
unsafe fn write<T: CacheWords, const HEAD_DIM: usize>(o: &Operands<T>, head: u32, column: u32, value: f32) {
    let value = T::turn_back(value);
    let index = head * HEAD_DIM as u32 + column;
    let there = column < HEAD_DIM as u32;
    let (row, n) = (o.row_and_head().0, o.n_kv_heads * o.group * HEAD_DIM as u32);
    if o.quantised_out.is_null() {
        let at = (row * n + index) as usize;
        match (there, o.out_f16.is_null()) {
            (true, true) => unsafe { *o.out.add(at) = value },
            (true, false) => {
                let at = if o.in_steps == 0 { at } else { steps::index(row, index, o.n_rows()) as usize };
                unsafe { *o.out_f16.add(at) = F16::from_f32(value * o.out_scale) }
            }
            (false, _) => {}
        }
    } else {
        // A head is whole runs: those of lanes beyond it are only theirs.
        let quantised = activations::quantise_lanes(value);
        if there {
            let out = unsafe { o.quantised_out.add((row * activations::words_q8(n)) as usize) };
            unsafe { activations::write_lanes(out, n, index, quantised) }
        }
    }
}

/// Gives the block's warps 64 columns of a head at a time, of which each lane takes two; they may lie beyond the head.
#[inline(always)]
fn for_columns<const HEAD_DIM: usize>(warp: u32, heads: u32, mut each: impl FnMut(u32, [u32; 2])) {
    let pieces = const { (HEAD_DIM as u32).div_ceil(64) };
    let mut piece = warp;
    while piece < heads * pieces {
        let column = piece % pieces * 64 + thread::lane();
        each(piece / pieces, [column, column + 32]);
        piece += N_WARPS;
    }
}

/// What the splits of a block's query heads leave in global memory.
#[derive(Clone, Copy)]
struct Parts {
    /// `[n_splits][HEADS][head_dim]`, 16-byte aligned.
    values: *mut f32,
    /// `[HEADS][n_splits]` largest scores, in units of ln 2.
    largest: *mut f32,
    /// `[HEADS][n_splits]` sums of 2^(score − largest).
    sums: *mut f32,
    /// How many splits there is room for.
    n_splits: u32,
}

/// Over how many threads the splits of each of a block's elements are spread.
const fn subsets(n_elements: usize) -> u32 {
    let subsets = 4 * BLOCK / n_elements as u32;
    if subsets > 0 { subsets } else { 1 }
}

/// Merges the first `n_used` splits of the first `n_heads` heads into `merged` in shared memory, `[subsets][HEADS]
/// [HEAD_DIM]`: the sum over the subsets is the output. Collective over the block, which meets a barrier after the last write.
///
/// # Safety
/// - The splits are written, and ordered before this.
/// - Nobody else accesses `merged`, which has room for that much.
#[inline(always)]
unsafe fn combine<const HEAD_DIM: usize, const HEADS: usize>(
    parts: Parts,
    warp: u32,
    n_used: u32,
    n_heads: u32,
    merged: Shared<f32>,
) {
    let subsets = const { subsets(HEAD_DIM * HEADS) };
    let weights = attention_decode_weights();
    // A thread takes four neighbouring elements of every `subsets`-th split. There are HEADS · HEAD_DIM / 4 such fours.
    let n_fours = const { (HEADS * HEAD_DIM / 4) as u32 };
    let (mut four, subset) = (thread::thread_idx_x() % n_fours, thread::thread_idx_x() / n_fours);
    let load = |four: u32, first: u32| {
        let mut loaded = [Vector16([0; 4]); IN_FLIGHT];
        unroll(
            IN_FLIGHT,
            #[inline(always)]
            |index| {
                let split = (first + index as u32 * subsets).min(n_used - 1);
                let at = split as usize * (HEADS * HEAD_DIM) + 4 * four as usize;
                loaded[index] = unsafe { *parts.values.add(at).cast::<Vector16>() };
            },
        );
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
            unroll(
                IN_FLIGHT,
                #[inline(always)]
                |index| {
                    let split = first + index as u32 * subsets;
                    let weight = if split < n_used { unsafe { weights.get(head * MAX_SPLITS + split) } } else { 0.0 };
                    let Vector16(values) = loaded[index];
                    let mut element = 0;
                    while element < 4 {
                        sums[element] = float::fma(weight, f32::from_bits(values[element]), sums[element]);
                        element += 1;
                    }
                },
            );
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
