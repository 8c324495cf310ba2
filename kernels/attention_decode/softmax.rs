//! A warp's part of the attention of four query heads over one KV head.
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

use cuda_std::{float, thread, warp};

use crate::cache::GROUP as PER_LANE;

/// Query heads of a block, a power of two.
pub const HEADS: usize = 4;

/// Lanes of a row: those that hold one key.
pub const fn lanes_per_key(head_dim: usize) -> u32 {
    (head_dim / PER_LANE).next_power_of_two() as u32
}

/// Keys that a warp looks at at once.
pub const fn keys_per_warp(head_dim: usize) -> u32 {
    32 / lanes_per_key(head_dim)
}

/// Where a lane stands in its warp.
#[derive(Clone, Copy)]
pub struct Lane {
    /// Its row: which of the warp's keys it holds.
    pub key: u32,
    /// The first of its eight elements; in lanes beyond the head, the head's last eight.
    pub element: usize,
    /// Whether those elements are its own.
    pub holds: bool,
    /// The head of its slot 0.
    pub own: u32,
}

impl Lane {
    /// This lane.
    #[inline(always)]
    pub fn of<const HEAD_DIM: usize>() -> Lane {
        let lanes = const { lanes_per_key(HEAD_DIM) };
        let lane = thread::lane();
        let element = (lane % lanes) as usize * PER_LANE;
        let last = const { HEAD_DIM - PER_LANE };
        Lane {
            key: lane / lanes,
            element: if element < last { element } else { last },
            holds: element < HEAD_DIM,
            own: (lane ^ (lane / lanes)) % HEADS as u32,
        }
    }
}

/// The score of one key, given as the lane's elements and what they are multiplied by, with the query of head `own`. Collective
/// over the warp.
#[inline(always)]
pub fn score<const HEAD_DIM: usize>(
    queries: &[[f32; PER_LANE]; HEADS],
    (key, key_scale): ([f32; PER_LANE], f32),
) -> f32 {
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

/// An online softmax (Milakov and Gimelshein, 2018) over the keys that a row has seen. Scores are in units of ln 2, so that
/// weights are powers of 2.
pub struct Softmax {
    /// The largest score, of head `own`.
    pub largest: f32,
    /// The sum of 2^(score − largest), of head `own`.
    pub sum: f32,
    /// The values weighted alike, by slot.
    pub values: [[f32; PER_LANE]; HEADS],
}

impl Softmax {
    /// No key seen. The largest score is finite, so that no difference of two is NaN.
    pub const EMPTY: Softmax = Softmax { largest: f32::MIN, sum: 0.0, values: [[0.0; PER_LANE]; HEADS] };

    /// Prepares for keys with these scores, of head `own`; −∞ for none. Collective over the warp.
    #[inline(always)]
    pub fn expect<const N: usize>(&mut self, scores: [f32; N]) {
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
    pub fn add(&mut self, score: f32, (value, value_scale): ([f32; PER_LANE], f32)) {
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
    pub fn merge_rows<const HEAD_DIM: usize>(&mut self) {
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
