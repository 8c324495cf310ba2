//! The attention of one new token, from raw projections to the attended values, in one launch.
//!
//! out = softmax(q · Kᵀ · scale) · V, as in `attention.rs`, for the query of one token; before it the norms over heads, RoPE,
//! and the new key and value's way into the cache. Decoding does this once a layer and token, and its time is latency
//! where the context is short and the reading of the cache where it is long.
//!
//! # Blocks
//!
//! A block serves one KV head, up to [`HEADS`] of the query heads that read it (which share every load of a key or value)
//! and one *split* of the positions. How positions are split follows from the number of splits and the token's position,
//! which is in device memory: one captured launch serves every position. Splits may be empty, and their blocks end at once.
//!
//! The block's warps take the split's keys in turns, a *tile* of them at a time (`softmax.rs` has what a warp does with
//! one). A tile's keys are loaded while the one before is still computed on, and the first tile, the angles of RoPE and the
//! position are loaded before the kernel waits for its predecessor: none of them is from this token's step.
//!
//! Four warps make the queries, one the new key and one the new value, each a head. The new key and value are packed as
//! the cache holds them; every block whose split has the newest position takes them from its own shared memory, one of
//! them writes them to the cache.
//!
//! With one split in use the block has the output. Otherwise it leaves its part in global memory, and the last block to
//! arrive merges the parts (`combine.rs`).

/// Runs a block for each index below a constant of at most 16, written out that often: the compiler unrolls long loops only
/// up to a size, and an array indexed in a loop that is left one is not kept in registers.
macro_rules! unrolled {
    ($index:ident < $end:expr => $body:block) => {
        unrolled!([0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15] $index $end, $body)
    };
    ([$($value:literal)*] $index:ident $end:expr, $body:block) => {
        $(unrolled!(@ $value $index $end, $body);)*
    };
    (@ $value:literal $index:ident $end:expr, $body:block) => {
        if $value < $end {
            let $index: usize = $value;
            $body
        }
    };
}

mod combine;
mod softmax;
mod words;

use cuda_std::{BF16, F16, atomic, float, grid, kernel, shared::Shared, shared_array, thread, warp};

use crate::{
    cache::{GROUP as PER_LANE, Place, load_eight},
    rope,
};
use combine::{Parts, combine};
pub use softmax::HEADS;
use softmax::{Lane, Softmax, keys_per_warp, score};
use words::{CacheWords, EMPTY, Rows, Words};

/// The block's number of threads.
pub const BLOCK: u32 = 192;

/// The most splits of a launch.
pub const MAX_SPLITS: u32 = 64;

const N_WARPS: u32 = BLOCK / 32;

/// The largest head that the shared arrays have room for.
const MAX_HEAD_DIM: usize = 256;

shared_array! {
    // The queries, ready for the scores, and the new key on its way to be packed.
    attention_decode_queries: [f32; HEADS * MAX_HEAD_DIM];
    attention_decode_staged: [f32; MAX_HEAD_DIM];
    attention_decode_cosines: [f32; MAX_HEAD_DIM / 2];
    attention_decode_sines: [f32; MAX_HEAD_DIM / 2];
    // The new key and value as the cache holds them, `[word][lane]`.
    attention_decode_key: [u32; PER_LANE * 32];
    attention_decode_value: [u32; PER_LANE * 32];
    // What each warp found, `[warp][head]`, and its values, `[warp][head][head_dim]`, as large as the head needs.
    attention_decode_largest: [f32; N_WARPS as usize * HEADS];
    attention_decode_sums: [f32; N_WARPS as usize * HEADS];
    attention_decode_values_64: [f32; N_WARPS as usize * HEADS * 64];
    attention_decode_values_128: [f32; N_WARPS as usize * HEADS * 128];
    attention_decode_values_256: [f32; N_WARPS as usize * HEADS * 256];
    // How many splits had arrived before this one.
    attention_decode_before: [u32; 1];
}

#[inline(always)]
fn warp_values<const HEAD_DIM: usize>() -> Shared<f32> {
    match HEAD_DIM {
        0..=64 => attention_decode_values_64(),
        65..=128 => attention_decode_values_128(),
        _ => attention_decode_values_256(),
    }
}

/// One launch's operands: the kernels' parameters by name.
#[derive(Clone, Copy)]
struct Operands<T> {
    qkv: *const f32,
    position: *const u32,
    frequencies: *const f32,
    q_norm: *const f32,
    k_norm: *const f32,
    keys: *mut T,
    values: *mut T,
    out: *mut f32,
    parts: *mut f32,
    arrivals: *mut u32,
    epsilon: f32,
    scale: f32,
    magnitude: f32,
    n_kv_heads: u32,
    group: u32,
    n_context: u32,
    window: u32,
    n_rot: u32,
    neighbours: u32,
}

/// The positions that a block sees.
#[derive(Clone, Copy)]
struct Split {
    first: u32,
    /// One past the last.
    end: u32,
    /// Positions that all splits see together, and each but the last.
    n_seen: u32,
    length: u32,
}

impl Split {
    /// This block's split of the last `window` positions up to `position`: as many as any other's, but for the last.
    #[inline(always)]
    fn of(position: u32, window: u32) -> Split {
        let n_splits = thread::grid_dim_y();
        let n_seen = (position + 1).min(window);
        // SAFETY: there is no launch without blocks; said here so that the division is not guarded by a panic.
        unsafe { core::hint::assert_unchecked(n_splits > 0) }
        let length = (n_seen - 1) / n_splits + 1;
        let first = position + 1 - n_seen + thread::block_idx_y() * length;
        Split { first, end: (position + 1).min(first + length), n_seen, length }
    }

    /// How many splits have positions.
    #[inline(always)]
    fn n_used(self) -> u32 {
        // SAFETY: `of` makes it one more than a quotient.
        unsafe { core::hint::assert_unchecked(self.length > 0) }
        (self.n_seen - 1) / self.length + 1
    }
}

/// RoPE's angles at the position to shared memory, a pair's by each thread. They take a while and need nothing of this
/// step, so they are made before the wait.
#[inline(always)]
unsafe fn make_angles<T>(o: &Operands<T>, position: u32) {
    let pair = thread::thread_idx_x();
    if pair < o.n_rot / 2 {
        let (cos, sin) = unsafe { rope::rotation(o.frequencies, pair, position) };
        unsafe {
            attention_decode_cosines().set(pair, cos);
            attention_decode_sines().set(pair, sin);
        }
    }
}

/// Takes a head of `qkv` through its norm (where there is one) and RoPE, and times `factor` to shared memory. Norm and RoPE
/// are those of `rmsnorm.rs` and `rope.rs`, bit for bit. Collective over the warp.
///
/// # Safety
/// - `head` leads to `HEAD_DIM` values, and so does `norm` if it is not null; nobody else accesses `out`.
#[inline(always)]
unsafe fn prepare<T, const HEAD_DIM: usize>(
    o: &Operands<T>,
    head: *const f32,
    norm: *const f32,
    factor: f32,
    out: Shared<f32>,
    out_first: u32,
) {
    let lane = thread::lane();
    let mut scale = 1.0;
    if !norm.is_null() {
        let mut total = 0.0;
        let mut first = 0;
        while first < HEAD_DIM {
            let element = first + lane as usize;
            let value = if element < HEAD_DIM { unsafe { *head.add(element) } } else { 0.0 };
            total += warp::sum(value * value);
            first += 32;
        }
        scale = float::reciprocal(float::sqrt(total / HEAD_DIM as f32 + o.epsilon));
    }
    let mut first = 0;
    while first < const { HEAD_DIM as u32 / 2 } {
        let pair = first + lane;
        if pair < const { HEAD_DIM as u32 / 2 } {
            let rotates = pair < o.n_rot / 2;
            // What RoPE leaves alone is taken in neighbours.
            let (first, second) = rope::elements(pair, o.n_rot, o.neighbours != 0 || !rotates);
            let (mut a, mut b) = unsafe { (*head.add(first as usize), *head.add(second as usize)) };
            if !norm.is_null() {
                (a, b) = unsafe { (a * scale * *norm.add(first as usize), b * scale * *norm.add(second as usize)) };
            }
            if rotates {
                let angle = unsafe { (attention_decode_cosines().get(pair), attention_decode_sines().get(pair)) };
                (a, b) = rope::turn(a, b, angle, o.magnitude);
            }
            unsafe {
                out.set(out_first + first, a * factor);
                out.set(out_first + second, b * factor);
            }
        }
        first += 32;
    }
}

/// Eight elements of an array in shared memory.
#[inline(always)]
unsafe fn get_eight(array: Shared<f32>, first: u32) -> [f32; PER_LANE] {
    let (low, high) = unsafe { (array.get_four(first), array.get_four(first + 4)) };
    [low[0], low[1], low[2], low[3], high[0], high[1], high[2], high[3]]
}

#[inline(always)]
unsafe fn set_eight(array: Shared<f32>, first: u32, values: [f32; PER_LANE]) {
    let [a, b, c, d, e, f, g, h] = values;
    unsafe {
        array.set_four(first, [a, b, c, d]);
        array.set_four(first + 4, [e, f, g, h]);
    }
}

/// Packs eight values and, in a lane that `holds` them, keeps them for the block and writes them to the cache where this
/// block is the one to. Collective over the warp.
#[inline(always)]
unsafe fn keep<T: CacheWords>(values: [f32; PER_LANE], holds: bool, kept: Shared<u32>, cache: *mut T, place: Place) {
    let words = T::pack(values);
    let lane = thread::lane();
    if holds {
        let mut word = 0;
        while word < T::WORDS {
            unsafe { kept.set(word as u32 * 32 + lane, words[word]) }
            word += 1;
        }
        if thread::block_idx_x() == 0 {
            unsafe { T::write(cache, place, words) }
        }
    }
}

/// The words that [`keep`] kept, for the lane's elements.
#[inline(always)]
unsafe fn kept<T: CacheWords>(kept: Shared<u32>, element: usize) -> Words {
    let mut words = EMPTY;
    let mut word = 0;
    while word < T::WORDS {
        words[word] = unsafe { kept.get(word as u32 * 32 + (element / PER_LANE) as u32) };
        word += 1;
    }
    words
}

#[inline(always)]
unsafe fn attention_decode<T: CacheWords, const HEAD_DIM: usize, const IN_FLIGHT: usize>(o: Operands<T>) {
    grid::launch_dependents();
    let position = unsafe { *o.position };
    let split = Split::of(position, o.window);
    if split.first >= split.end {
        return;
    }
    let (part, kv_head) = (thread::block_idx_x(), thread::block_idx_z());
    let (warp, lane) = (warp::uniform(thread::warp()), Lane::of::<HEAD_DIM>());
    let has_newest = split.end > position;
    // The positions of the split that are in the cache already.
    let old_end = if has_newest { position } else { split.end };
    let place = |position: u32, element: usize| Place {
        row: kv_head as usize * o.n_context as usize + position as usize,
        element,
        n_rows: o.n_kv_heads as usize * o.n_context as usize,
        head_dim: HEAD_DIM,
    };
    let keys_per_warp = const { keys_per_warp(HEAD_DIM) };
    let tile = keys_per_warp * IN_FLIGHT as u32;
    let key_of = |first: u32, index: usize| first + index as u32 * keys_per_warp + lane.key;
    // The tile's elements; of a position that is not in the cache, those of the last one that is.
    let rows = [T::rows(o.keys, place(0, lane.element)), T::rows(o.values, place(0, lane.element))];
    let load = |rows: Rows<T>, first: u32| {
        let mut words = [EMPTY; IN_FLIGHT];
        if first < old_end {
            unrolled!(index < IN_FLIGHT => {
                words[index] = unsafe { T::load::<HEAD_DIM>(rows, key_of(first, index).min(old_end - 1)) };
            });
        }
        words
    };
    let mut first = split.first + warp * tile;
    let mut keys = load(rows[0], first);
    let mut values = load(rows[1], first);
    unsafe { make_angles(&o, position) }
    thread::sync_threads();

    grid::wait();
    let (queries, staged) = (attention_decode_queries(), attention_decode_staged());
    let (new_key, new_value) = (attention_decode_key(), attention_decode_value());
    let head_of = |head: u32| unsafe { o.qkv.add(head as usize * HEAD_DIM) };
    let n_heads = o.n_kv_heads * o.group;
    // The block's first query head, and how many it has.
    let first_head = kv_head * o.group + part * HEADS as u32;
    let heads = (o.group - part * HEADS as u32).min(HEADS as u32);
    // The warp's first lanes take the head's elements in eights; the others read the last ones too, so that no branch that
    // lanes take apart comes before their turning, which they do together.
    let eight = (thread::lane() as usize * PER_LANE).min(const { HEAD_DIM - PER_LANE });
    let holds = thread::lane() < const { (HEAD_DIM / PER_LANE) as u32 };
    if warp < HEADS as u32 {
        let row = warp * HEAD_DIM as u32;
        if warp < heads {
            // Scores in units of ln 2.
            let factor = o.scale * core::f32::consts::LOG2_E;
            unsafe { prepare::<T, HEAD_DIM>(&o, head_of(first_head + warp), o.q_norm, factor, queries, row) }
            if T::TURNED {
                warp::sync();
                let query = T::turn(unsafe { get_eight(queries, row + eight as u32) });
                warp::sync();
                if holds {
                    unsafe { set_eight(queries, row + eight as u32, query) }
                }
            }
        } else if holds {
            unsafe { set_eight(queries, row + eight as u32, [0.0; PER_LANE]) }
        }
    } else if warp == HEADS as u32 && has_newest {
        // RoPE's magnitude belongs to the scores: keys are kept without it.
        let factor = float::reciprocal(o.magnitude);
        unsafe { prepare::<T, HEAD_DIM>(&o, head_of(n_heads + kv_head), o.k_norm, factor, staged, 0) }
        warp::sync();
        let key = unsafe { get_eight(staged, eight as u32) };
        unsafe { keep::<T>(key, holds, new_key, o.keys, place(position, eight)) }
    } else if warp == HEADS as u32 + 1 && has_newest {
        let head = head_of(n_heads + o.n_kv_heads + kv_head);
        let value = unsafe { load_eight(head.add(eight)) };
        unsafe { keep::<T>(value, holds, new_value, o.values, place(position, eight)) }
    }
    thread::sync_threads();

    let mut query = [[0.0; PER_LANE]; HEADS];
    let mut slot = 0;
    while slot < HEADS {
        let head = slot as u32 ^ lane.own;
        let eight = unsafe { get_eight(queries, head * HEAD_DIM as u32 + lane.element as u32) };
        query[slot] = eight.map(|value| if lane.holds { value } else { 0.0 });
        slot += 1;
    }
    let mut softmax = Softmax::EMPTY;
    while first < split.end {
        if has_newest && position < first + tile {
            unrolled!(index < IN_FLIGHT => {
                if key_of(first, index) == position {
                    keys[index] = unsafe { kept::<T>(new_key, lane.element) };
                    values[index] = unsafe { kept::<T>(new_value, lane.element) };
                }
            });
        }
        let mut scores = [0.0; IN_FLIGHT];
        unrolled!(index < IN_FLIGHT => {
            let score = score::<HEAD_DIM>(&query, T::unpack(keys[index]));
            scores[index] = if key_of(first, index) < split.end { score } else { f32::NEG_INFINITY };
        });
        first += N_WARPS * tile;
        keys = load(rows[0], first);
        softmax.expect(scores);
        unrolled!(index < IN_FLIGHT => {
            softmax.add(scores[index], T::unpack(values[index]));
        });
        values = load(rows[1], first);
    }

    softmax.merge_rows::<HEAD_DIM>();
    let (all_largest, all_sums) = (attention_decode_largest(), attention_decode_sums());
    let all_values = warp_values::<HEAD_DIM>();
    // SAFETY: each warp writes its own places, and each of them once.
    unsafe {
        if thread::lane() < HEADS as u32 {
            all_largest.set(warp * HEADS as u32 + lane.own, softmax.largest);
            all_sums.set(warp * HEADS as u32 + lane.own, softmax.sum);
        }
        if lane.holds {
            let mut slot = 0;
            while slot < HEADS {
                let row = warp * HEADS as u32 + (slot as u32 ^ lane.own);
                set_eight(all_values, row * HEAD_DIM as u32 + lane.element as u32, softmax.values[slot]);
                slot += keys_per_warp as usize;
            }
        }
    }
    thread::sync_threads();

    let (n_parts, n_splits) = (thread::grid_dim_x(), thread::grid_dim_y());
    let parts = unsafe {
        let (row, n_rows) = ((kv_head * n_parts + part) as usize, (o.n_kv_heads * n_parts) as usize);
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
            weights[other] = unsafe { all_largest.get(other as u32 * HEADS as u32 + head) };
            largest = float::max(largest, weights[other]);
            other += 1;
        }
        let mut sum = 0.0;
        other = 0;
        while other < N_WARPS as usize {
            weights[other] = float::exp2_approx_flushed(weights[other] - largest);
            sum = float::fma(weights[other], unsafe { all_sums.get(other as u32 * HEADS as u32 + head) }, sum);
            other += 1;
        }
        let inverse = float::reciprocal(sum);
        let merged = |column: u32| {
            let mut value = 0.0;
            let mut other = 0;
            while other < N_WARPS as usize {
                let row = (other as u32 * HEADS as u32 + head) * HEAD_DIM as u32;
                value = float::fma(weights[other], unsafe { all_values.get(row + column) }, value);
                other += 1;
            }
            value
        };
        let out = unsafe { o.out.add((first_head + head) as usize * HEAD_DIM) };
        let kept = unsafe { parts.values.add((own_split as usize * HEADS + head as usize) * HEAD_DIM) };
        for column in columns {
            if column < HEAD_DIM as u32 {
                let value = merged(column);
                if n_used == 1 {
                    unsafe { *out.add(column as usize) = T::turn_back(value * inverse) }
                } else {
                    unsafe { *kept.add(column as usize) = value }
                }
            }
        }
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
        let counter = unsafe { o.arrivals.add((kv_head * n_parts + part) as usize) };
        unsafe { before.set(0, atomic::increment_wrapping(counter, n_used - 1)) }
    }
    thread::sync_threads();
    if unsafe { before.get(0) } != n_used - 1 {
        return;
    }
    unsafe { combine::<HEAD_DIM>(parts, warp, n_used, heads, all_values) }
    for_columns::<HEAD_DIM>(warp, heads, |head, columns| {
        let out = unsafe { o.out.add((first_head + head) as usize * HEAD_DIM) };
        for column in columns {
            if column < HEAD_DIM as u32 {
                let mut value = 0.0;
                let mut subset = 0;
                while subset < const { combine::subsets(HEAD_DIM) } {
                    let row = (subset * HEADS as u32 + head) * HEAD_DIM as u32;
                    value += unsafe { all_values.get(row + column) };
                    subset += 1;
                }
                unsafe { *out.add(column as usize) = T::turn_back(value) }
            }
        }
    });
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

macro_rules! variants {
    ($($name:ident: $element:ty, $head_dim:literal, $in_flight:literal;)*) => {$(
        /// One token's attention. `qkv` is the token's projections with their bias; its query heads and its keys are
        /// normalised where `q_norm` and `k_norm` are not null, and rotated; key and value become those of position `*position` in
        /// the cache; and out[head] = softmax(q[head] · Kᵀ · scale) · V over the last `window` positions up to that one, each
        /// as the cache holds it. RoPE's magnitude multiplies the queries alone; `scale` has it once more.
        ///
        /// Launch: grid (⌈group ÷ HEADS⌉, n_splits, n_kv_heads), block ([`BLOCK`]). Any number of splits up to
        /// [`MAX_SPLITS`] serves any position.
        ///
        /// # Safety
        /// - `qkv` is `[n_kv_heads · (group + 2)][HEAD_DIM]`, queries, keys, values, 16-byte aligned; `q_norm` and `k_norm` are
        ///   null or `[HEAD_DIM]`; `out` is `[n_kv_heads · group][HEAD_DIM]`.
        /// - `*position` is below `n_context` and 2^24; `keys` and `values` are a layer's caches of this type (`cache.rs`), 16-byte
        ///   aligned, written before that position. Neither they nor `position` nor `frequencies` are written by a launch that
        ///   this one may overlap with: they are read before it waits.
        /// - `frequencies` is `[n_rot/2][2]` as `rope.rs` takes it, `n_rot` even and at most `HEAD_DIM`; pairs are neighbours where
        ///   `neighbours` is not 0. `group ≥ 1`, `window ≥ 1`, `magnitude` is not 0.
        /// - With several splits, `parts` is `[n_kv_heads · ⌈group ÷ HEADS⌉][n_splits][HEADS][HEAD_DIM + 2]` and 16-byte
        ///   aligned, and `arrivals` is `[n_kv_heads · ⌈group ÷ HEADS⌉]`, all zero, which it is again afterwards. No launch that
        ///   may overlap uses them.
        #[kernel]
        pub unsafe fn $name(
            qkv: *const f32,
            position: *const u32,
            frequencies: *const f32,
            q_norm: *const f32,
            k_norm: *const f32,
            keys: *mut $element,
            values: *mut $element,
            out: *mut f32,
            parts: *mut f32,
            arrivals: *mut u32,
            epsilon: f32,
            scale: f32,
            magnitude: f32,
            n_kv_heads: u32,
            group: u32,
            n_context: u32,
            window: u32,
            n_rot: u32,
            neighbours: u32,
        ) {
            unsafe {
                attention_decode::<$element, $head_dim, $in_flight>(Operands {
                    qkv, position, frequencies, q_norm, k_norm, keys, values, out, parts, arrivals, epsilon, scale,
                    magnitude, n_kv_heads, group, n_context, window, n_rot, neighbours,
                })
            }
        }
    )*};
}

// 16 bytes of a key and of a value for each lane and load: as many loads in flight as there are registers for.
variants! {
    attention_decode_f32_64: f32, 64, 2;
    attention_decode_f32_80: f32, 80, 2;
    attention_decode_f32_96: f32, 96, 2;
    attention_decode_f32_128: f32, 128, 2;
    attention_decode_f32_256: f32, 256, 2;
    attention_decode_f16_64: F16, 64, 4;
    attention_decode_f16_80: F16, 80, 4;
    attention_decode_f16_96: F16, 96, 4;
    attention_decode_f16_128: F16, 128, 4;
    attention_decode_f16_256: F16, 256, 4;
    attention_decode_bf16_64: BF16, 64, 4;
    attention_decode_bf16_80: BF16, 80, 4;
    attention_decode_bf16_96: BF16, 96, 4;
    attention_decode_bf16_128: BF16, 128, 4;
    attention_decode_bf16_256: BF16, 256, 4;
    attention_decode_q8_0_64: i8, 64, 4;
    attention_decode_q8_0_96: i8, 96, 4;
    attention_decode_q8_0_128: i8, 128, 4;
    attention_decode_q8_0_256: i8, 256, 4;
}

/// The kernels, for `kernels::all`.
#[cfg(not(target_arch = "nvptx64"))]
pub const KERNELS: &[cuda_std::KernelInfo] = &[
    attention_decode_f32_64.info(),
    attention_decode_f32_80.info(),
    attention_decode_f32_96.info(),
    attention_decode_f32_128.info(),
    attention_decode_f32_256.info(),
    attention_decode_f16_64.info(),
    attention_decode_f16_80.info(),
    attention_decode_f16_96.info(),
    attention_decode_f16_128.info(),
    attention_decode_f16_256.info(),
    attention_decode_bf16_64.info(),
    attention_decode_bf16_80.info(),
    attention_decode_bf16_96.info(),
    attention_decode_bf16_128.info(),
    attention_decode_bf16_256.info(),
    attention_decode_q8_0_64.info(),
    attention_decode_q8_0_96.info(),
    attention_decode_q8_0_128.info(),
    attention_decode_q8_0_256.info(),
];
