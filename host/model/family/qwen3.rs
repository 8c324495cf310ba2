//! Qwen3, dense (Qwen3 Technical Report, arXiv 2505.09388).
//!
//! No biases; instead each query and key head is normalised before RoPE. `head_dim` is independent of the embedding's length.

use super::{Family, LIKE_LLAMA, Presence, RopePairing};

pub(super) const FAMILY: Family =
    Family { architecture: "qwen3", rope_pairing: RopePairing::Halves, qk_norm: Presence::Required, ..LIKE_LLAMA };
