//! Hidden states instead of logits: what embeddings are made of.

use std::ops::Range;

use super::{Engine, EngineError, FIRST};
use crate::{
    cache::SequenceId,
    model::{Pooled, Pooling},
    trace::Recorder,
};

impl Engine {
    /// One pass of up to `n_batch` tokens through the layers and the last norm, which become part of the sequence: the hidden states of
    /// the `wanted` of them, `[wanted][n_embd]`. There are no logits.
    ///
    /// # Errors
    /// Those of [`Engine::forward`].
    ///
    /// # Panics
    /// As [`Engine::forward`], and where `wanted` are not among the tokens.
    pub fn states_of(&mut self, id: SequenceId, tokens: &[u32], wanted: Range<usize>) -> Result<Vec<f32>, EngineError> {
        assert!(wanted.start <= wanted.end && wanted.end <= tokens.len(), "states {wanted:?} of {}", tokens.len());
        let states = self.pass(id, tokens, wanted, true, &mut Recorder::off())?;
        self.landed();
        Ok(states)
    }

    /// A text's embedding, `[n_embd]`, of length 1. It is computed by the first sequence, which is forgotten before and after.
    ///
    /// # Errors
    /// [`EngineError::Embedding`] where states are no numbers, and those of [`Engine::forward`].
    ///
    /// # Panics
    /// Where there are no tokens.
    pub fn embed(&mut self, tokens: &[u32], pooling: Pooling) -> Result<Vec<f32>, EngineError> {
        assert!(!tokens.is_empty(), "an embedding of nothing");
        let (n_past, n_new, n_context) = (0, tokens.len(), self.n_context());
        if n_new > n_context {
            return Err(EngineError::ContextFull { n_past, n_new, n_context });
        }
        self.reset();
        let mut pooled = Pooled::new(pooling, n_new);
        for start in (0..n_new).step_by(self.n_batch()) {
            let chunk = start..n_new.min(start + self.n_batch());
            let states = self.states_of(FIRST, &tokens[chunk.clone()], pooling.wanted(chunk.clone(), n_new))?;
            pooled.add(chunk, &states);
        }
        self.reset();
        Ok(pooled.finish()?)
    }
}
