//! What was read of the rows that an engine's last step left.

use super::LogitRow;
use crate::{
    forward::{Engine, EngineError, Then},
    gpu::kernels::NO_CHOICE,
};

/// Behind so many steps of nothing but greedy choices the largest logits are no longer found: other graphs take their capture's time.
const GREEDY_STEPS: usize = 32;

/// Choices and largest logits of all rows of a step, each read once.
#[derive(Default)]
pub struct Found {
    n_rows: usize,
    /// The most of the largest logits that were asked for. A graph makes one choice for all rows, and what is asked for differs: the device
    /// always finds as many as were ever wanted.
    k: usize,
    /// Steps since anything but the greedy choice was asked for.
    n_greedy: usize,
    /// `[n_rows][k]`, where they were read since the last step.
    largest: Vec<(u32, f32)>,
    /// `[n_rows]`, likewise.
    best: Vec<u32>,
}

impl Found {
    /// A step was made: what was read before is no longer true.
    pub fn left(&mut self, n_rows: usize) {
        self.n_rows = n_rows;
        self.largest.clear();
        self.best.clear();
    }

    /// The largest logits of a row, `k` of them or more.
    ///
    /// # Errors
    /// The device failed.
    pub fn largest(
        &mut self,
        engine: &mut Engine,
        row: usize,
        n_tokens: usize,
        k: usize,
    ) -> Result<&[(u32, f32)], EngineError> {
        if k > self.k {
            self.k = k;
            self.largest.clear();
        }
        if self.largest.is_empty() {
            self.largest.resize(self.n_rows * self.k, (0, 0.0));
            if engine.finds_largest_of_rows() {
                engine.largest_of_rows(n_tokens, self.k, &mut self.largest)?;
            } else {
                let mut logits = vec![0.0; n_tokens];
                for (row, largest) in self.largest.chunks_exact_mut(self.k).enumerate() {
                    engine.row_into(row, &mut logits)?;
                    select(&logits, largest);
                }
            }
        }
        Ok(&self.largest[row * self.k..(row + 1) * self.k])
    }

    /// The token with the largest logit of each row; [`NO_CHOICE`] where there is none.
    ///
    /// # Errors
    /// The device failed.
    pub fn greedy(&mut self, engine: &mut Engine, n_tokens: usize, then: Then) -> Result<&[u32], EngineError> {
        if self.best.is_empty() {
            // Who asks for nothing else is better served by choices alone: then a step can begin before they are read.
            self.n_greedy = if then == Then::EachGoesOn { self.n_greedy + 1 } else { 0 };
            if self.n_greedy > GREEDY_STEPS {
                self.k = 0;
            }
            let mut best = vec![NO_CHOICE; self.n_rows];
            if self.k == 0 {
                engine.greedy_rows(n_tokens, &mut best, then)?;
            } else {
                for (row, choice) in best.iter_mut().enumerate() {
                    let (id, logit) = self.largest(engine, row, n_tokens, 1)?[0];
                    *choice = if logit.is_nan() || logit == f32::NEG_INFINITY { NO_CHOICE } else { id };
                }
            }
            self.best = best;
        }
        Ok(&self.best)
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

/// A row of logits that an engine left.
pub struct EngineRow<'a> {
    /// The engine.
    pub engine: &'a mut Engine,
    /// What was read of its rows.
    pub found: &'a mut Found,
    /// Which row.
    pub row: usize,
    /// What comes behind a greedy choice.
    pub then: Then,
}

impl LogitRow for EngineRow<'_> {
    type Error = EngineError;
    const MAX_LARGEST: usize = Engine::MAX_LARGEST;

    fn greedy(&mut self, n_tokens: usize) -> Result<Option<u32>, EngineError> {
        let choice = self.found.greedy(self.engine, n_tokens, self.then)?[self.row];
        Ok((choice != NO_CHOICE).then_some(choice))
    }

    fn largest(&mut self, n_tokens: usize, largest: &mut [(u32, f32)]) -> Result<(), EngineError> {
        let k = largest.len();
        largest.copy_from_slice(&self.found.largest(self.engine, self.row, n_tokens, k)?[..k]);
        Ok(())
    }

    fn logits(&mut self, logits: &mut [f32]) -> Result<(), EngineError> {
        self.engine.row_into(self.row, logits)
    }
}
