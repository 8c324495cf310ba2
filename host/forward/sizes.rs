//! How much of everything a forward pass works in, for the plan and for those who allocate it.

use super::prefill;
use crate::{
    gpu::kernels::CacheType,
    model::{Config, ModelWeights},
};

use super::weights::{largest_quantised, largest_router};

/// Rows and elements of what a forward pass works in.
///
/// Where prefill has a way of its own ([`prefill`]), the way that takes an operation at a time is for single tokens, and for the
/// experts and the logits of many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// The most tokens together.
    pub n_batch: usize,
    /// Rows of logits.
    pub logit_rows: usize,
    /// Tokens that go through attention an operation at a time.
    pub rows: usize,
    /// Rows of the normalised residual stream.
    pub normed_rows: usize,
    /// Rows of the feed-forward network's values: tokens, or pairs of token and expert.
    pub ffn_rows: usize,
    /// Tokens of a product with several.
    pub matmul_rows: usize,
    /// Columns of the widest matrix in such a product.
    pub matmul_columns: usize,
    /// Elements of the largest quantised matrix in such a product.
    pub unpacked: usize,
    /// What prefill has of its own.
    pub prefill: Option<prefill::Sizes>,
}

impl Sizes {
    /// For a model, the tokens that go through it together, and the rows of logits wanted.
    pub fn new(
        config: &Config,
        weights: &ModelWeights,
        cache_type: CacheType,
        n_batch: usize,
        logit_rows: usize,
    ) -> Sizes {
        let prefill = prefill::Sizes::new(config, weights, cache_type, n_batch);
        let heads = config.n_heads * config.head_dim;
        let n_used = config.experts.map_or(1, |experts| experts.n_used);
        let rows = if prefill.is_some() { 1 } else { n_batch };
        // What experts and logits still take of many tokens.
        let several = if config.experts.is_some() { n_batch } else { rows };
        let all = config.n_embd.max(heads).max(config.n_ff);
        Sizes {
            n_batch,
            logit_rows,
            rows,
            normed_rows: several.max(logit_rows),
            ffn_rows: several * n_used,
            matmul_rows: several.max(logit_rows),
            matmul_columns: if prefill.is_some() { config.n_embd } else { all },
            unpacked: match prefill {
                None => largest_quantised(weights, n_batch, logit_rows),
                Some(_) => largest_router(weights).max(largest_quantised(weights, 1, logit_rows)),
            },
            prefill,
        }
    }
}
