//! A runner with a clock: what of a step is the device's time, and what the host's.

use std::time::{Duration, Instant};

use super::{Limits, Runner};
use crate::{
    cache::{SequenceId, Shortage},
    forward::{Chunk, Share, Then},
    speculate::{Costs, Wanted},
};

/// A runner, and the time spent in it.
pub struct Timed<'a, R> {
    runner: &'a mut R,
    /// Until what was asked for was there: launches, waiting for the device, and what was done meanwhile.
    pub time: Duration,
}

impl<'a, R: Runner> Timed<'a, R> {
    /// A clock that stands at zero.
    pub fn new(runner: &'a mut R) -> Timed<'a, R> {
        Timed { runner, time: Duration::ZERO }
    }

    fn timed<T>(&mut self, work: impl FnOnce(&mut R) -> T) -> T {
        let start = Instant::now();
        let result = work(self.runner);
        self.time += start.elapsed();
        result
    }
}

impl<R: Runner> Runner for Timed<'_, R> {
    type Error = R::Error;
    const MAX_LARGEST: usize = R::MAX_LARGEST;

    fn limits(&self) -> Limits {
        self.runner.limits()
    }

    fn open(&mut self) -> Option<SequenceId> {
        self.runner.open()
    }

    fn close(&mut self, id: SequenceId) {
        self.runner.close(id);
    }

    fn fork(&mut self, id: SequenceId) -> Result<Option<SequenceId>, R::Error> {
        self.timed(|runner| runner.fork(id))
    }

    fn adopt(&mut self, id: SequenceId, tokens: &[u32], n_prompt: usize) -> usize {
        self.runner.adopt(id, tokens, n_prompt)
    }

    fn reserve(&mut self, id: SequenceId, n_new: usize) -> Result<Result<(), Shortage>, R::Error> {
        // Accounts, and rarely the copy of a page.
        self.runner.reserve(id, n_new)
    }

    fn pages(&self) -> (usize, usize) {
        self.runner.pages()
    }

    fn fits_alone(&self, n_tokens: usize) -> Result<(), Shortage> {
        self.runner.fits_alone(n_tokens)
    }

    fn fits_free(&self, n_tokens: usize) -> Result<(), Shortage> {
        self.runner.fits_free(n_tokens)
    }

    fn prefill(&mut self, chunks: &[Chunk], share: Share) -> Result<(), R::Error> {
        self.timed(|runner| runner.prefill(chunks, share))
    }

    fn states(&mut self, chunks: &[Chunk]) -> Result<Vec<f32>, R::Error> {
        self.timed(|runner| runner.states(chunks))
    }

    fn drafts(&self) -> Option<Costs> {
        self.runner.drafts()
    }

    fn draft(&mut self, wanted: &[Wanted]) -> Result<Vec<Vec<u32>>, R::Error> {
        self.timed(|runner| runner.draft(wanted))
    }

    fn take_back(&mut self, id: SequenceId, n: usize) {
        self.runner.take_back(id, n);
    }

    fn decode(&mut self, rows: &[(SequenceId, u32)]) -> Result<(), R::Error> {
        self.timed(|runner| runner.decode(rows))
    }

    fn meanwhile(&mut self, work: impl FnOnce()) {
        self.timed(|runner| runner.meanwhile(work));
    }

    fn greedy(&mut self, n_tokens: usize, choices: &mut [u32], then: Then) -> Result<(), R::Error> {
        self.timed(|runner| runner.greedy(n_tokens, choices, then))
    }

    fn largest(&mut self, row: usize, n_tokens: usize, largest: &mut [(u32, f32)]) -> Result<(), R::Error> {
        self.timed(|runner| runner.largest(row, n_tokens, largest))
    }

    fn logits(&mut self, row: usize, logits: &mut [f32]) -> Result<(), R::Error> {
        self.timed(|runner| runner.logits(row, logits))
    }
}
