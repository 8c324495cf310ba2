//! Qwen2 and Qwen2.5 (Qwen2 Technical Report, arXiv 2407.10671), and the models distilled into them.
//!
//! Grouped-query attention whose query, key and value projections have biases; some of them are large, −34 say, and real.

use super::{Family, LIKE_LLAMA, Presence, RopePairing};

pub(super) const FAMILY: Family =
    Family { architecture: "qwen2", rope_pairing: RopePairing::Halves, qkv_bias: Presence::Required, ..LIKE_LLAMA };
