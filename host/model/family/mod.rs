//! Model families: what distinguishes one transformer decoder from the next.
//!
//! All families here are the same figure: a residual stream through layers of RMSNorm, grouped-query attention with RoPE, RMSNorm,
//! and a SwiGLU feed-forward network. [`Family`] holds the ways in which they differ; a new family is a file beside this one and a
//! row in [`FAMILIES`].

mod llama;
mod qwen2;
mod qwen3;
mod qwen3moe;

use super::error::{ModelError, ModelRule};
use crate::gguf::Gguf;

/// Every family this program runs.
pub const FAMILIES: &[&Family] = &[&llama::FAMILY, &qwen2::FAMILY, &qwen3::FAMILY, &qwen3moe::FAMILY];

/// How one family differs from the others.
#[derive(Debug, PartialEq)]
pub struct Family {
    /// The value of `general.architecture`, and the prefix of the family's metadata keys.
    pub architecture: &'static str,
    /// Which two values of a head RoPE rotates together.
    pub rope_pairing: RopePairing,
    /// Whether the file may hold `rope_freqs.weight`, a divisor for each of RoPE's frequencies.
    pub rope_factors: Presence,
    /// Biases of the query, key and value projections.
    pub qkv_bias: Presence,
    /// Bias of the attention's output projection.
    pub attn_output_bias: Presence,
    /// RMSNorm over each query and key head, before RoPE.
    pub qk_norm: Presence,
    /// Whether the feed-forward network is one of several experts chosen for each token.
    pub experts: Presence,
}

/// Whether a family has a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Never: a file with it is not understood.
    Absent,
    /// If the file has it.
    Optional,
    /// Always: a file without it is incomplete.
    Required,
}

/// Which values of a head of `n_rot` values RoPE rotates together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RopePairing {
    /// `(i, i + n_rot/2)`, as in GPT-NeoX.
    Halves,
    /// `(2i, 2i + 1)`, as in the RoPE paper.
    Neighbours,
}

impl RopePairing {
    /// The indices, inside a head, of the two values of pair `i` out of `n_rot/2`.
    pub fn indices(self, i: usize, n_rot: usize) -> (usize, usize) {
        match self {
            RopePairing::Halves => (i, i + n_rot / 2),
            RopePairing::Neighbours => (2 * i, 2 * i + 1),
        }
    }
}

impl Family {
    /// The family of that architecture.
    pub fn of(architecture: &str) -> Option<&'static Family> {
        FAMILIES.iter().copied().find(|f| f.architecture == architecture)
    }

    /// The family of the model in `gguf`.
    ///
    /// # Errors
    /// [`ModelRule::Architecture`] when this program does not run its architecture.
    pub fn of_model(gguf: &Gguf) -> Result<&'static Family, ModelError> {
        let architecture = gguf.metadata().str("general.architecture")?;
        Family::of(architecture).ok_or_else(|| {
            ModelError::rejected(
                gguf.name(),
                ModelRule::Architecture,
                "metadata key general.architecture",
                format!("{architecture:?}, which this program does not run"),
                format!("one of {}", Family::list()),
            )
        })
    }

    /// The names of all architectures, for messages.
    pub fn list() -> String {
        FAMILIES.iter().map(|f| f.architecture).collect::<Vec<_>>().join(", ")
    }
}
