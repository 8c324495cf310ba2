//! The runner that a model on a device is.

use super::{Limits, Runner};
use crate::{
    cache::{SequenceId, Shortage},
    forward::{Chunk, Engine, EngineError, FIRST, Share, Then},
    generate::{EngineRow, Found, LogitRow},
    speculate::{Costs, Drafting, Wanted},
};

/// An engine, all of whose sequences are a scheduler's.
pub struct Device {
    engine: Engine,
    found: Found,
    drafting: Option<Drafting>,
}

impl Device {
    /// The engine without any sequence.
    pub fn new(engine: Engine) -> Device {
        Device::drafting(engine, None)
    }

    /// The same, with guesses of what follows, for which the engine has rows.
    pub fn drafting(mut engine: Engine, drafting: Option<Drafting>) -> Device {
        engine.close(FIRST);
        Device { engine, found: Found::default(), drafting }
    }

    /// The engine again, with its first sequence, where no other is open.
    ///
    /// # Panics
    /// Where one is.
    pub fn into_engine(mut self) -> Engine {
        assert_eq!(self.engine.open(), Some(FIRST), "a sequence that is open");
        self.engine
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }
}

impl Runner for Device {
    type Error = EngineError;
    const MAX_LARGEST: usize = Engine::MAX_LARGEST;

    fn limits(&self) -> Limits {
        let engine = &self.engine;
        Limits {
            n_slots: engine.n_sequences(),
            n_context: engine.n_context(),
            n_batch: engine.n_batch(),
            max_rows: engine.n_rows(),
            n_chunks: engine.n_chunks(),
        }
    }

    fn pages(&self) -> (usize, usize) {
        self.engine.pages()
    }

    fn open(&mut self) -> Option<SequenceId> {
        self.engine.open()
    }

    fn close(&mut self, id: SequenceId) {
        if let Some(drafting) = &mut self.drafting {
            drafting.forget(id);
        }
        self.engine.close(id);
    }

    fn fork(&mut self, id: SequenceId) -> Result<Option<SequenceId>, EngineError> {
        self.engine.fork(id)
    }

    fn adopt(&mut self, id: SequenceId, tokens: &[u32], n_prompt: usize) -> usize {
        self.engine.adopt(id, tokens, n_prompt)
    }

    fn reserve(&mut self, id: SequenceId, n_new: usize) -> Result<Result<(), Shortage>, EngineError> {
        match self.engine.reserve(id, n_new) {
            Ok(()) => Ok(Ok(())),
            Err(EngineError::Pages(shortage)) => Ok(Err(shortage)),
            Err(error) => Err(error),
        }
    }

    fn fits_alone(&self, n_tokens: usize) -> Result<(), Shortage> {
        self.engine.fits_alone(n_tokens)
    }

    fn fits_free(&self, n_tokens: usize) -> Result<(), Shortage> {
        self.engine.fits_free(n_tokens)
    }

    fn prefill(&mut self, chunks: &[Chunk], share: Share) -> Result<(), EngineError> {
        self.found.left(chunks.iter().map(|chunk| chunk.wanted.len()).sum());
        self.engine.forward_chunks(chunks, share)
    }

    fn states(&mut self, chunks: &[Chunk]) -> Result<Vec<f32>, EngineError> {
        self.found.left(0);
        self.engine.states_of(chunks)
    }

    fn drafts(&self) -> Option<Costs> {
        self.drafting.as_ref().map(Drafting::costs)
    }

    fn draft(&mut self, wanted: &[Wanted]) -> Result<Vec<Vec<u32>>, EngineError> {
        self.drafting.as_mut().map_or_else(|| Ok(Vec::new()), |drafting| drafting.draft(wanted))
    }

    fn take_back(&mut self, id: SequenceId, n: usize) {
        self.engine.take_back(id, n);
    }

    fn decode(&mut self, rows: &[(SequenceId, u32)]) -> Result<(), EngineError> {
        self.found.left(rows.len());
        self.engine.decode_rows(rows)
    }

    fn greedy(&mut self, n_tokens: usize, choices: &mut [u32], then: Then) -> Result<(), EngineError> {
        let n = choices.len();
        choices.copy_from_slice(&self.found.greedy(&mut self.engine, n_tokens, then)?[..n]);
        Ok(())
    }

    fn largest(&mut self, row: usize, n_tokens: usize, largest: &mut [(u32, f32)]) -> Result<(), EngineError> {
        EngineRow { engine: &mut self.engine, found: &mut self.found, row, then: Then::Anything }
            .largest(n_tokens, largest)
    }

    fn logits(&mut self, row: usize, logits: &mut [f32]) -> Result<(), EngineError> {
        self.engine.row_into(row, logits)
    }
}
