//! The sequence as bytes: taking back its end, saving it and bringing it back.
//!
//! Saved keys and values are `[layer][keys, values][plane][n_kv_heads][position]`, only the positions seen, so that they fit a cache of any
//! context. Floats have one plane, rows of `head_dim` values; Q8_0 has two, rows of `head_dim` integers and rows of `head_dim / 32` scales
//! (`kernels/cache.rs`); what a window passed is zeros. Behind them are the states of recurrent layers, as after the last token saved.

use super::{Engine, EngineError, FIRST};
use crate::{
    cache::{SequenceId, Shortage},
    gpu::{Gpu, kernels::CacheType},
    model::figure::Op,
};

/// What more rows of a step add to the time of its products, in bytes that take as long to read.
#[derive(Clone, Copy)]
struct MoreRows {
    /// Each.
    row: f64,
    /// The second besides.
    second: f64,
    /// The first besides of those that are not multiplied at once with the others.
    again: f64,
}

/// For a weight, on tensor cores: instructions, which are as many for each format. H200, 7B in Q4_K_M: 1.66 ms for one row, 2.82 for two, 3.24 for four,
/// 3.66 for six, 4.55 for eight, of which one product takes six at once, and 5.87 for nine (`benches/results/2026-11-30-h200-few.md`).
const FEW: MoreRows = MoreRows { row: 0.07, second: 0.32, again: 0.8 };
/// For a byte, on lanes. H200, 7B in Q4_K_M while it was multiplied so: 1.6 ms for one, 3.0 for two, 4.35 for four and 7.25 for eight
/// (`benches/results/2026-11-29-h200-parallel.md`).
const MANY: MoreRows = MoreRows { row: 0.5, second: 0.3, again: 0.0 };
/// For a byte of floats, whose products have nothing to unpack: estimated, not measured by themselves.
const FLOATS: MoreRows = MoreRows { row: 0.1, second: 0.0, again: 0.0 };
/// For a byte of experts, of which two rows hardly share any.
const EXPERTS: MoreRows = MoreRows { row: 1.0, second: 0.0, again: 0.0 };

/// Bytes of weights that a decoding step reads, and what its further rows take longer by, in bytes that take as long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepBytes {
    /// For one token.
    pub token: f64,
    /// For each further row.
    pub row: f64,
    /// For the second besides.
    pub second: f64,
    /// For the first besides of those that are not multiplied at once with others.
    pub again: f64,
    /// How many rows all products multiply at once.
    pub at_once: usize,
}

impl Engine {
    /// Forgets all but the first `n_past` tokens, or fewer where a window has passed what the next would see, or, where a recurrent layer
    /// cannot go back, all; and says how many are left.
    pub fn truncate(&mut self, n_past: usize) -> usize {
        self.truncate_of(FIRST, n_past)
    }

    /// The same of any sequence.
    pub fn truncate_of(&mut self, id: SequenceId, n_past: usize) -> usize {
        let now = self.n_tokens(id);
        if n_past >= now {
            return now;
        }
        self.decode.behind.forget();
        self.cache.pages.truncate(id, if self.is_recurrent() { 0 } else { n_past })
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
        self.cache.save(&self.gpu, FIRST)
    }

    /// Makes the sequence `ids`, the first of a saved one of `n_saved`; of a recurrent model all of them or none.
    ///
    /// # Errors
    /// The device failed.
    ///
    /// # Panics
    /// Where the saved cache is not as long as `n_saved` tokens make it, or has fewer than `ids`, or these do not fit.
    pub fn restore_cache(&mut self, saved: &[u8], n_saved: usize, ids: &[u32]) -> Result<(), EngineError> {
        assert_eq!(saved.len(), self.saved_bytes(n_saved), "bytes of a saved cache");
        assert!(ids.len() <= n_saved.min(self.n_context()), "{} of {n_saved} saved tokens", ids.len());
        self.reset();
        // Of a longer sequence's windows only the last positions were saved.
        let has_windows = self.figure.caches.iter().any(|cache| cache.window.is_some());
        if (self.is_recurrent() || has_windows) && ids.len() < n_saved {
            return Ok(());
        }
        self.decode.behind.forget();
        self.cache.restore(&self.gpu, FIRST, saved, n_saved, ids, self.plan.n_batch)
    }
}

/// Many sequences: whose they are, a scheduler knows.
impl Engine {
    /// Sequences there is room for.
    pub fn n_sequences(&self) -> usize {
        self.plan.cache_size.n_sequences
    }

    /// Rows of a decoding step.
    pub fn n_rows(&self) -> usize {
        self.plan.n_rows
    }

    /// What a step reads and takes.
    pub fn step_bytes(&self) -> StepBytes {
        let mut step = StepBytes { token: 0.0, row: 0.0, second: 0.0, again: 0.0, at_once: usize::MAX };
        for node in &self.figure.nodes {
            let (weight, n_used) = match &node.op {
                Op::Product { weight, .. } => (weight, None),
                Op::ExpertProduct { weight, experts, .. } => (weight, Some(self.figure.value(*experts).width())),
                _ => continue,
            };
            let weights = self.weights.stack(weight.stack);
            let of_rows = weight.rows.len() as f64 / weights.n_out as f64;
            for part in &weights.parts {
                let bytes = part.bytes as f64 * of_rows * n_used.unwrap_or(1) as f64 / weights.n_matrices as f64;
                let at_once = Gpu::multiplied_at_once(part.tensor_type, weights.n_in);
                let tensor_type = part.tensor_type;
                let n_weights = bytes * tensor_type.block_elements() as f64 / tensor_type.block_bytes() as f64;
                let (more, times) = match (n_used, at_once) {
                    (Some(_), _) => (EXPERTS, bytes),
                    (None, Some(_)) => (FEW, n_weights),
                    (None, None) if tensor_type.is_quantised() => (MANY, bytes),
                    (None, None) => (FLOATS, bytes),
                };
                step.at_once = step.at_once.min(at_once.unwrap_or(usize::MAX));
                step.token += bytes;
                step.row += times * more.row;
                step.second += times * more.second;
                step.again += times * more.again;
            }
        }
        step
    }

    /// Takes the last `n` tokens of a sequence back, which the last step added: what they did to pages and tables is undone.
    ///
    /// # Panics
    /// Where the model carries on a state, or another step was made meanwhile and took pages that a window had passed.
    pub fn take_back(&mut self, id: SequenceId, n: usize) {
        if n > 0 {
            assert!(!self.is_recurrent(), "a state does not go back");
            self.decode.behind.forget();
            let n_left = self.n_tokens(id) - n;
            let left = self.cache.pages.truncate(id, n_left);
            assert_eq!(left, n_left, "tokens left of a sequence, after {n} of the last step were taken back");
        }
    }

    /// Pages of the cache that sequences have, and all there are.
    pub fn pages(&self) -> (usize, usize) {
        self.cache.pages.n_taken()
    }

    /// Tokens of a sequence.
    pub fn n_tokens(&self, id: SequenceId) -> usize {
        self.cache.pages.n_tokens(id)
    }

    /// A new, empty sequence; none where there is room for no other.
    pub fn open(&mut self) -> Option<SequenceId> {
        self.cache.pages.open()
    }

    /// Ends a sequence, and frees its pages.
    pub fn close(&mut self, id: SequenceId) {
        self.part.take_if(|(of, _)| of.contains(&id));
        self.decode.behind.close(id);
        self.cache.pages.close(id);
    }

    /// A second sequence with the same tokens; none where there is room for no other.
    ///
    /// # Errors
    /// The device failed.
    pub fn fork(&mut self, id: SequenceId) -> Result<Option<SequenceId>, EngineError> {
        let Some(fork) = self.cache.pages.fork(id) else { return Ok(None) };
        self.cache.copy_states(&self.gpu, id, fork)?;
        Ok(Some(fork))
    }

    /// An empty sequence takes the longest beginning of `tokens` that the cache has, of which the first `n_prompt` are a prompt's, and
    /// says how long that is. A recurrent model's states are nobody's but their sequence's.
    pub fn adopt(&mut self, id: SequenceId, tokens: &[u32], n_prompt: usize) -> usize {
        if self.is_recurrent() {
            return 0;
        }
        let n = self.cache.pages.adopt(id, tokens, n_prompt);
        // Products of a chunk with other rows may round otherwise.
        let whole = if self.batch_invariant && n < n_prompt { n - n % self.n_batch() } else { n };
        self.cache.pages.truncate(id, whole)
    }

    /// Makes room for `n_new` more tokens of a sequence.
    ///
    /// # Errors
    /// [`EngineError::Pages`], and nothing was taken; or the device failed.
    pub fn reserve(&mut self, id: SequenceId, n_new: usize) -> Result<(), EngineError> {
        self.cache.reserve(&self.gpu, id, n_new)
    }

    /// Whether a sequence of that many tokens fits where there is no other.
    ///
    /// # Errors
    /// It does not.
    pub fn fits_alone(&self, n_tokens: usize) -> Result<(), Shortage> {
        self.cache.pages.fits_alone(n_tokens)
    }

    /// Whether a sequence of that many tokens fits beside those that are there.
    ///
    /// # Errors
    /// It does not.
    pub fn fits_free(&self, n_tokens: usize) -> Result<(), Shortage> {
        self.cache.pages.fits_free(n_tokens)
    }
}
