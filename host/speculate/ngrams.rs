//! Guesses from the text itself: what followed the last tokens where they came before.
//!
//! Of the last four tokens, else three, else two, the place is looked up where they came last before, and what followed there is the guess.
//! Where a text repeats another, an edited one or a quotation, that is right for long stretches; elsewhere there often is no such place, and then
//! no guess. A single token that came before says little: it is not looked up.

use std::collections::HashMap;

use super::{Drafter, Wanted};
use crate::{cache::SequenceId, forward::EngineError};

/// The most tokens that are looked up together, and the fewest.
const MOST: usize = 4;
const LEAST: usize = 2;

/// Stands in a shorter key where a longer one has a token.
const NONE: u32 = u32::MAX;

/// A text, and where each of its n-grams came last.
#[derive(Clone, Debug, Default)]
pub struct Index {
    text: Vec<u32>,
    /// The position behind the n-gram, which holds what followed.
    places: HashMap<[u32; MOST], usize>,
}

/// The last tokens of a text as a key.
fn key(tokens: &[u32]) -> [u32; MOST] {
    let mut key = [NONE; MOST];
    key[..tokens.len()].copy_from_slice(tokens);
    key
}

impl Index {
    /// Makes it that of this text: of one that begins with what it has, by what is new.
    pub fn follow(&mut self, text: &[u32]) {
        if !text.starts_with(&self.text) {
            self.text.clear();
            self.places.clear();
        }
        for position in self.text.len()..text.len() {
            for n in LEAST..=MOST.min(position) {
                self.places.insert(key(&text[position - n..position]), position);
            }
        }
        self.text.extend_from_slice(&text[self.text.len()..]);
    }

    /// What may follow, `n` tokens or none. Where the place is near the end, what it guesses goes on from itself.
    pub fn guess(&self, n: usize) -> Vec<u32> {
        let text = &self.text;
        let place = (LEAST..=MOST.min(text.len())).rev().find_map(|n| self.places.get(&key(&text[text.len() - n..])));
        let mut guess: Vec<u32> = Vec::new();
        if let Some(place) = place {
            for position in *place..place + n {
                guess.push(if position < text.len() { text[position] } else { guess[position - text.len()] });
            }
        }
        guess
    }
}

/// The same for many sequences.
#[derive(Debug, Default)]
pub struct Ngrams(HashMap<SequenceId, Index>);

impl Drafter for Ngrams {
    fn draft(&mut self, wanted: &[Wanted]) -> Result<Vec<Vec<u32>>, EngineError> {
        let of = |wanted: &Wanted| {
            let index = self.0.entry(wanted.id).or_default();
            index.follow(wanted.text);
            index.guess(wanted.n)
        };
        Ok(wanted.iter().map(of).collect())
    }

    fn forget(&mut self, id: SequenceId) {
        self.0.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn guess(text: &[u32], n: usize) -> Vec<u32> {
        let mut index = Index::default();
        index.follow(text);
        index.guess(n)
    }

    /// By the definition, without an index.
    fn by_definition(text: &[u32], n: usize) -> Vec<u32> {
        let end = text.len();
        for length in (LEAST..=MOST.min(end)).rev() {
            let last = &text[end - length..];
            if let Some(place) = (length..end).rev().find(|place| &text[place - length..*place] == last) {
                let mut text = text.to_vec();
                (0..n).for_each(|at| text.push(text[place + at]));
                return text.split_off(end);
            }
        }
        Vec::new()
    }

    #[test]
    fn what_followed_the_longest_end_where_it_came_last_is_the_guess() {
        let cases: [(&[u32], &[u32]); 8] = [
            (&[], &[]),
            (&[1], &[]),
            (&[1, 2, 3], &[]),
            // One token says nothing, two do.
            (&[1, 2, 1], &[]),
            (&[1, 2, 3, 9, 1, 2], &[3, 9, 1]),
            // The last place of two, and the longer end before the later place.
            (&[1, 2, 3, 1, 2, 4, 1, 2], &[4, 1, 2]),
            (&[7, 1, 2, 3, 8, 1, 2, 4, 7, 1, 2], &[3, 8, 1]),
            // What goes on for ever.
            (&[5, 6, 5, 6], &[5, 6, 5]),
        ];
        for (text, want) in cases {
            assert_eq!(guess(text, 3), want, "{text:?}");
        }
    }

    proptest! {
        /// An index that follows a text as it grows, and is cut off and goes on otherwise, is the text's.
        #[test]
        fn guesses_are_those_of_the_definition(
            text in proptest::collection::vec(0u32..4, 0..60),
            other in proptest::collection::vec(0u32..4, 0..60),
            n in 0usize..9,
        ) {
            let mut index = Index::default();
            for end in 0..=text.len() {
                index.follow(&text[..end]);
                prop_assert_eq!(index.guess(n), by_definition(&text[..end], n), "{:?}", &text[..end]);
            }
            index.follow(&other);
            prop_assert_eq!(index.guess(n), by_definition(&other, n));
        }
    }
}
