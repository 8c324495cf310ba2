//! Generating text: prefill, then one token after another until something ends it.
//!
//! ```text
//! prompt ─ prefill ─┬─ logits ─ (constraint's mask) ─ sampler ─ id ─┬─ end token? ── eos
//!                   │                                               ├─ text ─ stop string? ── stop
//!                   └── decode ── (context full? shift or stop) ────┘
//! ```
//!
//! Where the token is simply the one with the largest logit, it is found on the device and no logits are copied. Where a
//! sampler draws from the largest alone, as the usual one does, the device finds these, and 40 logits or a few more are copied
//! instead of the whole vocabulary's; only where two of them are equal all of them are, to end llama.cpp's way.

mod stop;

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use crate::{
    forward::{Engine, EngineError},
    sample::{Constraint, ConstraintError, Logprob, SampleError, Sampler, logprob, top_logprobs},
    session::Session,
    tokenizer::{ControlText, StreamDecoder, Tokenizer, TokenizerError},
};

pub use stop::StopStrings;

/// What to generate.
pub struct Request<'a> {
    /// What messages call the model: its file.
    pub model: &'a str,
    /// The whole text so far; what the session has of it is not computed again.
    pub prompt: &'a [u32],
    /// Chooses the tokens.
    pub sampler: &'a mut Sampler,
    /// What the text must follow.
    pub constraint: Option<&'a mut Constraint>,
    /// Texts that end the generation, and do not show.
    pub stop: &'a [String],
    /// How far to go.
    pub limits: Limits,
    /// How many of the likeliest tokens to report at each step, with the chosen one's log probability.
    pub logprobs: Option<usize>,
    /// Stops at the next token once it is true.
    pub interrupt: Option<&'a AtomicBool>,
}

/// How far to generate.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Tokens to generate at most; until the end or until the context is full if not given.
    pub n_predict: Option<usize>,
    /// Whether to go on past a token that ends the turn.
    pub ignore_eos: bool,
    /// When the context is full, drop the older half of all but this many first tokens and go on ([`Session::shift`]).
    pub shift_keeping: Option<usize>,
}

/// Why generation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The model ended its turn.
    Eos,
    /// A stop string came.
    StopString(String),
    /// As many tokens as asked for.
    Length,
    /// No position is left in the context.
    ContextFull,
    /// The person, or the caller's `on_text`, said so.
    Interrupted,
}

/// What the model thought of a token, before the sampler.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprobs {
    /// The token that was chosen.
    pub chosen: Logprob,
    /// The likeliest tokens.
    pub top: Vec<Logprob>,
}

/// What was generated.
#[derive(Clone, Debug)]
pub struct Generation {
    /// The tokens, the one that ended the turn included.
    pub ids: Vec<u32>,
    /// Their text, up to a stop string.
    pub text: String,
    /// Why it ended.
    pub stop: Stop,
    /// For each token, if asked for.
    pub logprobs: Vec<TokenLogprobs>,
    /// Tokens of the prompt that the session had already.
    pub n_reused: usize,
    /// How often the context was shifted.
    pub n_shifts: usize,
    /// Time from the prompt to the first token.
    pub prompt_time: Duration,
    /// Time from the first token to the last.
    pub eval_time: Duration,
}

/// Why generation failed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // each variant's text is its documentation
pub enum GenerateError {
    #[error("the prompt is empty: expected at least one token")]
    EmptyPrompt,
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("{model}: token {step} of the answer, after {n_past} tokens: {source}")]
    Sample {
        /// The model's file.
        model: String,
        /// Which token could not be chosen, from 1.
        step: usize,
        /// Tokens that the model had seen.
        n_past: usize,
        source: SampleError,
    },
    #[error(transparent)]
    Constraint(#[from] ConstraintError),
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

/// Continues `request.prompt`, which becomes the session's sequence. `on_text` gets the text as it comes, in whole
/// characters, and says whether to go on; joined, it is the generation's text.
///
/// # Errors
/// [`GenerateError`]: the prompt is empty or does not fit, no token can be drawn, or the device failed.
pub fn generate(
    session: &mut Session,
    tokenizer: &Tokenizer,
    request: Request,
    on_text: &mut dyn FnMut(&str) -> bool,
) -> Result<Generation, GenerateError> {
    let Request { model, prompt, sampler, constraint, stop, limits, logprobs, interrupt } = request;
    if prompt.is_empty() {
        return Err(GenerateError::EmptyPrompt);
    }
    let is_interrupted = || interrupt.is_some_and(|interrupt| interrupt.load(Ordering::Relaxed));
    // A file may pad its vocabulary past the tokenizer's last token: those are never chosen.
    let n_tokens = tokenizer.vocab_size().min(session.engine().config().vocab_size);
    let shortlist = match (&constraint, logprobs) {
        (None, None) => sampler.shortlist_len(n_tokens.min(Engine::MAX_LARGEST)),
        _ => None,
    };
    let shortlist = shortlist.map(|len| vec![(0, 0.0); len]);
    let mut chooser = Chooser { constraint, logprobs, row: vec![0.0; n_tokens], shortlist, sampler };
    let mut text = TextStream {
        decoder: StreamDecoder::new(tokenizer, ControlText::Hide),
        stops: StopStrings::new(stop),
        text: String::new(),
        on_text,
    };
    let (mut ids, mut reported, mut n_shifts) = (Vec::new(), Vec::new(), 0);

    let start = Instant::now();
    chooser.sampler.forget_text();
    prompt.iter().for_each(|id| chooser.sampler.accept(*id));
    let prefill = session.prompt(prompt, interrupt)?;
    let mut first_token = None;
    let mut stop = loop {
        if limits.n_predict.is_some_and(|limit| ids.len() >= limit) {
            break Stop::Length;
        }
        if prefill.interrupted || is_interrupted() {
            break Stop::Interrupted;
        }
        if let Some(last) = ids.last() {
            if session.is_full() {
                let Some(n_keep) = limits.shift_keeping else {
                    break Stop::ContextFull;
                };
                session.shift(n_keep)?;
                n_shifts += 1;
            }
            session.decode(*last)?;
        }
        let n_past = session.ids().len();
        let id = chooser.next(session, &mut reported).map_err(|error| match error {
            ChoiceError::Sample(source) => {
                GenerateError::Sample { model: model.to_owned(), step: ids.len() + 1, n_past, source }
            }
            ChoiceError::Other(error) => error,
        })?;
        first_token.get_or_insert_with(Instant::now);
        ids.push(id);
        if !limits.ignore_eos && tokenizer.is_end_of_generation(id) {
            break Stop::Eos;
        }
        if !text.push(id)? {
            break match text.stops.found() {
                Some(stop) => Stop::StopString(stop.to_owned()),
                None => Stop::Interrupted,
            };
        }
    };
    text.finish();
    // The rest of a cut character may have been all that was missing to a stop string.
    if let (Some(found), Stop::Eos | Stop::Length | Stop::ContextFull) = (text.stops.found(), &stop) {
        stop = Stop::StopString(found.to_owned());
    }
    let first_token = match first_token {
        Some(at) => at,
        None => {
            // Nothing was read back yet: the prompt's time ends when the device is done.
            let gpu = session.engine().gpu();
            gpu.synchronise().map_err(EngineError::from)?;
            Instant::now()
        }
    };
    Ok(Generation {
        ids,
        text: text.text,
        stop,
        logprobs: reported,
        n_reused: prefill.n_reused,
        n_shifts,
        prompt_time: first_token - start,
        eval_time: first_token.elapsed(),
    })
}

/// Why no token was chosen.
enum ChoiceError {
    /// The logits, which the step that made them is blamed for.
    Sample(SampleError),
    Other(GenerateError),
}

impl From<SampleError> for ChoiceError {
    fn from(error: SampleError) -> ChoiceError {
        ChoiceError::Sample(error)
    }
}

impl From<EngineError> for ChoiceError {
    fn from(error: EngineError) -> ChoiceError {
        ChoiceError::Other(error.into())
    }
}

impl From<ConstraintError> for ChoiceError {
    fn from(error: ConstraintError) -> ChoiceError {
        ChoiceError::Other(error.into())
    }
}

/// Chooses the next token from the logits that the session left.
struct Chooser<'a> {
    sampler: &'a mut Sampler,
    constraint: Option<&'a mut Constraint>,
    logprobs: Option<usize>,
    /// The logits, where they are needed on the host.
    row: Vec<f32>,
    /// The largest, where the sampler can do with these.
    shortlist: Option<Vec<(u32, f32)>>,
}

impl Chooser<'_> {
    fn next(&mut self, session: &mut Session, reported: &mut Vec<TokenLogprobs>) -> Result<u32, ChoiceError> {
        let engine = session.engine();
        if self.constraint.is_none() && self.logprobs.is_none() && self.sampler.is_argmax() {
            match engine.greedy(self.row.len()) {
                // The sampler says of the whole row what is wrong with it.
                Err(EngineError::NoChoice) => {}
                choice => return Ok(choice?),
            }
        }
        if let Some(shortlist) = &mut self.shortlist {
            engine.largest_into(self.row.len(), shortlist)?;
            if let Some(sampled) = self.sampler.sample_shortlist(shortlist)? {
                self.sampler.accept(sampled.id);
                return Ok(sampled.id);
            }
        }
        engine.logits_into(&mut self.row)?;
        let id = match &mut self.constraint {
            None => self.sampler.sample(&self.row)?.id,
            Some(constraint) => {
                let mask = constraint.mask()?;
                let id = self.sampler.sample_allowed(&self.row, &mask)?.id;
                constraint.accept(id)?;
                id
            }
        };
        self.sampler.accept(id);
        if let Some(k) = self.logprobs {
            reported.push(TokenLogprobs {
                chosen: logprob(&self.row, id).expect("a token drawn from this row"),
                top: top_logprobs(&self.row, k),
            });
        }
        Ok(id)
    }
}

/// From tokens to the text that is shown: whole characters, up to a stop string.
struct TextStream<'a> {
    decoder: StreamDecoder<'a>,
    stops: StopStrings,
    text: String,
    on_text: &'a mut dyn FnMut(&str) -> bool,
}

impl TextStream<'_> {
    /// Whether to go on.
    fn push(&mut self, id: u32) -> Result<bool, TokenizerError> {
        let decoded = self.decoder.push(id)?;
        let certain = self.stops.push(&decoded);
        Ok(self.show(&certain) && self.stops.found().is_none())
    }

    fn finish(&mut self) {
        let rest = self.decoder.finish();
        let mut rest = self.stops.push(&rest);
        rest += &self.stops.finish();
        self.show(&rest);
    }

    fn show(&mut self, text: &str) -> bool {
        self.text.push_str(text);
        text.is_empty() || (self.on_text)(text)
    }
}
