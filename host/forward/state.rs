//! The sequence in the cache as bytes: taking back its end, saving it and bringing it back.
//!
//! Saved keys and values are `[layer][keys, values][plane][n_kv_heads][position]`, only the positions seen, so that they fit a
//! cache of any context. Floats have one plane, rows of `head_dim` values; Q8_0 has two, rows of `head_dim` integers and rows
//! of `head_dim / 32` scales (`kernels/cache.rs`).

use super::{Engine, EngineError};
use crate::gpu::{SubSlice, kernels::CacheType};

/// A part of a layer's cache with one row for each head and position.
struct Plane {
    /// Where it begins, in bytes.
    start: usize,
    /// Bytes of a row.
    row: usize,
}

impl Engine {
    /// Forgets all but the first `n_past` tokens.
    pub fn truncate(&mut self, n_past: usize) {
        self.n_past = self.n_past.min(n_past);
    }

    /// The type of the KV cache.
    pub fn cache_type(&self) -> CacheType {
        self.cache.cache_type
    }

    /// Bytes of the saved cache for each token.
    pub fn cache_bytes_per_token(&self) -> usize {
        let rows: usize = self.planes().iter().map(|plane| plane.row).sum();
        2 * self.config.n_layers * self.config.n_kv_heads * rows
    }

    /// The cache of all tokens seen, `n_past · cache_bytes_per_token` bytes in the layout above.
    ///
    /// # Errors
    /// The device failed.
    pub fn save_cache(&self) -> Result<Vec<u8>, EngineError> {
        let mut saved = vec![0; self.n_past * self.cache_bytes_per_token()];
        let mut rest = saved.as_mut_slice();
        for (part, row) in self.parts() {
            let (bytes, tail) = rest.split_at_mut(self.n_past * row);
            self.gpu.read_into(&part.slice(0..bytes.len()), bytes)?;
            rest = tail;
        }
        Ok(saved)
    }

    /// Makes the sequence the first `n_past` tokens of a saved one of `n_saved`.
    ///
    /// # Errors
    /// The device failed.
    ///
    /// # Panics
    /// Where the saved cache is not as long as `n_saved` tokens make it, or has fewer than `n_past`, or these do not fit.
    pub fn restore_cache(&mut self, saved: &[u8], n_saved: usize, n_past: usize) -> Result<(), EngineError> {
        assert_eq!(saved.len(), n_saved * self.cache_bytes_per_token(), "bytes of a saved cache");
        assert!(n_past <= n_saved.min(self.n_context()), "{n_past} of {n_saved} saved tokens");
        let mut rest = saved;
        for (part, row) in self.parts() {
            let (bytes, tail) = rest.split_at(n_saved * row);
            self.gpu.write(&part, &bytes[..n_past * row])?;
            rest = tail;
        }
        self.n_past = n_past;
        Ok(())
    }

    fn planes(&self) -> Vec<Plane> {
        let head_dim = self.config.head_dim;
        let cache_type = self.cache.cache_type;
        match cache_type {
            CacheType::Q8_0 => {
                let n_rows = self.config.n_kv_heads * self.cache.n_context;
                vec![Plane { start: 0, row: head_dim }, Plane { start: n_rows * head_dim, row: head_dim / 32 * 2 }]
            }
            CacheType::F16 | CacheType::BF16 | CacheType::F32 => {
                vec![Plane { start: 0, row: cache_type.bytes(1, head_dim) }]
            }
        }
    }

    /// The rows of every layer, plane and head, `n_context` of them, in the order of the saved cache, with the bytes of one.
    fn parts(&self) -> Vec<(SubSlice<'_, u8>, usize)> {
        let (n_context, n_kv_heads) = (self.cache.n_context, self.config.n_kv_heads);
        let planes = self.planes();
        let mut parts = Vec::new();
        for layer in 0..self.config.n_layers {
            for values in [false, true] {
                for &Plane { start, row } in &planes {
                    for head in 0..n_kv_heads {
                        let start = start + head * n_context * row;
                        let range = start..start + n_context * row;
                        parts.push((self.cache.part(layer, values, range), row));
                    }
                }
            }
        }
        parts
    }
}
