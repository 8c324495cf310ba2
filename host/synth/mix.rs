//! Which type each tensor of a quantised file has.
//!
//! "Q4_K_M" is not a type but a mix: matrices that hurt most when they lose bits get more of them. The rules are those of
//! `llama_tensor_get_type` in llama.cpp's `llama-quant.cpp`, without an importance matrix where there can be none, for the
//! architectures that this program runs (the exception for 70B models is left out: no shape here is one). `tests/synth.rs` compares them with
//! files that llama.cpp quantised.
//!
//! - The output matrix gets Q6_K, or Q8_0 in a Q8_0 file; so does the embedding where it is the output matrix too.
//! - In the `_M` mixes, `attn_v` and `ffn_down` of some layers go up: the first and last eighths, and every third between.
//! - In the mixes of two bits and less, what hurts most gets types of two to five.
//! - A row must be a whole number of blocks. Where 256 does not divide it, the K type gives way to a type of 32: Q4_K to
//!   Q5_0, Q5_K to Q5_1, Q6_K to Q8_0, TQ1_0 and TQ2_0 to Q4_0, the rest to IQ4_NL.
//! - Norms, biases and the router of experts stay F32.

use crate::gguf::TensorType;

/// What the mix depends on beside the tensor.
#[derive(Clone, Copy, Debug)]
pub struct ModelFacts {
    /// Layers.
    pub n_layers: u64,
    /// Experts of a layer; 0 where there are none.
    pub n_experts: u64,
    /// Query heads that share a key/value head.
    pub heads_per_kv_head: u64,
    /// Whether the embedding is the output matrix.
    pub tied_output: bool,
}

macro_rules! file_types {
    ($($variant:ident $name:literal = $number:literal, $base:ident;)+) => {
        /// What a file is called after: the mix of its tensors' types. The numbers are those of `llama_ftype` in llama.h.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(non_camel_case_types, missing_docs)] // The names everyone knows them by.
        #[repr(u32)]
        pub enum FileType {
            $($variant = $number,)+
        }

        impl FileType {
            /// Every mix that there are rules for.
            pub const ALL: &[FileType] = &[$(FileType::$variant),+];

            /// Its name in lower case, as in files' names.
            pub const fn name(self) -> &'static str {
                match self {
                    $(FileType::$variant => $name,)+
                }
            }

            /// The type of tensors that no rule picks out.
            pub const fn base(self) -> TensorType {
                match self {
                    $(FileType::$variant => TensorType::$base,)+
                }
            }
        }
    };
}

// name = number in the file's metadata, base type
file_types! {
    F32 "f32" = 0, F32;
    F16 "f16" = 1, F16;
    BF16 "bf16" = 32, BF16;
    Q8_0 "q8_0" = 7, Q8_0;
    Q4_0 "q4_0" = 2, Q4_0;
    Q4_1 "q4_1" = 3, Q4_1;
    Q5_0 "q5_0" = 8, Q5_0;
    Q5_1 "q5_1" = 9, Q5_1;
    Q2_K "q2_k" = 10, Q2_K;
    Q3_K_S "q3_k_s" = 11, Q3_K;
    Q3_K_M "q3_k_m" = 12, Q3_K;
    Q3_K_L "q3_k_l" = 13, Q3_K;
    Q4_K_S "q4_k_s" = 14, Q4_K;
    Q4_K_M "q4_k_m" = 15, Q4_K;
    Q5_K_S "q5_k_s" = 16, Q5_K;
    Q5_K_M "q5_k_m" = 17, Q5_K;
    Q6_K "q6_k" = 18, Q6_K;
    IQ1_S "iq1_s" = 24, IQ1_S;
    IQ1_M "iq1_m" = 31, IQ1_M;
    IQ2_XXS "iq2_xxs" = 19, IQ2_XXS;
    IQ2_XS "iq2_xs" = 20, IQ2_XS;
    IQ2_S "iq2_s" = 28, IQ2_XS;
    IQ2_M "iq2_m" = 29, IQ2_S;
    IQ3_XXS "iq3_xxs" = 23, IQ3_XXS;
    IQ3_XS "iq3_xs" = 22, IQ3_S;
    IQ3_S "iq3_s" = 26, IQ3_S;
    IQ3_M "iq3_m" = 27, IQ3_S;
    IQ4_NL "iq4_nl" = 25, IQ4_NL;
    IQ4_XS "iq4_xs" = 30, IQ4_XS;
    TQ1_0 "tq1_0" = 36, TQ1_0;
    TQ2_0 "tq2_0" = 37, TQ2_0;
    MXFP4_MOE "mxfp4" = 38, MXFP4;
    NVFP4 "nvfp4" = 39, NVFP4;
}

impl FileType {
    /// The mix of that name.
    pub fn find(name: &str) -> Option<FileType> {
        FileType::ALL.iter().copied().find(|t| t.name() == name)
    }

    /// The number in `general.file_type`.
    pub const fn number(self) -> u32 {
        self as u32
    }

    /// The type that the tensor `name` of dimensions `dims`, the contiguous one first, has in a file of this mix.
    pub fn tensor_type(self, model: ModelFacts, name: &str, dims: &[u64]) -> TensorType {
        if dims.len() < 2 || name.contains("ffn_gate_inp") {
            return TensorType::F32;
        }
        if !self.base().is_quantised() {
            return self.base();
        }
        fitting(self.wanted(model, name, dims), dims[0])
    }

    /// The type by the rules, whether or not the rows are whole blocks of it.
    fn wanted(self, model: ModelFacts, name: &str, dims: &[u64]) -> TensorType {
        use TensorType::{IQ2_S, IQ3_S, IQ3_XXS, MXFP4, Q3_K, Q4_K, Q5_K, Q6_K, Q8_0};
        let base = self.base();
        let is_output = name == "output.weight" || (model.tied_output && name == "token_embd.weight");
        if self == FileType::MXFP4_MOE {
            // Only the experts are packed so.
            return if dims.len() > 2 && !is_output { MXFP4 } else { Q8_0 };
        }
        if is_output {
            return match base {
                Q8_0 => Q8_0,
                _ if !dims[0].is_multiple_of(base.block_elements()) => Q8_0,
                _ if self.is_two_bits() || self == FileType::IQ3_XXS => Q5_K,
                _ => Q6_K,
            };
        }
        if self.is_two_bits() {
            return self.wanted_of_two_bits(model, name);
        }
        let n = model.n_layers;
        let layer = layer_of(name);
        let in_first_eighth = layer < n / 8;
        let gets_more_bits = in_first_eighth || layer >= 7 * n / 8 || (layer.wrapping_sub(n / 8)) % 3 == 2;
        let eight_experts = model.n_experts == 8;
        let is_middle = (n / 8..7 * n / 8).contains(&layer);

        if name == "token_embd.weight" {
            match self {
                FileType::IQ3_XXS => IQ3_S,
                FileType::TQ1_0 | FileType::TQ2_0 => Q4_K,
                _ => base,
            }
        } else if name.contains("attn_v.weight") {
            match self {
                // Eight experts: attention is so small a part that it may as well be good.
                _ if eight_experts => Q8_0,
                FileType::Q2_K if model.heads_per_kv_head >= 4 => Q4_K,
                FileType::Q2_K => Q3_K,
                FileType::Q3_K_M if layer < 2 => Q5_K,
                FileType::Q3_K_M | FileType::IQ3_M => Q4_K,
                FileType::Q3_K_L => Q5_K,
                FileType::IQ3_XXS | FileType::IQ3_XS | FileType::IQ3_S if model.heads_per_kv_head >= 4 => Q4_K,
                FileType::IQ4_NL | FileType::IQ4_XS if model.heads_per_kv_head >= 4 => Q5_K,
                FileType::Q4_K_M | FileType::Q5_K_M if gets_more_bits => Q6_K,
                FileType::Q4_K_S if layer < 4 => Q5_K,
                _ => base,
            }
        } else if name.contains("attn_k.weight") && eight_experts {
            Q8_0
        } else if name.contains("attn_k.weight") || name.contains("attn_q.weight") {
            match self {
                FileType::IQ3_XXS => IQ2_S,
                FileType::IQ3_XS => IQ3_XXS,
                _ => base,
            }
        } else if name.contains("ffn_gate") || name.contains("ffn_up") {
            if self == FileType::IQ3_XS && is_middle { IQ3_XXS } else { base }
        } else if name.contains("ffn_down") {
            match self {
                FileType::IQ3_M if in_first_eighth || eight_experts && gets_more_bits => Q4_K,
                FileType::Q2_K => Q3_K,
                FileType::Q3_K_M if layer < n / 16 => Q5_K,
                FileType::Q3_K_M => Q4_K,
                FileType::Q3_K_L => Q5_K,
                FileType::Q4_K_M | FileType::Q5_K_M if gets_more_bits => Q6_K,
                FileType::IQ4_NL | FileType::IQ4_XS | FileType::Q4_K_S if in_first_eighth => Q5_K,
                _ => base,
            }
        } else if name.contains("attn_output.weight") {
            use FileType as F;
            match self {
                F::Q2_K | F::Q3_K_S | F::Q3_K_M | F::Q4_K_S | F::Q4_K_M | F::IQ4_NL | F::IQ4_XS if eight_experts => {
                    Q5_K
                }
                F::IQ3_XXS | F::IQ3_XS | F::IQ3_S | F::IQ3_M if eight_experts => Q5_K,
                _ if eight_experts => base,
                F::Q2_K => Q3_K,
                F::IQ3_XXS => IQ3_S,
                F::Q3_K_M | F::IQ3_M => Q4_K,
                F::Q3_K_L => Q5_K,
                _ => base,
            }
        } else {
            base
        }
    }
}

impl FileType {
    /// Whether it is one of the mixes of two bits and less, which have rules of their own.
    fn is_two_bits(self) -> bool {
        use FileType::{IQ1_M, IQ1_S, IQ2_M, IQ2_S, IQ2_XS, IQ2_XXS};
        matches!(self, IQ1_S | IQ1_M | IQ2_XXS | IQ2_XS | IQ2_S | IQ2_M)
    }

    /// Their rules but for the output matrix.
    fn wanted_of_two_bits(self, model: ModelFacts, name: &str) -> TensorType {
        use TensorType::{IQ2_XXS, IQ3_S, Q2_K, Q4_K, Q5_K};
        let is_upper = matches!(self, FileType::IQ2_S | FileType::IQ2_M);
        let more = if is_upper { IQ3_S } else { Q2_K };
        let eight_experts = model.n_experts == 8;
        if name == "token_embd.weight" {
            more
        } else if name.contains("attn_v.weight") {
            if model.heads_per_kv_head >= 4 || model.n_experts >= 4 { Q4_K } else { more }
        } else if name.contains("attn_k.weight") && eight_experts {
            Q4_K
        } else if name.contains("ffn_down") && layer_of(name) < model.n_layers / 8 {
            more
        } else if name.contains("attn_output.weight") {
            match self {
                _ if eight_experts => Q5_K,
                FileType::IQ1_S | FileType::IQ1_M => IQ2_XXS,
                _ if is_upper => IQ3_S,
                _ => self.base(),
            }
        } else {
            self.base()
        }
    }
}

/// `wanted`, or what stands in for it where rows of `columns` values are not whole blocks of it.
fn fitting(wanted: TensorType, columns: u64) -> TensorType {
    use TensorType::*;
    let fits = |t: TensorType| columns.is_multiple_of(t.block_elements());
    if fits(wanted) {
        return wanted;
    }
    let smaller = match wanted {
        Q4_K => Q5_0,
        Q5_K => Q5_1,
        Q6_K => Q8_0,
        TQ1_0 | TQ2_0 => Q4_0,
        _ => IQ4_NL,
    };
    if fits(smaller) { smaller } else { F16 }
}

/// The layer of a tensor called `blk.N.…`; 0 for others, to which no rule about layers applies.
fn layer_of(name: &str) -> u64 {
    let number = name.strip_prefix("blk.").and_then(|rest| rest.split('.').next());
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}
