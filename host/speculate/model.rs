//! Guesses from a smaller model: what it would write, greedily.
//!
//! It follows the texts of those sequences that guesses are asked for, each in a sequence of its own: what a text has in common with what the
//! model has seen stays, the rest is computed, a chunk at a time where it is long. Then all go on together, a token each in a step.

use std::collections::HashMap;

use super::{Drafter, Wanted};
use crate::{
    cache::SequenceId,
    forward::{Engine, EngineError, FIRST, Logits, Then},
    gpu::kernels::NO_CHOICE,
    session::common_prefix,
    trace::Recorder,
};

/// A smaller model with the texts that it has seen.
pub struct DraftModel {
    engine: Engine,
    /// Guesses are among the first so many tokens.
    n_tokens: usize,
    /// By the number that a sequence has in the larger model.
    seen: HashMap<SequenceId, Seen>,
}

/// A text that the model has seen.
struct Seen {
    id: SequenceId,
    tokens: Vec<u32>,
}

/// A sequence that goes on.
struct Going<'a> {
    wanted: &'a Wanted<'a>,
    /// Which of those asked for.
    index: usize,
    id: SequenceId,
    last: u32,
}

impl DraftModel {
    /// Guesses among the first `n_tokens` of the vocabulary, which the two models have in common.
    ///
    /// # Errors
    /// [`EngineError::Drafts`]: the model, of this file, carries on a state that cannot go back to where a guess was wrong.
    pub fn new(mut engine: Engine, file: &str, n_tokens: usize) -> Result<DraftModel, EngineError> {
        if engine.is_recurrent() {
            let reason = "as a draft model it would have to go back to where a guess was wrong, which its recurrent layers cannot";
            return Err(EngineError::Drafts { file: file.to_owned(), reason });
        }
        engine.close(FIRST);
        let n_tokens = n_tokens.min(engine.config().vocab_size);
        Ok(DraftModel { engine, n_tokens, seen: HashMap::new() })
    }

    /// The model's engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Follows a text, all but its last token. None where there is no room for it, or more of it to compute than a chunk.
    fn follow<'a>(
        &mut self,
        index: usize,
        wanted: &'a Wanted<'a>,
        all: &[Wanted],
    ) -> Result<Option<Going<'a>>, EngineError> {
        let Wanted { id: of, text, n } = *wanted;
        let Some((last, before)) = text.split_last() else { return Ok(None) };
        if n == 0 || text.len() + n > self.engine.n_context() || text.iter().any(|id| *id as usize >= self.n_tokens) {
            return Ok(None);
        }
        if !self.seen.contains_key(&of) {
            let Some(id) = self.engine.open() else { return Ok(None) };
            self.seen.insert(of, Seen { id, tokens: Vec::new() });
        }
        let id = self.seen[&of].id;
        let n_common = common_prefix(&self.seen[&of].tokens, before);
        let left = self.engine.truncate_of(id, n_common);
        let rest = &before[left..];
        let chunk = &rest[..rest.len().min(self.engine.n_batch())];
        while let Err(error) = self.engine.reserve(id, chunk.len() + n) {
            // Those that nobody asks for make room.
            let is_wanted = |other: &SequenceId| all.iter().any(|wanted| wanted.id == *other);
            let idle = self.seen.keys().find(|other| !is_wanted(other)).copied();
            match (error, idle) {
                (EngineError::Pages(_), Some(idle)) => self.forget(idle),
                (EngineError::Pages(_), None) => {
                    self.forget(of);
                    return Ok(None);
                }
                (error, _) => return Err(error),
            }
        }
        if !chunk.is_empty() {
            self.engine.forward_of(id, chunk, Logits::None, &mut Recorder::off())?;
        }
        let seen = self.seen.get_mut(&of).expect("the sequence that is followed");
        seen.tokens.truncate(left);
        seen.tokens.extend_from_slice(chunk);
        let is_there = chunk.len() == rest.len();
        Ok(is_there.then_some(Going { wanted, index, id, last: *last }))
    }
}

impl Drafter for DraftModel {
    fn draft(&mut self, wanted: &[Wanted]) -> Result<Vec<Vec<u32>>, EngineError> {
        let mut going = Vec::new();
        for (index, one) in wanted.iter().enumerate() {
            going.extend(self.follow(index, one, wanted)?);
        }
        let mut drafts = vec![Vec::new(); wanted.len()];
        while !going.is_empty() {
            let rows: Vec<(SequenceId, u32)> = going.iter().map(|going| (going.id, going.last)).collect();
            self.engine.decode_rows(&rows)?;
            let mut best = vec![NO_CHOICE; rows.len()];
            let is_last = going.iter().all(|going| drafts[going.index].len() + 1 == going.wanted.n);
            let then = if is_last { Then::Anything } else { Then::EachGoesOn };
            self.engine.greedy_rows(self.n_tokens, &mut best, then)?;
            for (going, token) in going.iter_mut().zip(&best) {
                let seen = self.seen.get_mut(&going.wanted.id).expect("a sequence that goes on");
                seen.tokens.push(going.last);
                going.last = *token;
                if *token != NO_CHOICE {
                    drafts[going.index].push(*token);
                }
            }
            going.retain(|going| going.last != NO_CHOICE && drafts[going.index].len() < going.wanted.n);
        }
        Ok(drafts)
    }

    fn forget(&mut self, id: SequenceId) {
        if let Some(seen) = self.seen.remove(&id) {
            self.engine.close(seen.id);
        }
    }

    fn bytes_per_draft(&self) -> f64 {
        self.engine.step_bytes().token
    }
}
