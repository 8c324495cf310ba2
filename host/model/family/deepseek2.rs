//! DeepSeek V2, V3 and R1, and Kimi K2 (arXiv 2405.04434, 2412.19437): latent attention; experts in groups, chosen with a bias, and some
//! that every token goes through.

use super::{Family, LIKE_LLAMA, Names, Presence, Shared};

pub(super) const FAMILY: Family = Family {
    architecture: "deepseek2",
    yarn_log_unit: Some(0.1),
    latent: true,
    experts: Presence::Optional,
    expert_scores_keyed: true,
    expert_norm: false,
    selection_bias: true,
    shared_expert: Shared::Counted,
    some_dense: true,
    names: Names { attn_out: "", ..LIKE_LLAMA.names },
    ..LIKE_LLAMA
};
