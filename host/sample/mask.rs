//! A set of tokens that may be drawn.

/// One bit per token of the vocabulary: set where the token may be drawn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenMask {
    /// Token `id` is bit `id % 32` of word `id / 32`.
    words: Vec<u32>,
    n_vocab: usize,
}

impl TokenMask {
    /// A mask over `n_vocab` tokens that allows none.
    pub fn none(n_vocab: usize) -> Self {
        Self { words: vec![0; n_vocab.div_ceil(32)], n_vocab }
    }

    /// A mask from the set's words, laid out as above; bits past `n_vocab` are dropped, missing words are empty.
    pub fn from_words(words: &[u32], n_vocab: usize) -> Self {
        let mut words = words.to_vec();
        words.resize(n_vocab.div_ceil(32), 0);
        if let (Some(last), used @ 1..) = (words.last_mut(), n_vocab % 32) {
            *last &= (1 << used) - 1;
        }
        Self { words, n_vocab }
    }

    /// Allows `id`; an id outside the vocabulary changes nothing.
    pub fn allow(&mut self, id: u32) {
        if (id as usize) < self.n_vocab {
            self.words[id as usize / 32] |= 1 << (id % 32);
        }
    }

    /// Whether `id` may be drawn; an id outside the vocabulary may not.
    pub fn allows(&self, id: u32) -> bool {
        self.words.get(id as usize / 32).is_some_and(|word| word >> (id % 32) & 1 == 1)
    }

    /// How many tokens may be drawn.
    pub fn count(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Size of the vocabulary.
    pub fn n_vocab(&self) -> usize {
        self.n_vocab
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_outside_the_vocabulary_are_never_allowed() {
        let mut mask = TokenMask::from_words(&[u32::MAX, u32::MAX, u32::MAX], 40);
        assert_eq!(mask.count(), 40);
        assert!(mask.allows(39) && !mask.allows(40) && !mask.allows(4_000_000_000));
        mask.allow(40);
        assert_eq!(mask.count(), 40);
        assert_eq!(TokenMask::from_words(&[], 40), TokenMask::none(40));
        assert_eq!(TokenMask::from_words(&[u32::MAX; 2], 64).count(), 64);
    }
}
