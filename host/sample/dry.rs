//! DRY, "don't repeat yourself": a penalty on the token that would extend a repetition.
//!
//! Where the text so far ends in a sequence that occurred before, the token that followed it then is made less likely,
//! by `multiplier · base^(length − allowed_length)`, the more so the longer the sequence (p-e-w, text-generation-webui
//! pull request 5677; pi6am's linear-time form, koboldcpp pull request 982, is the one in llama.cpp). Three steps:
//!
//! 1. A sequence breaker, such as a newline, ends a repetition: nothing before the last one is matched.
//! 2. For each earlier position, how many tokens ending there equal the end of the text: the Z-function of the reversed
//!    text, in linear time (Gusfield, "Algorithms on Strings, Trees, and Sequences", 1997, section 1.4).
//! 3. Each such position's next token is penalised by its longest match.

use std::collections::{HashMap, VecDeque};

use super::candidates::Candidates;
use super::options::SamplerOptions;

/// Breakers are cut to this many bytes.
const MAX_BREAKER_BYTES: usize = 40;
/// The part of a breaker after its first token is cut to this many tokens.
const MAX_TAIL_TOKENS: usize = 20;
/// ln of the largest f32: bounds the exponent so that the power stays finite.
const LN_F32_MAX: f32 = 88.722_84;

/// Sequence breakers as tokens: the first token of each way to write one, with the tokens that must follow it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DryBreakers {
    tails: HashMap<u32, Vec<Vec<u32>>>,
}

impl DryBreakers {
    /// Breakers given as token sequences; empty ones are ignored.
    pub fn from_sequences<'a>(sequences: impl IntoIterator<Item = &'a [u32]>) -> Self {
        let mut breakers = Self::default();
        for sequence in sequences {
            if let [head, tail @ ..] = sequence {
                breakers.insert(*head, tail.to_vec());
            }
        }
        breakers
    }

    /// Breakers given as text.
    ///
    /// A text can begin inside a token, so every token of the vocabulary is looked at: one that holds the whole text is
    /// a breaker by itself; one that ends in the text's beginning is followed by the tokens of the rest.
    /// `token_bytes` yields each token's bytes in the order of ids, `tokenize` turns bytes into tokens without adding
    /// or recognising special ones.
    pub fn from_texts<'a>(
        texts: &[String],
        token_bytes: impl Iterator<Item = &'a [u8]> + Clone,
        tokenize: impl Fn(&[u8]) -> Vec<u32>,
    ) -> Self {
        let mut breakers = Self::default();
        for text in texts {
            let text = &text.as_bytes()[..text.len().min(MAX_BREAKER_BYTES)];
            if text.is_empty() {
                continue;
            }
            for (id, token) in (0u32..).zip(token_bytes.clone()) {
                if token.windows(text.len()).any(|window| window == text) {
                    breakers.insert(id, Vec::new());
                    continue;
                }
                for start in 0..token.len() {
                    let overlap = &token[start..];
                    // The whole text is not in the token, so an overlap that matches is shorter than the text.
                    if text.starts_with(overlap) {
                        let mut tail = tokenize(&text[overlap.len()..]);
                        tail.truncate(MAX_TAIL_TOKENS);
                        breakers.insert(id, tail);
                    }
                }
            }
        }
        breakers
    }

    fn insert(&mut self, head: u32, tail: Vec<u32>) {
        let tails = self.tails.entry(head).or_default();
        if !tails.contains(&tail) {
            tails.push(tail);
        }
    }

    /// Whether this token alone is a breaker.
    fn is_single(&self, id: u32) -> bool {
        self.tails.get(&id).is_some_and(|tails| tails.iter().any(Vec::is_empty))
    }

    /// How many of the last tokens lie after the last breaker; all of them when there is none. `reversed` holds the
    /// text's end first.
    fn tokens_since(&self, reversed: &[u32]) -> usize {
        for (age, token) in reversed.iter().enumerate() {
            let longest = self
                .tails
                .get(token)
                .into_iter()
                .flatten()
                .filter(|tail| tail.iter().eq(reversed[..age].iter().rev().take(tail.len())))
                .map(Vec::len)
                .max();
            if let Some(tail) = longest {
                return age - tail;
            }
        }
        reversed.len()
    }
}

/// The penalty and the tokens it looks back on.
#[derive(Clone)]
pub struct Dry {
    multiplier: f32,
    base: f32,
    allowed_length: usize,
    last_n: usize,
    breakers: DryBreakers,
    /// The last tokens, newest first, at most `last_n`.
    reversed: VecDeque<u32>,
}

impl Dry {
    /// The penalty these options ask for, `None` when they ask for none.
    pub fn new(options: &SamplerOptions, breakers: DryBreakers) -> Option<Self> {
        let active = options.dry_multiplier != 0.0 && options.dry_base >= 1.0 && options.dry_penalty_last_n > 0;
        active.then(|| Self {
            multiplier: options.dry_multiplier,
            base: options.dry_base,
            allowed_length: options.dry_allowed_length as usize,
            last_n: options.dry_penalty_last_n as usize,
            breakers,
            reversed: VecDeque::new(),
        })
    }

    /// Takes `token` to the text.
    pub fn accept(&mut self, token: u32) {
        self.reversed.push_front(token);
        self.reversed.truncate(self.last_n);
    }

    /// Forgets the text.
    pub fn reset(&mut self) {
        self.reversed.clear();
    }

    /// Lowers the logits of the tokens that would extend a repetition.
    pub fn apply(&mut self, candidates: &mut Candidates) {
        let reversed = &*self.reversed.make_contiguous();
        if reversed.len() <= self.allowed_length {
            return;
        }
        let limit = self.breakers.tokens_since(reversed);
        if limit < self.allowed_length {
            return;
        }
        // The token after the position `age` tokens back is the one at `age − 1`.
        let mut longest: HashMap<u32, usize> = HashMap::new();
        for (age, length) in match_lengths(reversed).into_iter().enumerate().skip(1) {
            let length = length.min(limit);
            if length >= self.allowed_length {
                let entry = longest.entry(reversed[age - 1]).or_default();
                *entry = (*entry).max(length);
            }
        }

        let max_exponent = if self.base > 1.000_001 { (LN_F32_MAX / self.base.ln()) as usize } else { 0 };
        for (id, length) in longest {
            if self.breakers.is_single(id) {
                continue;
            }
            let mut exponent = length - self.allowed_length;
            if max_exponent > 0 {
                exponent = exponent.min(max_exponent);
            }
            // The power and its product are in f64, and rounded once.
            let penalty = (f64::from(self.multiplier) * f64::from(self.base).powf(exponent as f64)) as f32;
            if let Some(candidate) = candidates.get_mut(id) {
                candidate.set_logit(candidate.logit - penalty);
            }
        }
        candidates.logits_changed();
    }
}

/// The Z-function: for each position, how many elements from there on equal the beginning. The first is left at zero.
fn match_lengths(text: &[u32]) -> Vec<usize> {
    let mut lengths = vec![0; text.len()];
    // text[left..right] is the match reaching furthest right so far; inside it, lengths repeat those of the beginning.
    let (mut left, mut right) = (0, 0);
    for i in 1..text.len() {
        let mut length = if i < right { lengths[i - left].min(right - i) } else { 0 };
        while i + length < text.len() && text[length] == text[i + length] {
            length += 1;
        }
        if i + length > right {
            (left, right) = (i, i + length);
        }
        lengths[i] = length;
    }
    lengths
}

#[cfg(test)]
mod tests {
    use super::super::candidates::tests::from_logits;
    use super::*;
    use proptest::prelude::*;

    fn dry(allowed_length: u32, breakers: DryBreakers) -> Dry {
        let options = SamplerOptions {
            dry_multiplier: 1.0,
            dry_base: 2.0,
            dry_allowed_length: allowed_length,
            ..SamplerOptions::default()
        };
        Dry::new(&options, breakers).unwrap()
    }

    /// The penalties on tokens 0 to 9 after `text`.
    fn penalties(mut dry: Dry, text: &[u32]) -> Vec<f32> {
        for &token in text {
            dry.accept(token);
        }
        let mut candidates = from_logits(&[0.0; 10]);
        dry.apply(&mut candidates);
        candidates.entries.iter().map(|entry| -entry.logit).collect()
    }

    /// The text `1 2 3 3 2 3 9 1 2 3`: its end of three occurred at the start and was followed by 3, the end of two
    /// before the 9, the end of one before a 2.
    #[test]
    fn penalties_by_hand() {
        let text = [1, 2, 3, 3, 2, 3, 9, 1, 2, 3];
        let got = penalties(dry(1, DryBreakers::default()), &text);
        assert_eq!(got, [0.0, 0.0, 1.0, 4.0, 0.0, 0.0, 0.0, 0.0, 0.0, 2.0]);
        let got = penalties(dry(2, DryBreakers::default()), &text);
        assert_eq!(got, [0.0, 0.0, 0.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]);
    }

    #[test]
    fn breakers_end_a_repetition() {
        let text = [1, 2, 3, 3, 2, 3, 9, 1, 2, 3];
        // Only 2 and 3 follow the breaker 1, so no match is longer than two.
        let got = penalties(dry(2, DryBreakers::from_sequences([&[1][..]])), &text);
        assert_eq!(got, [0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]);
        // The breaker `1 2` leaves one token, shorter than what is allowed.
        let got = penalties(dry(2, DryBreakers::from_sequences([&[1, 2][..]])), &text);
        assert_eq!(got, [0.0; 10]);
        // A single-token breaker is itself never penalised.
        let got = penalties(dry(2, DryBreakers::from_sequences([&[9][..]])), &text);
        assert_eq!(got, [0.0, 0.0, 0.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn long_repetitions_stay_finite() {
        let mut options = SamplerOptions {
            dry_multiplier: 0.8,
            dry_base: 10.0,
            dry_penalty_last_n: 1000,
            ..SamplerOptions::default()
        };
        let text = [4; 600];
        let got = penalties(Dry::new(&options, DryBreakers::default()).unwrap(), &text);
        assert!(got[4] > 1e37 && got[4].is_finite(), "{}", got[4]);
        options.dry_multiplier = 0.0;
        assert!(Dry::new(&options, DryBreakers::default()).is_none());
    }

    #[test]
    fn text_breakers_are_found_inside_tokens() {
        let vocabulary: [&[u8]; 6] = [b"a", b"b", b"ab", b"xa", b"yabz", b"c"];
        let tokenize = |bytes: &[u8]| bytes.iter().map(|byte| u32::from(*byte)).collect();
        let got = DryBreakers::from_texts(&["ab".into(), String::new()], vocabulary.into_iter(), tokenize);
        let want = DryBreakers::from_sequences([&[0, 98][..], &[2], &[3, 98], &[4]]);
        assert_eq!(got, want);
    }

    proptest! {
        #[test]
        fn match_lengths_are_those_of_a_direct_comparison(text in proptest::collection::vec(0u32..3, 0..60)) {
            for (i, length) in match_lengths(&text).into_iter().enumerate().skip(1) {
                let direct = text[i..].iter().zip(&text).take_while(|(a, b)| a == b).count();
                prop_assert_eq!(length, direct);
            }
        }
    }
}
