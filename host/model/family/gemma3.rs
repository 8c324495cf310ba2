//! Gemma 3 (arXiv 2503.19786): norms before and after each branch, five layers with a window to each without, which have a rotation of
//! their own, and GeGLU. The converter has already added the 1 to the norms' weights.

use super::{Family, LIKE_LLAMA, Names, Norms, Presence, RopePairing, ScoreScale, WindowRope, Windows};
use crate::model::layer::Glu;

pub(super) const FAMILY: Family = Family {
    architecture: "gemma3",
    rope_pairing: RopePairing::Halves,
    qk_norm: Presence::Required,
    windows: Windows::AllButEvery(6),
    window_rope: WindowRope::Own(10_000.0),
    score_scale: ScoreScale::OfWidthAt(62),
    norms: Norms {
        attn_post: Some("post_attention_norm.weight"),
        ffn_post: Some("post_ffw_norm.weight"),
        ..LIKE_LLAMA.norms
    },
    glu: Glu::Geglu,
    root_embedding: true,
    logit_soft_cap: Some(0.0),
    names: Names { attn_out: "", ffn_inp: "sa_out", ..LIKE_LLAMA.names },
    ..LIKE_LLAMA
};
