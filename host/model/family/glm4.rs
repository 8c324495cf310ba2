//! GLM-4 (Z.ai, 2025): norms before and after each branch, biases of queries, keys and values, a rotation of half of each head, gate and up
//! projection in one tensor.

use super::{Family, LIKE_LLAMA, Names, Norms, Presence};

pub(super) const FAMILY: Family = Family {
    architecture: "glm4",
    qkv_bias: Presence::Optional,
    norms: Norms {
        attn_post: Some("post_attention_norm.weight"),
        ffn_post: Some("post_ffw_norm.weight"),
        ..LIKE_LLAMA.norms
    },
    fused_gate_up: true,
    names: Names { attn_out: "", attn_post_norm: "post_attn_norm", ffn_post_norm: "post_mlp_norm", ..LIKE_LLAMA.names },
    ..LIKE_LLAMA
};
