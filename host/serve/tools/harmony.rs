//! gpt-oss's harmony: an answer is messages in channels.
//!
//! `<|channel|>analysis<|message|>…<|end|><|start|>assistant<|channel|>final<|message|>…`: a header up to `<|message|>`, then a body up to
//! the next control token. The channel `analysis` holds thoughts; a header with `to=functions.NAME` makes the body a call's arguments.

use std::sync::Arc;

use super::{
    json::Object,
    split::{Delta, partial},
};

/// Tokens that end a body.
const ENDS: [&str; 5] = ["<|end|>", "<|start|>", "<|channel|>", "<|call|>", "<|return|>"];

/// What a header begins with; the first of an answer may be addressed at once.
const HEADERS: [&str; 5] = ["<|channel|>", "<|start|>", "<|message|>", "<|end|>", " to="];

/// Where the text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Between messages, or in a header.
    Header,
    Thought,
    Content,
    /// Blanks lead to a call's arguments.
    BeforeArguments,
    /// An object of arguments.
    Arguments(Object),
    /// Arguments that are none.
    Words,
    /// Behind the arguments.
    Rest,
}

/// Reads harmony.
#[derive(Clone, Debug)]
pub struct Harmony {
    names: Arc<[String]>,
    held: String,
    state: State,
}

/// The tool that a header is addressed to.
fn recipient(header: &str) -> Option<&str> {
    let name = header.split("to=functions.").nth(1)?;
    let end = name.find(|c: char| c.is_whitespace() || c == '<').unwrap_or(name.len());
    Some(&name[..end])
}

impl Harmony {
    /// At an answer's beginning, which may call the tools of these names.
    pub fn new(names: Arc<[String]>) -> Harmony {
        Harmony { names, held: String::new(), state: State::Header }
    }

    /// Takes text, and gives out what is certain.
    pub fn push(&mut self, text: &str, deltas: &mut Vec<Delta>) {
        self.held.push_str(text);
        while self.step(deltas) {}
    }

    /// The rest.
    pub fn finish(&mut self, deltas: &mut Vec<Delta>) {
        let body = std::mem::take(&mut self.held);
        let n = self.kept(body.len(), &body);
        self.give(&body[..n], deltas);
    }

    /// Whether what comes next belongs to a thought.
    pub fn is_thinking(&self) -> bool {
        self.state == State::Thought
    }

    /// Where a header is being addressed: the text since.
    pub fn begun(&self) -> Option<&str> {
        let at = (self.state == State::Header).then(|| self.held.find("to="))??;
        Some(&self.held[at + "to=".len()..])
    }

    /// Gives out what is certain of the held text; whether the state changed.
    fn step(&mut self, deltas: &mut Vec<Delta>) -> bool {
        if self.state == State::Header {
            let is_header = HEADERS.iter().any(|tag| self.held.starts_with(tag) || tag.starts_with(self.held.as_str()));
            if !is_header {
                // No message at all: the model's plain words.
                self.state = State::Content;
                return true;
            }
            let Some(at) = self.held.find("<|message|>") else { return false };
            let rest = self.held.split_off(at + "<|message|>".len());
            let header = std::mem::replace(&mut self.held, rest);
            self.state = match recipient(&header) {
                Some(name) if self.names.iter().any(|known| known == name) => {
                    deltas.push(Delta::Call(name.to_owned()));
                    State::BeforeArguments
                }
                None if header.contains("<|channel|>analysis") => State::Thought,
                _ => State::Content,
            };
            return true;
        }
        let end = ENDS.iter().filter_map(|tag| self.held.find(tag)).min();
        let n = end.unwrap_or(self.held.len() - partial(&self.held, &ENDS));
        let kept = self.kept(n, &self.held);
        let rest = self.held.split_off(kept);
        let body = std::mem::replace(&mut self.held, rest);
        self.give(&body, deltas);
        if end.is_none() {
            return false;
        }
        self.held.drain(..n - kept);
        self.state = State::Header;
        // What only ends a message is no part of the next one's header.
        for tag in ["<|end|>", "<|call|>", "<|return|>"] {
            if self.held.starts_with(tag) {
                self.held.drain(..tag.len());
            }
        }
        true
    }

    /// How many of the first `n` bytes are the body's for sure: blanks at its end are not the arguments'.
    fn kept(&self, n: usize, text: &str) -> usize {
        match self.state {
            State::BeforeArguments | State::Words => text[..n].trim_end().len(),
            _ => n,
        }
    }

    fn give(&mut self, mut body: &str, deltas: &mut Vec<Delta>) {
        if self.state == State::BeforeArguments {
            body = body.trim_start();
            self.state = match body.bytes().next() {
                None => return,
                Some(b'{') => State::Arguments(Object::default()),
                Some(_) => State::Words,
            };
        }
        let part = match &mut self.state {
            State::Header | State::Rest | State::BeforeArguments => return,
            State::Thought => Delta::Reasoning,
            State::Content => Delta::Content,
            State::Words => Delta::Arguments,
            State::Arguments(object) => {
                if let Some(end) = object.push(body) {
                    body = &body[..end];
                    self.state = State::Rest;
                }
                Delta::Arguments
            }
        };
        if !body.is_empty() {
            deltas.push(part(body.to_owned()));
        }
    }
}
