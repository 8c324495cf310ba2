//! The stages that drop unlikely tokens: top-k, top-p, min-p, typical, top-n-sigma.
//!
//! Each leaves at least one candidate where there was one, and `min_keep` raises that floor. Sums run in f32 in the
//! order of the candidates, as llama.cpp's do: the last token kept can depend on the last bit.

use super::candidates::{Candidates, Order};
use super::order;

/// Above this many unsorted candidates, [`top_p`] first tries with [`TOP_P_GUESS`] of them.
const TOP_P_SORT_LIMIT: usize = 1024;
/// How many of the largest logits usually hold the top-p mass.
const TOP_P_GUESS: usize = 256;

/// Keeps the `k` largest logits, sorted (Fan et al., "Hierarchical Neural Story Generation", 2018, arXiv:1805.04833).
/// `k` = 0 does nothing.
pub fn top_k(candidates: &mut Candidates, k: usize) {
    if k > 0 {
        candidates.keep_largest(k);
    }
}

/// Nucleus sampling: keeps the fewest of the likeliest tokens whose probabilities reach `p` (Holtzman et al., "The
/// Curious Case of Neural Text Degeneration", 2019, arXiv:1904.09751). `p` ≥ 1 does nothing.
pub fn top_p(candidates: &mut Candidates, p: f32, min_keep: usize) {
    if p >= 1.0 {
        return;
    }
    // Before the sort, because the sum depends on the order.
    candidates.softmax();

    let n = candidates.entries.len();
    if candidates.order != Order::Logit && n > TOP_P_SORT_LIMIT {
        let guess = &candidates.largest(TOP_P_GUESS)[..TOP_P_GUESS];
        if let Some(kept) = nucleus(guess.iter().map(|entry| entry.p), p, min_keep) {
            candidates.adopt_largest(kept);
            return;
        }
    }
    candidates.sort();
    let kept = nucleus(candidates.entries.iter().map(|entry| entry.p), p, min_keep);
    candidates.entries.truncate(kept.unwrap_or(n));
}

/// How many of these descending probabilities make up `p`; `None` when all of them do not.
fn nucleus(probabilities: impl Iterator<Item = f32>, p: f32, min_keep: usize) -> Option<usize> {
    let mut sum = 0.0f32;
    for (i, probability) in probabilities.enumerate() {
        sum += probability;
        if sum >= p && i + 1 >= min_keep {
            return Some(i + 1);
        }
    }
    None
}

/// Keeps the tokens at least `p` times as likely as the likeliest (Nguyen et al., "Turning Up the Heat: Min-p Sampling
/// for Creative and Coherent LLM Outputs", 2024, arXiv:2407.01082). `p` ≤ 0 does nothing.
///
/// The comparison is made on logits, with ln `p` added to the largest, so no softmax is needed, and unsorted
/// candidates stay unsorted.
pub fn min_p(candidates: &mut Candidates, p: f32, min_keep: usize) {
    if p <= 0.0 || candidates.entries.is_empty() {
        return;
    }
    let least = candidates.max_logit() + p.ln();
    if candidates.order != Order::Logit {
        let kept = candidates.entries.iter().filter(|entry| entry.logit >= least).count();
        if kept >= min_keep.max(1) {
            candidates.entries.retain(|entry| entry.logit >= least);
            return;
        }
        candidates.sort();
    }
    let kept = candidates.entries.iter().take_while(|entry| entry.logit >= least).count();
    candidates.entries.truncate(kept.max(min_keep).max(1));
}

/// Locally typical sampling: keeps the tokens whose information content is nearest to the entropy, until their
/// probabilities pass `p` (Meister et al., "Locally Typical Sampling", 2022, arXiv:2202.00666). `p` ≥ 1 does nothing.
///
/// The candidates end sorted by that nearness. As in llama.cpp, one probability of zero makes the entropy NaN; every
/// nearness is then the same, and the sort merely shuffles. Truncate to likely tokens first, as the usual order does.
pub fn typical(candidates: &mut Candidates, p: f32, min_keep: usize) {
    if p >= 1.0 {
        return;
    }
    candidates.sort();
    candidates.softmax();

    let entropy = candidates.entries.iter().fold(0.0f32, |entropy, entry| entropy + -entry.p * entry.p.ln());
    let distances: Vec<f32> = candidates.entries.iter().map(|entry| (-entry.p.ln() - entropy).abs()).collect();
    let mut nearest: Vec<usize> = (0..distances.len()).collect();
    order::sort(&mut nearest, |&a, &b| distances[a] < distances[b]);

    let mut sum = 0.0f32;
    let mut kept = nearest.len();
    for (i, &at) in nearest.iter().enumerate() {
        sum += candidates.entries[at].p;
        if sum > p && i + 1 >= min_keep {
            kept = i + 1;
            break;
        }
    }
    candidates.entries = nearest[..kept].iter().map(|&at| candidates.entries[at]).collect();
    candidates.order = Order::Unknown;
}

/// Excludes the tokens whose logit lies more than `n` standard deviations below the largest (Tang et al., "Top-nσ: Not
/// All Logits Are You Need", 2024, arXiv:2411.07641). `n` ≤ 0 does nothing.
///
/// Logits of −∞ do not count towards mean and deviation. Excluded tokens stay in the list with a logit of −∞.
pub fn top_n_sigma(candidates: &mut Candidates, n: f32) {
    if n <= 0.0 || candidates.entries.len() <= 1 {
        return;
    }
    let logits = || candidates.entries.iter().map(|entry| entry.logit).filter(|&logit| logit != f32::NEG_INFINITY);
    let count = logits().count();
    if count == 0 {
        return;
    }
    let mean = logits().fold(0.0f32, |sum, logit| sum + logit) / count as f32;
    // Each square is exact in f64, and is rounded once, when it is added.
    let squares = logits().fold(0.0f32, |sum, logit| {
        let deviation = f64::from(logit - mean);
        (f64::from(sum) + deviation * deviation) as f32
    });
    let deviation = (squares / count as f32).sqrt();
    let least = candidates.max_logit() - n * deviation;
    for entry in &mut candidates.entries {
        if entry.logit < least {
            entry.logit = f32::NEG_INFINITY;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::candidates::tests::{from_logits, ids};
    use super::*;

    /// Logits whose softmax is these probabilities.
    fn of_probabilities(p: &[f32]) -> Candidates {
        from_logits(&p.iter().map(|p| p.ln()).collect::<Vec<_>>())
    }

    #[test]
    fn top_k_by_hand() {
        let mut candidates = from_logits(&[1.0, 5.0, 3.0, 4.0]);
        top_k(&mut candidates, 0);
        assert_eq!(ids(&candidates), [0, 1, 2, 3]);
        top_k(&mut candidates, 3);
        assert_eq!(ids(&candidates), [1, 3, 2]);
        top_k(&mut candidates, 9);
        assert_eq!(ids(&candidates), [1, 3, 2]);
    }

    #[test]
    fn top_p_by_hand() {
        let p = [0.1, 0.4, 0.3, 0.2];
        for (threshold, min_keep, want) in
            [(0.35, 0, &[1u32][..]), (0.65, 0, &[1, 2]), (0.35, 3, &[1, 2, 3]), (0.0, 0, &[1]), (1.0, 0, &[0, 1, 2, 3])]
        {
            let mut candidates = of_probabilities(&p);
            top_p(&mut candidates, threshold, min_keep);
            assert_eq!(ids(&candidates), want, "top-p {threshold}, min_keep {min_keep}");
        }
    }

    /// With 2000 equal tokens the first guess of 256 holds an eighth of the mass: half of it needs the full sort.
    #[test]
    fn top_p_past_the_first_guess() {
        for (threshold, want) in [(0.1, 200), (0.5, 1000)] {
            let mut candidates = from_logits(&[0.5; 2000]);
            top_p(&mut candidates, threshold, 0);
            assert!(candidates.entries.len().abs_diff(want) <= 1, "{}", candidates.entries.len());
            assert_eq!(candidates.order, Order::Logit);
        }
    }

    #[test]
    fn min_p_by_hand() {
        let p = [0.05, 0.5, 0.25, 0.2];
        for (threshold, min_keep, want) in [
            (0.45, 0, &[1u32, 2][..]),
            (0.3, 0, &[1, 2, 3]),
            (0.45, 3, &[1, 2, 3]),
            (1.0, 0, &[1]),
            (0.0, 0, &[0, 1, 2, 3]),
        ] {
            for sorted in [false, true] {
                let mut candidates = of_probabilities(&p);
                if sorted {
                    candidates.sort();
                }
                min_p(&mut candidates, threshold, min_keep);
                let mut got = ids(&candidates);
                got.sort_unstable();
                assert_eq!(got, want, "min-p {threshold}, min_keep {min_keep}, sorted {sorted}");
            }
        }
    }

    /// Entropy of (½, ¼, ⅛, ⅛) is 1.75 bits; the tokens carry 1, 2, 3 and 3 bits, so ¼ is nearest and ½ next.
    #[test]
    fn typical_by_hand() {
        let p = [0.5, 0.25, 0.125, 0.125];
        for (threshold, min_keep, want) in [(0.2, 0, &[1u32][..]), (0.7, 0, &[1, 0]), (0.2, 2, &[1, 0])] {
            let mut candidates = of_probabilities(&p);
            typical(&mut candidates, threshold, min_keep);
            assert_eq!(ids(&candidates), want, "typical {threshold}, min_keep {min_keep}");
        }
    }

    /// Up to 16 equal elements are only insertion-sorted, which leaves them in the order by logit.
    #[test]
    fn typical_with_an_excluded_token_keeps_the_likeliest() {
        let mut candidates = of_probabilities(&[0.0, 0.25, 0.5, 0.25]);
        typical(&mut candidates, 0.3, 0);
        assert_eq!(ids(&candidates), [2]);
    }

    /// Mean 1 and deviation √3 over the four finite logits: 4 − √3 lies between 1 and 4.
    #[test]
    fn top_n_sigma_by_hand() {
        let mut candidates = from_logits(&[4.0, 0.0, 0.0, 0.0, f32::NEG_INFINITY]);
        top_n_sigma(&mut candidates, 1.0);
        let alive: Vec<u32> = candidates.entries.iter().filter(|entry| entry.logit.is_finite()).map(|e| e.id).collect();
        assert_eq!(alive, [0]);
        let mut candidates = from_logits(&[4.0, 0.0, 0.0, 0.0]);
        top_n_sigma(&mut candidates, 2.5);
        assert!(candidates.entries.iter().all(|entry| entry.logit.is_finite()));
    }
}
