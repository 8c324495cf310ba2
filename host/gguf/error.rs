//! What can be wrong with a file, and the words for it.

use crate::rules::rules;

/// Why a model file was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// The file could not be opened, or mapped.
    #[error("{file}: cannot be opened: {source}; check the path and its permissions")]
    Open {
        /// Path of the file.
        file: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file breaks a rule of the format.
    #[error("{file}: {field}: found {found}, expected {expected}; {advice}", advice = rule.advice())]
    Rejected {
        /// Path of the file.
        file: String,
        /// Which field, by name.
        field: String,
        /// What it holds.
        found: String,
        /// What a valid file holds there.
        expected: String,
        /// The rule that is broken.
        rule: Rule,
    },
}

impl GgufError {
    pub(super) fn rejected(
        file: &str,
        rule: Rule,
        field: impl ToString,
        found: impl ToString,
        expected: impl ToString,
    ) -> GgufError {
        GgufError::Rejected {
            file: file.to_string(),
            field: printable(&field.to_string()),
            found: printable(&found.to_string()),
            expected: expected.to_string(),
            rule,
        }
    }

    /// The broken rule; `None` when the file could not be opened at all.
    pub fn rule(&self) -> Option<Rule> {
        match self {
            GgufError::Open { .. } => None,
            GgufError::Rejected { rule, .. } => Some(*rule),
        }
    }
}

/// Text from a file, fit for one line of a terminal: control characters are escaped, and only the first 200 characters stay.
pub(crate) fn printable(text: &str) -> String {
    const SHOWN: usize = 200;
    let mut out = String::new();
    for c in text.chars().take(SHOWN) {
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    if text.chars().nth(SHOWN).is_some() {
        out.push('…');
    }
    out
}

const DAMAGED: &str = "the file is damaged or incomplete, fetch it again";
const MALFORMED: &str = "the program that wrote the file made it wrongly, convert the model again";
const ANOTHER: &str = "use a file in another type or convert the model again";

rules! {
    /// The rules a GGUF file must keep. `tests/gguf_rejects.rs` breaks each one.
    Rule;

    /// The file begins with the bytes `GGUF`.
    Magic => "this is not a GGUF model, convert it to GGUF first",
    /// Numbers are little-endian.
    ByteOrder => "convert the model for little-endian machines",
    /// The version is 2 or 3.
    Version => "convert the model with a current version of llama.cpp",
    /// Every field lies inside the file.
    Truncated => DAMAGED,
    /// The number of metadata pairs fits in the remaining bytes.
    MetadataCount => DAMAGED,
    /// The number of tensors fits in the remaining bytes.
    TensorCount => DAMAGED,
    /// A key is at least one byte long.
    EmptyKey => MALFORMED,
    /// A key is at most 65535 bytes long.
    KeyLength => MALFORMED,
    /// A key appears once.
    DuplicateKey => MALFORMED,
    /// Names of tensors are UTF-8.
    Utf8 => DAMAGED,
    /// A metadata value's type is one of the format's thirteen.
    ValueType => DAMAGED,
    /// A truth value is the byte 0 or 1.
    Bool => DAMAGED,
    /// Arrays hold no arrays.
    NestedArray => MALFORMED,
    /// An array's length fits in the remaining bytes.
    ArrayLength => DAMAGED,
    /// A string's length fits in the remaining bytes.
    StringLength => DAMAGED,
    /// `general.alignment` is a u32, a power of two, from 8 to 1 MiB.
    Alignment => MALFORMED,
    /// A tensor's name is at least one byte long.
    EmptyTensorName => MALFORMED,
    /// A tensor's name is at most 64 bytes long.
    TensorNameLength => MALFORMED,
    /// A tensor's name appears once.
    DuplicateTensor => MALFORMED,
    /// A tensor has one to four dimensions.
    DimensionCount => MALFORMED,
    /// Dimensions are positive.
    ZeroDimension => MALFORMED,
    /// The number of a tensor's elements, and of its bytes, fits in 63 bits.
    ElementCount => DAMAGED,
    /// A row is a whole number of blocks.
    BlockSize => ANOTHER,
    /// A tensor's offset is a multiple of the alignment.
    OffsetAlignment => MALFORMED,
    /// A tensor's data lies inside the file.
    TensorRange => DAMAGED,
    /// No two tensors share bytes.
    TensorOverlap => MALFORMED,
    /// A part of a split model is opened by naming the first.
    SplitFirst => "name the first part, the one with -00001-of-",
    /// A split model's parts are named as llama.cpp names them, and lie beside each other.
    SplitName => "keep the parts' names as they were, or join them with llama-gguf-split --merge",
    /// Each part says it is the one its name says it is, of as many as the first says.
    SplitPart => "the parts belong to different models, fetch them again",
    /// The parts hold as many tensors as the first part promises.
    SplitTensors => "a part is incomplete, fetch the model again",
}
