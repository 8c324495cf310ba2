//! Qwen3-Next (Qwen, 2025): Qwen3.5's experts and layers, but neighbouring value heads share a key head, and one projection makes decay
//! and strength.

use super::{Family, qwen35moe};

pub(super) const FAMILY: Family = Family { architecture: "qwen3next", delta_grouped: true, ..qwen35moe::FAMILY };
