//! BPE with merges, for files whose `tokenizer.ggml.model` is `gpt2` or `gemma4`.
//!
//! Every byte has a visible character (GPT-2's byte alphabet): printable Latin-1 stands for itself, the other 68
//! bytes are numbered from U+0100. Text is cut into words ([`PreTokenizer`]), each word is spelled in the byte
//! alphabet, and the `tokenizers` crate's BPE joins the letters of the word in the order of the merges.
//!
//! Gemma 4 and a few others merge characters instead: words are not spelled but stay as they are, with U+2581 for a blank,
//! and a character that is no token is written as a token for each of its bytes (`<0xC3>`).
//!
//! Control tokens are left out of that model, and so are merges that make one: some files spell `</s>` by merges
//! and also mean it as a control token, and what a user typed must not become it.
//!
//! # Merges of what is no token
//!
//! Some files have merges whose halves or results are no tokens. They take part all the same, since a later merge may make a
//! token of them; what is left at the end and is no token is written letter by letter, or byte by byte.

use std::borrow::Cow;
use std::collections::HashSet;

use tokenizers::Model;
use tokenizers::models::bpe::{BPE, Vocab};

use super::TokenizerError;
use super::pre_tokenizer::{PreTokenizer, Traits};
use super::sentencepiece::BLANK;
use super::vocabulary::{Kind, VocabularyData, byte_of_token};
use crate::gguf::printable;

/// A vocabulary with merges.
pub(super) struct ByteLevel {
    words: PreTokenizer,
    traits: Traits,
    bpe: BPE,
    letters: [char; 256],
    /// Bytes that no token spells. Empty in every complete vocabulary.
    missing: Vec<u8>,
    /// Tokens of the vocabulary. From here on ids stand for texts that merges make and that are no tokens.
    n_tokens: u32,
    /// What is written for those texts, by id from `n_tokens`; the text itself where the vocabulary cannot write it.
    spelled: Vec<Result<Vec<u32>, String>>,
}

impl ByteLevel {
    /// Builds the model from the tokens and merges of `data`, of which `kinds` says what they are.
    pub(super) fn new(
        data: &VocabularyData,
        kinds: &[Kind],
        words: PreTokenizer,
        traits: Traits,
    ) -> Result<ByteLevel, TokenizerError> {
        let (vocab, pairs) = rayon::join(|| vocab(data, kinds), || merge_pairs(data, kinds));
        let (mut vocab, pairs) = (vocab?, pairs?);
        let n_tokens = data.tokens.len() as u32;
        let absent = add_absent(&mut vocab, &pairs, n_tokens, data.file);
        let letters = byte_letters();
        let bytes = byte_tokens(data.tokens, kinds);
        let spell = |text: String| {
            let spelled: Option<Vec<u32>> = if traits.characters {
                text.bytes().map(|byte| bytes[usize::from(byte)]).collect()
            } else {
                let token = |letter: char| vocab.get(letter.encode_utf8(&mut [0; 4]) as &str).copied();
                text.chars().map(|letter| token(letter).filter(|&id| id < n_tokens)).collect()
            };
            spelled.ok_or(text)
        };
        let spelled = absent.into_iter().map(spell).collect();
        let missing = (0..=255u8)
            .filter(|&byte| match traits.characters {
                true => bytes[usize::from(byte)].is_none(),
                false => !vocab.contains_key(letters[usize::from(byte)].encode_utf8(&mut [0; 4]) as &str),
            })
            .collect();
        let bpe = BPE::builder()
            .vocab_and_merges(vocab, pairs)
            .ignore_merges(traits.ignore_merges)
            .byte_fallback(traits.characters)
            .build()
            .map_err(TokenizerError::Model)?;
        Ok(ByteLevel { words, traits, bpe, letters, missing, n_tokens, spelled })
    }

    /// What the rule that cuts words settles beside.
    pub(super) fn traits(&self) -> Traits {
        self.traits
    }

    /// Appends the ids of `text`.
    pub(super) fn encode(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        let text = match self.traits.characters {
            true => Cow::Owned(text.replace(' ', BLANK)),
            false => Cow::Borrowed(text),
        };
        self.check_expressible(&text)?;
        let mut spelled = String::new();
        for word in self.words.words(&text) {
            let whole = self.traits.whole_line_breaks && word.bytes().all(|byte| byte == b'\n');
            let token = if whole { self.bpe.token_to_id(word) } else { None };
            if let Some(id) = token.filter(|&id| id < self.n_tokens) {
                ids.push(id);
                continue;
            }
            let word = if self.traits.characters {
                word
            } else {
                spelled.clear();
                spelled.extend(word.bytes().map(|byte| self.letters[usize::from(byte)]));
                &spelled
            };
            for token in self.bpe.tokenize(word).map_err(TokenizerError::Model)? {
                match token.id.checked_sub(self.n_tokens).map(|index| &self.spelled[index as usize]) {
                    None => ids.push(token.id),
                    Some(Ok(letters)) => ids.extend(letters),
                    Some(Err(text)) => return Err(TokenizerError::NoToken { text: format!("{text:?}") }),
                }
            }
        }
        Ok(())
    }

    /// The BPE model drops what it has no token for, so that is looked for first.
    fn check_expressible(&self, text: &str) -> Result<(), TokenizerError> {
        if self.missing.is_empty() {
            return Ok(());
        }
        let missing = |part: &str| part.bytes().find(|byte| self.missing.contains(byte));
        let byte = if self.traits.characters {
            let is_token = |c: char| self.bpe.token_to_id(c.encode_utf8(&mut [0; 4])).is_some();
            text.chars().filter(|&c| !is_token(c)).find_map(|c| missing(c.encode_utf8(&mut [0; 4])))
        } else {
            missing(text)
        };
        match byte {
            Some(byte) => Err(TokenizerError::NoToken { text: format!("byte {byte:#04x}") }),
            None => Ok(()),
        }
    }
}

/// The token of each byte, where there is one: `<0x0A>` and so on.
fn byte_tokens(tokens: &[String], kinds: &[Kind]) -> [Option<u32>; 256] {
    let mut bytes = [None; 256];
    for (id, (text, kind)) in (0..).zip(tokens.iter().zip(kinds)) {
        if let Some(byte) = byte_of_token(text).filter(|_| !kind.is_guarded()) {
            bytes[usize::from(byte)] = Some(id);
        }
    }
    bytes
}

/// Gives ids from `n_tokens` on to texts that merges use or make and that are no tokens; returns the texts in that order.
fn add_absent(vocab: &mut Vocab, pairs: &[(String, String)], n_tokens: u32, file: &str) -> Vec<String> {
    let mut absent = Vec::new();
    let mut joined = String::new();
    for (left, right) in pairs {
        joined.clear();
        joined.push_str(left);
        joined.push_str(right);
        for text in [left, right, &joined] {
            if !vocab.contains_key(text) {
                vocab.insert(text.clone(), n_tokens + absent.len() as u32);
                absent.push(text.clone());
            }
        }
    }
    if let Some(first) = absent.first() {
        tracing::warn!(
            "{}: tokenizer.ggml.merges: texts that merges use or make are no tokens ({}, the first {first:?}); they are written in parts",
            printable(file),
            absent.len(),
        );
    }
    absent
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

/// The two halves of each merge, in order, without merges that would make or use a control token, and without what is no merge.
fn merge_pairs(data: &VocabularyData, kinds: &[Kind]) -> Result<Vec<(String, String)>, TokenizerError> {
    let merges = match data.merges {
        Some(merges) => merges,
        // llama.cpp's converter writes none for Kimi K2.
        None if data.pre == Some("kimi-k2") => &[],
        None => return Err(data.error("tokenizer.ggml.merges", "nothing", "an array of strings")),
    };
    let tokens = || data.tokens.iter().map(String::as_str).zip(kinds);
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
    let mut malformed = None;
    for (index, merge) in merges.iter().enumerate() {
        // A token may itself begin with a blank, so the first character cannot be the separator.
        let pair = merge
            .char_indices()
            .skip(1)
            .find(|&(_, character)| character == ' ')
            .map(|(at, _)| (&merge[..at], &merge[at + 1..]));
        let Some((left, right)) = pair.filter(|(_, right)| !right.is_empty()) else {
            malformed = malformed.or(Some((index, merge)));
            continue;
        };
        joined.clear();
        joined.push_str(left);
        joined.push_str(right);
        if is_guarded(left) || is_guarded(right) || is_guarded(&joined) {
            continue;
        }
        pairs.push((left.to_owned(), right.to_owned()));
    }
    if let Some((index, merge)) = malformed {
        tracing::warn!(
            "{}: tokenizer.ggml.merges[{index}]: found {merge:?}, expected two tokens with a blank between; merges like it are left out",
            printable(data.file),
        );
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
