//! The tokens still in the running, with their logits, as one stage hands them to the next.

use super::mask::TokenMask;
use super::order;

/// Up to this many, [`Candidates::keep_largest`] sorts in one pass; above it, it first throws the logits into buckets.
const ONE_PASS_LIMIT: usize = 128;

/// One token in the running.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// The token's id in the vocabulary.
    pub id: u32,
    /// Its logit as the stages so far have left it: any value but NaN; −∞ means that it cannot be drawn.
    pub logit: f32,
    /// Its probability, valid after [`Candidates::softmax`] and until the next change of a logit.
    pub p: f32,
}

impl Candidate {
    /// Sets the logit. A NaN, wherever it came from, excludes the token.
    pub fn set_logit(&mut self, logit: f32) {
        self.logit = if logit.is_nan() { f32::NEG_INFINITY } else { logit };
    }
}

/// What is known of the order of the candidates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Ascending ids: how they are loaded.
    Id,
    /// Descending logits.
    Logit,
    /// Nothing.
    Unknown,
}

/// The tokens still in the running.
#[derive(Clone, Debug)]
pub struct Candidates {
    /// The tokens, in the order that `order` tells.
    pub entries: Vec<Candidate>,
    /// What is known of their order; a stage that changes logits or moves entries says so here.
    pub order: Order,
    /// Room for one copy of `entries`, kept between tokens.
    scratch: Vec<Candidate>,
}

impl Candidates {
    /// No candidates, with room for a vocabulary of `n_vocab` tokens.
    pub fn with_capacity(n_vocab: usize) -> Self {
        Self { entries: Vec::with_capacity(n_vocab), order: Order::Id, scratch: Vec::new() }
    }

    /// Starts over with `logits`, one per token from id 0, of the tokens in `allowed` (all when `None`).
    pub fn load(&mut self, logits: &[f32], allowed: Option<&TokenMask>) {
        let candidate = |(id, &logit): (usize, &f32)| {
            let mut candidate = Candidate { id: id as u32, logit: 0.0, p: 0.0 };
            candidate.set_logit(logit);
            candidate
        };
        self.entries.clear();
        self.order = Order::Id;
        match allowed {
            None => self.entries.extend(logits.iter().enumerate().map(candidate)),
            Some(mask) => {
                self.entries.extend(logits.iter().enumerate().filter(|(id, _)| mask.allows(*id as u32)).map(candidate))
            }
        }
    }

    /// Starts over with some tokens and their logits.
    pub fn load_some(&mut self, tokens: &[(u32, f32)]) {
        self.entries.clear();
        self.order = Order::Unknown;
        self.entries.extend(tokens.iter().map(|&(id, logit)| {
            let mut candidate = Candidate { id, logit: 0.0, p: 0.0 };
            candidate.set_logit(logit);
            candidate
        }));
    }

    /// The candidate with this id, if it is still in the running.
    pub fn get_mut(&mut self, id: u32) -> Option<&mut Candidate> {
        let at = match self.order {
            Order::Id => match self.entries.get(id as usize) {
                Some(entry) if entry.id == id => id as usize,
                _ => self.entries.binary_search_by_key(&id, |entry| entry.id).ok()?,
            },
            Order::Logit | Order::Unknown => self.entries.iter().position(|entry| entry.id == id)?,
        };
        Some(&mut self.entries[at])
    }

    /// Says that logits have changed: an order by logit no longer holds, one by id does.
    pub fn logits_changed(&mut self) {
        if self.order == Order::Logit {
            self.order = Order::Unknown;
        }
    }

    /// The largest logit, −∞ when there are no candidates.
    pub fn max_logit(&self) -> f32 {
        match self.order {
            Order::Logit => self.entries.first().map_or(f32::NEG_INFINITY, |first| first.logit),
            Order::Id | Order::Unknown => {
                self.entries.iter().fold(f32::NEG_INFINITY, |max, entry| max.max(entry.logit))
            }
        }
    }

    /// Sorts by descending logit, unless that is already so.
    pub fn sort(&mut self) {
        if self.order != Order::Logit {
            self.keep_largest(self.entries.len());
        }
    }

    /// Keeps the `k` largest logits, in descending order.
    pub fn keep_largest(&mut self, k: usize) {
        let k = k.min(self.entries.len());
        if self.order != Order::Logit {
            if k <= ONE_PASS_LIMIT {
                order::partial_sort(&mut self.entries, k, larger);
            } else {
                self.copy_largest_to_scratch(k);
                self.adopt_largest(k);
            }
            self.order = Order::Logit;
        }
        self.entries.truncate(k);
    }

    /// Keeps the `k` largest logits, in descending order, where it is certain which these are and in which order
    /// [`Self::keep_largest`] would leave them, whatever the others of the vocabulary were: no two of them are equal, and all
    /// are larger than the candidates that go and than `outside`, which none of the others passes. Says whether it is; if not,
    /// all candidates are still there.
    pub fn keep_decided(&mut self, k: usize, outside: Option<f32>) -> bool {
        let k = k.min(self.entries.len());
        // Equal logits end in any order: they decide nothing.
        self.entries.sort_unstable_by(|a, b| b.logit.total_cmp(&a.logit));
        self.order = Order::Logit;
        let edge = (k + 1).min(self.entries.len());
        let decided = k > 0
            && self.entries[..edge].windows(2).all(|pair| pair[0].logit > pair[1].logit)
            && outside.is_none_or(|outside| self.entries[k - 1].logit > outside);
        if decided {
            self.entries.truncate(k);
        }
        decided
    }

    /// The `k` largest logits in descending order, without disturbing the candidates. After them may come more, in no
    /// particular order.
    pub fn largest(&mut self, k: usize) -> &[Candidate] {
        self.copy_largest_to_scratch(k);
        &self.scratch
    }

    /// Makes the first `k` of what [`Candidates::largest`] last returned the candidates, where it was asked for at least
    /// as many and nothing has changed since.
    pub fn adopt_largest(&mut self, k: usize) {
        std::mem::swap(&mut self.entries, &mut self.scratch);
        self.entries.truncate(k);
        self.order = Order::Logit;
    }

    /// Fills `scratch` so that its first `k` elements are the largest logits in descending order.
    ///
    /// The range −10 to 10 is cut into 128 buckets, the first and the last open. Counting finds the lowest bucket that
    /// is needed; only it and the ones above are copied, each is sorted by itself, and the lowest only as far as `k`
    /// reaches into it.
    fn copy_largest_to_scratch(&mut self, k: usize) {
        const N_BUCKETS: usize = 128;
        const LOW: f32 = -10.0;
        const HIGH: f32 = 10.0;
        const SCALE: f32 = N_BUCKETS as f32 / (HIGH - LOW);
        // The conversion saturates, so infinities fall into the open buckets.
        let bucket_of = |logit: f32| ((SCALE * logit + -LOW * SCALE) as i32).clamp(0, N_BUCKETS as i32 - 1) as usize;

        let mut counts = [0usize; N_BUCKETS];
        for entry in &self.entries {
            counts[bucket_of(entry.logit)] += 1;
        }
        // Positions in `scratch` from the top bucket down to the lowest one needed.
        let mut starts = [0usize; N_BUCKETS];
        let mut lowest = N_BUCKETS;
        let mut total = 0;
        while lowest > 0 && total < k {
            lowest -= 1;
            starts[lowest] = total;
            total += counts[lowest];
        }

        self.scratch.clear();
        self.scratch.resize(total, Candidate { id: 0, logit: 0.0, p: 0.0 });
        let mut next = starts;
        for entry in &self.entries {
            let bucket = bucket_of(entry.logit);
            if bucket >= lowest {
                self.scratch[next[bucket]] = *entry;
                next[bucket] += 1;
            }
        }
        for bucket in lowest..N_BUCKETS {
            let piece = &mut self.scratch[starts[bucket]..][..counts[bucket]];
            if bucket == lowest {
                order::partial_sort(piece, k - starts[bucket], larger);
            } else {
                order::sort(piece, larger);
            }
        }
    }

    /// Sets every `p` to the softmax of the logits, in f32, summed from the first entry to the last.
    ///
    /// The largest logit always counts as e⁰ = 1, an infinite one too, so no probability is ever NaN.
    pub fn softmax(&mut self) {
        let max = self.max_logit();
        let mut sum = 0.0f32;
        for entry in &mut self.entries {
            entry.p = exp_below(entry.logit, max);
            sum += entry.p;
        }
        for entry in &mut self.entries {
            entry.p /= sum;
        }
    }
}

/// e to the power `logit − max`, which is 1 where the two are equal, infinities included.
pub fn exp_below(logit: f32, max: f32) -> f32 {
    if logit == max { 1.0 } else { (logit - max).exp() }
}

/// The order by logit, as [`order`] wants it.
fn larger(a: &Candidate, b: &Candidate) -> bool {
    a.logit > b.logit
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The candidates of these logits, all tokens allowed.
    pub fn from_logits(logits: &[f32]) -> Candidates {
        let mut candidates = Candidates::with_capacity(logits.len());
        candidates.load(logits, None);
        candidates
    }

    /// The ids in their present order.
    pub fn ids(candidates: &Candidates) -> Vec<u32> {
        candidates.entries.iter().map(|entry| entry.id).collect()
    }

    #[test]
    fn loading_excludes_nan_and_obeys_the_mask() {
        let mut mask = TokenMask::none(4);
        mask.allow(1);
        mask.allow(3);
        let mut candidates = Candidates::with_capacity(4);
        candidates.load(&[1.0, f32::NAN, 3.0, 4.0], Some(&mask));
        assert_eq!(ids(&candidates), [1, 3]);
        assert_eq!(candidates.entries[0].logit, f32::NEG_INFINITY);
        assert_eq!(candidates.get_mut(3).unwrap().logit, 4.0);
        assert!(candidates.get_mut(2).is_none());
    }

    #[test]
    fn softmax_of_three_by_hand() {
        let mut candidates = from_logits(&[0.0, 2f32.ln(), f32::NEG_INFINITY]);
        candidates.softmax();
        let p: Vec<f32> = candidates.entries.iter().map(|entry| entry.p).collect();
        assert!((p[0] - 1.0 / 3.0).abs() < 1e-7 && (p[1] - 2.0 / 3.0).abs() < 1e-7, "{p:?}");
        assert_eq!(p[2], 0.0);
    }

    proptest! {
        #[test]
        fn softmax_sums_to_one(logits in proptest::collection::vec(any::<f32>(), 1..500)) {
            let mut candidates = from_logits(&logits);
            candidates.softmax();
            let sum: f64 = candidates.entries.iter().map(|entry| f64::from(entry.p)).sum();
            // 500 f32 additions, each off by half an ulp at most.
            prop_assert!((sum - 1.0).abs() < 500.0 * f64::from(f32::EPSILON), "{}", sum);
        }

        #[test]
        fn keeping_the_largest_is_a_sort_cut_short(
            logits in proptest::collection::vec(-15.0f32..15.0, 1..2000), k in 1usize..2000,
        ) {
            let mut candidates = from_logits(&logits);
            let preview: Vec<f32> = candidates.largest(k.min(logits.len())).iter().map(|entry| entry.logit).collect();
            candidates.keep_largest(k);
            let kept: Vec<f32> = candidates.entries.iter().map(|entry| entry.logit).collect();
            let mut sorted = logits.clone();
            sorted.sort_unstable_by(|a, b| b.total_cmp(a));
            sorted.truncate(k);
            prop_assert_eq!(&preview[..sorted.len()], &sorted[..]);
            prop_assert_eq!(kept, sorted);
            prop_assert!(candidates.entries.iter().all(|entry| logits[entry.id as usize] == entry.logit));
        }
    }
}
