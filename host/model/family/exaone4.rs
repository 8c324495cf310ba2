//! EXAONE 4 (arXiv 2507.11407): each branch reads the residual stream itself, and what it adds is normalised. The model of 64 layers has
//! windows in three of four, and no rotation in the fourth.

use super::{Family, LIKE_LLAMA, Names, Presence, RopeFactors, RopePairing, Rotated, Windows, olmo2};

pub(super) const FAMILY: Family = Family {
    architecture: "exaone4",
    rope_pairing: RopePairing::Halves,
    rope_factors: RopeFactors::One,
    rotated: Rotated::Windowed,
    qk_norm: Presence::Required,
    windows: Windows::AllButEveryOf64(4),
    norms: olmo2::FAMILY.norms,
    names: Names { ffn_post_norm: ".ffn_post_norm", ..LIKE_LLAMA.names },
    ..LIKE_LLAMA
};
