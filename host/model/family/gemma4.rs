//! Gemma 4 (Google, 2026): Gemma 3 with heads of other sizes in layers with a window, values that are normalised as well, unscaled
//! scores, last layers that read the cache of one before them, a second embedding that each layer adds a part of, and a scale of each
//! layer's result. In the larger model experts stand beside the dense network.

use super::{Family, Names, Presence, RopeFactors, ScoreScale, Windows, gemma3};

pub(super) const FAMILY: Family = Family {
    architecture: "gemma4",
    rope_factors: RopeFactors::One,
    windows: Windows::Listed,
    score_scale: ScoreScale::One,
    v_norm: true,
    experts: Presence::Optional,
    experts_beside: true,
    layer_embedding: true,
    layers_differ: true,
    logit_soft_cap: Some(30.0),
    names: Names { heads: [""; 3], rotated: ["Qcur_pos", "Kcur_pos"], ffn_inp: "attn_out", ..gemma3::FAMILY.names },
    ..gemma3::FAMILY
};
