//! Attention over a cache that has one vector for all heads (DeepSeek-V2, 2024): keys are that vector, values its first part.
//!
//! out = softmax(q · Kᵀ · scale) · V, where the query at position p sees the vectors at positions 0 to p. Queries are as long as the
//! vectors: what makes keys of them was moved into the queries, and what makes values of them comes after.
//!
//! One block serves one query head of one token, a warp a vector at a time. A lane holds eight elements of each 256, so that it reads a
//! vector once and has its part of the key and of the value. The warps' online softmaxes are merged through shared memory.

use cuda_std::{BF16, F16, float, grid, kernel, shared_array, thread, unroll::unroll, warp};

use crate::cache::{CacheElement, GROUP, Pages, Place, load_eight, n_rows};

/// The block's number of threads.
pub const BLOCK: u32 = 128;

const N_WARPS: u32 = BLOCK / 32;

/// The longest vector.
pub const MAX_DIM: usize = 768;

/// Elements that a warp's lanes hold together at a time.
const CHUNK: usize = 32 * GROUP;

const N_CHUNKS: usize = MAX_DIM / CHUNK;

// What each warp found, for the merge at the end.
shared_array! {
    latent_attention_largest: [f32; N_WARPS as usize];
    latent_attention_sum: [f32; N_WARPS as usize];
    latent_attention_values: [f32; N_WARPS as usize * MAX_DIM];
}

/// A lane's part of a vector.
type Lane = [[f32; GROUP]; N_CHUNKS];

/// e^(value − largest), with e^(−∞) = 0 for a softmax that has seen no vector.
#[inline(always)]
fn weight(value: f32, largest: f32) -> f32 {
    if value == f32::NEG_INFINITY { 0.0 } else { float::exp(value - largest) }
}

/// `visit(chunk, element)` for each chunk of which the lane has a part below `end`.
#[inline(always)]
fn each_chunk(end: usize, mut visit: impl FnMut(usize, usize)) {
    let mut chunk = 0;
    while chunk < N_CHUNKS {
        let element = chunk * CHUNK + thread::lane() as usize * GROUP;
        if element < end {
            visit(chunk, element);
        }
        chunk += 1;
    }
}

/// The kernels' parameters.
#[derive(Clone, Copy)]
struct Operands<T> {
    q: *const f32,
    cache: *const T,
    positions: *const u32,
    tables: *const u32,
    slots: *const u32,
    out: *mut f32,
    probabilities: *mut f32,
    scale: f32,
    dim: u32,
    value_dim: u32,
    table_stride: u32,
    n_pages: u32,
    probabilities_stride: u32,
}

#[inline(always)]
unsafe fn latent_attention<T: CacheElement>(operands: Operands<T>) {
    grid::launch_dependents_and_wait();
    let Operands { cache, .. } = operands;
    let (dim, value_dim) = (operands.dim as usize, operands.value_dim as usize);
    let (head, token) = (thread::block_idx_x() as usize, thread::block_idx_y() as usize);
    let n_heads = thread::grid_dim_x() as usize;
    let n_keys = unsafe { *operands.positions.add(token) } + 1;
    let pages = unsafe { Pages::of(operands.tables, operands.slots, operands.table_stride, token as u32, 1) };
    let n_rows = n_rows(operands.n_pages, 1);
    let warp_index = thread::warp();

    let mut query: Lane = [[0.0; GROUP]; N_CHUNKS];
    let row = operands.q.wrapping_add((token * n_heads + head) * dim);
    each_chunk(dim, |chunk, element| query[chunk] = unsafe { load_eight(row.add(element)) });
    // Whole groups of lanes turn together, those beyond the end as well.
    // Unrolled, so that a lane's parts stay in registers.
    unroll(
        N_CHUNKS,
        #[inline(always)]
        |chunk| query[chunk] = T::turn(query[chunk]),
    );

    let load = |key: u32| {
        let mut vector: Lane = [[0.0; GROUP]; N_CHUNKS];
        let row = unsafe { pages.row(0, key) };
        each_chunk(dim, |chunk, element| {
            let place = Place { row: row as usize, element, n_rows, head_dim: dim };
            vector[chunk] = unsafe { T::load_eight(cache, place) };
        });
        vector
    };
    let score = |vector: &Lane| {
        let mut part = 0.0;
        let mut chunk = 0;
        while chunk < N_CHUNKS {
            let mut index = 0;
            while index < GROUP {
                part = float::fma(query[chunk][index], vector[chunk][index], part);
                index += 1;
            }
            chunk += 1;
        }
        warp::sum(part) * operands.scale
    };

    let (mut largest, mut sum) = (f32::NEG_INFINITY, 0.0);
    let mut values: Lane = [[0.0; GROUP]; N_CHUNKS];
    let mut key = warp_index;
    while key < n_keys {
        let vector = load(key);
        let score = score(&vector);
        let before = largest;
        largest = float::max(largest, score);
        let (keep, new) = (weight(before, largest), float::exp(score - largest));
        sum = float::fma(sum, keep, new);
        let mut chunk = 0;
        while chunk < N_CHUNKS {
            let mut index = 0;
            while index < GROUP {
                values[chunk][index] = float::fma(values[chunk][index], keep, new * vector[chunk][index]);
                index += 1;
            }
            chunk += 1;
        }
        key += N_WARPS;
    }

    unroll(
        N_CHUNKS,
        #[inline(always)]
        |chunk| values[chunk] = T::turn(values[chunk]),
    );
    let (warp_largest, warp_sum, warp_values) =
        (latent_attention_largest(), latent_attention_sum(), latent_attention_values());
    // SAFETY: each warp writes its own elements.
    unsafe {
        if thread::lane() == 0 {
            warp_largest.set(warp_index, largest);
            warp_sum.set(warp_index, sum);
        }
        each_chunk(value_dim, |chunk, element| {
            let mut index = 0;
            while index < GROUP {
                warp_values.set((warp_index as usize * MAX_DIM + element + index) as u32, values[chunk][index]);
                index += 1;
            }
        });
    }
    thread::sync_threads();

    let mut all_largest = f32::NEG_INFINITY;
    let mut other = 0;
    while other < N_WARPS {
        all_largest = float::max(all_largest, unsafe { warp_largest.get(other) });
        other += 1;
    }
    let mut all = 0.0;
    let mut weights = [0.0; N_WARPS as usize];
    other = 0;
    while other < N_WARPS {
        let keep = weight(unsafe { warp_largest.get(other) }, all_largest);
        weights[other as usize] = keep;
        all = float::fma(keep, unsafe { warp_sum.get(other) }, all);
        other += 1;
    }
    let inverse = float::reciprocal(all);
    let out = operands.out.wrapping_add((token * n_heads + head) * value_dim);
    let mut column = thread::thread_idx_x() as usize;
    while column < value_dim {
        let mut value = 0.0;
        other = 0;
        while other < N_WARPS {
            let part = unsafe { warp_values.get((other as usize * MAX_DIM + column) as u32) };
            value = float::fma(weights[other as usize], part, value);
            other += 1;
        }
        unsafe { *out.add(column) = value * inverse }
        column += BLOCK as usize;
    }

    let probabilities = operands.probabilities;
    if !probabilities.is_null() {
        let n_tokens = thread::grid_dim_y() as usize;
        let row = (head * n_tokens + token) * operands.probabilities_stride as usize;
        key = warp_index;
        while key < n_keys {
            let score = score(&load(key));
            if thread::lane() == 0 {
                unsafe { *probabilities.add(row + key as usize) = float::exp(score - all_largest) * inverse }
            }
            key += N_WARPS;
        }
    }
}

macro_rules! variants {
    ($($name:ident: $element:ty;)*) => {$(
        /// out[token][head] = softmax(q[token][head] · Kᵀ · scale) · V over positions 0 to positions[token], V being the first `value_dim`
        /// values of each vector of K. Where `probabilities` is not null it gets the softmax itself,
        /// `[n_heads][n_tokens][probabilities_stride]`, vectors seen only: the rest of a row is left as it is.
        ///
        /// Launch: grid (n_heads, n_tokens), block ([`BLOCK`]).
        ///
        /// # Safety
        /// - `q` is `[n_tokens][n_heads][dim]`, `out` is `[n_tokens][n_heads][value_dim]`, `positions` is `[n_tokens]`;
        ///   `cache` is a layer's cache of this type (`cache.rs`) of one head and `n_pages` pages, with the positions that are seen in those
        ///   that `tables` has for `slots[token]`; `q` and `cache` are 16-byte aligned.
        /// - `dim` and `value_dim` are multiples of 8, in Q8_0 of 32; `value_dim ≤ dim ≤` [`MAX_DIM`].
        /// - `probabilities` is null or holds `n_heads · n_tokens · probabilities_stride` values, the stride above every position.
        #[kernel]
        pub unsafe fn $name(
            q: *const f32,
            cache: *const $element,
            positions: *const u32,
            tables: *const u32,
            slots: *const u32,
            out: *mut f32,
            probabilities: *mut f32,
            scale: f32,
            dim: u32,
            value_dim: u32,
            table_stride: u32,
            n_pages: u32,
            probabilities_stride: u32,
        ) {
            unsafe {
                latent_attention(Operands {
                    q,
                    cache,
                    positions,
                    tables,
                    slots,
                    out,
                    probabilities,
                    scale,
                    dim,
                    value_dim,
                    table_stride,
                    n_pages,
                    probabilities_stride,
                })
            }
        }
    )*};
}

variants! {
    latent_attention_f32: f32;
    latent_attention_f16: F16;
    latent_attention_bf16: BF16;
    latent_attention_q8_0: i8;
}
