//! Command R7B and A (Cohere, arXiv 2504.00698): attention and feed-forward network read one LayerNorm and are added together; layers
//! without a window do not rotate.

use super::{Family, LIKE_LLAMA, LogitScale, Names, Norms, Rotated, Windows};

pub(super) const FAMILY: Family = Family {
    architecture: "cohere2",
    rotated: Rotated::Windowed,
    windows: Windows::AllButEvery(4),
    norms: Norms { ffn: None, ..LIKE_LLAMA.norms },
    layer_norm: true,
    parallel: true,
    logit_scale: LogitScale::Multiplies,
    names: Names { attn_out: "", ..LIKE_LLAMA.names },
    ..LIKE_LLAMA
};
