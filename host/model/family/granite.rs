//! Granite 3 and 4, dense (IBM): Llama with four scales, of the embedding, both branches, scores and logits.

use super::{Family, LIKE_LLAMA, LogitScale};

pub(super) const FAMILY: Family =
    Family { architecture: "granite", scales: true, logit_scale: LogitScale::Divides, ..LIKE_LLAMA };
