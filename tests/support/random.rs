//! Numbers that differ from run to run, and can be had again.

/// A small source of numbers (SplitMix64).
pub struct Random(pub u64);

impl Random {
    /// Seeded by `FERROWARP_SEED` or the time.
    #[allow(clippy::print_stdout)] // a test says what it drew
    pub fn new() -> Random {
        let seed = match std::env::var("FERROWARP_SEED") {
            Ok(seed) => seed.parse().expect("FERROWARP_SEED is a number"),
            Err(_) => std::time::UNIX_EPOCH.elapsed().expect("a clock past 1970").as_nanos() as u64,
        };
        println!("FERROWARP_SEED={seed}");
        Random(seed)
    }

    /// From 0 to `end` − 1.
    pub fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % end as u64) as usize
    }

    /// Tokens of a vocabulary.
    pub fn tokens(&mut self, n: usize, vocab_size: usize) -> Vec<u32> {
        (0..n).map(|_| self.below(vocab_size) as u32).collect()
    }
}
