//! Sampling from the largest logits alone.
//!
//! Where top-k comes before all that looks at the whole row, the chain needs the k largest logits and no more: 320 bytes at
//! the usual settings, where a row of 150 000 is 600 KB. A device finds them, and the rest of the chain runs here, because its
//! exponentials are the C library's to the last bit, and so are llama.cpp's.
//!
//! The list is longer than k, for two reasons:
//!
//! - llama.cpp leaves equal logits in the order that a heap over the whole row puts them ([`super::order`]). One more logit
//!   than k shows whether the edge lies between equal ones; then, and where two within the k are equal, the list does not
//!   decide and the row must be sampled.
//! - A negative bias and the penalties lower logits before top-k. A token that is not in the list cannot pass one that is and
//!   was not lowered, so the list has a place more for each token that may be.
//!
//! After these have been applied to the list, the first k decide if they differ from one another and from all that follows,
//! in the list or outside, where no logit is larger than the last of the list was.

use super::{SampleError, Sampled, Sampler, draw, options::Stage, penalties};

impl Sampler {
    /// How many of the largest logits [`Self::sample_shortlist`] wants, at most `limit`; always the same. None where the chain
    /// needs the whole row.
    pub fn shortlist_len(&self, limit: usize) -> Option<usize> {
        let limit = limit.min(self.n_vocab);
        let (k, _) = self.first_cut()?;
        let options = &self.options;
        let window = |is_on: bool, n: u32| if is_on { n as usize } else { 0 };
        let n_lowered = options.logit_bias.len()
            + window(self.penalties.is_some(), options.repeat_last_n)
            + window(self.dry.is_some(), options.dry_penalty_last_n);
        let enough = (k + 1).min(self.n_vocab);
        (enough <= limit).then(|| enough.saturating_add(n_lowered).min(limit))
    }

    /// As [`Self::sample`] would, from (id, logit) of the largest logits of the row, in descending order, NaN before all others.
    /// None, and nothing has changed, where they do not decide which token that is; NaN decides nothing.
    ///
    /// # Errors
    /// [`SampleError::NothingToDraw`], as [`Self::sample`].
    ///
    /// # Panics
    /// Where [`Self::shortlist_len`] is none.
    pub fn sample_shortlist(&mut self, largest: &[(u32, f32)]) -> Result<Option<Sampled>, SampleError> {
        let (k, cut) = self.first_cut().expect("a chain that begins with a cut");
        let n_vocab = self.n_vocab;
        if largest.first().is_some_and(|(_, logit)| logit.is_nan()) {
            return Ok(None);
        }
        self.candidates.load_some(largest);
        // No token outside the list has a larger logit.
        let outside = match largest {
            [.., (_, last)] if largest.len() < n_vocab => Some(*last),
            _ => None,
        };
        penalties::apply_logit_bias(&mut self.candidates, &self.options.logit_bias);
        for i in 0..cut {
            self.apply(self.options.samplers[i]);
        }
        if !self.candidates.keep_decided(k, outside) {
            return Ok(None);
        }
        let chosen = if self.is_plainly_greedy() {
            draw::greedy(&mut self.candidates)
        } else {
            for i in cut + 1..self.options.samplers.len() {
                self.apply(self.options.samplers[i]);
            }
            draw::draw(&mut self.candidates, &mut self.rng)
        };
        let chosen = &self.candidates.entries[chosen.ok_or(SampleError::NothingToDraw { n_vocab })?];
        Ok(Some(Sampled { id: chosen.id, probability: chosen.p }))
    }

    /// How many of the largest logits the first stage that cuts leaves, and which stage that is; the stages before it change
    /// nothing or lower logits of a few tokens. None where there is no such stage.
    fn first_cut(&self) -> Option<(usize, usize)> {
        let options = &self.options;
        let bias_lowers = options.logit_bias.iter().all(|(_, bias)| *bias <= 0.0);
        let penalties_lower = self.penalties.is_none()
            || options.repeat_penalty >= 1.0 && options.presence_penalty >= 0.0 && options.frequency_penalty >= 0.0;
        let dry_lowers = self.dry.is_none() || options.dry_multiplier > 0.0;
        if self.mirostat.is_some() || !(bias_lowers && penalties_lower && dry_lowers) {
            return None;
        }
        if self.is_plainly_greedy() {
            // The largest after the penalties, which come first.
            return Some((1, 2));
        }
        let cut = options.samplers.iter().position(|stage| match stage {
            Stage::Penalties | Stage::Dry => false,
            Stage::TopK => options.top_k > 0,
            Stage::TopNSigma => options.top_n_sigma > 0.0,
            Stage::Typical => options.typical_p < 1.0,
            Stage::TopP => options.top_p < 1.0,
            Stage::MinP => options.min_p > 0.0,
            Stage::Xtc => self.is_xtc_on(),
            Stage::Temperature => true,
        })?;
        (options.samplers[cut] == Stage::TopK).then_some((options.top_k as usize, cut))
    }
}
