//! Whether two models mean the same by a token's number.

use crate::{
    gguf::Gguf,
    tokenizer::{TokenizerError, VocabularyData},
};

/// The type of tokens that only make a vocabulary's size a round number.
const UNUSED: i32 = 5;

/// Why a model cannot guess for another.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // each variant's text is its documentation
pub enum VocabularyMismatch {
    #[error(
        "{draft}: {field}: found {found}, expected {expected} as in {model}: a draft model needs the vocabulary of the model that it \
         drafts for; choose another --draft-model"
    )]
    Differs { draft: String, model: String, field: String, found: String, expected: String },
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

/// How many tokens the two vocabularies begin with alike: all of both, but for unused ones at the end.
///
/// # Errors
/// [`VocabularyMismatch`]: they differ, or one cannot be read.
pub fn common_tokens(model: &Gguf, draft: &Gguf) -> Result<usize, VocabularyMismatch> {
    let (ours, theirs) = (VocabularyData::from_gguf(model)?, VocabularyData::from_gguf(draft)?);
    let differs = |field: &str, found: String, expected: String| VocabularyMismatch::Differs {
        draft: draft.name().to_owned(),
        model: model.name().to_owned(),
        field: field.to_owned(),
        found,
        expected,
    };
    if ours.model != theirs.model {
        return Err(differs("tokenizer.ggml.model", format!("{:?}", theirs.model), format!("{:?}", ours.model)));
    }
    let n_common = ours.tokens.len().min(theirs.tokens.len());
    if let Some(id) = (0..n_common).find(|id| ours.tokens[*id] != theirs.tokens[*id]) {
        let field = format!("tokenizer.ggml.tokens[{id}]");
        return Err(differs(&field, format!("{:?}", theirs.tokens[id]), format!("{:?}", ours.tokens[id])));
    }
    let is_used = |data: &VocabularyData, id: usize| {
        data.token_types.and_then(|types| types.get(id)).is_none_or(|kind| *kind != UNUSED)
    };
    if [&ours, &theirs].iter().any(|data| (n_common..data.tokens.len()).any(|id| is_used(data, id))) {
        let tokens = |data: &VocabularyData| format!("{} tokens", data.tokens.len());
        return Err(differs("tokenizer.ggml.tokens", tokens(&theirs), tokens(&ours)));
    }
    Ok(n_common)
}
