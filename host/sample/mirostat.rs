//! Mirostat: sampling that steers the surprise of the text towards a target.
//!
//! Basu et al., "Mirostat: A Neural Text Decoding Algorithm that Directly Controls Perplexity", 2020, arXiv:2007.14966.
//! The surprise of a token is −log₂ of its probability. After each draw, the bound `mu` moves against the difference
//! between the surprise seen and the target `tau`, by the learning rate `eta`; it starts at 2·`tau`. Both versions
//! replace the rest of the chain, truncate, and draw from what is left.

use super::candidates::Candidates;
use super::random::Mt19937;

/// How many of the likeliest tokens version 1 fits Zipf's law to.
const ZIPF_TOKENS: usize = 100;

/// Which of the two algorithms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// Algorithm 1 of the paper: estimates the exponent of Zipf's law, and from it a top-k.
    One,
    /// The simpler form by the same authors: drops every token more surprising than `mu`.
    Two,
}

/// The state of the feedback loop.
#[derive(Clone)]
pub struct Mirostat {
    version: Version,
    tau: f32,
    eta: f32,
    /// The largest surprise allowed at the next draw, in bits.
    mu: f32,
    n_vocab: usize,
}

impl Mirostat {
    /// The loop at its start. `n_vocab` is the size of the vocabulary.
    pub fn new(version: Version, tau: f32, eta: f32, n_vocab: usize) -> Self {
        Self { version, tau, eta, mu: 2.0 * tau, n_vocab }
    }

    /// Back to the start.
    pub fn reset(&mut self) {
        self.mu = 2.0 * self.tau;
    }

    /// Truncates, draws, and learns from the draw; returns the index of the candidate drawn.
    ///
    /// `None` when there is no candidate with a logit above −∞.
    pub fn draw(&mut self, candidates: &mut Candidates, rng: &mut Mt19937) -> Option<usize> {
        if candidates.max_logit() == f32::NEG_INFINITY {
            return None;
        }
        candidates.sort();
        candidates.softmax();
        let kept = match self.version {
            Version::One => self.zipf_top_k(candidates),
            Version::Two => candidates.entries.iter().take_while(|entry| -entry.p.log2() <= self.mu).count(),
        };
        candidates.entries.truncate(kept.max(1));
        candidates.softmax();

        let chosen = draw_discrete(candidates, rng);
        let surprise = -candidates.entries[chosen].p.log2();
        self.mu -= self.eta * (surprise - self.tau);
        Some(chosen)
    }

    /// The top-k that should bring the target surprise, by equations 30 and 31 of the paper.
    fn zipf_top_k(&self, candidates: &Candidates) -> usize {
        let (mut products, mut squares) = (0.0f32, 0.0f32);
        for (i, pair) in candidates.entries.windows(2).take(ZIPF_TOKENS - 1).enumerate() {
            let t = ((i + 2) as f32 / (i + 1) as f32).ln();
            let b = (pair[0].p / pair[1].p).ln();
            products += t * b;
            squares += t * t;
        }
        let s = products / squares;
        let epsilon = s - 1.0;
        let k = ((epsilon * 2f32.powf(self.mu)) / (1.0 - (self.n_vocab as f32).powf(-epsilon))).powf(1.0 / s);
        // llama.cpp converts to int, which on x86-64 turns what does not fit into the smallest int, and then takes the
        // larger of that and 1: a k too large for an int is a k of one.
        if k < 2f32.powi(31) { k as usize } else { 1 }
    }
}

/// Draws an index by `p`, as libstdc++'s `std::discrete_distribution` does: cumulative sums in f64, the last one set to
/// 1, and the first that reaches a uniform double. A single candidate takes nothing from `rng`.
fn draw_discrete(candidates: &Candidates, rng: &mut Mt19937) -> usize {
    let last = candidates.entries.len() - 1;
    if last == 0 {
        return 0;
    }
    let total = candidates.entries.iter().fold(0.0f64, |sum, entry| sum + f64::from(entry.p));
    let uniform = rng.uniform_f64();
    let mut cumulative = 0.0f64;
    candidates.entries[..last]
        .iter()
        .position(|entry| {
            cumulative += f64::from(entry.p) / total;
            cumulative >= uniform
        })
        .unwrap_or(last)
}

#[cfg(test)]
mod tests {
    use super::super::candidates::tests::{from_logits, ids};
    use super::*;

    /// Tokens of 1, 2, 3 and 3 bits; with a target of 1.25, mu is 2.5 and the two of 3 bits go.
    #[test]
    fn version_two_by_hand() {
        let mut rng = Mt19937::new(5);
        let mut mirostat = Mirostat::new(Version::Two, 1.25, 0.5, 4);
        let mut candidates = from_logits(&[0.5f32.ln(), 0.25f32.ln(), 0.125f32.ln(), 0.125f32.ln()]);
        let chosen = mirostat.draw(&mut candidates, &mut rng).unwrap();
        assert_eq!(ids(&candidates), [0, 1]);
        let surprise = -[2.0f32 / 3.0, 1.0 / 3.0][chosen].log2();
        assert!((mirostat.mu - (2.5 - 0.5 * (surprise - 1.25))).abs() < 1e-6, "{}", mirostat.mu);
        mirostat.reset();
        assert_eq!(mirostat.mu, 2.5);
    }

    /// Probabilities falling as 1/rank² follow Zipf's law with exponent 2 exactly, so epsilon is 1 and
    /// k = (2^mu / (1 − 1/n))^½.
    #[test]
    fn version_one_finds_the_exponent() {
        let n = 50;
        let logits: Vec<f32> = (1..=n).map(|rank| -2.0 * (rank as f32).ln()).collect();
        let mut mirostat = Mirostat::new(Version::One, 2.0, 0.1, n);
        let mut candidates = from_logits(&logits);
        mirostat.draw(&mut candidates, &mut Mt19937::new(1)).unwrap();
        assert_eq!(candidates.entries.len(), 4, "(16 / 0.98)^½ = 4.04");
    }

    #[test]
    fn one_candidate_and_none() {
        for version in [Version::One, Version::Two] {
            let mut mirostat = Mirostat::new(version, 5.0, 0.1, 3);
            let mut rng = Mt19937::new(1);
            let mut only = from_logits(&[f32::NEG_INFINITY, 1.0, f32::NEG_INFINITY]);
            let chosen = mirostat.draw(&mut only, &mut rng).unwrap();
            assert_eq!(only.entries[chosen].id, 1);
            assert_eq!(mirostat.draw(&mut from_logits(&[f32::NEG_INFINITY; 3]), &mut rng), None);
        }
    }
}
