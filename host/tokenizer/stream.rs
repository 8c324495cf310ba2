//! Text from tokens as they come.
//!
//! A token is a string of bytes, not of characters: an emoji may be spread over four tokens. The decoder holds back
//! the bytes of an unfinished character until the rest arrives or can no longer arrive, so what it has given out,
//! joined, always equals the decoding of all tokens at once. Bytes that are not UTF-8 become U+FFFD, one for each
//! maximal prefix of a character, as in [`String::from_utf8_lossy`].

use super::{ControlText, Tokenizer, TokenizerError};

/// Turns one token at a time into text that never cuts a character.
pub struct StreamDecoder<'t> {
    tokenizer: &'t Tokenizer,
    control: ControlText,
    /// The start of a character whose end has not come yet; at most three bytes between calls.
    pending: Vec<u8>,
}

impl<'t> StreamDecoder<'t> {
    /// A decoder with nothing held back. `control` says whether control tokens show as text.
    pub fn new(tokenizer: &'t Tokenizer, control: ControlText) -> StreamDecoder<'t> {
        StreamDecoder { tokenizer, control, pending: Vec::new() }
    }

    /// The text that is complete once token `id` has come; often empty within a character.
    ///
    /// # Errors
    /// [`TokenizerError::UnknownId`] when the vocabulary has no such token.
    pub fn push(&mut self, id: u32) -> Result<String, TokenizerError> {
        let bytes = self.tokenizer.shown_bytes(id, self.control)?;
        self.pending.extend_from_slice(bytes);
        Ok(take_complete(&mut self.pending))
    }

    /// What was held back, now that no more tokens come: empty, or U+FFFD for a cut character.
    pub fn finish(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        text
    }
}

/// Takes from `bytes` all but an unfinished character at its end.
fn take_complete(bytes: &mut Vec<u8>) -> String {
    let mut text = String::new();
    let mut kept = bytes.len();
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        let invalid = chunk.invalid();
        if invalid.is_empty() {
            continue;
        }
        let at_end = invalid.as_ptr_range().end == bytes.as_ptr_range().end;
        let unfinished = at_end && std::str::from_utf8(invalid).is_err_and(|error| error.error_len().is_none());
        if unfinished {
            kept = bytes.len() - invalid.len();
        } else {
            text.push(char::REPLACEMENT_CHARACTER);
        }
    }
    bytes.drain(..kept);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Pieces of bytes: whole characters, halves of characters and noise.
    fn piece() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            "[a-z é漢🙂]{0,3}".prop_map(String::into_bytes),
            proptest::collection::vec(any::<u8>(), 0..4),
            Just(vec![0xf0, 0x9f]),
            Just(vec![0x99, 0x82]),
            Just(vec![0xe6, 0xbc]),
            Just(vec![0xa2]),
        ]
    }

    proptest! {
        #[test]
        fn pieces_joined_equal_the_whole(pieces in proptest::collection::vec(piece(), 0..12)) {
            let mut pending = Vec::new();
            let mut text = String::new();
            for piece in &pieces {
                pending.extend_from_slice(piece);
                text.push_str(&take_complete(&mut pending));
                prop_assert!(pending.len() <= 3);
            }
            text.push_str(&String::from_utf8_lossy(&pending));
            let whole = pieces.concat();
            prop_assert_eq!(text, String::from_utf8_lossy(&whole));
        }
    }
}
