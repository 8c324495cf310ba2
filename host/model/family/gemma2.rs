//! Gemma 2 (arXiv 2408.00118): Gemma 3 without norms over queries and keys, with one rotation, a window in every other layer, and both
//! scores and logits held within a cap.

use super::{Family, Names, Presence, ScoreScale, WindowRope, Windows, gemma3};

pub(super) const FAMILY: Family = Family {
    architecture: "gemma2",
    qk_norm: Presence::Absent,
    windows: Windows::AllButEvery(2),
    default_window: 4096,
    window_rope: WindowRope::Same,
    score_scale: ScoreScale::OfWidthAt(46),
    score_soft_cap: Some(50.0),
    logit_soft_cap: Some(30.0),
    names: Names { ffn_post_norm: ".ffn_post_norm", ..gemma3::FAMILY.names },
    ..gemma3::FAMILY
};
