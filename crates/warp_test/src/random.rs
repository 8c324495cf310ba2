//! Inputs that nobody chose, and that can be had again.

use std::env;
use std::time::UNIX_EPOCH;

/// A repeatable source of random values (SplitMix64; Steele, Lea and Flood, 2014).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Seeded by `FERROWARP_SEED`, else by the time. It prints the seed, which the test runner shows on failure.
    ///
    /// # Panics
    /// The variable is not a number.
    #[allow(clippy::new_without_default, reason = "two defaults are to be equal")]
    #[allow(clippy::print_stdout, reason = "a test says what it drew")]
    pub fn new() -> Random {
        let seed = match env::var("FERROWARP_SEED") {
            Ok(text) => text.parse().unwrap_or_else(|_| panic!("FERROWARP_SEED={text}: expected a number below 2^64")),
            Err(_) => UNIX_EPOCH.elapsed().expect("a clock past 1970").as_nanos() as u64,
        };
        println!("FERROWARP_SEED={seed}");
        Random(seed)
    }

    /// With a seed of the caller's, for what must be the same on every run.
    pub fn from_seed(seed: u64) -> Random {
        Random(seed)
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform over [−1, 1).
    pub fn value(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    /// `len` values, uniform over [−scale, scale).
    pub fn values(&mut self, len: usize, scale: f32) -> Vec<f32> {
        (0..len).map(|_| self.value() * scale).collect()
    }

    /// An index below `end`.
    ///
    /// # Panics
    /// `end` is 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.bits() % end as u64) as usize
    }

    /// `len` indices below `end`.
    ///
    /// # Panics
    /// `end` is 0.
    pub fn indices(&mut self, len: usize, end: usize) -> Vec<u32> {
        (0..len).map(|_| self.below(end) as u32).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_draws_the_same_again_and_values_keep_their_range() {
        let draw = || {
            let mut random = Random::from_seed(7);
            (random.values(1000, 2.0), random.indices(1000, 3))
        };
        let (values, indices) = draw();
        assert_eq!((values.clone(), indices.clone()), draw());
        assert!(values.iter().all(|value| (-2.0..2.0).contains(value)));
        assert!(values.iter().any(|value| *value < -1.5) && values.iter().any(|value| *value > 1.5));
        assert!((0..3).all(|index| indices.contains(&index)) && !indices.contains(&3));
    }
}
