//! gpt-oss (OpenAI, arXiv 2508.10925): sinks in attention, a window in every other layer, YaRN, and experts with biases and a clamped
//! SwiGLU. The router's softmax is over the experts chosen alone.

use super::{Family, LIKE_LLAMA, Names, Norms, Presence, RopePairing, Windows};
use crate::model::layer::{Glu, Scores};

pub(super) const FAMILY: Family = Family {
    architecture: "gpt-oss",
    rope_pairing: RopePairing::Halves,
    qkv_bias: Presence::Required,
    attn_output_bias: Presence::Required,
    sinks: true,
    windows: Windows::AllButEvery(2),
    norms: Norms { ffn: Some("post_attention_norm.weight"), ..LIKE_LLAMA.norms },
    glu: Glu::SwigluClamped,
    experts: Presence::Required,
    expert_scores: Scores::SoftmaxOfChosen,
    expert_bias: true,
    names: Names { ffn_norm: "attn_post_norm", ..LIKE_LLAMA.names },
    ..LIKE_LLAMA
};
