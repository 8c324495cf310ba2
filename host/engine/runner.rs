//! What carries out a scheduler's steps.

use crate::{
    cache::{SequenceId, Shortage},
    forward::{Chunk, Share, Then},
    generate::LogitRow,
    speculate::{Costs, Wanted},
};

/// What [`Runner::greedy`] says of a row with a NaN, or with nothing above −∞.
pub const NO_CHOICE: u32 = u32::MAX;

/// How much a runner takes at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Sequences at the same time.
    pub n_slots: usize,
    /// Positions of a sequence.
    pub n_context: usize,
    /// Tokens of a prompt that go through the model together, an even number: a prompt is cut at multiples of this, whatever else there is
    /// to do.
    pub n_batch: usize,
    /// Rows of a decoding step: a token of each sequence, and what was guessed behind it.
    pub max_rows: usize,
    /// Chunks of different prompts that go through the model together, where they have no more than `n_batch` tokens.
    pub n_chunks: usize,
}

/// A model with a cache for many sequences.
///
/// What a sequence's logits are must depend on its own tokens alone, and on which of them came by [`Self::prefill`]: not on the other
/// rows, and not on how much of a prompt was there already, but for how a device rounds where it takes several chunks together. A chunk of one token
/// may round as a decoding step does; it goes alone, and a prompt that had more to compute alone is never cut so that one is left.
pub trait Runner {
    /// Why it cannot go on. Every error is the end of all sequences.
    type Error;
    /// The most logits that [`Self::largest`] finds.
    const MAX_LARGEST: usize;

    /// What it takes.
    fn limits(&self) -> Limits;

    /// Pages of the cache that are taken, and all of them.
    fn pages(&self) -> (usize, usize);

    /// A new, empty sequence; none where all slots are taken.
    fn open(&mut self) -> Option<SequenceId>;

    /// Ends a sequence and frees what only it has.
    fn close(&mut self, id: SequenceId);

    /// A second sequence with the same tokens; none where all slots are taken.
    ///
    /// # Errors
    /// The device failed.
    fn fork(&mut self, id: SequenceId) -> Result<Option<SequenceId>, Self::Error>;

    /// An empty sequence takes what is there of the beginning of `tokens`, never all of it; the first `n_prompt` are a prompt's. Returns how
    /// many it has now.
    fn adopt(&mut self, id: SequenceId, tokens: &[u32], n_prompt: usize) -> usize;

    /// Makes room for `n_new` more tokens. Where there is a [`Shortage`], nothing was taken.
    ///
    /// # Errors
    /// The device failed.
    fn reserve(&mut self, id: SequenceId, n_new: usize) -> Result<Result<(), Shortage>, Self::Error>;

    /// Whether a sequence of `n_tokens` fits where there is no other.
    ///
    /// # Errors
    /// [`Shortage`], with the numbers.
    fn fits_alone(&self, n_tokens: usize) -> Result<(), Shortage>;

    /// Whether a sequence of `n_tokens` fits beside those that are there.
    ///
    /// # Errors
    /// [`Shortage`], with the numbers.
    fn fits_free(&self, n_tokens: usize) -> Result<(), Shortage>;

    /// Does a share of the work of chunks of different sequences' prompts, for which there is room, what follows the share before; with the last one
    /// their tokens are the sequences', and the logits that are wanted, of their last tokens, become rows in their order. Between the shares of
    /// some chunks there are no other chunks', unless one of the sequences was closed.
    ///
    /// # Errors
    /// The device failed.
    fn prefill(&mut self, chunks: &[Chunk], share: Share) -> Result<(), Self::Error>;

    /// Computes such chunks as [`Self::prefill`] does, but for hidden states in place of logits: those of each that are wanted,
    /// `[wanted][n_embd]`, in their order.
    ///
    /// # Errors
    /// The device failed.
    fn states(&mut self, chunks: &[Chunk]) -> Result<Vec<f32>, Self::Error>;

    /// What guesses cost, where there is who makes them.
    fn drafts(&self) -> Option<Costs> {
        None
    }

    /// Guesses what follows the texts of these different sequences ([`Drafter::draft`](crate::speculate::Drafter::draft)).
    ///
    /// # Errors
    /// The device failed.
    fn draft(&mut self, _wanted: &[Wanted]) -> Result<Vec<Vec<u32>>, Self::Error> {
        Ok(Vec::new())
    }

    /// Takes the last `n` tokens of a sequence back, which the last decoding step added.
    fn take_back(&mut self, id: SequenceId, n: usize);

    /// Computes tokens of sequences, for which there is room, one of each or, where they are guessed, several that follow one another; the logits
    /// of `rows[i]` become row i.
    ///
    /// # Errors
    /// The device failed.
    fn decode(&mut self, rows: &[(SequenceId, u32)]) -> Result<(), Self::Error>;

    /// Work of the host's beside what the device was given to do.
    fn meanwhile(&mut self, work: impl FnOnce()) {
        work();
    }

    /// The token with the largest logit among the first `n_tokens` of the vocabulary, for each of the first rows, or [`NO_CHOICE`]. Where each row's
    /// sequence goes on with that, its step may begin at once.
    ///
    /// # Errors
    /// The device failed.
    fn greedy(&mut self, n_tokens: usize, choices: &mut [u32], then: Then) -> Result<(), Self::Error>;

    /// Tokens and logits of a row's largest logits among the first `n_tokens` of the vocabulary, as [`LogitRow::largest`].
    ///
    /// # Errors
    /// The device failed.
    fn largest(&mut self, row: usize, n_tokens: usize, largest: &mut [(u32, f32)]) -> Result<(), Self::Error>;

    /// A row's first `logits.len()` logits.
    ///
    /// # Errors
    /// The device failed.
    fn logits(&mut self, row: usize, logits: &mut [f32]) -> Result<(), Self::Error>;
}

/// The logits of one sequence.
pub struct Row<'a, R> {
    /// What has them.
    pub runner: &'a mut R,
    /// Which they are.
    pub row: usize,
    /// The greedy choice, where some sequence of the step asked for it.
    pub greedy: Option<u32>,
}

impl<R: Runner> LogitRow for Row<'_, R> {
    type Error = R::Error;
    const MAX_LARGEST: usize = R::MAX_LARGEST;

    fn greedy(&mut self, n_tokens: usize) -> Result<Option<u32>, R::Error> {
        let choice = match self.greedy {
            Some(choice) => choice,
            None => {
                let mut choices = vec![NO_CHOICE; self.row + 1];
                self.runner.greedy(n_tokens, &mut choices, Then::Anything)?;
                choices[self.row]
            }
        };
        Ok((choice != NO_CHOICE).then_some(choice))
    }

    fn largest(&mut self, n_tokens: usize, largest: &mut [(u32, f32)]) -> Result<(), R::Error> {
        self.runner.largest(self.row, n_tokens, largest)
    }

    fn logits(&mut self, logits: &mut [f32]) -> Result<(), R::Error> {
        self.runner.logits(self.row, logits)
    }
}
