//! The runner that a model on a device is.

use std::ops::Range;

use super::{Limits, Runner, runner::NO_CHOICE};
use crate::{
    cache::{SequenceId, Shortage},
    forward::{Engine, EngineError, FIRST, Logits},
    trace::Recorder,
};

/// An engine, all of whose sequences are a scheduler's.
pub struct Device {
    engine: Engine,
    /// Rows of the last step.
    n_rows: usize,
    /// The most of the largest logits that were asked for. A graph makes one choice for all rows, and what sequences ask for differs:
    /// the device always finds as many as any of them wanted.
    k: usize,
    /// `[n_rows][k]`, where they were read since the last step.
    largest: Vec<(u32, f32)>,
}

impl Device {
    /// The engine without any sequence.
    pub fn new(mut engine: Engine) -> Device {
        engine.close(FIRST);
        Device { engine, n_rows: 0, k: 0, largest: Vec::new() }
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

    /// A step was made: what was read before is no longer true.
    fn left(&mut self, n_rows: usize) {
        self.n_rows = n_rows;
        self.largest.clear();
    }

    /// The largest logits of a row, `k` of them or more.
    fn found(&mut self, row: usize, n_tokens: usize, k: usize) -> Result<&[(u32, f32)], EngineError> {
        if k > self.k {
            self.k = k;
            self.largest.clear();
        }
        if self.largest.is_empty() {
            self.largest.resize(self.n_rows * self.k, (0, 0.0));
            if self.engine.finds_largest_of_rows() {
                self.engine.largest_of_rows(n_tokens, self.k, &mut self.largest)?;
            } else {
                let mut logits = vec![0.0; n_tokens];
                for (row, largest) in self.largest.chunks_exact_mut(self.k).enumerate() {
                    self.engine.row_into(row, &mut logits)?;
                    select(&logits, largest);
                }
            }
        }
        Ok(&self.largest[row * self.k..(row + 1) * self.k])
    }
}

/// The largest of a row as the device finds them: in descending order, equal ones by ascending id, NaN before all others.
fn select(logits: &[f32], largest: &mut [(u32, f32)]) {
    // −0 counts as 0.
    let key = |id: &u32| match logits[*id as usize] + 0.0 {
        logit if logit.is_nan() => f32::INFINITY.next_up(),
        logit => logit,
    };
    let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
    ids.sort_unstable_by(|a, b| key(b).total_cmp(&key(a)).then(a.cmp(b)));
    for (place, id) in largest.iter_mut().zip(ids) {
        *place = (id, logits[id as usize]);
    }
}

impl Runner for Device {
    type Error = EngineError;
    const MAX_LARGEST: usize = Engine::MAX_LARGEST;

    fn limits(&self) -> Limits {
        let engine = &self.engine;
        let n_slots = engine.n_sequences();
        Limits { n_slots, n_context: engine.n_context(), n_batch: engine.n_batch(), max_rows: n_slots }
    }

    fn pages(&self) -> (usize, usize) {
        self.engine.pages()
    }

    fn open(&mut self) -> Option<SequenceId> {
        self.engine.open()
    }

    fn close(&mut self, id: SequenceId) {
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

    fn prefill(&mut self, id: SequenceId, tokens: &[u32], logits: bool) -> Result<(), EngineError> {
        let logits = if logits { Logits::Last } else { Logits::None };
        self.left(1);
        self.engine.forward_of(id, tokens, logits, &mut Recorder::off())
    }

    fn states(&mut self, id: SequenceId, tokens: &[u32], wanted: Range<usize>) -> Result<Vec<f32>, EngineError> {
        self.left(1);
        self.engine.states_of(id, tokens, wanted)
    }

    fn decode(&mut self, rows: &[(SequenceId, u32)]) -> Result<(), EngineError> {
        self.left(rows.len());
        self.engine.decode_rows(rows)
    }

    fn greedy(&mut self, n_tokens: usize, choices: &mut [u32]) -> Result<(), EngineError> {
        if self.k == 0 {
            return self.engine.greedy_rows(n_tokens, choices);
        }
        for (row, choice) in choices.iter_mut().enumerate() {
            let (id, logit) = self.found(row, n_tokens, 1)?[0];
            *choice = if logit.is_nan() || logit == f32::NEG_INFINITY { NO_CHOICE } else { id };
        }
        Ok(())
    }

    fn largest(&mut self, row: usize, n_tokens: usize, largest: &mut [(u32, f32)]) -> Result<(), EngineError> {
        let k = largest.len();
        largest.copy_from_slice(&self.found(row, n_tokens, k)?[..k]);
        Ok(())
    }

    fn logits(&mut self, row: usize, logits: &mut [f32]) -> Result<(), EngineError> {
        self.engine.row_into(row, logits)
    }
}
