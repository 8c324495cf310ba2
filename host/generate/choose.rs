//! From a row of logits, wherever it lies, to the next token.

use crate::sample::{Constraint, ConstraintError, Logprob, SampleError, Sampler, logprob, top_logprobs};

/// The logits of one sequence, on a device.
pub trait LogitRow {
    /// Why they cannot be read.
    type Error;
    /// The most that [`Self::largest`] finds.
    const MAX_LARGEST: usize;

    /// The token with the largest logit among the first `n_tokens` of the vocabulary; none where one of them is NaN or none is above −∞.
    ///
    /// # Errors
    /// The device failed.
    fn greedy(&mut self, n_tokens: usize) -> Result<Option<u32>, Self::Error>;

    /// Tokens and logits of the largest logits among the first `n_tokens` of the vocabulary, in descending order, equal ones by ascending
    /// id, NaN before all others.
    ///
    /// # Errors
    /// The device failed.
    fn largest(&mut self, n_tokens: usize, largest: &mut [(u32, f32)]) -> Result<(), Self::Error>;

    /// The first `logits.len()` of them.
    ///
    /// # Errors
    /// The device failed.
    fn logits(&mut self, logits: &mut [f32]) -> Result<(), Self::Error>;
}

/// Room for what is read from the device, used again for every token of every sequence.
pub struct Rooms {
    n_tokens: usize,
    /// Empty until all are needed.
    logits: Vec<f32>,
    largest: Vec<(u32, f32)>,
}

impl Rooms {
    /// For choices among the first `n_tokens` of the vocabulary. A file may pad its vocabulary past the tokenizer's last token: those are
    /// never chosen.
    pub fn new(n_tokens: usize) -> Rooms {
        Rooms { n_tokens, logits: Vec::new(), largest: Vec::new() }
    }
}

/// What the model thought of a token, before the sampler.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprobs {
    /// The token that was chosen.
    pub chosen: Logprob,
    /// The likeliest tokens.
    pub top: Vec<Logprob>,
}

/// A token.
#[derive(Clone, Debug, PartialEq)]
pub struct Chosen {
    /// Its id.
    pub id: u32,
    /// What the model thought of it, if asked for.
    pub logprobs: Option<TokenLogprobs>,
}

/// Why no token was chosen.
#[derive(Debug)]
pub enum ChoiceError<E> {
    /// The logits were not read.
    Row(E),
    /// No token can be drawn from them.
    Sample(SampleError),
    /// The constraint cannot be followed.
    Constraint(ConstraintError),
}

impl<E> From<SampleError> for ChoiceError<E> {
    fn from(error: SampleError) -> Self {
        ChoiceError::Sample(error)
    }
}

impl<E> From<ConstraintError> for ChoiceError<E> {
    fn from(error: ConstraintError) -> Self {
        ChoiceError::Constraint(error)
    }
}

/// Chooses the next token, which sampler and constraint then have accepted. Only what the choice needs is read.
///
/// # Errors
/// [`ChoiceError`].
pub fn choose<R: LogitRow>(
    row: &mut R,
    sampler: &mut Sampler,
    constraint: Option<&mut Constraint>,
    logprobs: Option<usize>,
    rooms: &mut Rooms,
) -> Result<Chosen, ChoiceError<R::Error>> {
    let Rooms { n_tokens, logits, largest } = rooms;
    let n_tokens = *n_tokens;
    if constraint.is_none() && logprobs.is_none() {
        // Where there is no greedy choice, the sampler says of the whole row what is wrong with it.
        if sampler.is_argmax()
            && let Some(id) = row.greedy(n_tokens).map_err(ChoiceError::Row)?
        {
            return Ok(Chosen { id, logprobs: None });
        }
        if let Some(len) = sampler.shortlist_len(n_tokens.min(R::MAX_LARGEST)) {
            largest.resize(len, (0, 0.0));
            row.largest(n_tokens, largest).map_err(ChoiceError::Row)?;
            if let Some(sampled) = sampler.sample_shortlist(largest)? {
                sampler.accept(sampled.id);
                return Ok(Chosen { id: sampled.id, logprobs: None });
            }
        }
    }
    logits.resize(n_tokens, 0.0);
    row.logits(logits).map_err(ChoiceError::Row)?;
    let id = match constraint {
        None => sampler.sample(logits)?.id,
        Some(constraint) => {
            let mask = constraint.mask()?;
            let id = sampler.sample_allowed(logits, &mask)?.id;
            constraint.accept(id)?;
            id
        }
    };
    sampler.accept(id);
    let logprobs = logprobs.map(|k| TokenLogprobs {
        chosen: logprob(logits, id).expect("a token drawn from this row"),
        top: top_logprobs(logits, k),
    });
    Ok(Chosen { id, logprobs })
}
