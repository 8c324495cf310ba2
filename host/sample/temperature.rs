//! Temperature, plain and by entropy.

use super::candidates::Candidates;

/// Divides every logit by `temp`. A temperature of zero or less excludes all but the first of the largest logits.
pub fn temperature(candidates: &mut Candidates, temp: f32) {
    if temp > 0.0 {
        for entry in &mut candidates.entries {
            entry.logit /= temp;
        }
        return;
    }
    let max = candidates.max_logit();
    let first = candidates.entries.iter().position(|entry| entry.logit == max);
    for (i, entry) in candidates.entries.iter_mut().enumerate() {
        if Some(i) != first {
            entry.logit = f32::NEG_INFINITY;
        }
    }
}

/// Dynamic temperature: the flatter the distribution, the higher the temperature, between `temp − range` (not below
/// zero) and `temp + range`. A `range` of zero or less is the plain [`temperature`].
///
/// The entropy, as a fraction of the largest possible for this many candidates, is raised to `exponent` and chooses the
/// place between the two (as the sampler entered llama.cpp in its pull request 4972). A single candidate is left alone.
pub fn dynamic_temperature(candidates: &mut Candidates, temp: f32, range: f32, exponent: f32) {
    if range <= 0.0 {
        temperature(candidates, temp);
        return;
    }
    let n = candidates.entries.len();
    if n <= 1 {
        return;
    }
    let (lowest, highest) = ((temp - range).max(0.0), temp + range);
    let max_entropy = -(1.0 / n as f32).ln();
    candidates.sort();
    candidates.softmax();
    let entropy = candidates
        .entries
        .iter()
        .filter(|entry| entry.p > 0.0)
        .fold(0.0f32, |entropy, entry| entropy - entry.p * entry.p.ln());
    temperature(candidates, lowest + (highest - lowest) * (entropy / max_entropy).powf(exponent));
}

#[cfg(test)]
mod tests {
    use super::super::candidates::tests::from_logits;
    use super::*;

    fn logits(candidates: &Candidates) -> Vec<f32> {
        candidates.entries.iter().map(|entry| entry.logit).collect()
    }

    #[test]
    fn temperature_divides() {
        let mut candidates = from_logits(&[1.0, -2.0]);
        temperature(&mut candidates, 0.5);
        assert_eq!(logits(&candidates), [2.0, -4.0]);
    }

    #[test]
    fn zero_temperature_leaves_the_first_maximum() {
        for temp in [0.0, -1.0] {
            let mut candidates = from_logits(&[1.0, 3.0, 3.0, f32::NEG_INFINITY]);
            temperature(&mut candidates, temp);
            assert_eq!(logits(&candidates), [f32::NEG_INFINITY, 3.0, f32::NEG_INFINITY, f32::NEG_INFINITY]);
        }
    }

    /// Equal logits have the largest entropy there is, so the highest temperature; one certain token has none.
    #[test]
    fn dynamic_temperature_at_both_ends() {
        let mut candidates = from_logits(&[1.5, 1.5]);
        dynamic_temperature(&mut candidates, 1.0, 0.5, 1.0);
        assert_eq!(logits(&candidates), [1.0, 1.0]);
        let mut candidates = from_logits(&[1.5, -1000.0]);
        dynamic_temperature(&mut candidates, 1.0, 0.5, 1.0);
        assert_eq!(logits(&candidates), [3.0, -2000.0]);
        let mut candidates = from_logits(&[1.5]);
        dynamic_temperature(&mut candidates, 1.0, 0.5, 1.0);
        assert_eq!(logits(&candidates), [1.5]);
    }
}
