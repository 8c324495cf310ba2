//! ERNIE 4.5, dense (Baidu): Llama. A bias of the output projection that a file may have is not added, as in llama.cpp.

use super::{Family, LIKE_LLAMA};

pub(super) const FAMILY: Family = Family { architecture: "ernie4_5", ignored: &["attn_output.bias"], ..LIKE_LLAMA };
