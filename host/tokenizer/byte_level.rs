//! Byte-level BPE, for files whose `tokenizer.ggml.model` is `gpt2`.
//!
//! Every byte has a visible character (GPT-2's byte alphabet): printable Latin-1 stands for itself, the other 68
//! bytes are numbered from U+0100. Text is cut into words ([`PreTokenizer`]), each word is spelled in the byte
//! alphabet, and the `tokenizers` crate's BPE joins the letters of the word in the order of the merges.
//!
//! Control tokens are left out of that model, and so are merges that make one: some files spell `</s>` by merges
//! and also mean it as a control token, and what a user typed must not become it.

use std::collections::HashSet;

use tokenizers::Model;
use tokenizers::models::bpe::{BPE, Vocab};

use super::TokenizerError;
use super::pre_tokenizer::PreTokenizer;
use super::vocabulary::{Kind, VocabularyData};

/// A vocabulary with merges.
pub(super) struct ByteLevel {
    words: PreTokenizer,
    bpe: BPE,
    letters: [char; 256],
    /// Bytes that no token spells. Empty in every complete vocabulary.
    missing: Vec<u8>,
}

impl ByteLevel {
    /// Builds the model from the tokens and merges of `data`, of which `kinds` says what they are.
    pub(super) fn new(
        data: &VocabularyData,
        kinds: &[Kind],
        words: PreTokenizer,
        ignore_merges: bool,
    ) -> Result<ByteLevel, TokenizerError> {
        let (vocab, pairs) = rayon::join(|| vocab(data, kinds), || merge_pairs(data, kinds));
        let (vocab, pairs) = (vocab?, pairs?);
        let letters = byte_letters();
        let missing = (0..=255u8)
            .filter(|&byte| !vocab.contains_key(letters[usize::from(byte)].encode_utf8(&mut [0; 4])))
            .collect();
        let bpe =
            BPE::builder().vocab_and_merges(vocab, pairs).ignore_merges(ignore_merges).build().map_err(|error| {
                data.error("tokenizer.ggml.merges", error.to_string(), "merges whose parts and results are all tokens")
            })?;
        Ok(ByteLevel { words, bpe, letters, missing })
    }

    /// Appends the ids of `text`.
    pub(super) fn encode(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        if let Some(byte) = text.bytes().find(|byte| self.missing.contains(byte)) {
            return Err(TokenizerError::NoToken { text: format!("byte {byte:#04x}") });
        }
        let mut spelled = String::new();
        for word in self.words.words(text) {
            spelled.clear();
            spelled.extend(word.bytes().map(|byte| self.letters[usize::from(byte)]));
            let tokens = self.bpe.tokenize(&spelled).map_err(TokenizerError::Model)?;
            ids.extend(tokens.into_iter().map(|token| token.id));
        }
        Ok(())
    }
}

/// Ids of all tokens that merges may make, by text.
fn vocab(data: &VocabularyData, kinds: &[Kind]) -> Result<Vocab, TokenizerError> {
    let mut vocab = Vocab::with_capacity(data.tokens.len());
    for (id, (text, _)) in (0..).zip(data.tokens.iter().zip(kinds)).filter(|(_, (_, kind))| !kind.is_guarded()) {
        let name = match text.as_str() {
            "" => format!("[EMPTY_{id}]"),
            _ => text.clone(),
        };
        if let Some(other) = vocab.insert(name, id) {
            return Err(data.error(
                format!("tokenizer.ggml.tokens[{id}]"),
                format!("{text:?}, which token {other} is too"),
                "a text of its own for each token",
            ));
        }
    }
    Ok(vocab)
}

/// The two halves of each merge, in order, without merges that would make or use a control token.
fn merge_pairs(data: &VocabularyData, kinds: &[Kind]) -> Result<Vec<(String, String)>, TokenizerError> {
    let merges = data.merges.ok_or_else(|| data.error("tokenizer.ggml.merges", "nothing", "an array of strings"))?;
    let tokens = || data.tokens.iter().map(String::as_str).zip(kinds);
    // The builder of the BPE model relies on merges making nothing longer than the longest token.
    let longest = tokens().filter(|(_, kind)| !kind.is_guarded()).map(|(text, _)| text.len()).max().unwrap_or(0);
    let guarded: HashSet<&str> = tokens().filter(|(_, kind)| kind.is_guarded()).map(|(text, _)| text).collect();
    let mut guarded_starts = [false; 256];
    for first in guarded.iter().filter_map(|text| text.bytes().next()) {
        guarded_starts[usize::from(first)] = true;
    }
    let is_guarded = |text: &str| {
        let first = text.bytes().next();
        first.is_some_and(|first| guarded_starts[usize::from(first)]) && guarded.contains(text)
    };

    let mut pairs = Vec::with_capacity(merges.len());
    let mut joined = String::new();
    for (index, merge) in merges.iter().enumerate() {
        // A token may itself begin with a blank, so the first character cannot be the separator.
        let pair = merge
            .char_indices()
            .skip(1)
            .find(|&(_, character)| character == ' ')
            .map(|(at, _)| (&merge[..at], &merge[at + 1..]));
        let Some((left, right)) = pair else {
            return Err(data.error(
                format!("tokenizer.ggml.merges[{index}]"),
                format!("{merge:?}"),
                "two tokens with a blank between",
            ));
        };
        joined.clear();
        joined.push_str(left);
        joined.push_str(right);
        if is_guarded(left) || is_guarded(right) || is_guarded(&joined) {
            continue;
        }
        if joined.len() > longest {
            return Err(data.error(
                format!("tokenizer.ggml.merges[{index}]"),
                format!("{merge:?}, which makes no token"),
                "two tokens that joined are a token",
            ));
        }
        pairs.push((left.to_owned(), right.to_owned()));
    }
    Ok(pairs)
}

/// The visible character of each byte.
pub(crate) fn byte_letters() -> [char; 256] {
    let mut next = 0x100;
    std::array::from_fn(|byte| match byte as u8 {
        printable @ (b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff) => char::from(printable),
        _ => {
            let letter = char::from_u32(next).unwrap_or_default();
            next += 1;
            letter
        }
    })
}

/// Appends the bytes that `token` spells. A character outside the byte alphabet stands for its UTF-8 bytes.
pub(super) fn push_spelled_bytes(token: &str, byte_of: &[Option<u8>; 0x144], bytes: &mut Vec<u8>) {
    for character in token.chars() {
        match byte_of.get(character as usize).copied().flatten() {
            Some(byte) => bytes.push(byte),
            None => bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

/// The byte of each letter of the alphabet, by code point; the alphabet ends at U+0143.
pub(super) fn letter_bytes() -> [Option<u8>; 0x144] {
    let mut bytes = [None; 0x144];
    for (byte, letter) in byte_letters().into_iter().enumerate() {
        bytes[letter as usize] = Some(byte as u8);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_is_gpt2s() {
        let letters = byte_letters();
        assert_eq!(letters[usize::from(b'a')], 'a');
        assert_eq!(letters[usize::from(b' ')], 'Ġ');
        assert_eq!(letters[usize::from(b'\n')], 'Ċ');
        assert_eq!(letters[0xad], '\u{143}');
        let mut different = letters.to_vec();
        different.sort_unstable();
        different.dedup();
        assert_eq!(different.len(), 256);
    }

    #[test]
    fn letters_and_bytes_are_inverse() {
        let bytes = letter_bytes();
        for (byte, letter) in byte_letters().into_iter().enumerate() {
            assert_eq!(bytes[letter as usize], Some(byte as u8));
        }
        let mut spelled = Vec::new();
        push_spelled_bytes("Ġa漢", &bytes, &mut spelled);
        assert_eq!(spelled, " a漢".as_bytes());
    }
}
