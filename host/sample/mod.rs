//! Sampling: from a row of logits to the next token, bit for bit as llama.cpp does it.
//!
//! Given the same logits, options and seed, [`Sampler`] picks the tokens that llama.cpp's CPU sampler chain picks
//! (`common/sampling.cpp`, `src/llama-sampler.cpp`; built with GNU libstdc++ on x86-64 Linux). That takes the same
//! random numbers ([`random`]), the same order of equal logits ([`order`]), and the same order and precision of every
//! sum: most are f32, and each stage says where it is not.
//!
//! ```text
//! logits ─ bias ─ penalties ─ DRY ─ top-nσ ─ top-k ─ typical ─ top-p ─ min-p ─ XTC ─ temperature ─ draw
//!                └── Mirostat: temperature, then its own truncation and draw ──────────────────────┘
//! ```
//!
//! The stages between bias and draw can be reordered ([`SamplerOptions::samplers`]). Each is a small function over
//! [`candidates::Candidates`]; at the usual settings top-k cuts the vocabulary to forty early, so a token costs little
//! more than two passes over the logits. Where nothing before top-k needs the whole row, a device may find the largest
//! logits, and [`Sampler::sample_shortlist`] draws the same token from these alone.
//!
//! A [`Constraint`] (JSON schema or grammar) gives the mask for [`Sampler::sample_allowed`], which comes before the bias.
//!
//! Where llama.cpp's behaviour is undefined, this is defined:
//!
//! - A NaN among the logits is an error, [`SampleError::NotNumbers`]: the forward pass went wrong, and so the others mean
//!   nothing either. Logits of +∞ share all the probability among them.
//! - A token whose logit is −∞ is never drawn. When there is no other, [`Sampler::sample`] returns
//!   [`SampleError::NothingToDraw`].
//!
//! In one case it is defined otherwise. Greedy sampling gives equal largest logits to the lowest id, as an argmax on
//! the GPU does; in llama.cpp the layout of top-k's heap decides.

pub mod candidates;
pub mod constraint;
pub mod draw;
pub mod dry;
mod engine_words;
pub mod gbnf;
pub mod logprobs;
pub mod mask;
pub mod mirostat;
mod nesting;
pub mod options;
pub mod order;
pub mod penalties;
pub mod random;
mod schema;
mod shortlist;
pub mod temperature;
pub mod truncate;

use thiserror::Error;

pub use constraint::{Constraint, ConstraintError, ConstraintVocabulary};
pub use dry::DryBreakers;
pub use logprobs::{Logprob, logprob, top_logprobs};
pub use mask::TokenMask;
pub use options::{MetadataValue, OptionError, SamplerOptions, Stage};
pub use random::Mt19937;

use candidates::Candidates;
use dry::Dry;
use mirostat::Mirostat;
use penalties::Penalties;

/// Why no token was drawn.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SampleError {
    /// The row of logits, or the mask, is not as long as the vocabulary.
    #[error("the {what} has {found} entries: expected one for each of the {n_vocab} tokens of the vocabulary")]
    Length {
        /// `row of logits` or `token mask`.
        what: &'static str,
        /// Its length.
        found: usize,
        /// Size of the vocabulary.
        n_vocab: usize,
    },
    /// Logits are NaN.
    #[error(
        "found NaN for {nan} of the {n_vocab} logits, expected numbers: weights of the model are damaged or no numbers, or its \
         forward pass overflowed; fetch or convert the model again"
    )]
    NotNumbers {
        /// How many.
        nan: usize,
        /// Size of the vocabulary.
        n_vocab: usize,
    },
    /// Every token is excluded: by a logit of −∞, a bias of −∞, or the mask.
    #[error("no token can be drawn: each of the {n_vocab} logits is -inf, or banned by --logit-bias or the grammar")]
    NothingToDraw {
        /// Size of the vocabulary.
        n_vocab: usize,
    },
}

/// A token drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampled {
    /// The token's id.
    pub id: u32,
    /// The probability it was drawn with, after all stages; 1 for greedy sampling. For the model's own probability, see
    /// [`logprob`].
    pub probability: f32,
}

/// That no logit is NaN.
///
/// # Errors
/// [`SampleError::NotNumbers`].
pub fn expect_numbers(logits: &[f32]) -> Result<(), SampleError> {
    // Counted without a branch, which the compiler does many at a time.
    match logits.iter().map(|logit| usize::from(logit.is_nan())).sum() {
        0 => Ok(()),
        nan => Err(SampleError::NotNumbers { nan, n_vocab: logits.len() }),
    }
}

/// The sampler chain, with everything it remembers from token to token.
#[derive(Clone)]
pub struct Sampler {
    options: SamplerOptions,
    seed: u32,
    n_vocab: usize,
    candidates: Candidates,
    penalties: Option<Penalties>,
    dry: Option<Dry>,
    mirostat: Option<Mirostat>,
    /// Feeds the draw.
    rng: Mt19937,
    /// Feeds XTC's toss; started from the same seed.
    xtc_rng: Mt19937,
}

impl Sampler {
    /// A sampler for rows of `n_vocab` logits. For a model whose output is padded past its tokenizer, `n_vocab` is the
    /// tokenizer's size, and [`Self::sample`] is given that many logits.
    ///
    /// `dry_breakers` are [`SamplerOptions::dry_sequence_breakers`] in tokens; they matter only when DRY is on (see
    /// [`Self::needs_dry_breakers`]).
    ///
    /// # Errors
    /// [`OptionError`] for an option outside its limits, and for a bias on a token that does not exist.
    pub fn new(options: SamplerOptions, n_vocab: usize, dry_breakers: DryBreakers) -> Result<Self, OptionError> {
        options.validate()?;
        if let Some((id, _)) = options.logit_bias.iter().find(|(id, _)| *id as usize >= n_vocab) {
            return Err(OptionError::Value {
                flag: "--logit-bias",
                value: format!("on token {id}"),
                expected: "a token id below the size of the vocabulary",
            });
        }
        let seed = options.seed.unwrap_or_else(random::seed_from_system);
        let version = match options.mirostat {
            1 => Some(mirostat::Version::One),
            2 => Some(mirostat::Version::Two),
            _ => None,
        };
        Ok(Self {
            seed,
            n_vocab,
            candidates: Candidates::with_capacity(n_vocab),
            penalties: Penalties::new(&options),
            dry: Dry::new(&options, dry_breakers),
            mirostat: version.map(|v| Mirostat::new(v, options.mirostat_tau, options.mirostat_eta, n_vocab)),
            rng: Mt19937::new(seed),
            xtc_rng: Mt19937::new(seed),
            options,
        })
    }

    /// Whether these options use DRY, so that making its breakers is worth the time.
    pub fn needs_dry_breakers(options: &SamplerOptions) -> bool {
        options.mirostat == 0 && Dry::new(options, DryBreakers::default()).is_some()
    }

    /// The seed in use: the one given, or the one drawn from the operating system. Giving it again repeats the tokens.
    pub fn seed(&self) -> u32 {
        self.seed
    }

    /// Tells the penalties of a token of the text: each one of the prompt, and then each one sampled.
    pub fn accept(&mut self, token: u32) {
        if let Some(penalties) = &mut self.penalties {
            penalties.accept(token);
        }
        if let Some(dry) = &mut self.dry {
            dry.accept(token);
        }
    }

    /// Whether the token drawn is always the one with the largest of the unchanged logits, so that a device can find it.
    pub fn is_argmax(&self) -> bool {
        self.is_plainly_greedy()
            && self.penalties.is_none()
            && self.dry.is_none()
            && self.mirostat.is_none()
            && self.options.logit_bias.is_empty()
    }

    /// Forgets the tokens accepted; the random numbers and Mirostat go on. A new text follows.
    pub fn forget_text(&mut self) {
        if let Some(penalties) = &mut self.penalties {
            penalties.reset();
        }
        if let Some(dry) = &mut self.dry {
            dry.reset();
        }
    }

    /// Back to the state just after [`Self::new`], with the same seed.
    pub fn reset(&mut self) {
        self.forget_text();
        if let Some(mirostat) = &mut self.mirostat {
            mirostat.reset();
        }
        self.rng = Mt19937::new(self.seed);
        self.xtc_rng = Mt19937::new(self.seed);
    }

    /// Draws the next token from `logits`, one for each token of the vocabulary. [`Self::accept`] is the caller's.
    ///
    /// # Errors
    /// [`SampleError::Length`] for a row of another length, [`SampleError::NotNumbers`] for one with a NaN,
    /// [`SampleError::NothingToDraw`] when every token is excluded.
    pub fn sample(&mut self, logits: &[f32]) -> Result<Sampled, SampleError> {
        self.sample_from(logits, None)
    }

    /// As [`Self::sample`], from the tokens in `allowed` alone.
    ///
    /// The others leave before the first stage, so every truncation works on what is allowed.
    ///
    /// # Errors
    /// As [`Self::sample`].
    pub fn sample_allowed(&mut self, logits: &[f32], allowed: &TokenMask) -> Result<Sampled, SampleError> {
        self.sample_from(logits, Some(allowed))
    }

    fn sample_from(&mut self, logits: &[f32], allowed: Option<&TokenMask>) -> Result<Sampled, SampleError> {
        let n_vocab = self.n_vocab;
        if logits.len() != n_vocab {
            return Err(SampleError::Length { what: "row of logits", found: logits.len(), n_vocab });
        }
        if let Some(mask) = allowed.filter(|mask| mask.n_vocab() != n_vocab) {
            return Err(SampleError::Length { what: "token mask", found: mask.n_vocab(), n_vocab });
        }
        expect_numbers(logits)?;
        self.candidates.load(logits, allowed);
        penalties::apply_logit_bias(&mut self.candidates, &self.options.logit_bias);
        let chosen = if let Some(mirostat) = &mut self.mirostat {
            temperature::temperature(&mut self.candidates, self.options.temp);
            mirostat.draw(&mut self.candidates, &mut self.rng)
        } else if self.is_plainly_greedy() {
            self.apply(Stage::Penalties);
            self.apply(Stage::Dry);
            draw::greedy(&mut self.candidates)
        } else {
            for i in 0..self.options.samplers.len() {
                self.apply(self.options.samplers[i]);
            }
            draw::draw(&mut self.candidates, &mut self.rng)
        };
        let chosen = chosen.ok_or(SampleError::NothingToDraw { n_vocab })?;
        let chosen = &self.candidates.entries[chosen];
        Ok(Sampled { id: chosen.id, probability: chosen.p })
    }

    /// Whether the token is the one with the largest logit after the penalties: no stage in between can remove it.
    fn is_plainly_greedy(&self) -> bool {
        let options = &self.options;
        options.temp <= 0.0
            && options.dynatemp_range <= 0.0
            && options.typical_p >= 1.0
            && !self.is_xtc_on()
            && options.samplers == Stage::DEFAULT_ORDER
    }

    /// Whether XTC may drop a token.
    fn is_xtc_on(&self) -> bool {
        self.options.xtc_probability > 0.0 && self.options.xtc_threshold <= 0.5
    }

    fn apply(&mut self, stage: Stage) {
        let options = &self.options;
        let candidates = &mut self.candidates;
        let min_keep = options.min_keep as usize;
        match stage {
            Stage::Penalties => {
                if let Some(penalties) = &self.penalties {
                    penalties.apply(candidates);
                }
            }
            Stage::Dry => {
                if let Some(dry) = &mut self.dry {
                    dry.apply(candidates);
                }
            }
            Stage::TopNSigma => truncate::top_n_sigma(candidates, options.top_n_sigma),
            Stage::TopK => truncate::top_k(candidates, options.top_k as usize),
            Stage::Typical => truncate::typical(candidates, options.typical_p, min_keep),
            Stage::TopP => truncate::top_p(candidates, options.top_p, min_keep),
            Stage::MinP => truncate::min_p(candidates, options.min_p, min_keep),
            Stage::Xtc => {
                let (probability, threshold) = (options.xtc_probability, options.xtc_threshold);
                draw::xtc(candidates, probability, threshold, min_keep, &mut self.xtc_rng);
            }
            Stage::Temperature => {
                let (range, exponent) = (options.dynatemp_range, options.dynatemp_exponent);
                temperature::dynamic_temperature(candidates, options.temp, range, exponent);
            }
        }
    }
}
