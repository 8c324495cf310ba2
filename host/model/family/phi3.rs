//! Phi-3 and Phi-4 (arXiv 2404.14219, 2412.08905): one tensor for queries, keys and values, one for gate and up projection, and LongRoPE
//! (arXiv 2402.13753). A window that the file gives is not used, as in llama.cpp.

use super::{Family, LIKE_LLAMA, Names, RopeFactors, RopePairing, Windows};

pub(super) const FAMILY: Family = Family {
    architecture: "phi3",
    rope_pairing: RopePairing::Halves,
    rope_factors: RopeFactors::LongAndShort,
    windows: Windows::Ignored,
    fused_qkv: true,
    fused_gate_up: true,
    // What the one tensor makes has no names before it is heads.
    names: Names { projected: [""; 3], ..LIKE_LLAMA.names },
    ..LIKE_LLAMA
};
