//! The sequence as bytes: taking back its end, saving it and bringing it back.
//!
//! Saved keys and values are `[layer][keys, values][plane][n_kv_heads][position]`, only the positions seen, so that they fit a cache of any
//! context. Floats have one plane, rows of `head_dim` values; Q8_0 has two, rows of `head_dim` integers and rows of `head_dim / 32` scales
//! (`kernels/cache.rs`). Behind them are the states of recurrent layers, as after the last token saved.

use super::{Engine, EngineError};
use crate::gpu::kernels::CacheType;

impl Engine {
    /// Forgets all but the first `n_past` tokens, or, where a recurrent layer cannot go back, all; and says how many are left.
    pub fn truncate(&mut self, n_past: usize) -> usize {
        if n_past < self.n_past {
            self.n_past = if self.is_recurrent() { 0 } else { n_past };
        }
        self.n_past
    }

    /// Whether the model carries on a state that does not go back.
    pub fn is_recurrent(&self) -> bool {
        self.cache.state_bytes() > 0
    }

    /// The type of the KV cache.
    pub fn cache_type(&self) -> CacheType {
        self.cache.cache_type
    }

    /// Bytes of `n` saved tokens.
    pub fn saved_bytes(&self, n: usize) -> usize {
        n * self.cache.bytes_per_token() + self.cache.state_bytes()
    }

    /// The cache of all tokens seen, in the layout above.
    ///
    /// # Errors
    /// The device failed.
    pub fn save_cache(&self) -> Result<Vec<u8>, EngineError> {
        self.cache.save(&self.gpu, self.n_past)
    }

    /// Makes the sequence the first `n_past` tokens of a saved one of `n_saved`; of a recurrent model all of them or none.
    ///
    /// # Errors
    /// The device failed.
    ///
    /// # Panics
    /// Where the saved cache is not as long as `n_saved` tokens make it, or has fewer than `n_past`, or these do not fit.
    pub fn restore_cache(&mut self, saved: &[u8], n_saved: usize, n_past: usize) -> Result<(), EngineError> {
        assert_eq!(saved.len(), self.saved_bytes(n_saved), "bytes of a saved cache");
        assert!(n_past <= n_saved.min(self.n_context()), "{n_past} of {n_saved} saved tokens");
        if self.is_recurrent() && n_past < n_saved {
            self.reset();
            return Ok(());
        }
        self.cache.restore(&self.gpu, saved, n_saved, n_past)?;
        self.n_past = n_past;
        Ok(())
    }
}
