//! Qwen3, mixture of experts (Qwen3 Technical Report, arXiv 2505.09388).
//!
//! Qwen3's attention; the feed-forward network is the weighted sum of the few experts that a softmax over the router's scores picks.

use super::{Family, Presence, qwen3};

pub(super) const FAMILY: Family = Family { architecture: "qwen3moe", experts: Presence::Required, ..qwen3::FAMILY };
