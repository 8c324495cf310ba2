//! What a sampler and a constraint take of a tokenizer.

use super::GenerateError;
use crate::{
    sample::{ConstraintVocabulary, DryBreakers, OptionError, Sampler, SamplerOptions},
    tokenizer::{Ends, Special, Tokenizer},
};

/// The sampler for rows of `n_vocab` logits.
///
/// # Errors
/// [`OptionError`].
pub fn sampler(options: SamplerOptions, tokenizer: &Tokenizer, n_vocab: usize) -> Result<Sampler, OptionError> {
    let breakers = if Sampler::needs_dry_breakers(&options) {
        let bytes = (0..tokenizer.vocab_size() as u32).map(|id| tokenizer.token_bytes(id).unwrap_or_default());
        // The rest of a breaker that begins within a character is no text, and no token either.
        let tokenize = |bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes);
            tokenizer.encode(&text, Special::Text, Ends::Bare).unwrap_or_default()
        };
        DryBreakers::from_texts(&options.dry_sequence_breakers, bytes, tokenize)
    } else {
        DryBreakers::default()
    };
    Sampler::new(options, n_vocab, breakers)
}

/// The tokens as a constraint sees them: a control token adds nothing to the text, so it is never allowed.
///
/// # Errors
/// The vocabulary has no end-of-generation token.
pub fn constraint_vocabulary(tokenizer: &Tokenizer) -> Result<ConstraintVocabulary, GenerateError> {
    let bytes = |id| {
        if tokenizer.is_control(id) { Ok(Vec::new()) } else { tokenizer.token_bytes(id).map(<[u8]>::to_vec) }
    };
    let words: Result<Vec<Vec<u8>>, _> = (0..tokenizer.vocab_size() as u32).map(bytes).collect();
    let ends: Vec<u32> = tokenizer.end_of_generation().iter().copied().collect();
    Ok(ConstraintVocabulary::new(&words?, &ends)?)
}
