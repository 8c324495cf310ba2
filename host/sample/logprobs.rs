//! Log probabilities of the model itself: the log-softmax of the logits before any stage has touched them.

use std::cmp::Ordering;

/// One token's log probability.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Logprob {
    /// The token's id.
    pub id: u32,
    /// Natural logarithm of its probability; −∞ where it is zero.
    pub logprob: f32,
}

/// The `k` likeliest tokens of `logits` (one per token, from id 0), descending; equal ones by ascending id.
///
/// A NaN counts as −∞. All of them, when `k` exceeds their number.
pub fn top_logprobs(logits: &[f32], k: usize) -> Vec<Logprob> {
    let k = k.min(logits.len());
    if k == 0 {
        return Vec::new();
    }
    let by_logit = |&a: &u32, &b: &u32| -> Ordering {
        value(logits[b as usize]).total_cmp(&value(logits[a as usize])).then(a.cmp(&b))
    };
    let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
    if k < ids.len() {
        ids.select_nth_unstable_by(k - 1, by_logit);
        ids.truncate(k);
    }
    ids.sort_unstable_by(by_logit);
    let normaliser = Normaliser::of(logits);
    ids.into_iter().map(|id| Logprob { id, logprob: normaliser.logprob(logits[id as usize]) }).collect()
}

/// The log probability of token `id`; `None` when `logits` has no such token.
pub fn logprob(logits: &[f32], id: u32) -> Option<Logprob> {
    let &logit = logits.get(id as usize)?;
    Some(Logprob { id, logprob: Normaliser::of(logits).logprob(logit) })
}

/// A NaN excludes its token; negative zero equals zero.
fn value(logit: f32) -> f32 {
    if logit.is_nan() { f32::NEG_INFINITY } else { logit + 0.0 }
}

/// What the log-softmax subtracts: the largest logit, and ln of the sum of all exponentials below it, summed in f64.
struct Normaliser {
    max: f32,
    log_sum: f64,
}

impl Normaliser {
    fn of(logits: &[f32]) -> Self {
        let max = logits.iter().fold(f32::NEG_INFINITY, |max, &logit| max.max(value(logit)));
        let sum: f64 = logits.iter().map(|&logit| f64::from(super::candidates::exp_below(value(logit), max))).sum();
        Self { max, log_sum: sum.ln() }
    }

    fn logprob(&self, logit: f32) -> f32 {
        let logit = value(logit);
        // Infinite logits share all the probability there is; where all are −∞, nothing has any.
        let below = match logit {
            f32::NEG_INFINITY => return f32::NEG_INFINITY,
            _ if logit == self.max => 0.0,
            _ => f64::from(logit) - f64::from(self.max),
        };
        (below - self.log_sum) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn logprobs_by_hand() {
        let logits = [0.25f32.ln(), 0.5f32.ln(), f32::NAN, 0.25f32.ln()];
        let top = top_logprobs(&logits, 3);
        assert_eq!(top.iter().map(|entry| entry.id).collect::<Vec<_>>(), [1, 0, 3]);
        assert!((top[0].logprob - 0.5f32.ln()).abs() < 1e-6 && (top[2].logprob - 0.25f32.ln()).abs() < 1e-6);
        assert_eq!(logprob(&logits, 2).unwrap().logprob, f32::NEG_INFINITY);
        assert_eq!(logprob(&logits, 4), None);
        assert_eq!(logprob(&[f32::INFINITY, 0.0, f32::INFINITY], 2).unwrap().logprob, 0.5f32.ln());
        assert!(top_logprobs(&logits, 0).is_empty());
    }

    proptest! {
        #[test]
        fn all_of_them_are_a_distribution_in_order(logits in proptest::collection::vec(any::<f32>(), 1..300)) {
            let all = top_logprobs(&logits, usize::MAX);
            prop_assert_eq!(all.len(), logits.len());
            prop_assert!(all.is_sorted_by(|a, b| a.logprob >= b.logprob));
            let sum: f64 = all.iter().map(|entry| f64::from(entry.logprob).exp()).sum();
            // Rounding a log probability of magnitude up to ln 300 to f32 is off by at most 2⁻²² in each.
            prop_assert!((sum - 1.0).abs() < 1e-5, "{}", sum);
            let few = top_logprobs(&logits, 7);
            prop_assert_eq!(&few[..], &all[..few.len()]);
        }
    }
}
