//! Qwen3, dense (Qwen3 Technical Report, arXiv 2505.09388).
//!
//! No biases; instead each query and key head is normalised before RoPE. `head_dim` is independent of the embedding's length.

use super::{Family, Presence, RopePairing};

pub(super) const FAMILY: Family = Family {
    architecture: "qwen3",
    rope_pairing: RopePairing::Halves,
    rope_factors: Presence::Absent,
    qkv_bias: Presence::Absent,
    attn_output_bias: Presence::Absent,
    qk_norm: Presence::Required,
    experts: Presence::Absent,
};
