//! Why a model cannot run here, or a step cannot be taken.

use crate::{
    cache::Shortage,
    gpu::GpuError,
    model::{ModelError, NoEmbedding},
};

use super::plan::Size;

/// What went wrong in loading or running a model.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // each variant's text is its documentation
pub enum EngineError {
    #[error(transparent)]
    Gpu(#[from] GpuError),
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error("{file}: attention head size: {expected}: choose another --cache-type or another model")]
    HeadDim { file: String, expected: String },
    #[error(
        "{file}: context length: found a request for {asked} positions, expected 1 to {available}, \
         which the model was made for: choose another -c"
    )]
    Context { file: String, asked: usize, available: usize },
    #[error(
        "{file}: device memory: found {free} free, expected at least {needed} ({uses}), {missing} are missing: {advice}"
    )]
    Memory {
        file: String,
        free: Size,
        needed: Size,
        missing: Size,
        /// What how much of it is for.
        uses: String,
        advice: String,
    },
    #[error(
        "the context is full: {n_past} tokens seen and {n_new} more do not fit its {n_context} positions: \
         shorten the prompt or raise -c"
    )]
    ContextFull { n_past: usize, n_new: usize, n_context: usize },
    #[error(
        "{place}: a weight of type BF16: found a magnitude of {found}, expected at most 65504, the range of F16, in \
         which many tokens are multiplied; convert the model to F32"
    )]
    WeightRange { place: String, found: f32 },
    #[error(
        "no token can be chosen: a logit is NaN, or none is above -inf: weights of the model are damaged or no numbers"
    )]
    NoChoice,
    #[error(transparent)]
    Embedding(#[from] NoEmbedding),
    #[error("the cache is full: {0}: wait for other sequences to end, or give the cache more positions")]
    Pages(#[from] Shortage),
    #[error("{file}: speculation: {reason}; leave --speculate and --draft-model out, or choose another model")]
    Drafts { file: String, reason: &'static str },
    #[error("token id {found}: expected one below the vocabulary's size, {vocab_size}")]
    Token { found: u32, vocab_size: usize },
}
