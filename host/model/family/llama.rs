//! Llama 2 and 3 (arXiv 2307.09288, 2407.21783), Mistral, and Mixtral, which is Mistral with experts (arXiv 2401.04088).
//!
//! The converter reorders the rows of the query and key projections, so RoPE rotates neighbouring values. Llama 3.1 stretches low
//! frequencies by divisors in `rope_freqs.weight`. Some descendants have attention biases.

use super::{Family, LIKE_LLAMA, Presence, RopeFactors};

pub(super) const FAMILY: Family = Family {
    architecture: "llama",
    rope_factors: RopeFactors::One,
    qkv_bias: Presence::Optional,
    attn_output_bias: Presence::Optional,
    experts: Presence::Optional,
    ..LIKE_LLAMA
};
