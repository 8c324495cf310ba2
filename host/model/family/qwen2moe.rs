//! Qwen1.5 and Qwen2, mixture of experts (arXiv 2407.10671): the weights of the experts chosen are left as they are, and each token
//! decides how much of the shared expert counts.

use super::{Family, Names, Presence, Shared, qwen2};

pub(super) const FAMILY: Family = Family {
    architecture: "qwen2moe",
    experts: Presence::Required,
    expert_norm: false,
    shared_expert: Shared::Gated,
    names: Names { attn_out: "", ..qwen2::FAMILY.names },
    ..qwen2::FAMILY
};
