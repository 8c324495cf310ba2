//! Why a well-formed GGUF file is no model that can be run.

use crate::{
    gguf::{MetadataError, printable},
    rules::rules,
};

/// Why a model was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A metadata key is missing or of the wrong type.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// The model breaks a rule of its architecture, or needs what this program does not have.
    #[error("{file}: {field}: found {found}, expected {expected}; {advice}", advice = rule.advice())]
    Rejected {
        /// Path of the file.
        file: String,
        /// Which metadata key or tensor.
        field: String,
        /// What it holds.
        found: String,
        /// What it should hold.
        expected: String,
        /// The rule that is broken.
        rule: ModelRule,
    },
}

impl ModelError {
    pub(super) fn rejected(
        file: &str,
        rule: ModelRule,
        field: impl ToString,
        found: impl ToString,
        expected: impl ToString,
    ) -> ModelError {
        ModelError::Rejected {
            file: file.to_string(),
            field: printable(&field.to_string()),
            found: printable(&found.to_string()),
            expected: expected.to_string(),
            rule,
        }
    }

    /// The broken rule; `None` when a metadata key is missing or of the wrong type.
    pub fn rule(&self) -> Option<ModelRule> {
        match self {
            ModelError::Metadata(_) => None,
            ModelError::Rejected { rule, .. } => Some(*rule),
        }
    }
}

const MALFORMED: &str = "convert the model again from its source";
const UNSUPPORTED: &str = "this program has no code for it, use another model";

rules! {
    /// The rules a model must keep. `tests/model_rejects.rs` breaks each one.
    ModelRule;

    /// The architecture is one this program knows.
    Architecture => UNSUPPORTED,
    /// 1 to 512 layers.
    LayerCount => MALFORMED,
    /// 1 to 1048576 values per token.
    EmbeddingLength => MALFORMED,
    /// 1 to 65536 query heads.
    HeadCount => MALFORMED,
    /// Query heads are a multiple of key/value heads.
    KvHeadCount => MALFORMED,
    /// An even number of values per head, 2 to 1024, the same for keys and values.
    HeadDim => MALFORMED,
    /// 1 to 16777216 values between the feed-forward matrices.
    FeedForwardLength => MALFORMED,
    /// 1 to 268435456 positions.
    ContextLength => MALFORMED,
    /// The epsilon of RMSNorm is positive and finite.
    RmsEpsilon => MALFORMED,
    /// RoPE's base is positive and finite.
    RopeTheta => MALFORMED,
    /// RoPE rotates an even number of a head's values.
    RopeDimension => MALFORMED,
    /// RoPE is scaled not at all, linearly, or by YaRN, by positive finite numbers.
    RopeScaling => UNSUPPORTED,
    /// `rope_freqs.weight` holds positive finite numbers.
    RopeFactors => MALFORMED,
    /// At least one, at most all experts are used, and there are at most 512.
    ExpertCount => MALFORMED,
    /// Experts are chosen by softmax, without groups and without shared experts.
    ExpertRouting => UNSUPPORTED,
    /// The scale of attention scores is positive and finite.
    AttentionScale => MALFORMED,
    /// A sliding window holds at least one position, and its pattern is known for each layer.
    SlidingWindow => UNSUPPORTED,
    /// A recurrence's heads fit its size.
    Recurrence => MALFORMED,
    /// Embeddings are a mean of hidden states, the first or the last.
    Pooling => UNSUPPORTED,
    /// No other key changes the arithmetic.
    Arithmetic => UNSUPPORTED,
    /// The tokenizer has no more tokens than the embedding has rows.
    VocabularySize => MALFORMED,
    /// Every tensor is of a type that this program reads.
    TensorType => "use a file in another type or convert the model again",
    /// Every tensor that the architecture needs is there.
    MissingTensor => "the file is no complete model of its kind, fetch or convert it again",
    /// Every tensor has the shape that the metadata says.
    TensorShape => MALFORMED,
    /// Norms and biases are F32.
    VectorType => MALFORMED,
    /// Every tensor in the file is used.
    UnknownTensor => UNSUPPORTED,
}
