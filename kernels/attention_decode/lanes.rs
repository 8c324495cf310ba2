//! A warp's part without tensor cores: four query heads over one KV head, in `f32` whatever the cache's type.
//!
//! # Lanes
//!
//! A *row* of lanes holds one key, eight elements a lane: `head_dim / 8` lanes rounded up to a power of two, so a warp looks
//! at [`keys_per_warp`] keys at once. Every lane has its elements of all four queries, and of the four outputs.
//!
//! # Few shuffles
//!
//! A score is a sum over a row's lanes, and there are four for each key. Summed one by one that is four times log₂(lanes)
//! shuffles; instead a lane hands half of the heads on in each of the first two steps (the heads that it will not finish) and
//! has one head left: 3 shuffles, and then log₂(lanes) − 2. Which register is handed on must be the same in every lane, so
//! lanes number the heads differently: *slot* `s` of a lane is head `s ^ own`, where `own` is the lane's number modulo 4.
//! In the lane whose number differs in one bit, the slots that differ in that bit are the same heads. So slots without
//! the bit are kept and slots with it are handed on, everywhere; what is left in slot 0 is the score of head `own`.
//! The exponential is then taken once for each head and key, not once in each lane, and four shuffles' worth of exchange
//! (slot `s` is what the lane at distance `s` has) gives every lane the weights of its four slots.
//!
//! The outputs of the warp's rows are summed at the end in the same way: `own` also takes the bits of the row's number, so
//! that slots can be handed on between rows.

use cuda_std::{float, shared::Shared, shared_array, thread, unroll::unroll, warp};

use super::{
    Attend, MAX_HEAD_DIM,
    combine::Found,
    get_eight, kept, set_eight,
    words::{CacheWords, EMPTY, Rows, Words},
};
use crate::cache::{GROUP as PER_LANE, Place};

/// Query heads of a block, a power of two.
pub const HEADS: usize = 4;

shared_array! {
    // The queries, `[HEADS][head_dim]`.
    attention_decode_queries: [f32; HEADS * MAX_HEAD_DIM];
}

/// Lanes of a row: those that hold one key.
const fn lanes_per_key(head_dim: usize) -> u32 {
    (head_dim / PER_LANE).next_power_of_two() as u32
}

/// Keys that a warp looks at at once.
const fn keys_per_warp(head_dim: usize) -> u32 {
    32 / lanes_per_key(head_dim)
}

/// Where a lane stands in its warp.
#[derive(Clone, Copy)]
struct Lane {
    /// Its row: which of the warp's keys it holds.
    key: u32,
    /// The first of its eight elements; lanes beyond the head begin anew.
    element: usize,
    /// Whether those elements are its own.
    holds: bool,
    /// The head of its slot 0.
    own: u32,
}

impl Lane {
    /// This lane.
    #[inline(always)]
    fn of<const HEAD_DIM: usize>() -> Lane {
        let lanes = const { lanes_per_key(HEAD_DIM) };
        let lane = thread::lane();
        let element = (lane % lanes) as usize * PER_LANE;
        let holds = element < HEAD_DIM;
        Lane {
            key: lane / lanes,
            element: if holds { element } else { element - HEAD_DIM },
            holds,
            own: (lane ^ (lane / lanes)) % HEADS as u32,
        }
    }
}

/// The score of one key, given as the lane's elements and what they are multiplied by, with the query of head `own`. Collective
/// over the warp.
#[inline(always)]
fn score<const HEAD_DIM: usize>(queries: &[[f32; PER_LANE]; HEADS], (key, key_scale): ([f32; PER_LANE], f32)) -> f32 {
    let mut parts = [0.0; HEADS];
    let mut slot = 0;
    while slot < HEADS {
        let mut index = 0;
        while index < PER_LANE {
            parts[slot] = float::fma(queries[slot][index], key[index], parts[slot]);
            index += 1;
        }
        parts[slot] *= key_scale;
        slot += 1;
    }
    let mut bit = 1;
    while bit < HEADS {
        slot = 0;
        while slot < HEADS {
            parts[slot] += warp::shuffle_xor(parts[slot + bit], bit as u32);
            slot += 2 * bit;
        }
        bit *= 2;
    }
    let mut score = parts[0];
    let mut distance = HEADS as u32;
    while distance < const { lanes_per_key(HEAD_DIM) } {
        score += warp::shuffle_xor(score, distance);
        distance *= 2;
    }
    score
}

/// By slot, what each head's lane has for this row. Collective over the warp.
#[inline(always)]
fn gather(value: f32) -> [f32; HEADS] {
    let mut values = [value; HEADS];
    let mut slot = 1;
    while slot < HEADS {
        values[slot] = warp::shuffle_xor(value, slot as u32);
        slot += 1;
    }
    values
}

/// A warp's part of the attention: an online softmax (Milakov and Gimelshein, 2018) over the keys that each of its rows has
/// seen, and the tile that it works on, `IN_FLIGHT` keys a row.
pub struct Lanes<T, const HEAD_DIM: usize, const IN_FLIGHT: usize> {
    lane: Lane,
    keys: Rows<T>,
    values: Rows<T>,
    tile_keys: [Words; IN_FLIGHT],
    tile_values: [Words; IN_FLIGHT],
    /// The tile's scores, of head `own`.
    scores: [f32; IN_FLIGHT],
    /// The lane's elements, by slot.
    queries: [[f32; PER_LANE]; HEADS],
    softmax: Softmax,
}

struct Softmax {
    /// The largest score, of head `own`.
    largest: f32,
    /// The sum of 2^(score − largest), of head `own`.
    sum: f32,
    /// The values weighted alike, by slot.
    values: [[f32; PER_LANE]; HEADS],
}

impl Softmax {
    /// No key seen. The largest score is finite, so that no difference of two is NaN.
    const EMPTY: Softmax = Softmax { largest: f32::MIN, sum: 0.0, values: [[0.0; PER_LANE]; HEADS] };

    /// Prepares for keys with these scores, of head `own`; −∞ for none. Collective over the warp.
    #[inline(always)]
    fn expect<const N: usize>(&mut self, scores: [f32; N]) {
        let mut largest = self.largest;
        let mut key = 0;
        while key < N {
            largest = float::max(largest, scores[key]);
            key += 1;
        }
        // After the first keys a new largest score is rare, and without one nothing needs rescaling.
        if warp::any(largest > self.largest) {
            self.rescale(largest);
        }
    }

    /// Takes a key in that was expected: its score, and the lane's elements of its value with what they are multiplied by.
    /// Collective over the warp.
    #[inline(always)]
    fn add(&mut self, score: f32, (value, value_scale): ([f32; PER_LANE], f32)) {
        let weight = float::exp2_approx_flushed(score - self.largest);
        self.sum += weight;
        let mut weights = gather(weight);
        let mut slot = 0;
        while slot < HEADS {
            weights[slot] *= value_scale;
            let mut index = 0;
            while index < PER_LANE {
                self.values[slot][index] = float::fma(weights[slot], value[index], self.values[slot][index]);
                index += 1;
            }
            slot += 1;
        }
    }

    /// Makes everything relative to a largest score that is at least the present one. Collective over the warp.
    #[inline(always)]
    fn rescale(&mut self, largest: f32) {
        let keep = float::exp2_approx_flushed(self.largest - largest);
        self.largest = largest;
        self.sum *= keep;
        let keep = gather(keep);
        let mut slot = 0;
        while slot < HEADS {
            let mut index = 0;
            while index < PER_LANE {
                self.values[slot][index] *= keep[slot];
                index += 1;
            }
            slot += 1;
        }
    }

    /// Merges the warp's rows. Afterwards largest score and sum of head `own` are the warp's, and slots that are multiples of
    /// [`keys_per_warp`] hold the warp's values. Collective over the warp.
    #[inline(always)]
    fn merge_rows<const HEAD_DIM: usize>(&mut self) {
        let (lanes, rows) = const { (lanes_per_key(HEAD_DIM), keys_per_warp(HEAD_DIM)) };
        // The next row's lane for the same head and elements: `own` has the row's bits too.
        let mut largest = self.largest;
        let mut bit = 1;
        while bit < rows {
            largest = float::max(largest, warp::shuffle_xor(largest, (bit * lanes) ^ bit));
            bit *= 2;
        }
        self.rescale(largest);
        bit = 1;
        while bit < rows {
            self.sum += warp::shuffle_xor(self.sum, (bit * lanes) ^ bit);
            let mut slot = 0;
            while slot < HEADS {
                let mut index = 0;
                while index < PER_LANE {
                    let given = self.values[slot + bit as usize][index];
                    self.values[slot][index] += warp::shuffle_xor(given, bit * lanes);
                    index += 1;
                }
                slot += 2 * bit as usize;
            }
            bit *= 2;
        }
    }
}

impl<T: CacheWords, const HEAD_DIM: usize, const IN_FLIGHT: usize> Lanes<T, HEAD_DIM, IN_FLIGHT> {
    /// The position of a row's key in the tile.
    #[inline(always)]
    fn key(&self, first: u32, index: usize) -> u32 {
        first + index as u32 * const { keys_per_warp(HEAD_DIM) } + self.lane.key
    }

    /// Of a position that is not in the cache, the last one's that is.
    #[inline(always)]
    unsafe fn load(&self, rows: Rows<T>, row: u32, first: u32, end: u32) -> [Words; IN_FLIGHT] {
        let mut words = [EMPTY; IN_FLIGHT];
        unroll(
            IN_FLIGHT,
            #[inline(always)]
            |index| {
                let row = row + (self.key(first, index).min(end - 1) - first);
                words[index] = unsafe { T::load::<HEAD_DIM>(rows, row) };
            },
        );
        words
    }
}

impl<T: CacheWords, const HEAD_DIM: usize, const IN_FLIGHT: usize> Attend<T> for Lanes<T, HEAD_DIM, IN_FLIGHT> {
    const TILE: u32 = keys_per_warp(HEAD_DIM) * IN_FLIGHT as u32;

    #[inline(always)]
    fn new(keys: *const T, values: *const T, place: Place) -> Self {
        let lane = Lane::of::<HEAD_DIM>();
        let place = Place { element: lane.element, ..place };
        Lanes {
            lane,
            keys: T::rows(keys, place),
            values: T::rows(values, place),
            tile_keys: [EMPTY; IN_FLIGHT],
            tile_values: [EMPTY; IN_FLIGHT],
            scores: [0.0; IN_FLIGHT],
            queries: [[0.0; PER_LANE]; HEADS],
            softmax: Softmax::EMPTY,
        }
    }

    #[inline(always)]
    unsafe fn clear_queries() {
        let element = 4 * thread::thread_idx_x();
        if element < const { (HEADS * HEAD_DIM) as u32 } {
            unsafe { attention_decode_queries().set_four(element, [0.0; 4]) }
        }
    }

    #[inline(always)]
    unsafe fn set_query(head: u32, element: u32, value: f32) {
        unsafe { attention_decode_queries().set(head * HEAD_DIM as u32 + element, value) }
    }

    #[inline(always)]
    unsafe fn finish_query(head: u32) {
        if T::TURNED {
            // Lanes beyond the head take its last eight too: they turn them together.
            let lane = thread::lane();
            let eight = (lane * PER_LANE as u32).min(const { (HEAD_DIM - PER_LANE) as u32 });
            let place = head * HEAD_DIM as u32 + eight;
            warp::sync();
            let query = T::turn(unsafe { get_eight(attention_decode_queries(), place) });
            warp::sync();
            if lane < const { (HEAD_DIM / PER_LANE) as u32 } {
                unsafe { set_eight(attention_decode_queries(), place, query) }
            }
        }
    }

    #[inline(always)]
    unsafe fn take_queries(&mut self) {
        let mut slot = 0;
        while slot < HEADS {
            let place = (slot as u32 ^ self.lane.own) * HEAD_DIM as u32 + self.lane.element as u32;
            let eight = unsafe { get_eight(attention_decode_queries(), place) };
            self.queries[slot] = eight.map(|value| if self.lane.holds { value } else { 0.0 });
            slot += 1;
        }
    }

    #[inline(always)]
    unsafe fn load_keys(&mut self, row: u32, first: u32, end: u32) {
        self.tile_keys = unsafe { self.load(self.keys, row, first, end) };
    }

    #[inline(always)]
    unsafe fn load_values(&mut self, row: u32, first: u32, end: u32) {
        self.tile_values = unsafe { self.load(self.values, row, first, end) };
    }

    #[inline(always)]
    unsafe fn insert(&mut self, first: u32, position: u32, key: Shared<u32>, value: Shared<u32>) {
        let element = self.lane.element;
        unroll(
            IN_FLIGHT,
            #[inline(always)]
            |index| {
                if self.key(first, index) == position {
                    self.tile_keys[index] = unsafe { kept::<T>(key, element) };
                    self.tile_values[index] = unsafe { kept::<T>(value, element) };
                }
            },
        );
    }

    #[inline(always)]
    fn attend_keys(&mut self, first: u32, oldest: u32, end: u32) {
        unroll(
            IN_FLIGHT,
            #[inline(always)]
            |index| {
                let score = score::<HEAD_DIM>(&self.queries, T::unpack(self.tile_keys[index]));
                let key = self.key(first, index);
                self.scores[index] = if oldest <= key && key < end { score } else { f32::NEG_INFINITY };
            },
        );
    }

    #[inline(always)]
    fn attend_values(&mut self) {
        self.softmax.expect(self.scores);
        unroll(
            IN_FLIGHT,
            #[inline(always)]
            |index| self.softmax.add(self.scores[index], T::unpack(self.tile_values[index])),
        );
    }

    #[inline(always)]
    unsafe fn leave(mut self, warp: u32, found: Found) {
        self.softmax.merge_rows::<HEAD_DIM>();
        let Lane { own, element, holds, .. } = self.lane;
        if thread::lane() < HEADS as u32 {
            unsafe { found.set_weights(warp, own, self.softmax.largest, self.softmax.sum) }
        }
        if holds {
            let mut slot = 0;
            while slot < HEADS {
                let row = found.row(warp, slot as u32 ^ own);
                unsafe { set_eight(found.values, row + element as u32, self.softmax.values[slot]) };
                slot += const { keys_per_warp(HEAD_DIM) as usize };
            }
        }
    }
}
