//! One sequence on the device, and the ids it is made of.
//!
//! An [`Engine`] knows how many tokens its cache holds; a session knows which. So a new prompt costs only what is new in it:
//! the cache keeps the longest beginning that the old sequence and the prompt share, and the rest of the prompt is computed.
//! A chat's next turn, a saved prompt and a context shift are all this one step, [`Session::prompt`].

use std::sync::atomic::{AtomicBool, Ordering};

use crate::{
    cache::SequenceId,
    forward::{Engine, EngineError, FIRST, Logits},
    trace::Recorder,
};

/// An engine and the tokens in its cache.
pub struct Session {
    engine: Engine,
    /// As many as the engine has seen.
    ids: Vec<u32>,
}

/// What a prompt took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefill {
    /// Tokens that the cache had already.
    pub n_reused: usize,
    /// Whether the prompt was interrupted: the sequence is then a beginning of it.
    pub interrupted: bool,
}

impl Session {
    /// An empty sequence on this engine.
    pub fn new(mut engine: Engine) -> Session {
        engine.reset();
        Session { engine, ids: Vec::new() }
    }

    /// The engine, to read logits from.
    pub fn engine(&mut self) -> &mut Engine {
        &mut self.engine
    }

    /// The sequence.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Positions there is room for.
    pub fn n_context(&self) -> usize {
        self.engine.n_context()
    }

    /// Whether no position is left.
    pub fn is_full(&self) -> bool {
        self.ids.len() == self.n_context()
    }

    /// Forgets the sequence.
    pub fn reset(&mut self) {
        self.engine.reset();
        self.ids.clear();
    }

    /// Makes the sequence equal to `prompt`, and leaves the logits of its last token on the device. `interrupt`, once true,
    /// stops it before the next chunk.
    ///
    /// # Errors
    /// [`EngineError`]: the prompt is longer than the context, an id is not in the vocabulary, or the device failed.
    ///
    /// # Panics
    /// Where the prompt is empty.
    pub fn prompt(&mut self, prompt: &[u32], interrupt: Option<&AtomicBool>) -> Result<Prefill, EngineError> {
        assert!(!prompt.is_empty(), "an empty prompt");
        let n_context = self.n_context();
        if prompt.len() > n_context {
            return Err(EngineError::ContextFull { n_past: 0, n_new: prompt.len(), n_context });
        }
        // The last token is always computed: its logits are wanted.
        let n_reused = common_prefix(&self.ids, prompt).min(prompt.len() - 1);
        let n_reused = self.engine.truncate(n_reused);
        self.ids.truncate(n_reused);
        let mut rest = &prompt[n_reused..];
        while !rest.is_empty() {
            if interrupt.is_some_and(|interrupt| interrupt.load(Ordering::Relaxed)) {
                break;
            }
            let (chunk, after) = rest.split_at(rest.len().min(self.engine.n_batch()));
            let logits = if after.is_empty() { Logits::Last } else { Logits::None };
            self.engine.forward(chunk, logits, &mut Recorder::off())?;
            self.ids.extend_from_slice(chunk);
            rest = after;
        }
        Ok(Prefill { n_reused, interrupted: !rest.is_empty() })
    }

    /// Adds a token to the sequence, and those that were guessed behind it, and leaves a row of logits for each on the device.
    ///
    /// # Errors
    /// [`EngineError`]: the context is full, an id is not in the vocabulary, or the device failed.
    ///
    /// # Panics
    /// Where there are more than the engine has rows ([`Engine::n_rows`]).
    pub fn decode(&mut self, tokens: &[u32]) -> Result<(), EngineError> {
        let rows: Vec<(SequenceId, u32)> = tokens.iter().map(|token| (FIRST, *token)).collect();
        self.engine.decode_rows(&rows)?;
        self.ids.extend_from_slice(tokens);
        Ok(())
    }

    /// Takes the last `n` tokens of the last step back.
    ///
    /// # Panics
    /// As [`Engine::take_back`].
    pub fn take_back(&mut self, n: usize) {
        self.engine.take_back(FIRST, n);
        self.ids.truncate(self.ids.len() - n);
    }

    /// Makes room in the context: the first `n_keep` tokens stay, the older half of the others goes, and what moved to a new
    /// position is computed again, so the cache is exactly what this shorter text gives.
    ///
    /// # Errors
    /// As [`Self::prompt`].
    pub fn shift(&mut self, n_keep: usize) -> Result<(), EngineError> {
        let n_keep = n_keep.min(self.ids.len().saturating_sub(2));
        let n_dropped = (self.ids.len() - n_keep) / 2;
        let mut kept = self.ids[..n_keep].to_vec();
        kept.extend_from_slice(&self.ids[n_keep + n_dropped..]);
        self.prompt(&kept, None)?;
        Ok(())
    }

    /// The keys and values of the sequence ([`Engine::save_cache`]).
    ///
    /// # Errors
    /// The device failed.
    pub fn save(&self) -> Result<Vec<u8>, EngineError> {
        self.engine.save_cache()
    }

    /// Makes the sequence the first `n` of the saved `ids`, whose keys and values are `cache`.
    ///
    /// # Errors
    /// The device failed.
    ///
    /// # Panics
    /// As [`Engine::restore_cache`].
    pub fn restore(&mut self, ids: &[u32], cache: &[u8], n: usize) -> Result<(), EngineError> {
        self.ids.clear();
        self.engine.restore_cache(cache, ids.len(), &ids[..n])?;
        self.ids.extend_from_slice(&ids[..self.engine.n_past()]);
        Ok(())
    }
}

/// How many tokens two sequences begin with alike.
pub fn common_prefix(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
