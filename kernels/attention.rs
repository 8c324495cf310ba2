//! Causal attention with grouped queries over the KV cache, for prefill and for decoding alike, for any size of heads.
//!
//! out = softmax(q · Kᵀ · scale) · V, where the query at position p sees the keys at positions 0 to p, or with a sliding
//! window of w only the last w of them, its own included. Two things may come between, as models have them: a soft cap, which
//! makes a score cap · tanh(score / cap), and a *sink* for each head, a score with no value behind it that joins the softmax
//! as it is and so takes weight away from the keys.
//!
//! One block serves one query head of one token. Its work is laid out by 16-byte loads: a *group* of lanes holds one key,
//! eight elements a lane, so a group is `head_dim / 8` lanes rounded up to 8, 16 or 32 (lanes beyond the head idle) and
//! a warp looks at `32 / group` keys at once. Heads that are a multiple of four and not of eight are read by fours and have a
//! warp a key. Each group runs the online softmax (Milakov and Gimelshein, 2018): with the
//! largest score so far m, the sum of e^(score − m) and the values weighted by it, all rescaled when m grows. No score is
//! ever stored. At the end the groups of a warp are merged by shuffles and the warps through shared memory.
//!
//! Scores and sums are `f32` whatever the cache's type.

use cuda_std::{BF16, F16, float, grid, kernel, shared_array, thread, warp};

use crate::cache::{CacheElement, GROUP as PER_LANE, Pages, Place, load_eight, load_fours, n_rows};

/// The block's number of threads.
pub const BLOCK: u32 = 128;

const N_WARPS: u32 = BLOCK / 32;

/// The largest head that a warp's lanes and the shared arrays have room for.
pub const MAX_HEAD_DIM: usize = 256;

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

/// The kernels' parameters.
#[derive(Clone, Copy)]
struct Operands<T> {
    q: *const f32,
    keys: *const T,
    values: *const T,
    positions: *const u32,
    tables: *const u32,
    slots: *const u32,
    sinks: *const f32,
    out: *mut f32,
    probabilities: *mut f32,
    scale: f32,
    soft_cap: f32,
    n_kv_heads: u32,
    head_dim: u32,
    table_stride: u32,
    n_pages: u32,
    window: u32,
    probabilities_stride: u32,
}

/// Attention with `GROUP` lanes a key. `EIGHTS`: the head is a multiple of eight.
#[inline(always)]
unsafe fn attention<T: CacheElement, const GROUP: u32, const EIGHTS: bool>(operands: Operands<T>) {
    let Operands { keys, values, soft_cap, n_kv_heads, .. } = operands;
    let head_dim = operands.head_dim as usize;
    let (head, token) = (thread::block_idx_x(), thread::block_idx_y());
    let n_heads = thread::grid_dim_x();
    // SAFETY: none is zero by the launch contract; said here so that no division is guarded by a panic.
    unsafe {
        core::hint::assert_unchecked(n_kv_heads > 0);
        core::hint::assert_unchecked(n_heads >= n_kv_heads);
    }
    let kv_head = head / (n_heads / n_kv_heads);
    let n_keys = unsafe { *operands.positions.add(token as usize) } + 1;
    let oldest = n_keys.saturating_sub(operands.window);
    let pages = unsafe { Pages::of(operands.tables, operands.slots, operands.table_stride, token, n_kv_heads) };
    let (lane, warp_index) = (thread::lane(), thread::warp());
    let (key_of_warp, chunk) = (lane / GROUP, lane % GROUP);
    let element = chunk as usize * PER_LANE;
    let holds = element < head_dim;
    let row = (token as usize * n_heads as usize + head as usize) * head_dim;
    let n_rows = n_rows(operands.n_pages, n_kv_heads);
    let place = |key: u32| Place { row: unsafe { pages.row(kv_head, key) } as usize, element, n_rows, head_dim };
    let load = |cache: *const T, key: u32| unsafe {
        if EIGHTS { T::load_eight(cache, place(key)) } else { T::load_fours(cache, place(key)) }
    };
    let query = if holds {
        let query = operands.q.wrapping_add(row);
        unsafe { if EIGHTS { load_eight(query.add(element)) } else { load_fours(query, element, head_dim) } }
    } else {
        [0.0; PER_LANE]
    };
    let query = T::turn(query);

    // The score of the group's key; the loops below run equally often in every lane, so that shuffles are whole.
    let score = |key: u32| {
        let part = if holds && key < n_keys { dot(&query, &load(keys, key)) } else { 0.0 };
        let score = warp::sum_over(part, GROUP) * operands.scale;
        if soft_cap > 0.0 { soft_cap * float::tanh(score / soft_cap) } else { score }
    };
    let keys_per_warp = 32 / GROUP;
    let stride = N_WARPS * keys_per_warp;

    let mut softmax = Partial::EMPTY;
    let mut first = oldest + warp_index * keys_per_warp;
    while first < n_keys {
        let key = first + key_of_warp;
        let score = score(key);
        if key < n_keys {
            let value = if holds { load(values, key) } else { [0.0; PER_LANE] };
            softmax.add(score, value);
        }
        first += stride;
    }

    let mut distance = GROUP;
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
        if lane < GROUP && holds {
            let mut index = 0;
            while index < PER_LANE {
                if EIGHTS || element + index < head_dim {
                    let place = warp_index as usize * head_dim + element + index;
                    warp_values.set(place as u32, softmax.values[index]);
                }
                index += 1;
            }
        }
    }
    thread::sync_threads();

    let sinks = operands.sinks;
    let sink = if sinks.is_null() { f32::NEG_INFINITY } else { unsafe { *sinks.add(head as usize) } };
    let mut largest = sink;
    let mut other = 0;
    while other < N_WARPS {
        largest = float::max(largest, unsafe { warp_largest.get(other) });
        other += 1;
    }
    let mut sum = weight(sink, largest);
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
    while column < head_dim {
        let mut value = 0.0;
        other = 0;
        while other < N_WARPS {
            let part = unsafe { warp_values.get(other * head_dim as u32 + column as u32) };
            value = float::fma(weights[other as usize], part, value);
            other += 1;
        }
        unsafe { *operands.out.add(row + column) = value * inverse }
        column += BLOCK as usize;
    }

    let probabilities = operands.probabilities;
    if !probabilities.is_null() {
        let n_tokens = thread::grid_dim_y() as usize;
        let row = (head as usize * n_tokens + token as usize) * operands.probabilities_stride as usize;
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

/// Attention with as many lanes a key as its head needs.
#[inline(always)]
unsafe fn attention_of_heads<T: CacheElement>(operands: Operands<T>) {
    grid::launch_dependents_and_wait();
    let head_dim = operands.head_dim as usize;
    unsafe {
        if T::MULTIPLE < PER_LANE && !head_dim.is_multiple_of(PER_LANE) {
            attention::<T, 32, false>(operands)
        } else if head_dim <= 8 * PER_LANE {
            attention::<T, 8, true>(operands)
        } else if head_dim <= 16 * PER_LANE {
            attention::<T, 16, true>(operands)
        } else {
            attention::<T, 32, true>(operands)
        }
    }
}

macro_rules! variants {
    ($($name:ident: $element:ty;)*) => {$(
        /// out[token][head] = softmax(q[token][head] · Kᵀ · scale) · V over the last `window` of the keys at positions 0 to
        /// positions[token] of KV head `head / (n_heads / n_kv_heads)`; a window of 2^32 − 1 sees them all. Where `soft_cap` is
        /// not 0 a score is soft_cap · tanh(score / soft_cap); where `sinks` is not null, e^sinks[head] joins the softmax's
        /// sum. Where `probabilities` is not null it gets the softmax itself,
        /// `[n_heads][n_tokens][probabilities_stride]`, keys seen only: the rest of a row is left as it is.
        ///
        /// Launch: grid (n_heads, n_tokens), block ([`BLOCK`]).
        ///
        /// # Safety
        /// - `q` and `out` are `[n_tokens][n_heads][head_dim]`, 16-byte aligned; `head_dim` is a multiple of 4, in Q8_0 of 32,
        ///   and at most [`MAX_HEAD_DIM`]; `sinks` is null or `[n_heads]`; `n_heads` is a multiple of `n_kv_heads`;
        ///   `window ≥ 1`.
        /// - `keys` and `values` are a layer's caches of this type (`cache.rs`) of `n_pages` pages, 16-byte aligned, with the
        ///   positions that a query sees in the pages that `tables` has for them in the table of `slots[token]`.
        /// - `probabilities` is null or holds `n_heads · n_tokens · probabilities_stride` values, the stride above
        ///   every position.
        #[kernel]
        pub unsafe fn $name(
            q: *const f32,
            keys: *const $element,
            values: *const $element,
            positions: *const u32,
            tables: *const u32,
            slots: *const u32,
            sinks: *const f32,
            out: *mut f32,
            probabilities: *mut f32,
            scale: f32,
            soft_cap: f32,
            n_kv_heads: u32,
            head_dim: u32,
            table_stride: u32,
            n_pages: u32,
            window: u32,
            probabilities_stride: u32,
        ) {
            unsafe {
                attention_of_heads(Operands {
                    q,
                    keys,
                    values,
                    positions,
                    tables,
                    slots,
                    sinks,
                    out,
                    probabilities,
                    scale,
                    soft_cap,
                    n_kv_heads,
                    head_dim,
                    table_stride,
                    n_pages,
                    window,
                    probabilities_stride,
                })
            }
        }
    )*};
}

variants! {
    attention_f32: f32;
    attention_f16: F16;
    attention_bf16: BF16;
    attention_q8_0: i8;
}
