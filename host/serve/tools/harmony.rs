//! gpt-oss's harmony: an answer is messages in channels.
//!
//! `<|channel|>analysis<|message|>…<|end|><|start|>assistant<|channel|>final<|message|>…`: a header up to `<|message|>`, then a body up to
//! the next control token. The channel `analysis` holds thoughts; a header with `to=functions.NAME` makes the body a call's arguments.

use super::split::{Call, Delta, partial};

/// Tokens that end a body.
const ENDS: [&str; 5] = ["<|end|>", "<|start|>", "<|channel|>", "<|call|>", "<|return|>"];

/// Where the text is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// Between messages, or in a header.
    Header,
    Thought,
    Content,
    Arguments(String),
}

/// Reads harmony.
#[derive(Clone, Debug)]
pub struct Harmony {
    held: String,
    state: State,
}

/// The tool that a header is addressed to.
pub fn recipient(header: &str) -> Option<&str> {
    let name = header.split("to=functions.").nth(1)?;
    let end = name.find(|c: char| c.is_whitespace() || c == '<').unwrap_or(name.len());
    Some(&name[..end]).filter(|name| !name.is_empty())
}

impl Harmony {
    /// At an answer's beginning.
    pub fn new() -> Harmony {
        Harmony { held: String::new(), state: State::Header }
    }

    /// Takes text, and gives out what is certain.
    pub fn push(&mut self, text: &str, deltas: &mut Vec<Delta>) {
        self.held.push_str(text);
        loop {
            if self.state == State::Header {
                let is_header = ["<|channel|>", "<|start|>", "<|message|>", "<|end|>"]
                    .iter()
                    .any(|tag| self.held.starts_with(tag) || tag.starts_with(self.held.as_str()));
                if !is_header && !self.held.is_empty() {
                    // No message at all: the model's plain words.
                    self.state = State::Content;
                    continue;
                }
                let Some(at) = self.held.find("<|message|>") else { return };
                let rest = self.held.split_off(at + "<|message|>".len());
                let header = std::mem::replace(&mut self.held, rest);
                self.state = match recipient(&header) {
                    Some(name) => State::Arguments(name.to_owned()),
                    None if header.contains("<|channel|>analysis") => State::Thought,
                    None => State::Content,
                };
            } else {
                let end = ENDS.iter().filter_map(|tag| self.held.find(tag)).min();
                let n = match (&self.state, end) {
                    (_, Some(at)) => at,
                    // Arguments are whole or nothing.
                    (State::Arguments(_), None) => return,
                    (_, None) => self.held.len() - partial(&self.held, &ENDS),
                };
                let rest = self.held.split_off(n);
                let body = std::mem::replace(&mut self.held, rest);
                self.give(body, deltas);
                if end.is_none() {
                    return;
                }
                self.state = State::Header;
                // What only ends a message is no part of the next one's header.
                for tag in ["<|end|>", "<|call|>", "<|return|>"] {
                    if self.held.starts_with(tag) {
                        self.held.drain(..tag.len());
                    }
                }
            }
        }
    }

    /// The rest.
    pub fn finish(&mut self, deltas: &mut Vec<Delta>) {
        let body = std::mem::take(&mut self.held);
        match self.state {
            State::Header => {}
            _ => self.give(body, deltas),
        }
    }

    fn give(&mut self, body: String, deltas: &mut Vec<Delta>) {
        if body.is_empty() && !matches!(self.state, State::Arguments(_)) {
            return;
        }
        deltas.push(match &self.state {
            State::Header => return,
            State::Thought => Delta::Reasoning(body),
            State::Content => Delta::Content(body),
            State::Arguments(name) => Delta::Call(Call { name: name.clone(), arguments: body.trim().to_owned() }),
        });
    }
}
