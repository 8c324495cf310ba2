//! Tensor types and descriptions.

use std::fmt;

/// What the file says about one tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name, such as `blk.0.attn_q.weight`.
    pub name: String,
    /// Its dimensions in the file's order: `dims[0]` is contiguous. A matrix of `out` rows of `in` values is `[in, out]`.
    pub dims: Vec<u64>,
    /// How its values are stored.
    pub tensor_type: TensorType,
    /// Where its data begins, in bytes from the beginning of its file.
    pub offset: u64,
    /// How many bytes its data takes.
    pub bytes: u64,
    /// Which file of a split model holds it, from 0.
    pub part: usize,
}

impl TensorInfo {
    /// How many values the tensor holds.
    pub fn elements(&self) -> u64 {
        self.dims.iter().product()
    }
}

macro_rules! tensor_types {
    ($($(#[doc = $doc:literal])+ $variant:ident = $id:literal, $elements:literal, $bytes:literal;)+) => {
        /// How a tensor's values are stored. A row is a whole number of blocks, each of [`TensorType::block_elements`] values in
        /// [`TensorType::block_bytes`] bytes. The numbers are those of `ggml_type` in ggml.h.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[allow(non_camel_case_types)] // The names everyone knows them by.
        #[repr(u32)]
        pub enum TensorType {
            $($(#[doc = $doc])+ $variant = $id,)+
        }

        impl TensorType {
            /// Every type that this program reads.
            pub const ALL: &[TensorType] = &[$(TensorType::$variant),+];

            /// The type's name, as llama.cpp prints it in capitals.
            pub const fn name(self) -> &'static str {
                match self {
                    $(TensorType::$variant => stringify!($variant),)+
                }
            }

            /// How many values one block holds.
            pub const fn block_elements(self) -> u64 {
                match self {
                    $(TensorType::$variant => $elements,)+
                }
            }

            /// How many bytes one block takes.
            pub const fn block_bytes(self) -> u64 {
                match self {
                    $(TensorType::$variant => $bytes,)+
                }
            }
        }
    };
}

// name = number in the file, values per block, bytes per block
tensor_types! {
    /// IEEE single precision.
    F32 = 0, 1, 4;
    /// IEEE half precision.
    F16 = 1, 1, 2;
    /// 4-bit values with a scale.
    Q4_0 = 2, 32, 18;
    /// 4-bit values with a scale and a minimum.
    Q4_1 = 3, 32, 20;
    /// 5-bit values with a scale.
    Q5_0 = 6, 32, 22;
    /// 5-bit values with a scale and a minimum.
    Q5_1 = 7, 32, 24;
    /// 8-bit values with a scale.
    Q8_0 = 8, 32, 34;
    /// 2-bit values; 4-bit scales and minima for each 16 of them.
    Q2_K = 10, 256, 84;
    /// 3-bit values; 6-bit scales for each 16 of them.
    Q3_K = 11, 256, 110;
    /// 4-bit values; 6-bit scales and minima for each 32 of them.
    Q4_K = 12, 256, 144;
    /// 5-bit values; 6-bit scales and minima for each 32 of them.
    Q5_K = 13, 256, 176;
    /// 6-bit values; 8-bit scales for each 16 of them.
    Q6_K = 14, 256, 210;
    /// 2-bit values: indices of eight in a codebook, and signs; 4-bit scales for each 32 of them.
    IQ2_XXS = 16, 256, 66;
    /// The same with a larger codebook and scales for each 16.
    IQ2_XS = 17, 256, 74;
    /// 3-bit values: indices of four in a codebook, and signs; 4-bit scales for each 32 of them.
    IQ3_XXS = 18, 256, 98;
    /// Values −1, 0 and 1: indices of eight in a codebook, and a shift of all; 3-bit scales for each 32 of them.
    IQ1_S = 19, 256, 50;
    /// 4-bit indices into a table of 16 values, with a scale.
    IQ4_NL = 20, 32, 18;
    /// As IQ3_XXS with a larger codebook.
    IQ3_S = 21, 256, 110;
    /// As IQ2_XS with a larger codebook.
    IQ2_S = 22, 256, 82;
    /// 4-bit indices into the same table; 6-bit scales for each 32 of them.
    IQ4_XS = 23, 256, 136;
    /// As IQ1_S with a shift for each 8 values and scales for each 16.
    IQ1_M = 29, 256, 56;
    /// The upper half of a single-precision number.
    BF16 = 30, 1, 2;
    /// Values −1, 0 and 1 as digits of base three, with a scale.
    TQ1_0 = 34, 256, 54;
    /// 2-bit values −1, 0 and 1, with a scale.
    TQ2_0 = 35, 256, 66;
    /// 4-bit floats (E2M1) with a power-of-two scale.
    MXFP4 = 39, 32, 17;
    /// 4-bit floats (E2M1); scales that are 8-bit floats (E4M3) for each 16 of them.
    NVFP4 = 40, 64, 36;
}

impl TensorType {
    /// The number that stands for the type in a file.
    pub const fn id(self) -> u32 {
        self as u32
    }

    /// The type that `id` stands for, if this program reads it.
    pub fn from_id(id: u32) -> Option<TensorType> {
        TensorType::ALL.iter().copied().find(|t| t.id() == id)
    }

    /// How many bytes a row of `elements` values takes, when that is a whole number of blocks and fits in 64 bits.
    pub fn row_bytes(self, elements: u64) -> Option<u64> {
        if !elements.is_multiple_of(self.block_elements()) {
            return None;
        }
        (elements / self.block_elements()).checked_mul(self.block_bytes())
    }

    /// Whether the type packs several values into a block with shared scales.
    pub fn is_quantised(self) -> bool {
        self.block_elements() > 1
    }

    /// The names of all types, for messages.
    pub fn list() -> String {
        TensorType::ALL.iter().map(|t| t.name()).collect::<Vec<_>>().join(", ")
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A tensor of a type that this program does not read. A file with one can be looked at, and its text taken, but not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignTensor {
    /// Its name.
    pub name: String,
    /// Its dimensions in the file's order.
    pub dims: Vec<u64>,
    /// The number of its type.
    pub type_id: u32,
}

impl ForeignTensor {
    /// The type's number and, where ggml has such a type, its name.
    pub fn type_name(&self) -> String {
        match foreign_name(self.type_id) {
            Some(name) => format!("type {} ({name})", self.type_id),
            None => format!("type {}, which no version of the format known here has", self.type_id),
        }
    }
}

/// The name of a type that exists in ggml but that this program does not read, so that a message can say it.
fn foreign_name(id: u32) -> Option<&'static str> {
    Some(match id {
        9 => "Q8_1",
        15 => "Q8_K",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        41 => "Q1_0",
        _ => return None,
    })
}
