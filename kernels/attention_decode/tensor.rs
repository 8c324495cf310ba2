//! A warp's part on tensor cores: eight query heads over one KV head, for caches of 16-bit floats.
//!
//! With eight heads on it, every element of a key or value takes part in eight products, more than the ordinary instructions
//! can do while memory brings the next. `mma.m16n8k16` (fragments as in `cuda_std::mma`; `group = lane / 4`,
//! `member = lane % 4`) does them, over tiles of 16 keys:
//!
//! - Scores: A is the queries, a head a row, B is eight keys, so a lane gets the scores of head `group` for the keys
//!   `2 member` and the next of each eight.
//! - Values: A is the transposed values, 16 elements by the tile's 16 keys, B is the weights, keys by heads. B's fragment is
//!   for head `group` and the keys that the lane has scores of: the weights need not move. The lane gets the sums of the heads
//!   `2 member` and the next.
//!
//! Which element counts as which row or column of a product does not matter so long as both its operands agree. So elements
//! are numbered as they are loaded, 16 bytes a lane: fragments of keys are what was loaded, and those of the transposed
//! values are made of the two keys' words by byte selection.
//!
//! # Precision
//!
//! Products of 16-bit floats are exact and summed in `f32`. Queries and weights are split into two 16-bit *pieces* that add up
//! to them: 22 bits in f16, 16 bits in bf16, where keys and values have 11 and 8. The queries' second pieces are free: eight
//! heads are half of A's rows, and the lower half has the second pieces. Weights are scaled by 2^14 (as is their sum), so that
//! pieces do not fall below f16's range.

use cuda_std::{
    BF16, F16, float, integer::pick_bytes, memory::Vector16, mma::Operand, shared::Shared, shared_array, thread,
    unroll::unroll, warp,
};

use super::{Attend, combine::Found, kept, set_eight, words::CacheWords};
use crate::cache::Place;

/// Query heads of a block.
pub const HEADS: usize = 8;

/// Keys of a tile.
const KEYS: u32 = 16;

/// The largest head.
const MAX_HEAD_DIM: usize = 128;

/// Steps of 16 elements along the largest head.
const MAX_STEPS: usize = MAX_HEAD_DIM / 16;

/// Elements of a 16-byte load.
const PER_LOAD: usize = 8;

shared_array! {
    // The queries as fragments of A: `[step][lane][register][2]`, lanes in the order of [`place_of_lane`].
    attention_decode_pieces: [u16; MAX_STEPS * 32 * 4 * 2];
}

/// Where in a step's fragments a lane's is: the order differs from step to step, for elements that are written at once to be
/// in different banks.
#[inline(always)]
fn place_of_lane(step: u32, lane: u32) -> u32 {
    lane ^ (4 * step)
}

/// log₂ of what weights are scaled by: the largest is 2^14, of f16's 2^16.
const SCALE: f32 = 14.0;

/// A 16-bit float whose products are made on tensor cores.
pub trait Half: CacheWords + Operand {}

impl Half for F16 {}
impl Half for BF16 {}

/// The two pieces of two values, those of the first in the lower halves.
#[inline(always)]
fn split<T: Half>(low: f32, high: f32) -> [u32; 2] {
    let first = T::pack(low, high);
    let rest = |value: f32, index: usize| value - T::of_vector([first, 0, 0, 0], index);
    [first, T::pack(rest(low, 0), rest(high, 1))]
}

/// A warp's part of the attention: its tile, and its online softmax.
pub struct Tensor<T, const HEAD_DIM: usize> {
    group: u32,
    member: u32,
    /// The cache's rows.
    keys: *const T,
    values: *const T,
    /// `[2][steps / 2]`: of keys `group` and `group + 8`, the 8 elements from 32 step / 2 + 8 member on.
    tile_keys: [[u32; 4]; MAX_STEPS],
    /// `[4][sixty-fours]`: of keys `2 member`, `2 member + 1`, and both + 8, the 8 elements from 64 i + 8 group on.
    tile_values: [[u32; 4]; MAX_STEPS],
    /// Of head `group`, of those four keys.
    scores: [f32; 4],
    /// The largest score of head `group`, in units of ln 2.
    largest: f32,
    /// The lane's part of the sum of 2^(score − largest + SCALE) of head `group`.
    sum: f32,
    /// `[sixty-fours][4]`: fragment i has elements 8 group + 2 i (registers 0 and 1) and the next (2 and 3) of heads
    /// `2 member` and the next.
    output: [[f32; 4]; MAX_STEPS],
}

impl<T: Half, const HEAD_DIM: usize> Tensor<T, HEAD_DIM> {
    /// Loads that bring a lane's part of a key: each is of 32 elements.
    const THIRTY_TWOS: usize = HEAD_DIM.div_ceil(32);
    /// Loads that bring a lane's part of a value: each is of 64 elements.
    const SIXTY_FOURS: usize = HEAD_DIM.div_ceil(64);

    /// Where a lane's load begins; the head's last eight elements, for a lane beyond the head.
    #[inline(always)]
    fn element(first: usize, chunk: u32) -> usize {
        let element = first + PER_LOAD * chunk as usize;
        if HEAD_DIM.is_multiple_of(64) { element } else { element.min(HEAD_DIM - PER_LOAD) }
    }

    #[inline(always)]
    fn key_element(&self, index: usize) -> usize {
        Self::element(32 * index, self.member)
    }

    #[inline(always)]
    fn value_element(&self, index: usize) -> usize {
        Self::element(64 * index, self.group)
    }

    /// The position of one of the two keys whose elements the lane has.
    #[inline(always)]
    fn key(&self, first: u32, index: usize) -> u32 {
        first + 8 * index as u32 + self.group
    }

    /// The position of one of the four keys whose values and scores the lane has.
    #[inline(always)]
    fn scored(&self, first: u32, index: usize) -> u32 {
        first + 8 * (index as u32 / 2) + 2 * self.member + index as u32 % 2
    }

    #[inline(always)]
    unsafe fn load(rows: *const T, row: u32, element: usize) -> [u32; 4] {
        let Vector16(words) = unsafe { *rows.add(row as usize * HEAD_DIM + element).cast::<Vector16>() };
        words
    }

    /// Makes everything relative to a new largest score of the lanes that have head `group`. Collective.
    #[inline(always)]
    fn rescale(&mut self, largest: f32) {
        let largest = float::max(largest, warp::shuffle_xor(largest, 1));
        let largest = float::max(largest, warp::shuffle_xor(largest, 2));
        let keep = float::exp2_approx_flushed(self.largest - largest);
        self.largest = largest;
        self.sum *= keep;
        let keep = [warp::shuffle(keep, 8 * self.member), warp::shuffle(keep, 8 * self.member + 4)];
        unroll(
            4 * Self::SIXTY_FOURS,
            #[inline(always)]
            |fragment| {
                let [a, b, c, d] = self.output[fragment];
                self.output[fragment] = [a * keep[0], b * keep[1], c * keep[0], d * keep[1]];
            },
        );
    }
}

impl<T: Half, const HEAD_DIM: usize> Attend<T> for Tensor<T, HEAD_DIM> {
    const TILE: u32 = KEYS;

    #[inline(always)]
    fn new(keys: *const T, values: *const T, place: Place) -> Self {
        let row = place.row * HEAD_DIM;
        Tensor {
            group: thread::lane() / 4,
            member: thread::lane() % 4,
            keys: keys.wrapping_add(row),
            values: values.wrapping_add(row),
            tile_keys: [[0; 4]; MAX_STEPS],
            tile_values: [[0; 4]; MAX_STEPS],
            scores: [0.0; 4],
            largest: f32::MIN,
            sum: 0.0,
            output: [[0.0; 4]; MAX_STEPS],
        }
    }

    #[inline(always)]
    unsafe fn clear_queries() {
        let thread = thread::thread_idx_x();
        // A fragment for each thread of eight warps.
        if thread < const { (2 * Self::THIRTY_TWOS * 32) as u32 } {
            unsafe { attention_decode_pieces().cast::<u32>().set_four(4 * thread, [0; 4]) }
        }
    }

    #[inline(always)]
    unsafe fn set_query(head: u32, element: u32, value: f32) {
        // A load of 32 elements makes two steps: the first four of each lane's eight are in the first.
        let step = element / 32 * 2 + element % 8 / 4;
        let lane = 4 * head + element % 32 / 8;
        let register = element % 4 / 2 * 2;
        let place = ((step * 32 + place_of_lane(step, lane)) * 4 + register) * 2 + element % 2;
        let [first, second] = split::<T>(value, 0.0);
        unsafe {
            attention_decode_pieces().set(place, first as u16);
            attention_decode_pieces().set(place + 2, second as u16);
        }
    }

    #[inline(always)]
    unsafe fn finish_query(_: u32) {}

    /// They stay in shared memory: a fragment is one load, once for a tile, and registers are for what is on its way.
    #[inline(always)]
    unsafe fn take_queries(&mut self) {}

    #[inline(always)]
    unsafe fn load_keys(&mut self, row: u32, first: u32, end: u32) {
        unroll(
            2 * Self::THIRTY_TWOS,
            #[inline(always)]
            |load| {
                let (key, part) = (load / Self::THIRTY_TWOS, load % Self::THIRTY_TWOS);
                let row = row + (self.key(first, key).min(end - 1) - first);
                self.tile_keys[load] = unsafe { Self::load(self.keys, row, self.key_element(part)) };
            },
        );
    }

    #[inline(always)]
    unsafe fn load_values(&mut self, row: u32, first: u32, end: u32) {
        unroll(
            4 * Self::SIXTY_FOURS,
            #[inline(always)]
            |load| {
                let (key, part) = (load / Self::SIXTY_FOURS, load % Self::SIXTY_FOURS);
                let row = row + (self.scored(first, key).min(end - 1) - first);
                self.tile_values[load] = unsafe { Self::load(self.values, row, self.value_element(part)) };
            },
        );
    }

    #[inline(always)]
    unsafe fn insert(&mut self, first: u32, position: u32, key: Shared<u32>, value: Shared<u32>) {
        let four = |array: Shared<u32>, element: usize| {
            let [a, b, c, d, ..] = unsafe { kept::<T>(array, element) };
            [a, b, c, d]
        };
        unroll(
            2 * Self::THIRTY_TWOS,
            #[inline(always)]
            |load| {
                if self.key(first, load / Self::THIRTY_TWOS) == position {
                    self.tile_keys[load] = four(key, self.key_element(load % Self::THIRTY_TWOS));
                }
            },
        );
        unroll(
            4 * Self::SIXTY_FOURS,
            #[inline(always)]
            |load| {
                if self.scored(first, load / Self::SIXTY_FOURS) == position {
                    self.tile_values[load] = four(value, self.value_element(load % Self::SIXTY_FOURS));
                }
            },
        );
    }

    #[inline(always)]
    fn attend_keys(&mut self, first: u32, oldest: u32, end: u32) {
        // Two sums for each eight keys, so that fewer products wait for one another, where registers allow it.
        let mut sums = [[0.0; 4]; 4];
        unroll(
            2 * Self::THIRTY_TWOS,
            #[inline(always)]
            |step| {
                let fragment = step as u32 * 32 + place_of_lane(step as u32, thread::lane());
                // SAFETY: within the arrays, and ordered before by the block's barrier.
                let query = unsafe { attention_decode_pieces().cast::<u32>().get_four(4 * fragment) };
                let mut eight = 0;
                while eight < 2 {
                    let words = self.tile_keys[eight * Self::THIRTY_TWOS + step / 2];
                    let key = [words[step % 2 * 2], words[step % 2 * 2 + 1]];
                    let sum = &mut sums[2 * eight + if HEAD_DIM <= 64 { step % 2 } else { 0 }];
                    *sum = T::multiply_add(query, key, *sum);
                    eight += 1;
                }
            },
        );
        unroll(
            4,
            #[inline(always)]
            |index| {
                let (one, other) = (sums[index / 2 * 2], sums[index / 2 * 2 + 1]);
                let column = index % 2;
                let score = (one[column] + one[column + 2]) + (other[column] + other[column + 2]);
                let key = self.scored(first, index);
                self.scores[index] = if oldest <= key && key < end { score } else { f32::NEG_INFINITY };
            },
        );
    }

    #[inline(always)]
    fn attend_values(&mut self) {
        let [a, b, c, d] = self.scores;
        let largest = float::max(float::max(a, b), float::max(c, d));
        // After the first keys a new largest score is rare, and without one nothing needs rescaling.
        if warp::any(largest > self.largest) {
            self.rescale(float::max(largest, self.largest));
        }
        let base = self.largest - SCALE;
        let weights = self.scores.map(|score| float::exp2_approx_flushed(score - base));
        self.sum += (weights[0] + weights[1]) + (weights[2] + weights[3]);
        let (low, high) = (split::<T>(weights[0], weights[1]), split::<T>(weights[2], weights[3]));
        unroll(
            4 * Self::SIXTY_FOURS,
            #[inline(always)]
            |fragment| {
                let word = |key: usize| self.tile_values[key * Self::SIXTY_FOURS + fragment / 4][fragment % 4];
                // The first or the second elements of two keys.
                let pair = |a: usize, selector: u32| pick_bytes(word(a), word(a + 1), selector);
                let a = [pair(0, 0x5410), pair(0, 0x7632), pair(2, 0x5410), pair(2, 0x7632)];
                let mut piece = 0;
                while piece < 2 {
                    self.output[fragment] = T::multiply_add(a, [low[piece], high[piece]], self.output[fragment]);
                    piece += 1;
                }
            },
        );
    }

    #[inline(always)]
    unsafe fn leave(self, warp: u32, found: Found) {
        let sum = warp::sum_over(self.sum, 4);
        if self.member == 0 {
            unsafe { found.set_weights(warp, self.group, self.largest, sum) }
        }
        let heads = [found.row(warp, 2 * self.member), found.row(warp, 2 * self.member + 1)];
        unroll(
            Self::SIXTY_FOURS,
            #[inline(always)]
            |part| {
                let element = 64 * part + PER_LOAD * self.group as usize;
                if HEAD_DIM.is_multiple_of(64) || element < HEAD_DIM {
                    let mut head = 0;
                    while head < 2 {
                        let of = |index: usize| self.output[4 * part + index / 2][index % 2 * 2 + head];
                        let eight = [of(0), of(1), of(2), of(3), of(4), of(5), of(6), of(7)];
                        unsafe { set_eight(found.values, heads[head] + element as u32, eight) }
                        head += 1;
                    }
                }
            },
        );
    }
}
