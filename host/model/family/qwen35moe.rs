//! Qwen3.5, mixture of experts (Qwen, 2026): Qwen3.5 with experts, and one that every token goes through as far as it wants to.

use super::{Family, Presence, Shared, qwen35};

pub(super) const FAMILY: Family =
    Family { architecture: "qwen35moe", experts: Presence::Required, shared_expert: Shared::Gated, ..qwen35::FAMILY };
