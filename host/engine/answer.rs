//! A sequence that writes text: what [`generate`](crate::generate::generate) is for one, as a scheduler's task.

use std::time::{Duration, Instant};

use super::{End, Finished, Row, Runner, Task};
use crate::{
    generate::{
        ChoiceError, Chosen, GenerateError, Generation, Limits, Pushed, Rooms, Stop, TokenLogprobs, Written, choose,
    },
    sample::{Constraint, ConstraintError, Sampler},
    speculate::Counts,
    tokenizer::{ControlText, Tokenizer},
};

/// What to write.
pub struct AnswerRequest<'a> {
    /// What messages call the model: its file.
    pub model: &'a str,
    /// The prompt that the answer is to.
    pub prompt: &'a [u32],
    /// Chooses the tokens.
    pub sampler: Sampler,
    /// What the text must follow.
    pub constraint: Option<Constraint>,
    /// Where a constraint begins that holds for a part of the text.
    pub trigger: Option<Trigger>,
    /// Whether control tokens show in the text.
    pub control: ControlText,
    /// Texts that end it, and do not show.
    pub stop: &'a [String],
    /// How far to go; [`Limits::shift_keeping`] is not followed: a full context ends an answer.
    pub limits: Limits,
    /// How many of the likeliest tokens to report at each step, with the chosen one's log probability.
    pub logprobs: Option<usize>,
}

/// A part of an answer that follows a constraint of its own, until that allows no more.
pub struct Part {
    /// Where in the text it begins.
    pub at: usize,
    /// What it follows.
    pub constraint: Constraint,
    /// Whether the answer ends with it.
    pub is_last: bool,
}

/// Looks at the text so far, after each token that belongs to no such part, and says whether one begins.
pub type Trigger = Box<dyn FnMut(&str) -> Option<Part> + Send>;

/// What a token brought, or the end.
#[derive(Clone, Copy, Debug)]
pub struct Piece<'a> {
    /// Text that is certain now, in whole characters; often empty.
    pub text: &'a str,
    /// How many tokens it came with: one, or none at the end.
    pub n_tokens: usize,
    /// What the model thought of the token, if asked for.
    pub logprobs: Option<&'a TokenLogprobs>,
}

/// Gets an answer's pieces as they come, and says whether to go on.
pub type OnPiece<'t> = Box<dyn FnMut(Piece) -> bool + Send + 't>;

/// An answer on its way.
pub struct Answer<'t> {
    model: String,
    n_prompt: usize,
    sampler: Sampler,
    constraint: Option<Constraint>,
    trigger: Option<Trigger>,
    /// The part that the text is in.
    part: Option<Part>,
    logprobs: Option<usize>,
    rooms: Rooms,
    written: Written<'t>,
    /// A token that was chosen and is written while the device works on the next one.
    unwritten: Option<Chosen>,
    /// How it ended, where that was found then.
    ended: Option<Result<Stop, GenerateError>>,
    on_piece: Option<OnPiece<'t>>,
    outcome: Option<Result<Stop, GenerateError>>,
    asked: Instant,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
}

/// An answer that ended.
pub struct AnswerEnd {
    /// What came of it.
    pub generation: Result<Generation, GenerateError>,
    /// The seed that it was drawn with.
    pub seed: u32,
    /// Whether a constraint was followed to an end that it allows; true where there is none.
    pub is_complete: bool,
}

impl<'t> Answer<'t> {
    /// An answer among the first `n_tokens` of the vocabulary. Without `on_piece` it is only given at the end.
    pub fn new(
        request: AnswerRequest,
        tokenizer: &'t Tokenizer,
        n_tokens: usize,
        on_piece: Option<OnPiece<'t>>,
    ) -> Answer<'t> {
        let AnswerRequest { model, prompt, mut sampler, constraint, trigger, control, stop, limits, logprobs } =
            request;
        sampler.forget_text();
        prompt.iter().for_each(|id| sampler.accept(*id));
        Answer {
            model: model.to_owned(),
            n_prompt: prompt.len(),
            sampler,
            constraint,
            trigger,
            part: None,
            logprobs,
            rooms: Rooms::new(n_tokens),
            written: Written::new(tokenizer, stop, limits, control),
            unwritten: None,
            ended: None,
            on_piece,
            outcome: None,
            asked: Instant::now(),
            first_token: None,
            last_token: None,
        }
    }

    fn show(&mut self, text: &str, n_tokens: usize) -> bool {
        match &mut self.on_piece {
            Some(on_piece) => {
                let logprobs = if n_tokens == 0 { None } else { self.written.logprobs().last() };
                on_piece(Piece { text, n_tokens, logprobs })
            }
            None => true,
        }
    }

    /// Begins and ends the parts that follow a constraint of their own.
    fn part(&mut self) -> Result<(), ConstraintError> {
        if let Some(part) = &mut self.part {
            if !part.is_last && part.constraint.is_at_end()? {
                self.part = None;
            }
        } else if let Some(trigger) = &mut self.trigger {
            let text = self.written.text();
            if let Some(mut part) = trigger(text)
                && part.constraint.accept_text(&text[part.at..])
            {
                self.part = Some(part);
            }
        }
        Ok(())
    }

    /// The next token, or how it ended.
    fn advance<R: Runner>(&mut self, mut row: Row<R>) -> Result<Result<u32, Result<Stop, GenerateError>>, R::Error> {
        self.settle();
        if let Some(end) = self.ended.take() {
            return Ok(Err(end));
        }
        if self.written.is_long_enough() {
            return Ok(Err(Ok(Stop::Length)));
        }
        let step = self.written.ids().len() + 1;
        let constraint = self.part.as_mut().map(|part| &mut part.constraint).or(self.constraint.as_mut());
        let chosen = choose(&mut row, &mut self.sampler, constraint, self.logprobs, &mut self.rooms);
        let chosen = match chosen {
            Ok(chosen) => chosen,
            Err(ChoiceError::Row(error)) => return Err(error),
            Err(ChoiceError::Constraint(error)) => return Ok(Err(Err(error.into()))),
            Err(ChoiceError::Sample(source)) => {
                let n_past = self.n_prompt + step - 1;
                return Ok(Err(Err(GenerateError::Sample { model: self.model.clone(), step, n_past, source })));
            }
        };
        let now = Instant::now();
        self.first_token.get_or_insert(now);
        self.last_token = Some(now);
        let id = chosen.id;
        let is_free = self.constraint.is_none() && self.part.is_none() && self.trigger.is_none();
        if is_free && self.written.goes_on_behind(id) {
            self.unwritten = Some(chosen);
            return Ok(Ok(id));
        }
        let Pushed { text, stop } = match self.written.push(chosen) {
            Ok(pushed) => pushed,
            Err(error) => return Ok(Err(Err(error.into()))),
        };
        let goes_on = self.show(&text, 1);
        if stop.is_none()
            && let Err(error) = self.part()
        {
            return Ok(Err(Err(error.into())));
        }
        Ok(match stop {
            Some(stop) => Err(Ok(stop)),
            None if !goes_on => Err(Ok(Stop::Interrupted)),
            None if self.written.is_long_enough() => Err(Ok(Stop::Length)),
            None => Ok(id),
        })
    }

    /// What came of it.
    pub fn end(finished: Finished<Answer<'t>>) -> AnswerEnd {
        let Finished { mut task, end, n_reused, drafts, .. } = finished;
        let outcome = match end {
            End::Done => task.outcome.take().unwrap_or(Ok(Stop::Interrupted)),
            End::ContextFull => Ok(Stop::ContextFull),
        };
        task.close(outcome, n_reused, drafts)
    }

    /// An answer that was cancelled: what there is of it.
    pub fn interrupted(self) -> AnswerEnd {
        self.close(Ok(Stop::Interrupted), 0, None)
    }

    fn close(mut self, outcome: Result<Stop, GenerateError>, n_reused: usize, drafts: Option<Counts>) -> AnswerEnd {
        let seed = self.sampler.seed();
        self.settle();
        let stop = match self.ended.take().unwrap_or(outcome) {
            Ok(stop) => stop,
            Err(error) => return AnswerEnd { generation: Err(error), seed, is_complete: false },
        };
        let (rest, stop) = self.written.finish(stop);
        if !rest.is_empty() {
            self.show(&rest, 0);
        }
        let is_complete = match &mut self.constraint {
            Some(constraint) => stop == Stop::Eos || constraint.can_end().unwrap_or(false),
            None => true,
        };
        let first_token = self.first_token.unwrap_or_else(Instant::now);
        let (ids, text, logprobs) = self.written.into_parts();
        let generation = Generation {
            ids,
            text,
            stop,
            logprobs,
            n_reused,
            n_shifts: 0,
            drafts,
            prompt_time: first_token - self.asked,
            eval_time: self.last_token.map_or(Duration::ZERO, |last| last - first_token),
        };
        AnswerEnd { generation: Ok(generation), seed, is_complete }
    }
}

impl Task for Answer<'_> {
    fn is_greedy(&self) -> bool {
        self.constraint.is_none() && self.part.is_none() && self.logprobs.is_none() && self.sampler.is_argmax()
    }

    fn settle(&mut self) {
        let Some(chosen) = self.unwritten.take() else { return };
        match self.written.push(chosen) {
            Ok(Pushed { text, .. }) => {
                if !self.show(&text, 1) {
                    self.ended = Some(Ok(Stop::Interrupted));
                }
            }
            Err(error) => self.ended = Some(Err(error.into())),
        }
    }

    fn n_wanted(&self) -> Option<usize> {
        self.written.n_left().map(|n_left| n_left - usize::from(self.unwritten.is_some()))
    }

    fn next<R: Runner>(&mut self, row: Row<R>) -> Result<Option<u32>, R::Error> {
        Ok(match self.advance(row)? {
            Ok(id) => Some(id),
            Err(outcome) => {
                self.outcome = Some(outcome);
                None
            }
        })
    }
}
