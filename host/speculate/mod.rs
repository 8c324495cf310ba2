//! Speculation: tokens are guessed, and several of them checked in one step.
//!
//! ```text
//! text ─ Drafter ─ guesses ─► one step: the token that is next, and behind it the guesses; a row of logits for each
//!                                │
//!        the sampler chooses from the first row, as it would without ── the first guess? ── then from the second, and so on
//!                                                                          └─ no: what is behind is taken back
//! ```
//!
//! A step reads the weights once for all of its tokens. A row's logits are, to the last bit, those that its token has alone, and of every row
//! that counts the same sampler draws with the same random numbers as without: the text is the same, greedy or drawn, and so is
//! its distribution. (Leviathan et al. 2023, and Chen et al. 2023, accept a guess by chance, which a guess drawn from a distribution of its own
//! needs; these are single tokens, of which each is right or not.)
//!
//! Guesses come from the text itself ([`Ngrams`], prompt lookup, Saxena 2023) or from a smaller model of the same vocabulary
//! ([`DraftModel`]). How many are worth a step, [`Adapt`] says for each sequence.

mod adapt;
mod model;
mod ngrams;
mod vocabulary;

use crate::{
    cache::SequenceId,
    forward::{Engine, EngineError, FIRST, StepBytes},
};

pub use adapt::{Adapt, Costs, Counts};
pub use model::DraftModel;
pub use ngrams::{Index, Ngrams};
pub use vocabulary::{VocabularyMismatch, common_tokens};

/// A sequence that guesses are asked for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Which.
    pub id: SequenceId,
    /// All of its tokens so far.
    pub text: &'a [u32],
    /// How many guesses at most.
    pub n: usize,
}

/// Guesses what follows. Whatever it guesses, texts are the same; only the number of steps is not.
pub trait Drafter {
    /// For each of these different sequences, tokens that may follow its text: `n` at most, often fewer or none.
    ///
    /// # Errors
    /// A device failed.
    fn draft(&mut self, wanted: &[Wanted]) -> Result<Vec<Vec<u32>>, EngineError>;

    /// The sequence has ended; its number may name another.
    fn forget(&mut self, id: SequenceId);

    /// Bytes of weights that are read for a guess.
    fn bytes_per_draft(&self) -> f64 {
        0.0
    }
}

/// A drafter, and what its guesses cost beside an engine's steps.
pub struct Drafting {
    drafter: Box<dyn Drafter>,
    costs: Costs,
}

impl Drafting {
    /// Guesses for this engine, `n_most` at most at a time.
    pub fn new(drafter: Box<dyn Drafter>, engine: &Engine, n_most: usize) -> Drafting {
        let StepBytes { token, row, second, again, at_once } = engine.step_bytes();
        let [row, second, again, draft] = [row, second, again, drafter.bytes_per_draft()].map(|bytes| bytes / token);
        let costs = Costs { n_most, row, second, again, at_once, draft };
        Drafting { drafter, costs }
    }

    /// What guesses cost.
    pub fn costs(&self) -> Costs {
        self.costs
    }

    /// [`Drafter::draft`], held to what was asked for.
    ///
    /// # Errors
    /// As there.
    pub fn draft(&mut self, wanted: &[Wanted]) -> Result<Vec<Vec<u32>>, EngineError> {
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let mut drafts = self.drafter.draft(wanted)?;
        drafts.resize(wanted.len(), Vec::new());
        drafts.iter_mut().zip(wanted).for_each(|(drafts, wanted)| drafts.truncate(wanted.n));
        Ok(drafts)
    }

    /// [`Drafter::forget`].
    pub fn forget(&mut self, id: SequenceId) {
        self.drafter.forget(id);
    }
}

/// The speculation of one sequence, that of a [`Session`](crate::session::Session).
pub struct Speculation {
    drafting: Drafting,
    adapt: Adapt,
}

impl Speculation {
    /// With these guesses.
    pub fn new(drafting: Drafting) -> Speculation {
        let adapt = Adapt::new(drafting.costs());
        Speculation { drafting, adapt }
    }

    /// What may follow `text`: `most` tokens at most, and no more than are worth it.
    ///
    /// # Errors
    /// A device failed.
    pub fn draft(&mut self, text: &[u32], most: usize) -> Result<Vec<u32>, EngineError> {
        let n = self.adapt.n_drafts(1).min(most);
        if n == 0 {
            return Ok(Vec::new());
        }
        Ok(self.drafting.draft(&[Wanted { id: FIRST, text, n }])?.swap_remove(0))
    }

    /// A step with so many guesses was made, of which these were right; the next was wrong, or nobody looked at it.
    pub fn judge(&mut self, n_drafted: usize, n_kept: usize, is_wrong: bool) {
        self.adapt.judge(n_drafted, n_kept, is_wrong);
    }

    /// What was guessed so far.
    pub fn counts(&self) -> Counts {
        self.adapt.counts()
    }
}
