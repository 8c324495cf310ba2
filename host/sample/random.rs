//! The random numbers behind the draw: MT19937 and the two uniform distributions llama.cpp takes from it.
//!
//! llama.cpp keeps a `std::mt19937`, and the C++ standard fixes every one of its outputs. It does not fix what
//! `std::uniform_real_distribution` makes of them, so the two functions here follow GNU libstdc++
//! (`std::generate_canonical` in `bits/random.tcc`), which the Linux builds of llama.cpp use: as many 32-bit outputs
//! as the mantissa needs, the first one lowest, divided by their range. A double takes two outputs, a float one.

/// Number of 32-bit words of state.
const STATE_WORDS: usize = 624;
/// Distance between the word being renewed and the one mixed into it.
const SHIFT_WORDS: usize = 397;

/// The 32-bit Mersenne Twister of Matsumoto and Nishimura ("Mersenne Twister: a 623-dimensionally equidistributed
/// uniform pseudo-random number generator", ACM TOMACS 8(1), 1998), with the 2002 seeding, as `std::mt19937` has it.
#[derive(Clone)]
pub struct Mt19937 {
    state: [u32; STATE_WORDS],
    /// Next word of `state` to hand out; `STATE_WORDS` means all are used and must be renewed.
    next: usize,
}

impl Mt19937 {
    /// A generator started from `seed`, any 32-bit value.
    pub fn new(seed: u32) -> Self {
        let mut state = [0; STATE_WORDS];
        state[0] = seed;
        for i in 1..STATE_WORDS {
            let previous = state[i - 1];
            state[i] = 1_812_433_253u32.wrapping_mul(previous ^ (previous >> 30)).wrapping_add(i as u32);
        }
        Self { state, next: STATE_WORDS }
    }

    /// The next output, uniform over all 32-bit values.
    pub fn next_u32(&mut self) -> u32 {
        if self.next == STATE_WORDS {
            self.renew();
        }
        let mut word = self.state[self.next];
        self.next += 1;
        word ^= word >> 11;
        word ^= (word << 7) & 0x9d2c_5680;
        word ^= (word << 15) & 0xefc6_0000;
        word ^ (word >> 18)
    }

    /// A double in [0, 1) from two outputs: `(first + second · 2³²) / 2⁶⁴`.
    ///
    /// The sum is rounded to 53 bits before the division, so it can reach 2⁶⁴; libstdc++ then returns the largest
    /// double below one.
    pub fn uniform_f64(&mut self) -> f64 {
        let low = f64::from(self.next_u32());
        let high = f64::from(self.next_u32());
        let value = (low + high * 4_294_967_296.0) / 18_446_744_073_709_551_616.0;
        value.min(1.0f64.next_down())
    }

    /// A float in [0, 1) from one output, rounded to 24 bits and divided by 2³².
    pub fn uniform_f32(&mut self) -> f32 {
        let value = self.next_u32() as f32 / 4_294_967_296.0;
        value.min(1.0f32.next_down())
    }

    /// Renews the whole state, word by word.
    fn renew(&mut self) {
        for i in 0..STATE_WORDS {
            let mixed = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % STATE_WORDS] & 0x7fff_ffff);
            let twist = if mixed & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + SHIFT_WORDS) % STATE_WORDS] ^ (mixed >> 1) ^ twist;
        }
        self.next = 0;
    }
}

/// A seed from the operating system's randomness.
///
/// The standard library asks the system for the keys of its hash maps; hashing nothing with fresh keys gives 64
/// unpredictable bits, of which the lower half is the seed.
pub fn seed_from_system() -> u32 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The C++ standard ([rand.predef]) gives the 10000th output of a default-seeded `std::mt19937`; the first five are
    /// those of the authors' own `mt19937ar.c` started by `init_genrand(5489)`.
    #[test]
    fn mt19937_gives_the_published_outputs() {
        let mut generator = Mt19937::new(5489);
        let outputs: Vec<u32> = (0..10_000).map(|_| generator.next_u32()).collect();
        assert_eq!(outputs[..5], [3_499_211_612, 581_869_302, 3_890_346_734, 3_586_334_585, 545_404_204]);
        assert_eq!(outputs[9_999], 4_123_659_995);
    }

    #[test]
    fn uniform_values_are_the_outputs_over_their_range() {
        let (mut raw, mut double, mut float) = (Mt19937::new(7), Mt19937::new(7), Mt19937::new(7));
        let (first, second) = (raw.next_u32(), raw.next_u32());
        let whole = u64::from(first) + (u64::from(second) << 32);
        assert_eq!(double.uniform_f64(), whole as f64 / 2f64.powi(64));
        assert_eq!(float.uniform_f32(), first as f32 / 2f32.powi(32));
    }

    #[test]
    fn uniform_values_stay_below_one() {
        let mut generator = Mt19937::new(1);
        // A state of words that temper to all ones: rounding alone would give exactly one.
        generator.state = [untemper(u32::MAX); STATE_WORDS];
        generator.next = 0;
        assert_eq!(generator.next_u32(), u32::MAX);
        assert_eq!(generator.uniform_f64(), 1.0f64.next_down());
        assert_eq!(generator.uniform_f32(), 1.0f32.next_down());
    }

    /// The state word that comes out as `output`.
    fn untemper(output: u32) -> u32 {
        let mut word = output;
        word ^= word >> 18;
        word ^= (word << 15) & 0xefc6_0000;
        let mut undone = word;
        for _ in 0..5 {
            undone = word ^ ((undone << 7) & 0x9d2c_5680);
        }
        let mut result = undone;
        for _ in 0..3 {
            result = undone ^ (result >> 11);
        }
        result
    }

    #[test]
    fn system_seeds_differ() {
        let seeds: std::collections::HashSet<u32> = (0..8).map(|_| seed_from_system()).collect();
        assert!(seeds.len() > 6, "eight seeds from the system: {seeds:?}");
    }
}
