//! What was written so far, and whether that is the end.

use super::{Chosen, Limits, Stop, StopStrings, TokenLogprobs};
use crate::tokenizer::{ControlText, StreamDecoder, Tokenizer, TokenizerError};

/// Tokens and their text: whole characters, up to a stop string.
pub struct Written<'t> {
    tokenizer: &'t Tokenizer,
    limits: Limits,
    decoder: StreamDecoder<'t>,
    stops: StopStrings,
    ids: Vec<u32>,
    text: String,
    logprobs: Vec<TokenLogprobs>,
}

/// What a token brought.
pub struct Pushed {
    /// The text that is certain now; often empty.
    pub text: String,
    /// Why this is the end.
    pub stop: Option<Stop>,
}

impl<'t> Written<'t> {
    /// Nothing yet; `stops` end the text, in which control tokens show or not.
    pub fn new(tokenizer: &'t Tokenizer, stops: &[String], limits: Limits, control: ControlText) -> Written<'t> {
        Written {
            tokenizer,
            limits,
            decoder: StreamDecoder::new(tokenizer, control),
            stops: StopStrings::new(stops),
            ids: Vec::new(),
            text: String::new(),
            logprobs: Vec::new(),
        }
    }

    /// The tokens.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Their text, as far as it is certain.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What the model thought of each, if asked for.
    pub fn logprobs(&self) -> &[TokenLogprobs] {
        &self.logprobs
    }

    /// How many tokens of those that were asked for are missing.
    pub fn n_left(&self) -> Option<usize> {
        self.limits.n_predict.map(|limit| limit.saturating_sub(self.ids.len()))
    }

    /// Whether there are as many tokens as were asked for.
    pub fn is_long_enough(&self) -> bool {
        self.n_left() == Some(0)
    }

    /// Whether this token, whose text need not be known for that, is surely not the last one.
    pub fn goes_on_behind(&self, id: u32) -> bool {
        let is_end = !self.limits.ignore_eos && self.tokenizer.is_end_of_generation(id);
        !is_end && self.stops.is_empty() && self.n_left().is_none_or(|n_left| n_left > 1)
    }

    /// Adds a token. Whether it was the last that was asked for is [`Self::is_long_enough`]'s to say.
    ///
    /// # Errors
    /// The token is not the tokenizer's.
    pub fn push(&mut self, Chosen { id, logprobs }: Chosen) -> Result<Pushed, TokenizerError> {
        self.ids.push(id);
        self.logprobs.extend(logprobs);
        if !self.limits.ignore_eos && self.tokenizer.is_end_of_generation(id) {
            return Ok(Pushed { text: String::new(), stop: Some(Stop::Eos) });
        }
        let decoded = self.decoder.push(id)?;
        let text = self.stops.push(&decoded);
        self.text.push_str(&text);
        Ok(Pushed { text, stop: self.stops.found().map(|stop| Stop::StopString(stop.to_owned())) })
    }

    /// No more tokens come, because of `stop`: the text that was held back, and why it really ended. The rest of a cut character may have
    /// been all that was missing to a stop string.
    pub fn finish(&mut self, stop: Stop) -> (String, Stop) {
        let rest = self.decoder.finish();
        let mut rest = self.stops.push(&rest);
        rest += &self.stops.finish();
        self.text.push_str(&rest);
        let stop = match (self.stops.found(), stop) {
            (Some(found), Stop::Eos | Stop::Length | Stop::ContextFull) => Stop::StopString(found.to_owned()),
            (_, stop) => stop,
        };
        (rest, stop)
    }

    /// The tokens, the one that ended the turn among them, their text, and what the model thought of each, if asked for.
    pub fn into_parts(self) -> (Vec<u32>, String, Vec<TokenLogprobs>) {
        (self.ids, self.text, self.logprobs)
    }
}
