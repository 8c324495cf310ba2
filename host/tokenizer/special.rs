//! Finding special tokens in text.
//!
//! A special token is a token whose text stands for itself and is never put together from merges: control tokens
//! such as `<|im_end|>`, the unknown token, and tokens the model's author defined. llama.cpp looks for them one
//! token at a time, longest text first, and takes each occurrence from left to right that touches nothing taken
//! before. The result depends on the occurrences and their order alone, so here one pass over the text collects
//! every occurrence, and a second takes them in that order.
//!
//! Control tokens and the unknown token are only taken where the caller allows it: that is what keeps what a user
//! typed from becoming a control token. Author-defined tokens are taken everywhere, as in llama.cpp.

use std::collections::BTreeMap;
use std::ops::Range;

/// A part of the text after special tokens have been found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fragment {
    /// Bytes of the text still to be encoded.
    Text(Range<usize>),
    /// A special token.
    Token(u32),
}

#[derive(Debug)]
struct SpecialToken {
    text: String,
    id: u32,
    /// Taken only where the caller allows it.
    guarded: bool,
    /// Swallows the white space after it.
    strips_right: bool,
}

/// The special tokens of a vocabulary.
#[derive(Debug)]
pub(super) struct SpecialTokens {
    /// Longest text first; among equals the lower id first.
    tokens: Vec<SpecialToken>,
    /// Indices into `tokens` by the first byte of the text, in order.
    by_first_byte: Vec<Vec<u32>>,
}

impl SpecialTokens {
    pub(super) fn new() -> SpecialTokens {
        SpecialTokens { tokens: Vec::new(), by_first_byte: Vec::new() }
    }

    /// Adds a token; [`SpecialTokens::finish`] has to follow the last one.
    pub(super) fn push(&mut self, text: &str, id: u32, guarded: bool, strips_right: bool) {
        self.tokens.push(SpecialToken { text: text.to_owned(), id, guarded, strips_right });
    }

    /// Sorts what was pushed.
    pub(super) fn finish(mut self) -> SpecialTokens {
        self.tokens.sort_by_key(|token| (std::cmp::Reverse(token.text.len()), token.id));
        self.by_first_byte = vec![Vec::new(); 256];
        for (index, token) in self.tokens.iter().enumerate() {
            if let Some(&first) = token.text.as_bytes().first() {
                self.by_first_byte[usize::from(first)].push(index as u32);
            }
        }
        self
    }

    /// Texts of the tokens that are taken only where the caller allows it.
    pub(super) fn guarded_texts(&self) -> impl Iterator<Item = &str> {
        self.tokens.iter().filter(|token| token.guarded).map(|token| token.text.as_str())
    }

    /// Cuts `text` at its special tokens. A guarded token is taken where `allowed` holds for the bytes of its text.
    pub(super) fn partition(&self, text: &str, allowed: impl Fn(Range<usize>) -> bool) -> Vec<Fragment> {
        let bytes = text.as_bytes();
        let mut occurrences: Vec<(u32, usize)> = Vec::new();
        for (position, &byte) in bytes.iter().enumerate() {
            for &index in &self.by_first_byte[usize::from(byte)] {
                let token = &self.tokens[index as usize];
                if bytes[position..].starts_with(token.text.as_bytes())
                    && (!token.guarded || allowed(position..position + token.text.len()))
                {
                    occurrences.push((index, position));
                }
            }
        }
        occurrences.sort_unstable();

        // Taken stretches of the text by their start; they never overlap.
        let mut taken: BTreeMap<usize, (usize, u32)> = BTreeMap::new();
        for (index, start) in occurrences {
            let token = &self.tokens[index as usize];
            let end = start + token.text.len();
            let after_left = taken.range(..=start).next_back().is_none_or(|(_, &(left_end, _))| left_end <= start);
            let next = taken.range(start..).next().map_or(bytes.len(), |(&s, _)| s);
            if !after_left || end > next {
                continue;
            }
            let mut stretch_end = end;
            if token.strips_right {
                // C's isspace, which has the vertical tab as well.
                while stretch_end < next && (bytes[stretch_end].is_ascii_whitespace() || bytes[stretch_end] == 0x0b) {
                    stretch_end += 1;
                }
            }
            taken.insert(start, (stretch_end, token.id));
        }

        let mut fragments = Vec::with_capacity(2 * taken.len() + 1);
        let mut position = 0;
        for (start, (end, id)) in taken {
            if start > position {
                fragments.push(Fragment::Text(position..start));
            }
            fragments.push(Fragment::Token(id));
            position = end;
        }
        if position < bytes.len() {
            fragments.push(Fragment::Text(position..bytes.len()));
        }
        fragments
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(list: &[(&str, bool, bool)]) -> SpecialTokens {
        let mut special = SpecialTokens::new();
        for (id, &(text, guarded, strips)) in list.iter().enumerate() {
            special.push(text, id as u32, guarded, strips);
        }
        special.finish()
    }

    #[test]
    fn the_longest_text_wins_wherever_it_starts() {
        let special = tokens(&[("<a>", true, false), ("x<a>", true, false)]);
        assert_eq!(
            special.partition("yx<a><a>", |_| true),
            [Fragment::Text(0..1), Fragment::Token(1), Fragment::Token(0)]
        );
    }

    #[test]
    fn overlapping_occurrences_of_one_token_are_taken_from_the_left() {
        let special = tokens(&[("aa", true, false)]);
        assert_eq!(
            special.partition("aaaaa", |_| true),
            [Fragment::Token(0), Fragment::Token(0), Fragment::Text(4..5)]
        );
    }

    #[test]
    fn guarded_tokens_need_leave_and_others_do_not() {
        let special = tokens(&[("<c>", true, false), ("<u>", false, false)]);
        assert_eq!(
            special.partition("<c><u><c>", |range| range.start > 0),
            [Fragment::Text(0..3), Fragment::Token(1), Fragment::Token(0)]
        );
    }

    #[test]
    fn a_token_that_strips_right_swallows_white_space() {
        let special = tokens(&[("<e>", true, true)]);
        assert_eq!(
            special.partition("a <e> \n\u{b}b", |_| true),
            [Fragment::Text(0..2), Fragment::Token(0), Fragment::Text(8..9)]
        );
    }
}
