//! Embeddings: one vector made of the hidden states of a text's tokens, which are what the last norm leaves, before the logits' product.

use std::{fmt, ops::Range, str::FromStr};

use serde::Serialize;

/// Which of the tokens' states an embedding is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Pooling {
    /// The mean of all.
    #[default]
    Mean,
    /// The last token's.
    Last,
    /// The first token's, which models that look both ways train for this.
    Cls,
}

impl Pooling {
    /// By the number that GGUF files write.
    pub fn of_number(number: u32) -> Option<Pooling> {
        match number {
            1 => Some(Pooling::Mean),
            2 => Some(Pooling::Cls),
            3 => Some(Pooling::Last),
            _ => None,
        }
    }

    /// The tokens that it needs the states of, among those of a chunk: tokens `chunk` of a text of `n_tokens`. Counted from the chunk's first.
    pub fn wanted(self, chunk: Range<usize>, n_tokens: usize) -> Range<usize> {
        let n = chunk.len();
        match self {
            Pooling::Mean => 0..n,
            Pooling::Last => n - usize::from(chunk.end == n_tokens)..n,
            Pooling::Cls => 0..usize::from(chunk.start == 0).min(n),
        }
    }
}

impl fmt::Display for Pooling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Pooling::Mean => "mean",
            Pooling::Last => "last",
            Pooling::Cls => "cls",
        })
    }
}

impl FromStr for Pooling {
    type Err = String;

    fn from_str(name: &str) -> Result<Pooling, String> {
        [Pooling::Mean, Pooling::Last, Pooling::Cls]
            .into_iter()
            .find(|pooling| pooling.to_string() == name)
            .ok_or_else(|| format!("found {name:?}, expected mean, last or cls"))
    }
}

/// The states are no numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the embedding has no length: a hidden state is NaN or infinite: weights of the model are damaged or no numbers"
)]
pub struct NoEmbedding;

/// An embedding on its way: the states of the chunks that were computed so far.
#[derive(Clone, Debug)]
pub struct Pooled {
    pooling: Pooling,
    n_tokens: usize,
    /// `[n_embd]`, empty before the first states.
    sum: Vec<f64>,
}

impl Pooled {
    /// For a text of so many tokens.
    pub fn new(pooling: Pooling, n_tokens: usize) -> Pooled {
        Pooled { pooling, n_tokens, sum: Vec::new() }
    }

    /// Which states it is made of.
    pub fn pooling(&self) -> Pooling {
        self.pooling
    }

    /// Takes the states that it wants of tokens `chunk`, `[wanted][n_embd]`. The text's first chunk begins anew.
    pub fn add(&mut self, chunk: Range<usize>, states: &[f32]) {
        if chunk.start == 0 {
            self.sum.clear();
        }
        let n_rows = self.pooling.wanted(chunk, self.n_tokens).len();
        if n_rows == 0 {
            return;
        }
        let n_embd = states.len() / n_rows;
        self.sum.resize(n_embd, 0.0);
        for row in states.chunks_exact(n_embd) {
            self.sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value));
        }
    }

    /// The embedding, `[n_embd]`, of length 1. A mean's divisor makes no difference to it.
    ///
    /// # Errors
    /// [`NoEmbedding`].
    pub fn finish(&self) -> Result<Vec<f32>, NoEmbedding> {
        normalised(self.sum.iter().copied())
    }
}

/// A vector at length 1; zeros stay zeros.
fn normalised(values: impl Iterator<Item = f64> + Clone) -> Result<Vec<f32>, NoEmbedding> {
    let length = values.clone().map(|value| value * value).sum::<f64>().sqrt();
    if !length.is_finite() {
        return Err(NoEmbedding);
    }
    Ok(values.map(|value| if length > 0.0 { (value / length) as f32 } else { 0.0 }).collect())
}

/// The first `dimensions` of an embedding, at length 1 again: models that are trained for it say most in the first.
pub fn shortened(embedding: &[f32], dimensions: usize) -> Vec<f32> {
    let first = embedding.iter().take(dimensions).map(|value| f64::from(*value));
    normalised(first).expect("a part of what had a length")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same states, in chunks of any lengths, give the same embedding, which is the definition's.
    #[test]
    fn chunks_do_not_matter() {
        let (n_tokens, n_embd) = (7, 3);
        let states: Vec<f32> = (0..n_tokens * n_embd).map(|i| (i * i % 11) as f32 - 4.0).collect();
        let row = |token: usize| states[token * n_embd..(token + 1) * n_embd].to_vec();
        let mean = (0..n_embd).map(|i| (0..n_tokens).map(|token| row(token)[i]).sum::<f32>() / n_tokens as f32);
        let definitions = [(Pooling::Mean, mean.collect()), (Pooling::Last, row(6)), (Pooling::Cls, row(0))];
        for (pooling, vector) in definitions {
            let vector: Vec<f32> = vector;
            let length = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
            for chunk in 1..=n_tokens {
                let mut pooled = Pooled::new(pooling, n_tokens);
                // Begun, set back and begun again.
                for start in [0].into_iter().chain((0..n_tokens).step_by(chunk)) {
                    let chunk = start..n_tokens.min(start + chunk);
                    let wanted = pooling.wanted(chunk.clone(), n_tokens);
                    let rows = chunk.start + wanted.start..chunk.start + wanted.end;
                    pooled.add(chunk, &states[rows.start * n_embd..rows.end * n_embd]);
                }
                let got = pooled.finish().unwrap();
                let pairs = got.iter().zip(&vector);
                assert!(
                    pairs.into_iter().all(|(got, want)| (got - want / length).abs() < 1e-6),
                    "{pooling} by {chunk}"
                );
            }
        }
    }

    #[test]
    fn what_is_no_number_is_an_error_and_zeros_stay() {
        let of = |states: &[f32]| {
            let mut pooled = Pooled::new(Pooling::Mean, 1);
            pooled.add(0..1, states);
            pooled.finish()
        };
        assert_eq!(of(&[1.0, f32::NAN]), Err(NoEmbedding));
        assert_eq!(of(&[f32::INFINITY, 1.0]), Err(NoEmbedding));
        assert_eq!(of(&[0.0, 0.0]), Ok(vec![0.0, 0.0]));
        // Squares past the range of f32.
        let large = 2f32.powi(100);
        assert_eq!(of(&[3.0 * large, 4.0 * large]), Ok(vec![0.6, 0.8]));
    }

    #[test]
    fn a_shorter_one_has_length_1_again() {
        assert_eq!(shortened(&[0.6, 0.0, 0.8], 2), [1.0, 0.0]);
        assert_eq!(shortened(&[0.6, 0.0, 0.8], 3), [0.6, 0.0, 0.8]);
    }
}
