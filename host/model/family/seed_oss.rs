//! Seed-OSS (ByteDance): Qwen2 with the second norm under another name, and perhaps a bias at the output projection.

use super::{Family, LIKE_LLAMA, Names, Norms, Presence, qwen2};

pub(super) const FAMILY: Family = Family {
    architecture: "seed_oss",
    attn_output_bias: Presence::Optional,
    norms: Norms { ffn: Some("post_attention_norm.weight"), ..LIKE_LLAMA.norms },
    names: Names { ffn_norm: "attn_post_norm", ..LIKE_LLAMA.names },
    ..qwen2::FAMILY
};
