//! SentencePiece BPE, for files whose `tokenizer.ggml.model` is `llama`.
//!
//! The text is cut into characters. Then, as long as any two neighbours together are a token, the pair whose token
//! has the highest score is joined; among equals the leftmost. What is left is a token each, or a single character
//! outside the vocabulary, which is written as one token per UTF-8 byte (`<0xE6>`). Blanks are U+2581 in tokens.
//!
//! # Why not the `tokenizers` crate's BPE
//!
//! That model wants a list of merges in strict order. SentencePiece has scores only: two different pairs may have
//! equal scores, and then the position decides, which an order cannot say; a pair may be joined though one half is
//! no token; and the list, every split of every token, has a million entries for a vocabulary of 256 000, most of
//! the time it takes to load. The algorithm itself is the forty lines below.
//!
//! # What may be joined
//!
//! Normal, author-defined and unused tokens. Never a control, unknown or byte token: `<`, `/`, `s>` are tokens of
//! Llama 2, so text could otherwise grow into the control token `</s>`, as it can in llama.cpp. SentencePiece
//! itself does not match those tokens either.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};

use super::TokenizerError;
use super::vocabulary::{Kind, byte_of_token};

/// Stands for a blank in SentencePiece vocabularies.
pub(super) const BLANK: &str = "\u{2581}";

/// A vocabulary with scores.
pub(super) struct SentencePiece {
    /// Tokens that merging may produce: text to id and score.
    tokens: HashMap<Box<str>, (u32, f32)>,
    /// The token of each byte, where there is one.
    bytes: [Option<u32>; 256],
    unknown: Option<u32>,
}

/// A stretch of the text that is one token, or one character that is none.
struct Symbol {
    start: usize,
    /// Length in bytes; 0 once it was joined to its left neighbour.
    len: usize,
    previous: Option<usize>,
    next: Option<usize>,
}

/// Two neighbours that could be joined.
struct Pair {
    score: f32,
    left: usize,
    right: usize,
    /// Length of both in bytes when the pair was found; another length now means that it is out of date.
    len: usize,
}

impl Ord for Pair {
    fn cmp(&self, other: &Pair) -> Ordering {
        self.score.total_cmp(&other.score).then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Pair) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Pair {
    fn eq(&self, other: &Pair) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Pair {}

impl SentencePiece {
    /// A vocabulary from `tokens`, their `scores` and `kinds`, all of one length.
    pub(super) fn new(tokens: &[String], scores: &[f32], kinds: &[Kind], unknown: Option<u32>) -> SentencePiece {
        let mut by_text = HashMap::with_capacity(tokens.len());
        let mut bytes = [None; 256];
        for (id, ((text, &score), &kind)) in tokens.iter().zip(scores).zip(kinds).enumerate() {
            let id = id as u32;
            match kind {
                Kind::Byte => {
                    if let Some(byte) = byte_of_token(text) {
                        bytes[usize::from(byte)] = Some(id);
                    }
                }
                Kind::Control | Kind::Unknown => {}
                Kind::Normal | Kind::UserDefined | Kind::Unused | Kind::Undefined => {
                    by_text.insert(text.as_str().into(), (id, score));
                }
            }
        }
        SentencePiece { tokens: by_text, bytes, unknown }
    }

    /// Appends the ids of `text`, in which blanks are already U+2581.
    pub(super) fn encode(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        let mut symbols: Vec<Symbol> = text
            .char_indices()
            .enumerate()
            .map(|(index, (start, character))| Symbol {
                start,
                len: character.len_utf8(),
                previous: index.checked_sub(1),
                next: Some(index + 1),
            })
            .collect();
        if let Some(last) = symbols.last_mut() {
            last.next = None;
        }

        let mut queue = BinaryHeap::new();
        for right in 1..symbols.len() {
            queue.extend(self.pair(text, &symbols, Some(right - 1), Some(right)));
        }
        while let Some(Pair { left, right, len, .. }) = queue.pop() {
            if symbols[left].len == 0 || symbols[right].len == 0 || symbols[left].len + symbols[right].len != len {
                continue;
            }
            let next = symbols[right].next;
            symbols[right].len = 0;
            symbols[left].len = len;
            symbols[left].next = next;
            if let Some(next) = next {
                symbols[next].previous = Some(left);
            }
            queue.extend(self.pair(text, &symbols, symbols[left].previous, Some(left)));
            queue.extend(self.pair(text, &symbols, Some(left), next));
        }

        for symbol in symbols.iter().filter(|symbol| symbol.len > 0) {
            let piece = &text[symbol.start..symbol.start + symbol.len];
            match self.tokens.get(piece) {
                Some(&(id, _)) => ids.push(id),
                None => self.encode_bytes(piece, ids)?,
            }
        }
        Ok(())
    }

    /// The pair of two neighbours, if their texts together are a token.
    fn pair(&self, text: &str, symbols: &[Symbol], left: Option<usize>, right: Option<usize>) -> Option<Pair> {
        let (left, right) = (left?, right?);
        let len = symbols[left].len + symbols[right].len;
        let start = symbols[left].start;
        let &(_, score) = self.tokens.get(&text[start..start + len])?;
        Some(Pair { score, left, right, len })
    }

    /// One token per byte of a character that is no token; the unknown token when the vocabulary has no bytes.
    fn encode_bytes(&self, character: &str, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        let bytes: Option<Vec<u32>> = character.bytes().map(|byte| self.bytes[usize::from(byte)]).collect();
        match (bytes, self.unknown) {
            (Some(bytes), _) => ids.extend(bytes),
            (None, Some(unknown)) => ids.push(unknown),
            (None, None) => {
                return Err(TokenizerError::NoToken { text: character.to_owned() });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(tokens: &[(&str, f32, Kind)], text: &str) -> Vec<u32> {
        let texts: Vec<String> = tokens.iter().map(|token| token.0.to_owned()).collect();
        let scores: Vec<f32> = tokens.iter().map(|token| token.1).collect();
        let kinds: Vec<Kind> = tokens.iter().map(|token| token.2).collect();
        let model = SentencePiece::new(&texts, &scores, &kinds, Some(0));
        let mut ids = Vec::new();
        model.encode(text, &mut ids).unwrap();
        ids
    }

    const NORMAL: Kind = Kind::Normal;

    #[test]
    fn equal_scores_are_joined_from_the_left() {
        let tokens = [
            ("<unk>", 0.0, Kind::Unknown),
            ("a", -9.0, NORMAL),
            ("b", -9.0, NORMAL),
            ("ab", -1.0, NORMAL),
            ("ba", -1.0, NORMAL),
        ];
        // An order of merges would take one of the two pairs first everywhere.
        assert_eq!(encode(&tokens, "aba"), [3, 1]);
        assert_eq!(encode(&tokens, "bab"), [4, 2]);
    }

    #[test]
    fn a_pair_may_have_a_half_that_is_no_token() {
        let tokens = [("<unk>", 0.0, Kind::Unknown), ("a", -9.0, NORMAL), ("a\u{301}", -1.0, NORMAL)];
        assert_eq!(encode(&tokens, "a\u{301}a"), [2, 1]);
    }

    #[test]
    fn text_never_grows_into_a_control_or_byte_token() {
        let tokens = [
            ("<unk>", 0.0, Kind::Unknown),
            ("</s>", 0.0, Kind::Control),
            ("<", -9.0, NORMAL),
            ("/", -9.0, NORMAL),
            ("</", -2.0, NORMAL),
            ("s>", -1.0, NORMAL),
            ("s", -9.0, NORMAL),
            (">", -9.0, NORMAL),
        ];
        assert_eq!(encode(&tokens, "</s>"), [4, 5]);
    }

    #[test]
    fn a_character_without_a_token_becomes_its_bytes_or_the_unknown_token() {
        let with_bytes = [("<unk>", 0.0, Kind::Unknown), ("<0xC3>", 0.0, Kind::Byte), ("<0xA9>", 0.0, Kind::Byte)];
        assert_eq!(encode(&with_bytes, "é"), [1, 2]);
        assert_eq!(encode(&with_bytes[..2], "é"), [0]);
    }
}
