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

mod choose;
mod found;
mod stop;
mod vocabulary;
mod written;

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use crate::{
    forward::{EngineError, Then},
    sample::{Constraint, ConstraintError, SampleError, Sampler},
    session::Session,
    speculate::{Counts, Speculation},
    tokenizer::{ControlText, Tokenizer, TokenizerError},
};

pub use choose::{ChoiceError, Chosen, LogitRow, Rooms, TokenLogprobs, choose};
pub use found::{EngineRow, Found};
pub use stop::StopStrings;
pub use vocabulary::{constraint_vocabulary, sampler};
pub use written::{Pushed, Written};

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
    /// Guesses what follows, so that a step may bring several tokens; the text is the same. The session's engine has rows for them
    /// ([`EngineOptions::n_drafted`](crate::forward::EngineOptions::n_drafted)).
    pub speculation: Option<&'a mut Speculation>,
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
    /// What was guessed, where that was asked for.
    pub drafts: Option<Counts>,
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
    let Request { model, prompt, sampler, constraint, stop, limits, logprobs, interrupt, speculation } = request;
    if prompt.is_empty() {
        return Err(GenerateError::EmptyPrompt);
    }
    let is_interrupted = || interrupt.is_some_and(|interrupt| interrupt.load(Ordering::Relaxed));
    let n_tokens = tokenizer.vocab_size().min(session.engine().config().vocab_size);
    let mut rooms = Rooms::new(n_tokens);
    let mut written = Written::new(tokenizer, stop, limits, ControlText::Hide);
    let mut constraint = constraint;
    let mut n_shifts = 0;

    let start = Instant::now();
    sampler.forget_text();
    prompt.iter().for_each(|id| sampler.accept(*id));
    let prefill = session.prompt(prompt, interrupt)?;
    let mut steps = Steps::new(speculation);
    let mut first_token = None;
    let stop = loop {
        if written.is_long_enough() {
            break Stop::Length;
        }
        if prefill.interrupted || is_interrupted() {
            break Stop::Interrupted;
        }
        if let Some(last) = written.ids().last()
            && !steps.is_next(*last)
        {
            steps.end(session);
            if session.is_full() {
                let Some(n_keep) = limits.shift_keeping else {
                    break Stop::ContextFull;
                };
                session.shift(n_keep)?;
                n_shifts += 1;
            }
            // A draft of the last token that is wanted has no logits that are.
            let n_left = written.n_left().map_or(usize::MAX, |n_left| n_left - 1);
            steps.begin(session, *last, n_left)?;
        }
        let n_past = session.ids().len() - steps.n_behind();
        // Where this is not the last token that is wanted, the step behind it can begin.
        let goes_on = steps.speculation.is_none() && written.n_left() != Some(1);
        let then = if goes_on { Then::EachGoesOn } else { Then::Anything };
        let mut row = EngineRow { engine: session.engine(), found: &mut steps.found, row: steps.row, then };
        let chosen = choose(&mut row, sampler, constraint.as_deref_mut(), logprobs, &mut rooms);
        let chosen = chosen.map_err(|error| match error {
            ChoiceError::Row(error) => error.into(),
            ChoiceError::Constraint(error) => error.into(),
            ChoiceError::Sample(source) => {
                GenerateError::Sample { model: model.to_owned(), step: written.ids().len() + 1, n_past, source }
            }
        })?;
        first_token.get_or_insert_with(Instant::now);
        let Pushed { text, stop } = written.push(chosen)?;
        let goes_on = text.is_empty() || on_text(&text);
        match stop {
            Some(stop) => break stop,
            None if !goes_on => break Stop::Interrupted,
            None => {}
        }
    };
    steps.end(session);
    let drafts = steps.counts();
    let (rest, stop) = written.finish(stop);
    if !rest.is_empty() {
        on_text(&rest);
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
    let (ids, text, logprobs) = written.into_parts();
    Ok(Generation {
        ids,
        text,
        stop,
        logprobs,
        n_reused: prefill.n_reused,
        n_shifts,
        drafts,
        prompt_time: first_token - start,
        eval_time: first_token.elapsed(),
    })
}

/// The rows of the last step: behind the token that was next, those that were guessed.
struct Steps<'a> {
    speculation: Option<&'a mut Speculation>,
    /// What was guessed before this generation.
    before: Counts,
    found: Found,
    /// The row that is chosen from now.
    row: usize,
    /// Whether the step was one of decoding.
    is_decoding: bool,
    drafts: Vec<u32>,
    /// Whether a guess was wrong.
    is_wrong: bool,
}

impl<'a> Steps<'a> {
    /// The prompt's, which left a row.
    fn new(speculation: Option<&'a mut Speculation>) -> Steps<'a> {
        let before = speculation.as_ref().map_or_else(Counts::default, |speculation| speculation.counts());
        let mut found = Found::default();
        found.left(1);
        Steps { speculation, before, found, row: 0, is_decoding: false, drafts: Vec::new(), is_wrong: false }
    }

    /// Whether this token, which was chosen from the last row, is the one that was guessed: then its row is there.
    fn is_next(&mut self, token: u32) -> bool {
        match self.drafts.get(self.row) {
            Some(draft) if *draft == token => self.row += 1,
            Some(_) => {
                self.is_wrong = true;
                return false;
            }
            None => return false,
        }
        true
    }

    /// Tokens of the session behind the row's.
    fn n_behind(&self) -> usize {
        self.drafts.len() - self.row
    }

    /// Takes back what nobody came to.
    fn end(&mut self, session: &mut Session) {
        session.take_back(self.n_behind());
        if let Some(speculation) = &mut self.speculation
            && self.is_decoding
        {
            speculation.judge(self.drafts.len(), self.row, self.is_wrong);
        }
        self.drafts.clear();
        (self.row, self.is_decoding, self.is_wrong) = (0, false, false);
    }

    /// The next token, and guesses behind it: as many as there is room for, and `n_left` at most.
    fn begin(&mut self, session: &mut Session, token: u32, n_left: usize) -> Result<(), EngineError> {
        if let Some(speculation) = &mut self.speculation {
            let n_rows = session.engine().n_rows() - 1;
            let n_room = session.n_context() - session.ids().len() - 1;
            let text = [session.ids(), &[token]].concat();
            self.drafts = speculation.draft(&text, n_rows.min(n_room).min(n_left))?;
        }
        session.decode(&[&[token][..], &self.drafts].concat())?;
        self.found.left(1 + self.drafts.len());
        self.is_decoding = true;
        Ok(())
    }

    fn counts(&self) -> Option<Counts> {
        self.speculation.as_ref().map(|speculation| speculation.counts().since(self.before))
    }
}
