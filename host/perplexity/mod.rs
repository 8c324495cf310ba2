//! Perplexity: how well a model predicts a text, as llama.cpp's `perplexity` measures it.
//!
//! The text's tokens are cut into windows of `n_context`; what does not fill one is left out. Each window starts from an empty
//! cache, its first token replaced by the begin token where the model asks for one. Its first half only gives context: scored
//! are the predictions from position `n_context / 2` to the last but one, each for the token after it. So every token scored
//! has at least half a window before it.
//!
//! With nll the negative log probability of a scored token and `n` of them, the perplexity is `exp(mean(nll))`; its error is
//! `sqrt((mean(nll²) − mean(nll)²) / (n − 1))` times that, the standard error carried through the exponential.
//!
//! Two models over one vocabulary, or two quantisations of one, are compared by the Kullback–Leibler divergence of their
//! predictions ([`base`]).

pub mod base;

use crate::{
    forward::{Engine, EngineError, Logits},
    sample::{SampleError, expect_numbers},
    trace::Recorder,
};

/// The smallest window: two predictions are scored.
const MIN_CONTEXT: usize = 4;

/// Why a text cannot be measured.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // each variant's text is its documentation
pub enum PerplexityError {
    #[error("the window: found {found} positions, expected at least {MIN_CONTEXT}; choose another -c")]
    Context { found: usize },
    #[error(
        "the text: found {found} tokens, expected at least one window of {n_context}; give a longer text or a smaller -c"
    )]
    TooShort { found: usize, n_context: usize },
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// A text in windows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Windows {
    n_context: usize,
    /// `[n_windows][n_context]`.
    ids: Vec<u32>,
}

impl Windows {
    /// Cuts a text into windows of `n_context` tokens. `begin` replaces the first of each.
    ///
    /// # Errors
    /// [`PerplexityError::Context`] and [`PerplexityError::TooShort`].
    pub fn new(ids: &[u32], n_context: usize, begin: Option<u32>) -> Result<Windows, PerplexityError> {
        if n_context < MIN_CONTEXT {
            return Err(PerplexityError::Context { found: n_context });
        }
        let whole = ids.len() / n_context * n_context;
        if whole == 0 {
            return Err(PerplexityError::TooShort { found: ids.len(), n_context });
        }
        let mut ids = ids[..whole].to_vec();
        if let Some(begin) = begin {
            ids.iter_mut().step_by(n_context).for_each(|id| *id = begin);
        }
        Ok(Windows { n_context, ids })
    }

    /// Keeps the first `n`.
    pub fn truncate(&mut self, n: usize) {
        self.ids.truncate(n.saturating_mul(self.n_context));
    }

    /// Tokens of each.
    pub fn n_context(&self) -> usize {
        self.n_context
    }

    /// Each window's tokens.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u32]> {
        self.ids.chunks_exact(self.n_context)
    }

    /// The first position whose prediction is scored.
    pub fn first_scored(&self) -> usize {
        self.n_context / 2
    }

    /// Predictions scored in each window.
    pub fn n_scored(&self) -> usize {
        self.n_context - 1 - self.first_scored()
    }
}

/// Runs one window through the engine. `on_row` gets each scored position's logits, `[vocab_size]`, and the token that follows.
///
/// # Errors
/// [`EngineError`]. The engine was made with [`all_logits`](crate::forward::EngineOptions::all_logits).
pub fn score<E, F>(engine: &mut Engine, window: &[u32], mut on_row: F) -> Result<(), E>
where
    E: From<EngineError>,
    F: FnMut(&[f32], u32) -> Result<(), E>,
{
    let (first, last) = (window.len() / 2, window.len() - 1);
    let n_vocab = engine.config().vocab_size;
    engine.reset();
    let n_batch = engine.n_batch();
    for (index, chunk) in window.chunks(n_batch).enumerate() {
        let start = index * n_batch;
        let scored = start.max(first)..(start + chunk.len()).min(last);
        if scored.is_empty() {
            engine.forward(chunk, Logits::None, &mut Recorder::off())?;
            continue;
        }
        engine.forward(chunk, Logits::All, &mut Recorder::off())?;
        let logits = engine.logit_rows(chunk.len())?;
        for position in scored {
            let row = &logits[(position - start) * n_vocab..][..n_vocab];
            on_row(row, window[position + 1])?;
        }
    }
    Ok(())
}

/// Log probabilities: the logits less the logarithm of the sum of their exponentials, computed in f64.
///
/// # Errors
/// [`SampleError::NotNumbers`]; [`SampleError::NothingToDraw`] where no logit is above −∞.
pub fn log_softmax(logits: &[f32], out: &mut Vec<f32>) -> Result<(), SampleError> {
    expect_numbers(logits)?;
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if max == f32::NEG_INFINITY {
        return Err(SampleError::NothingToDraw { n_vocab: logits.len() });
    }
    let sum: f64 = logits.iter().map(|l| f64::from(l - max).exp()).sum();
    let normaliser = f64::from(max) + sum.ln();
    out.clear();
    out.extend(logits.iter().map(|l| (f64::from(*l) - normaliser) as f32));
    Ok(())
}

/// A mean and its standard error.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Mean {
    n: usize,
    sum: f64,
    squares: f64,
}

impl Mean {
    /// One more value.
    pub fn add(&mut self, value: f64) {
        self.n += 1;
        self.sum += value;
        self.squares += value * value;
    }

    /// How many values there were.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Their mean; NaN of none.
    pub fn mean(&self) -> f64 {
        self.sum / self.n as f64
    }

    /// The mean's standard error; 0 of fewer than two values.
    pub fn error(&self) -> f64 {
        if self.n < 2 {
            return 0.0;
        }
        let mean = self.mean();
        let variance = self.squares / self.n as f64 - mean * mean;
        (variance.max(0.0) / (self.n - 1) as f64).sqrt()
    }

    /// Of negative log probabilities: the perplexity and its error.
    pub fn perplexity(&self) -> (f64, f64) {
        let perplexity = self.mean().exp();
        (perplexity, self.error() * perplexity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_cut_and_begun_as_llama_cpp_does() {
        let ids: Vec<u32> = (10..31).collect();
        let windows = Windows::new(&ids, 8, Some(1)).unwrap();
        let cut: Vec<&[u32]> = windows.iter().collect();
        assert_eq!(cut, [&[1, 11, 12, 13, 14, 15, 16, 17], &[1, 19, 20, 21, 22, 23, 24, 25]]);
        assert_eq!((windows.first_scored(), windows.n_scored()), (4, 3));
        assert!(matches!(Windows::new(&ids, 22, None), Err(PerplexityError::TooShort { found: 21, .. })));
        assert!(matches!(Windows::new(&ids, 3, None), Err(PerplexityError::Context { found: 3 })));
    }

    #[test]
    fn even_odds_have_a_perplexity_of_their_number_and_no_error() {
        let mut mean = Mean::default();
        let mut row = Vec::new();
        for _ in 0..5 {
            log_softmax(&[3.5; 7], &mut row).unwrap();
            mean.add(-f64::from(row[2]));
        }
        let (perplexity, error) = mean.perplexity();
        assert!((perplexity - 7.0).abs() < 1e-5 && error < 1e-5, "{perplexity} {error}");
    }

    #[test]
    fn logits_that_are_no_numbers_have_no_probabilities() {
        let mut row = Vec::new();
        let error = log_softmax(&[1.0, f32::NAN, -f32::NAN], &mut row).unwrap_err();
        assert_eq!(error, SampleError::NotNumbers { nan: 2, n_vocab: 3 });
        let error = log_softmax(&[f32::NEG_INFINITY; 4], &mut row).unwrap_err();
        assert_eq!(error, SampleError::NothingToDraw { n_vocab: 4 });
    }

    #[test]
    fn the_error_is_the_standard_error_of_the_mean() {
        let mut mean = Mean::default();
        [1.0, 2.0, 3.0, 6.0].into_iter().for_each(|value| mean.add(value));
        // Variance over n: (4 + 1 + 0 + 9) / 4 = 3.5.
        assert_eq!((mean.mean(), mean.error()), (3.0, (3.5f64 / 3.0).sqrt()));
    }
}
