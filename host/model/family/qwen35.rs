//! Qwen3.5, dense (Qwen, 2026): three layers of gated delta net to each of attention, whose result is gated by a part of the query
//! projection. Its interleaved rotation of three axes is the plain one for text.

use super::{Family, LIKE_LLAMA, Names, Norms, Presence, RopePairing};

pub(super) const FAMILY: Family = Family {
    architecture: "qwen35",
    rope_pairing: RopePairing::Halves,
    qk_norm: Presence::Required,
    gated: true,
    recurrent: true,
    norms: Norms { ffn: Some("post_attention_norm.weight"), ..LIKE_LLAMA.norms },
    names: Names {
        projected: ["", "Kcur", "Vcur"],
        heads: ["", "", "Vcur"],
        attended: "attn_pregate",
        attn_out: "attn_output",
        ffn_inp: "attn_residual",
        ffn_norm: "attn_post_norm",
        ..LIKE_LLAMA.names
    },
    ..LIKE_LLAMA
};
