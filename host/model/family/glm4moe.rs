//! GLM-4.5 to 4.7 (arXiv 2508.06471): a few dense layers, then experts whose scores are sigmoids, chosen with a bias, and one that every
//! token goes through.

use super::{Family, LIKE_LLAMA, Names, Norms, Presence, RopePairing, Shared};
use crate::model::layer::Scores;

pub(super) const FAMILY: Family = Family {
    architecture: "glm4moe",
    rope_pairing: RopePairing::Halves,
    qkv_bias: Presence::Optional,
    qk_norm: Presence::Optional,
    norms: Norms { ffn: Some("post_attention_norm.weight"), ..LIKE_LLAMA.norms },
    experts: Presence::Required,
    expert_scores: Scores::Sigmoid,
    expert_scores_keyed: true,
    expert_norm: false,
    selection_bias: true,
    shared_expert: Shared::Counted,
    some_dense: true,
    names: Names { attn_out: "", ffn_norm: "post_attn_norm", ..LIKE_LLAMA.names },
    ..LIKE_LLAMA
};
