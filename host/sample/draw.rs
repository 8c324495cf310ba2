//! The draws: from the whole distribution, and XTC's toss whether to drop the likeliest tokens.

use super::candidates::{Candidates, exp_below};
use super::random::Mt19937;

/// Draws one candidate by its probability and returns its index; every `p` is set on the way.
///
/// `None` when there is no candidate with a logit above −∞. Exactly one uniform double is taken from `rng` whenever
/// there is a candidate, even a single one. The running sum of the unnormalised probabilities, in f64 and in the order
/// of the candidates, is compared with the total times that double.
pub fn draw(candidates: &mut Candidates, rng: &mut Mt19937) -> Option<usize> {
    if candidates.entries.is_empty() {
        return None;
    }
    let uniform = rng.uniform_f64();
    let max = candidates.max_logit();
    if max == f32::NEG_INFINITY {
        return None;
    }
    let mut total = 0.0f64;
    for entry in &mut candidates.entries {
        entry.p = exp_below(entry.logit, max);
        total += f64::from(entry.p);
    }
    let target = total * uniform;
    let mut sum = 0.0f64;
    let mut chosen = None;
    for (i, entry) in candidates.entries.iter_mut().enumerate() {
        sum += f64::from(entry.p);
        // A probability of zero never reaches the target first, unless the target is zero.
        if chosen.is_none() && sum >= target && entry.p > 0.0 {
            chosen = Some(i);
        }
        entry.p = (f64::from(entry.p) / total) as f32;
    }
    chosen
}

/// The candidate with the largest logit, the first in the list where several have it, as its index. Its `p` becomes 1.
///
/// `None` when there is no candidate with a logit above −∞.
pub fn greedy(candidates: &mut Candidates) -> Option<usize> {
    let max = candidates.max_logit();
    if max == f32::NEG_INFINITY {
        return None;
    }
    let first = candidates.entries.iter().position(|entry| entry.logit == max)?;
    candidates.entries[first].p = 1.0;
    Some(first)
}

/// Exclude top choices: with `probability`, drops every token of at least `threshold` but the least likely of them
/// (as the sampler entered llama.cpp in its pull request 9742).
///
/// Its uniform float comes from its own `rng`, one for each call with two or more candidates. A `probability` of zero
/// or less, or a `threshold` over one half, does nothing.
pub fn xtc(candidates: &mut Candidates, probability: f32, threshold: f32, min_keep: usize, rng: &mut Mt19937) {
    if probability <= 0.0 || threshold > 0.5 || candidates.entries.len() < 2 {
        return;
    }
    if rng.uniform_f32() > probability {
        return;
    }
    candidates.sort();
    candidates.softmax();
    let above = candidates.entries.iter().take_while(|entry| entry.p >= threshold && entry.p > 0.0).count();
    let dropped = above.saturating_sub(1);
    if candidates.entries.len() - dropped >= min_keep {
        candidates.entries.drain(..dropped);
    }
}

#[cfg(test)]
mod tests {
    use super::super::candidates::tests::{from_logits, ids};
    use super::*;

    #[test]
    fn draws_follow_the_probabilities() {
        let logits = [0.1f32.ln(), 0.6f32.ln(), f32::NEG_INFINITY, 0.3f32.ln()];
        let mut rng = Mt19937::new(11);
        let n = 20_000;
        let mut counts = [0u32; 4];
        for _ in 0..n {
            counts[draw(&mut from_logits(&logits), &mut rng).unwrap()] += 1;
        }
        for (count, p) in counts.into_iter().zip([0.1, 0.6, 0.0, 0.3]) {
            // Five standard deviations of a binomial count.
            let tolerance = 5.0 * (f64::from(n) * p * (1.0 - p)).sqrt();
            assert!((f64::from(count) - p * f64::from(n)).abs() <= tolerance, "{counts:?}");
        }
    }

    #[test]
    fn nothing_to_draw_is_none() {
        let mut rng = Mt19937::new(0);
        assert_eq!(draw(&mut from_logits(&[]), &mut rng), None);
        assert_eq!(draw(&mut from_logits(&[f32::NEG_INFINITY; 3]), &mut rng), None);
    }

    #[test]
    fn a_single_candidate_takes_one_double() {
        let (mut drawn, mut counted) = (Mt19937::new(3), Mt19937::new(3));
        assert_eq!(draw(&mut from_logits(&[0.0]), &mut drawn), Some(0));
        counted.uniform_f64();
        assert_eq!(drawn.next_u32(), counted.next_u32());
    }

    #[test]
    fn xtc_keeps_the_least_likely_of_the_top() {
        let logits = [0.1f32.ln(), 0.4f32.ln(), 0.2f32.ln(), 0.3f32.ln()];
        let mut rng = Mt19937::new(0);
        for (threshold, min_keep, want) in
            [(0.15, 0, &[2u32, 0][..]), (0.35, 0, &[1, 3, 2, 0]), (0.15, 3, &[1, 3, 2, 0]), (0.0, 0, &[0])]
        {
            let mut candidates = from_logits(&logits);
            xtc(&mut candidates, 1.0, threshold, min_keep, &mut rng);
            assert_eq!(ids(&candidates), want, "threshold {threshold}, min_keep {min_keep}");
        }
        let mut candidates = from_logits(&logits);
        xtc(&mut candidates, 1.0, 0.6, 0, &mut rng);
        assert_eq!(ids(&candidates), [0, 1, 2, 3]);
    }
}
