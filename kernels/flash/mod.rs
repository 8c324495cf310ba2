//! Causal attention of many tokens at once, on tensor cores: flash attention (Dao, 2023) over the KV cache, for prefill.
//!
//! out = softmax(q · Kᵀ) · V as in `attention.rs`, for queries that are consecutive positions and are in the cache's own
//! 16-bit type, their scale and log₂ e multiplied in: the softmax takes powers of two.
//!
//! # Rows
//!
//! The query heads that share a KV head are rows of one matrix beside each other: row `r` is token `r / ratio`, head
//! `r % ratio` of the KV head's `ratio` query heads. So a tile of rows spans few tokens: short prompts fill it, and little of
//! the last tile of keys is masked. A warp takes a fragment of 16 rows (the M of `mma.m16n8k16`), a block of four warps 64.
//!
//! A `wide` kernel gives a warp two fragments, so that what it loads from shared memory serves twice as many products: that
//! bandwidth is what limits the others. It takes nearly all registers, so there is one for heads of 64 only, of which two
//! blocks fit a multiprocessor, and it knows no sliding window.
//!
//! Tokens of several sequences come as chunks, one behind the other. Rows of a block are one chunk's: the grid is as high as the longest needs, and
//! a block that has no rows of its chunk ends.
//!
//! # Keys
//!
//! A block walks over tiles of `Shape::keys` keys, from the oldest that its first row sees to the newest that its last row
//! sees; nothing is loaded beyond them. A tile of keys and one of values lie in shared memory in two stages: while one is
//! worked on, `cp.async` fills the other. In a stage a row is padded by 16 bytes, which makes its length an odd number of
//! 16-byte units: `ldmatrix`, which reads eight rows at once, then touches all banks evenly, as an exclusive-or swizzle
//! would make it, but with every address a constant away from one register.
//!
//! For each tile a warp computes S = Q · Kᵀ (Q's fragments stay in registers), masks it where a row's limits cross the tile,
//! updates the online softmax, and adds P · V; S's fragments, rounded, are P's. A row's reference, from which its exponents
//! are counted, is shared by the four lanes that hold it; sums are kept a lane each until the end.
//!
//! # Precision
//!
//! Queries and probabilities are rounded to the cache's 16-bit type, as keys and values were; scores and sums are `f32`.
//! The output is in f16 for the matmul that follows, times `out_scale`, which the host chooses so that no output is beyond
//! f16's range.
//!
//! F32 and Q8_0 caches stay with `attention.rs`.

mod tiles;

use cuda_std::{
    BF16, F16,
    async_copy::wait,
    float, grid, kernel,
    mma::{Operand, load_matrices, load_matrices_transposed},
    thread,
    unroll::unroll,
    warp,
};

use crate::cache::Pages;
use tiles::{Shape, Tiles};

/// The block's number of threads.
pub const BLOCK: u32 = 128;

/// Rows of a fragment, of which a warp has one or two.
pub const ROWS: u32 = 16;

/// The block's warps.
pub const N_WARPS: u32 = BLOCK / 32;

/// How far scores may be above their row's reference, in powers of two: weights of up to 2^8 are as precise as those up to 1,
/// and what was summed needs a new factor only when a score is further above, which after a row's first keys is rare.
const SLACK: f32 = 8.0;

/// Less than any score, and yet a number: while no key was seen, a masked score's distance to it is −∞ and its weight 0. No
/// branch is taken on it, which the compiler could carry on past the warp's collective instructions.
const NO_SCORE: f32 = -1e30;

/// Holds a score within ±cap: cap · tanh(score / cap), `rate` being 2 log₂e / cap.
#[inline(always)]
fn hold(score: &mut f32, cap: f32, rate: f32) {
    let power = float::exp2_approx_flushed(*score * rate);
    *score = float::fma(-2.0 * cap, float::reciprocal_approx(1.0 + power), cap);
}

/// The two rows of a lane: `group` and `group + 8` of its warp's.
#[derive(Clone, Copy)]
struct Row {
    /// Where the row begins in `[n_tokens][n_heads][HEAD_DIM]`; the last one's, for rows beyond the end.
    start: u32,
    /// Whether there is such a row.
    exists: bool,
    /// The position of the oldest key it sees.
    oldest: u32,
    /// The position of the newest: its own.
    newest: u32,
    /// What scores are taken less: one of them, with none more than [`SLACK`] above it, or [`NO_SCORE`] before the first.
    reference: f32,
    /// This lane's part of the sum of 2^(score − reference).
    sum: f32,
}

impl Row {
    /// Raises the reference where `largest`, which this lane found in a tile, is too far above it, and gives the factor for what
    /// was summed before. Collective.
    #[inline(always)]
    fn raise(&mut self, largest: f32) -> f32 {
        let largest = float::max(largest, warp::shuffle_xor(largest, 1));
        let largest = float::max(largest, warp::shuffle_xor(largest, 2));
        let reference = if largest > self.reference + SLACK { largest } else { self.reference };
        let keep = float::exp2_approx_flushed(self.reference - reference);
        self.reference = reference;
        keep
    }

    /// Hides the score of a key that the row does not see.
    #[inline(always)]
    fn mask(&self, score: &mut f32, key: u32) {
        if key < self.oldest || self.newest < key {
            *score = f32::NEG_INFINITY;
        }
    }

    /// 2^(score − reference), which is added to the sum.
    #[inline(always)]
    fn weigh(&mut self, score: f32) -> f32 {
        let weight = float::exp2_approx_flushed(score - self.reference);
        self.sum += weight;
        weight
    }

    /// Writes the output's row, of which this lane holds the columns `2 member` and the next of each eight, as elements
    /// `column` and the next of their fragments. Collective.
    #[inline(always)]
    unsafe fn finish<const HEAD_DIM: usize>(
        &self,
        out: *mut F16,
        member: u32,
        output: &[[f32; 4]; 32],
        column: usize,
        sink: Option<f32>,
        out_scale: f32,
    ) {
        let mut sum = warp::sum_over(self.sum, 4);
        if let Some(sink) = sink {
            sum += float::exp2_approx_flushed(sink - self.reference);
        }
        let factor = float::reciprocal(sum) * out_scale;
        let out = out.wrapping_add((self.start + 2 * member) as usize);
        if !self.exists {
            return;
        }
        unroll(
            HEAD_DIM / 16,
            #[inline(always)]
            |step| {
                let mut part = 2 * step;
                while part < 2 * step + 2 {
                    let (a, b) = (output[part][column], output[part][column + 1]);
                    unsafe { *out.add(8 * part).cast::<u32>() = F16::pack(a * factor, b * factor) }
                    part += 1;
                }
            },
        );
    }
}

#[inline(always)]
unsafe fn flash<T: Operand, const HEAD_DIM: usize, const FRAGMENTS: usize>(
    q: *const T,
    keys: *const T,
    values: *const T,
    positions: *const u32,
    tables: *const u32,
    slots: *const u32,
    chunks: *const u32,
    out: *mut F16,
    out_scale: f32,
    ratio: u32,
    table_stride: u32,
    window: u32,
    sinks: *const f32,
    cap: f32,
    cap_rate: f32,
) {
    let shape = const { Shape::new(HEAD_DIM) };
    // Two fragments leave no registers for a second limit of each row.
    let window = if FRAGMENTS == 1 { window } else { u32::MAX };
    let (n_kv_heads, kv_head) = (thread::grid_dim_x(), thread::block_idx_x());
    let n_heads = n_kv_heads * ratio;
    // SAFETY: not zero by the launch contract; said here so that no division is guarded by a panic.
    unsafe {
        core::hint::assert_unchecked(ratio > 0);
        core::hint::assert_unchecked(n_heads > 0);
    }
    grid::launch_dependents();
    grid::wait();
    let chunk = thread::block_idx_z() as usize;
    let first_token = unsafe { *chunks.add(chunk) };
    let n_rows = (unsafe { *chunks.add(chunk + 1) } - first_token) * ratio;
    let first_position = unsafe { *positions.add(first_token as usize) };
    let lane = thread::lane();
    let (group, member) = (lane / 4, lane % 4);

    // The rows with the most keys go first, so that no long block is left for the end.
    let rows_per_warp = FRAGMENTS as u32 * ROWS;
    let first_row = (thread::grid_dim_y() - 1 - thread::block_idx_y()) * N_WARPS * rows_per_warp;
    if first_row >= n_rows {
        return;
    }
    let last_row = u32::min(first_row + N_WARPS * rows_per_warp, n_rows) - 1;
    let row = |index: u32| {
        let exists = index <= last_row;
        let index = u32::min(index, last_row);
        let token = index / ratio;
        let newest = first_position + token;
        Row {
            start: ((first_token + token) * n_heads + kv_head * ratio + index % ratio) * HEAD_DIM as u32,
            exists,
            oldest: (newest + 1).saturating_sub(window),
            newest,
            reference: NO_SCORE,
            sum: 0.0,
        }
    };
    // A fragment's rows `group` and `group + 8` are this lane's.
    let first_of_warp = first_row + thread::warp() * rows_per_warp;
    let mut upper = [row(first_of_warp + group), row(first_of_warp + group + 16)];
    let mut lower = [row(first_of_warp + group + 8), row(first_of_warp + group + 24)];
    // What some rows of the block see, from `oldest` to before `end`, and what all of them see.
    let (first, last) = (row(first_row), row(last_row));
    let (oldest, end) = (first.oldest, last.newest + 1);
    let (all_see_from, all_see_to) = (last.oldest, first.newest + 1);
    let mut first_key = oldest / shape.keys as u32 * shape.keys as u32;
    let pages = unsafe { Pages::of(tables, slots, table_stride, first_token, n_kv_heads) };
    let tiles = Tiles::<T, HEAD_DIM>::new(keys, values, pages, kv_head, oldest, end);
    unsafe { tiles.start(first_key, 0) };

    // Q's A fragments, for each step of 16 along the head.
    let mut query = [[[0; 4]; 16]; 2];
    unroll(
        FRAGMENTS,
        #[inline(always)]
        |fragment| {
            let (above, below) = (upper[fragment].start as usize, lower[fragment].start as usize);
            unroll(
                HEAD_DIM / 16,
                #[inline(always)]
                |step| {
                    let element = 16 * step + 2 * member as usize;
                    let load = |row: usize, column: usize| unsafe { *q.add(row + element + column).cast::<u32>() };
                    query[fragment][step] = [load(above, 0), load(below, 0), load(above, 8), load(below, 8)];
                },
            );
        },
    );

    // Where this lane's rows of the matrices that `ldmatrix` loads are, in the tile of keys and in that of values.
    let stride = shape.stride() as u32;
    let (matrix, line) = (lane / 8, lane % 8);
    let key_lane = (matrix / 2 * 8 + line) * stride + matrix % 2 * 8;
    let value_lane = (matrix % 2 * 8 + line) * stride + matrix / 2 * 8;

    let mut output = [[[0.0; 4]; 32]; 2];
    let mut stage = 0;
    while first_key < end {
        wait::<0>();
        thread::sync_threads();
        let next = first_key + shape.keys as u32;
        if next < end {
            unsafe { tiles.start(next, stage ^ 1) };
        }
        let key_tile = stage * Tiles::<T, HEAD_DIM>::STAGE + key_lane;
        let value_tile = stage * Tiles::<T, HEAD_DIM>::STAGE + shape.tile() as u32 + value_lane;

        let mut scores = [[[0.0; 4]; 8]; 2];
        unroll(
            HEAD_DIM / 16,
            #[inline(always)]
            |step| {
                unroll(
                    shape.keys / 16,
                    #[inline(always)]
                    |pair| {
                        let offset = (16 * pair) as u32 * stride + 16 * step as u32;
                        let [a, b, c, d] = unsafe { load_matrices(tiles.shared, key_tile + offset) };
                        let (left, right) = (2 * pair, 2 * pair + 1);
                        unroll(
                            FRAGMENTS,
                            #[inline(always)]
                            |fragment| {
                                let (query, scores) = (query[fragment][step], &mut scores[fragment]);
                                scores[left] = T::multiply_add(query, [a, b], scores[left]);
                                scores[right] = T::multiply_add(query, [c, d], scores[right]);
                            },
                        );
                    },
                );
            },
        );

        if FRAGMENTS == 1 && cap != 0.0 {
            unroll(
                FRAGMENTS,
                #[inline(always)]
                |fragment| {
                    unroll(
                        shape.keys / 8,
                        #[inline(always)]
                        |part| {
                            let [a, b, c, d] = &mut scores[fragment][part];
                            hold(a, cap, cap_rate);
                            hold(b, cap, cap_rate);
                            hold(c, cap, cap_rate);
                            hold(d, cap, cap_rate);
                        },
                    );
                },
            );
        }

        if first_key < all_see_from || all_see_to < next {
            unroll(
                FRAGMENTS,
                #[inline(always)]
                |fragment| {
                    unroll(
                        shape.keys / 8,
                        #[inline(always)]
                        |part| {
                            let key = first_key + 8 * part as u32 + 2 * member;
                            let [a, b, c, d] = &mut scores[fragment][part];
                            upper[fragment].mask(a, key);
                            upper[fragment].mask(b, key + 1);
                            lower[fragment].mask(c, key);
                            lower[fragment].mask(d, key + 1);
                        },
                    );
                },
            );
        }

        unroll(
            FRAGMENTS,
            #[inline(always)]
            |fragment| {
                let (mut above, mut below) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
                unroll(
                    shape.keys / 8,
                    #[inline(always)]
                    |part| {
                        let [a, b, c, d] = scores[fragment][part];
                        above = float::max(above, float::max(a, b));
                        below = float::max(below, float::max(c, d));
                    },
                );
                let (above, below) = (upper[fragment].raise(above), lower[fragment].raise(below));
                if !warp::any(above != 1.0 || below != 1.0) {
                    return;
                }
                upper[fragment].sum *= above;
                lower[fragment].sum *= below;
                unroll(
                    HEAD_DIM / 16,
                    #[inline(always)]
                    |step| {
                        let mut part = 2 * step;
                        while part < 2 * step + 2 {
                            let [a, b, c, d] = output[fragment][part];
                            output[fragment][part] = [a * above, b * above, c * below, d * below];
                            part += 1;
                        }
                    },
                );
            },
        );

        unroll(
            shape.keys / 16,
            #[inline(always)]
            |step| {
                let mut weights = [[0; 4]; 2];
                unroll(
                    FRAGMENTS,
                    #[inline(always)]
                    |fragment| {
                        let (upper, lower) = (&mut upper[fragment], &mut lower[fragment]);
                        let mut half = 0;
                        while half < 2 {
                            let [a, b, c, d] = scores[fragment][2 * step + half];
                            weights[fragment][2 * half] = T::pack(upper.weigh(a), upper.weigh(b));
                            weights[fragment][2 * half + 1] = T::pack(lower.weigh(c), lower.weigh(d));
                            half += 1;
                        }
                    },
                );
                unroll(
                    HEAD_DIM / 16,
                    #[inline(always)]
                    |pair| {
                        let offset = (16 * step) as u32 * stride + 16 * pair as u32;
                        let [a, b, c, d] = unsafe { load_matrices_transposed(tiles.shared, value_tile + offset) };
                        let (left, right) = (2 * pair, 2 * pair + 1);
                        unroll(
                            FRAGMENTS,
                            #[inline(always)]
                            |fragment| {
                                let (weights, output) = (weights[fragment], &mut output[fragment]);
                                output[left] = T::multiply_add(weights, [a, b], output[left]);
                                output[right] = T::multiply_add(weights, [c, d], output[right]);
                            },
                        );
                    },
                );
            },
        );
        first_key = next;
        stage ^= 1;
    }

    // A sink takes part in the sum, and has no value.
    let sink = |row: &Row| {
        if FRAGMENTS == 1 && !sinks.is_null() {
            let head = row.start / HEAD_DIM as u32 % n_heads;
            Some(unsafe { *sinks.add(head as usize) } * core::f32::consts::LOG2_E)
        } else {
            None
        }
    };
    unroll(
        FRAGMENTS,
        #[inline(always)]
        |fragment| unsafe {
            let (upper, lower) = (&upper[fragment], &lower[fragment]);
            upper.finish::<HEAD_DIM>(out, member, &output[fragment], 0, sink(upper), out_scale);
            lower.finish::<HEAD_DIM>(out, member, &output[fragment], 2, sink(lower), out_scale);
        },
    );
}

macro_rules! variants {
    ($($name:ident: $element:ty, $head_dim:literal, $fragments:literal, blocks $blocks:literal;)*) => {$(
        /// out[token][head] = out_scale · softmax₂(q[token][head] · Kᵀ) · V in f16, softmax₂ being 2^score over its sum, over the
        /// last `window` of the keys at positions 0 to the token's of its sequence, of KV head `head / ratio`; a window of 2^32 − 1 sees
        /// them all, and so does any in a `wide` kernel. Scores are held within `cap` where it is not 0: they become cap · tanh(score / cap),
        /// `cap_rate` being 2 log₂e / cap. A head's sink, where `sinks` is not null, is a score (of base e, as files have it) of no value.
        /// A `wide` kernel knows neither.
        ///
        /// Launch: grid (n_kv_heads, ⌈n · ratio ÷ rows⌉, n_chunks), block ([`BLOCK`]), n being the tokens of the longest chunk, and a block having
        /// [`ROWS`] · [`N_WARPS`] rows, or in a `wide` kernel twice as many.
        ///
        /// # Safety
        /// - `q` and `out` are `[n_tokens][n_kv_heads · ratio][HEAD_DIM]` of fewer than 2^32 elements, 4-byte aligned, not the
        ///   same; `ratio ≥ 1`.
        /// - `chunks` is `[n_chunks + 1]`, ascending and none equal: chunk c is the tokens from `chunks[c]` to before `chunks[c + 1]`, at most
        ///   `n_tokens`, at consecutive positions of one sequence. `positions` and `slots` are `[n_tokens]`, of which each chunk's first is read. `keys` and
        ///   `values` are a layer's caches of this type (`cache.rs`), 16-byte aligned, written up to the chunks' last positions in the pages that the table
        ///   of a chunk's slot has for what is seen; `window ≥ 1`; `sinks` is null or `[n_kv_heads · ratio]`.
        #[kernel(threads = 128, blocks = $blocks)]
        pub unsafe fn $name(
            q: *const $element,
            keys: *const $element,
            values: *const $element,
            positions: *const u32,
            tables: *const u32,
            slots: *const u32,
            chunks: *const u32,
            out: *mut F16,
            out_scale: f32,
            ratio: u32,
            table_stride: u32,
            window: u32,
            sinks: *const f32,
            cap: f32,
            cap_rate: f32,
        ) {
            unsafe {
                flash::<$element, $head_dim, $fragments>(
                    q, keys, values, positions, tables, slots, chunks, out, out_scale, ratio, table_stride, window, sinks, cap,
                    cap_rate,
                )
            }
        }
    )*};
}

variants! {
    flash_f16_64: F16, 64, 1, blocks 3;
    flash_f16_80: F16, 80, 1, blocks 3;
    flash_f16_96: F16, 96, 1, blocks 3;
    flash_f16_128: F16, 128, 1, blocks 3;
    flash_f16_256: F16, 256, 1, blocks 2;
    flash_f16_64_wide: F16, 64, 2, blocks 2;
    flash_bf16_64: BF16, 64, 1, blocks 3;
    flash_bf16_80: BF16, 80, 1, blocks 3;
    flash_bf16_96: BF16, 96, 1, blocks 3;
    flash_bf16_128: BF16, 128, 1, blocks 3;
    flash_bf16_256: BF16, 256, 1, blocks 2;
}
