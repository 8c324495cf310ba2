//! Causal attention with grouped queries over the KV cache, for prefill and for decoding alike.
//!
//! out = softmax(q · Kᵀ · scale) · V, where the query at position p sees the keys at positions 0 to p, or with a sliding
//! window of w only the last w of them, its own included.
//!
//! One block serves one query head of one token. Its work is laid out by 16-byte loads: a *group* of lanes holds one key,
//! eight elements a lane, so a group is `head_dim / 8` lanes rounded up to a power of two (lanes beyond the head idle) and
//! a warp looks at `32 / group` keys at once. Each group runs the online softmax (Milakov and Gimelshein, 2018): with the
//! largest score so far m, the sum of e^(score − m) and the values weighted by it, all rescaled when m grows. No score is
//! ever stored. At the end the groups of a warp are merged by shuffles and the warps through shared memory.
//!
//! Scores and sums are `f32` whatever the cache's type.

use cuda_std::{BF16, F16, float, kernel, shared_array, thread, warp};

use crate::cache::{CacheElement, GROUP as PER_LANE, Place, load_eight};

/// The block's number of threads.
pub const BLOCK: u32 = 128;

const N_WARPS: u32 = BLOCK / 32;

/// The largest head that the shared arrays have room for.
const MAX_HEAD_DIM: usize = 256;

// What each warp found, for the merge at the end.
shared_array! {
    attention_largest: [f32; N_WARPS as usize];
    attention_sum: [f32; N_WARPS as usize];
    attention_values: [f32; N_WARPS as usize * MAX_HEAD_DIM];
}

/// A softmax in progress: e^(score − largest) summed and weighting the values, over the keys seen.
#[derive(Clone, Copy)]
struct Partial {
    largest: f32,
    sum: f32,
    values: [f32; PER_LANE],
}

/// e^(value − largest), with e^(−∞) = 0 for a partial softmax that has seen no key.
#[inline(always)]
fn weight(value: f32, largest: f32) -> f32 {
    if value == f32::NEG_INFINITY { 0.0 } else { float::exp(value - largest) }
}

impl Partial {
    const EMPTY: Partial = Partial { largest: f32::NEG_INFINITY, sum: 0.0, values: [0.0; PER_LANE] };

    #[inline(always)]
    fn add(&mut self, score: f32, value: [f32; PER_LANE]) {
        let largest = float::max(self.largest, score);
        let keep = weight(self.largest, largest);
        let new = float::exp(score - largest);
        self.largest = largest;
        self.sum = float::fma(self.sum, keep, new);
        let mut index = 0;
        while index < PER_LANE {
            self.values[index] = float::fma(self.values[index], keep, new * value[index]);
            index += 1;
        }
    }

    /// Merges with the partial softmax of the lane at `distance`. Collective over the warp.
    #[inline(always)]
    fn merge(&mut self, distance: u32) {
        let other = warp::shuffle_xor(self.largest, distance);
        let largest = float::max(self.largest, other);
        let keep = weight(self.largest, largest);
        // Both sides compute keep-weighted terms and add the other's: a + b = b + a, so both get the same bits.
        self.largest = largest;
        self.sum *= keep;
        self.sum += warp::shuffle_xor(self.sum, distance);
        let mut index = 0;
        while index < PER_LANE {
            self.values[index] *= keep;
            self.values[index] += warp::shuffle_xor(self.values[index], distance);
            index += 1;
        }
    }
}

#[inline(always)]
fn dot(a: &[f32; PER_LANE], b: &[f32; PER_LANE]) -> f32 {
    let mut sum = 0.0;
    let mut index = 0;
    while index < PER_LANE {
        sum = float::fma(a[index], b[index], sum);
        index += 1;
    }
    sum
}

#[inline(always)]
unsafe fn attention<T: CacheElement, const HEAD_DIM: usize>(
    q: *const f32,
    keys: *const T,
    values: *const T,
    positions: *const u32,
    out: *mut f32,
    probabilities: *mut f32,
    scale: f32,
    n_kv_heads: u32,
    n_context: u32,
    window: u32,
    probabilities_stride: u32,
) {
    let group = const { (HEAD_DIM / PER_LANE).next_power_of_two() as u32 };
    let (head, token) = (thread::block_idx_x(), thread::block_idx_y());
    let n_heads = thread::grid_dim_x();
    // SAFETY: neither is zero by the launch contract; said here so that no division is guarded by a panic.
    unsafe {
        core::hint::assert_unchecked(n_kv_heads > 0);
        core::hint::assert_unchecked(n_heads >= n_kv_heads);
    }
    let kv_head = head / (n_heads / n_kv_heads);
    let n_keys = unsafe { *positions.add(token as usize) } + 1;
    let oldest = n_keys.saturating_sub(window);
    let (lane, warp_index) = (thread::lane(), thread::warp());
    let (key_of_warp, chunk) = (lane / group, lane % group);
    let element = chunk as usize * PER_LANE;
    let holds = element < HEAD_DIM;
    let row = (token as usize * n_heads as usize + head as usize) * HEAD_DIM;
    let place = |key: u32| Place {
        row: kv_head as usize * n_context as usize + key as usize,
        element,
        n_rows: n_kv_heads as usize * n_context as usize,
        head_dim: HEAD_DIM,
    };
    let query = T::turn(if holds { unsafe { load_eight(q.add(row + element)) } } else { [0.0; PER_LANE] });

    // The score of the group's key; the loops below run equally often in every lane, so that shuffles are whole.
    let score = |key: u32| {
        let mut part = 0.0;
        if holds && key < n_keys {
            part = dot(&query, &unsafe { T::load_eight(keys, place(key)) });
        }
        warp::sum_over(part, group) * scale
    };
    let keys_per_warp = 32 / group;
    let stride = N_WARPS * keys_per_warp;

    let mut softmax = Partial::EMPTY;
    let mut first = oldest + warp_index * keys_per_warp;
    while first < n_keys {
        let key = first + key_of_warp;
        let score = score(key);
        if key < n_keys {
            let value = if holds { unsafe { T::load_eight(values, place(key)) } } else { [0.0; PER_LANE] };
            softmax.add(score, value);
        }
        first += stride;
    }

    let mut distance = group;
    while distance < 32 {
        softmax.merge(distance);
        distance *= 2;
    }
    softmax.values = T::turn(softmax.values);
    let (warp_largest, warp_sum, warp_values) = (attention_largest(), attention_sum(), attention_values());
    // SAFETY: each warp writes its own element and its own row of values; lanes of the first group cover the row.
    unsafe {
        if lane == 0 {
            warp_largest.set(warp_index, softmax.largest);
            warp_sum.set(warp_index, softmax.sum);
        }
        if lane < group && holds {
            let mut index = 0;
            while index < PER_LANE {
                let place = warp_index as usize * HEAD_DIM + element + index;
                warp_values.set(place as u32, softmax.values[index]);
                index += 1;
            }
        }
    }
    thread::sync_threads();

    let mut largest = f32::NEG_INFINITY;
    let mut other = 0;
    while other < N_WARPS {
        largest = float::max(largest, unsafe { warp_largest.get(other) });
        other += 1;
    }
    let mut sum = 0.0;
    let mut weights = [0.0; N_WARPS as usize];
    other = 0;
    while other < N_WARPS {
        let keep = weight(unsafe { warp_largest.get(other) }, largest);
        weights[other as usize] = keep;
        sum = float::fma(keep, unsafe { warp_sum.get(other) }, sum);
        other += 1;
    }
    let inverse = float::reciprocal(sum);
    let mut column = thread::thread_idx_x() as usize;
    while column < HEAD_DIM {
        let mut value = 0.0;
        other = 0;
        while other < N_WARPS {
            let part = unsafe { warp_values.get(other * HEAD_DIM as u32 + column as u32) };
            value = float::fma(weights[other as usize], part, value);
            other += 1;
        }
        unsafe { *out.add(row + column) = value * inverse }
        column += BLOCK as usize;
    }

    if !probabilities.is_null() {
        let n_tokens = thread::grid_dim_y() as usize;
        let row = (head as usize * n_tokens + token as usize) * probabilities_stride as usize;
        first = oldest + warp_index * keys_per_warp;
        while first < n_keys {
            let key = first + key_of_warp;
            let score = score(key);
            if key < n_keys && chunk == 0 {
                unsafe { *probabilities.add(row + key as usize) = float::exp(score - largest) * inverse }
            }
            first += stride;
        }
    }
}

macro_rules! variants {
    ($($name:ident: $element:ty, $head_dim:literal;)*) => {$(
        /// out[token][head] = softmax(q[token][head] · Kᵀ · scale) · V over the last `window` of the keys at positions 0 to
        /// positions[token] of KV head `head / (n_heads / n_kv_heads)`; a window of 2^32 − 1 sees them all. Where `probabilities` is not null it gets the softmax itself,
        /// `[n_heads][n_tokens][probabilities_stride]`, keys seen only: the rest of a row is left as it is.
        ///
        /// Launch: grid (n_heads, n_tokens), block ([`BLOCK`]).
        ///
        /// # Safety
        /// - `q` and `out` are `[n_tokens][n_heads][HEAD_DIM]`, 16-byte aligned; `positions` is `[n_tokens]`, below
        ///   `n_context`; `keys` and `values` are a layer's caches of this type (`cache.rs`), 16-byte aligned, written up to
        ///   each position; `n_heads` is a multiple of `n_kv_heads`;
        ///   `window ≥ 1`.
        /// - `probabilities` is null or holds `n_heads · n_tokens · probabilities_stride` values, the stride above
        ///   every position.
        #[kernel]
        pub unsafe fn $name(
            q: *const f32,
            keys: *const $element,
            values: *const $element,
            positions: *const u32,
            out: *mut f32,
            probabilities: *mut f32,
            scale: f32,
            n_kv_heads: u32,
            n_context: u32,
            window: u32,
            probabilities_stride: u32,
        ) {
            unsafe {
                attention::<$element, $head_dim>(
                    q, keys, values, positions, out, probabilities, scale, n_kv_heads, n_context, window,
                    probabilities_stride,
                )
            }
        }
    )*};
}

variants! {
    attention_f32_64: f32, 64;
    attention_f32_80: f32, 80;
    attention_f32_96: f32, 96;
    attention_f32_128: f32, 128;
    attention_f32_256: f32, 256;
    attention_f16_64: F16, 64;
    attention_f16_80: F16, 80;
    attention_f16_96: F16, 96;
    attention_f16_128: F16, 128;
    attention_f16_256: F16, 256;
    attention_bf16_64: BF16, 64;
    attention_bf16_80: BF16, 80;
    attention_bf16_96: BF16, 96;
    attention_bf16_128: BF16, 128;
    attention_bf16_256: BF16, 256;
    attention_q8_0_64: i8, 64;
    attention_q8_0_96: i8, 96;
    attention_q8_0_128: i8, 128;
    attention_q8_0_256: i8, 256;
}
