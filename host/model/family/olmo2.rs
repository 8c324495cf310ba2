//! OLMo 2 and 3 (arXiv 2501.00656, 2512.13961): each branch reads the residual stream itself, and what it adds is normalised. Norms of
//! queries and keys are over all heads together. OLMo 3 has windows in three layers of four, and stretches the rotation of the fourth alone.

use super::{Family, LIKE_LLAMA, Names, Norms, Presence, RopePairing, WindowRope, Windows};

pub(super) const FAMILY: Family = Family {
    architecture: "olmo2",
    rope_pairing: RopePairing::Halves,
    qk_norm: Presence::Required,
    qk_norm_whole: true,
    windows: Windows::AllButEvery(4),
    window_rope: WindowRope::Unscaled,
    // Files have there what YaRN's own rule gives.
    yarn_attention_factor: false,
    norms: Norms {
        attn: None,
        attn_post: Some("post_attention_norm.weight"),
        ffn: None,
        ffn_post: Some("post_ffw_norm.weight"),
    },
    names: Names { heads: ["", "", "Vcur"], attn_out: "", ffn_post_norm: ".ffn_post_norm", ..LIKE_LLAMA.names },
    ..LIKE_LLAMA
};
