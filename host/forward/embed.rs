//! Hidden states instead of logits: what embeddings are made of.

use super::{Chunk, Engine, EngineError, FIRST, Share};
use crate::{
    model::{Pooled, Pooling},
    trace::Recorder,
};

impl Engine {
    /// One pass over chunks of several texts, of up to `n_batch` tokens together, through the layers and the last norm, which become part of their
    /// sequences: the hidden states of those of each that are wanted, `[wanted][n_embd]`, in the order of the chunks. There are no logits.
    ///
    /// # Errors
    /// Those of [`Engine::forward`].
    ///
    /// # Panics
    /// As [`Engine::forward_chunks`].
    pub fn states_of(&mut self, chunks: &[Chunk]) -> Result<Vec<f32>, EngineError> {
        let states = self.pass_part(chunks, true, Share::WHOLE, &mut Recorder::off())?;
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
            let wanted = pooling.wanted(chunk.clone(), n_new);
            let states = self.states_of(&[Chunk { id: FIRST, tokens: &tokens[chunk.clone()], wanted }])?;
            pooled.add(chunk, &states);
        }
        self.reset();
        Ok(pooled.finish()?)
    }
}
