//! SmolLM3 (Hugging Face, 2025): Llama with each fourth layer unrotated (arXiv 2501.18795).

use super::{Family, LIKE_LLAMA, Rotated};

pub(super) const FAMILY: Family = Family { architecture: "smollm3", rotated: Rotated::AllButEvery(4), ..LIKE_LLAMA };
