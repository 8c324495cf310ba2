//! An answer's text, apart: thoughts, what is said, and calls of tools. The result does not depend on how the text was cut into pieces.

use super::{Calls, Dialect, harmony::Harmony, read};

/// A call of a tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The tool.
    pub name: String,
    /// Its arguments, JSON.
    pub arguments: String,
}

/// A part of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delta {
    /// More of the thoughts.
    Reasoning(String),
    /// More of what is said.
    Content(String),
    /// A call, whole.
    Call(Call),
}

/// Where the text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing but blanks came.
    Start,
    /// Blanks lead to the thought.
    BeforeThought,
    Thought,
    /// Behind thoughts: blanks lead to what is said.
    AfterThought,
    Content,
    /// In a call, which is read once it is whole.
    Call,
}

/// Takes an answer's text apart.
#[derive(Clone, Debug)]
pub struct Splitter {
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    /// All is said.
    Plain,
    Tags(Tags),
    Harmony(Harmony),
}

#[derive(Clone, Debug)]
struct Tags {
    thinks: bool,
    /// How calls are written, where there are any.
    calls: Option<Calls>,
    held: String,
    state: State,
}

impl Splitter {
    /// For an answer of this model; `has_tools` where it may call any.
    pub fn new(dialect: Dialect, has_tools: bool) -> Splitter {
        let kind = if dialect.calls == Calls::Harmony {
            Kind::Harmony(Harmony::new())
        } else if dialect.thinks || has_tools {
            let calls = has_tools.then_some(dialect.calls);
            Kind::Tags(Tags { thinks: dialect.thinks, calls, held: String::new(), state: State::Start })
        } else {
            Kind::Plain
        };
        Splitter { kind }
    }

    /// For a text that is no conversation's.
    pub fn plain() -> Splitter {
        Splitter { kind: Kind::Plain }
    }

    /// Takes the next text, and gives out what is certain.
    pub fn push(&mut self, text: &str) -> Vec<Delta> {
        let mut deltas = Vec::new();
        match &mut self.kind {
            Kind::Plain if text.is_empty() => {}
            Kind::Plain => deltas.push(Delta::Content(text.to_owned())),
            Kind::Tags(tags) => {
                tags.held.push_str(text);
                while tags.step(&mut deltas) {}
            }
            Kind::Harmony(harmony) => harmony.push(text, &mut deltas),
        }
        deltas
    }

    /// The rest, now that no more text comes.
    pub fn finish(&mut self) -> Vec<Delta> {
        let mut deltas = Vec::new();
        match &mut self.kind {
            Kind::Plain => {}
            Kind::Tags(tags) => tags.finish(&mut deltas),
            Kind::Harmony(harmony) => harmony.finish(&mut deltas),
        }
        deltas
    }
}

impl Tags {
    /// The texts that begin a call.
    fn openings(&self) -> &'static [&'static str] {
        match self.calls {
            Some(Calls::Hermes) => &["<tool_call>"],
            Some(Calls::Mistral | Calls::MistralArgs) => &["[TOOL_CALLS]"],
            _ => &[],
        }
    }

    /// Gives out what is certain of the held text; whether the state changed.
    fn step(&mut self, deltas: &mut Vec<Delta>) -> bool {
        match self.state {
            State::Start => {
                let text = self.held.trim_start();
                if text.is_empty() {
                    return false;
                }
                if self.thinks {
                    if let Some(rest) = text.strip_prefix("<think>") {
                        self.held = rest.to_owned();
                        self.state = State::BeforeThought;
                        return true;
                    }
                    if "<think>".starts_with(text) {
                        return false;
                    }
                }
                self.state = match self.calls {
                    Some(Calls::Llama) if text.starts_with('{') || text.starts_with("<|python_tag|>") => State::Call,
                    Some(Calls::Llama) if "<|python_tag|>".starts_with(text) => return false,
                    _ => State::Content,
                };
                true
            }
            State::BeforeThought => {
                self.held = self.held.trim_start().to_owned();
                if self.held.is_empty() {
                    return false;
                }
                self.state = State::Thought;
                true
            }
            State::Thought => {
                if let Some(at) = self.held.find("</think>") {
                    let rest = self.held.split_off(at + "</think>".len());
                    let thought = std::mem::replace(&mut self.held, rest);
                    give(deltas, Delta::Reasoning, thought[..at].trim_end());
                    self.state = State::AfterThought;
                    return true;
                }
                // Blanks before the end are not the thought's.
                let n = self.held.len() - partial(&self.held, &["</think>"]);
                let n = self.held[..n].trim_end().len();
                let rest = self.held.split_off(n);
                let thought = std::mem::replace(&mut self.held, rest);
                give(deltas, Delta::Reasoning, &thought);
                false
            }
            State::AfterThought => {
                self.held = self.held.trim_start().to_owned();
                if self.held.is_empty() {
                    return false;
                }
                // A second thought is none: from here on tags are text.
                self.thinks = false;
                self.state = State::Start;
                true
            }
            State::Content => {
                let openings = self.openings();
                if let Some(at) = openings.iter().filter_map(|tag| self.held.find(tag)).min() {
                    let rest = self.held.split_off(at);
                    let said = std::mem::replace(&mut self.held, rest);
                    give(deltas, Delta::Content, said.trim_end());
                    self.state = State::Call;
                    return true;
                }
                let mut n = self.held.len() - partial(&self.held, openings);
                if !openings.is_empty() {
                    // Blanks before a call are not what is said.
                    n = self.held[..n].trim_end().len();
                }
                let rest = self.held.split_off(n);
                let said = std::mem::replace(&mut self.held, rest);
                give(deltas, Delta::Content, &said);
                false
            }
            State::Call => {
                if self.calls != Some(Calls::Hermes) {
                    return false;
                }
                let Some(at) = self.held.find("</tool_call>") else { return false };
                let rest = self.held.split_off(at + "</tool_call>".len());
                let call = std::mem::replace(&mut self.held, rest);
                match read::calls(&call["<tool_call>".len()..at]) {
                    Some(calls) => {
                        deltas.extend(calls.into_iter().map(Delta::Call));
                        self.held = self.held.trim_start().to_owned();
                    }
                    None => give(deltas, Delta::Content, &call),
                }
                self.state = State::Content;
                true
            }
        }
    }

    fn finish(&mut self, deltas: &mut Vec<Delta>) {
        let rest = std::mem::take(&mut self.held);
        match self.state {
            State::Start | State::Content => {
                give(deltas, Delta::Content, if self.calls.is_some() { rest.trim_end() } else { &rest })
            }
            State::Thought => give(deltas, Delta::Reasoning, rest.trim_end()),
            State::BeforeThought | State::AfterThought => {}
            State::Call => match self.calls_of(&rest) {
                Some(calls) => deltas.extend(calls.into_iter().map(Delta::Call)),
                None => give(deltas, Delta::Content, &rest),
            },
        }
    }

    /// The calls of a text that ended the answer.
    fn calls_of(&self, text: &str) -> Option<Vec<Call>> {
        match self.calls? {
            Calls::Hermes => read::calls(text.strip_prefix("<tool_call>")?),
            Calls::Llama => {
                let text = text.trim_start();
                let text = text.strip_prefix("<|python_tag|>").unwrap_or(text);
                // Several are set apart by semicolons.
                read::calls(text).or_else(|| read::calls(&text.replace("}; {", "} {")))
            }
            Calls::Mistral | Calls::MistralArgs => {
                let mut all = Vec::new();
                for part in text.split("[TOOL_CALLS]").map(str::trim).filter(|part| !part.is_empty()) {
                    match part.split_once("[ARGS]") {
                        Some((head, arguments)) => {
                            let name = head.split('[').next().unwrap_or_default().trim().to_owned();
                            serde_json::from_str::<serde_json::Map<_, _>>(arguments).ok()?;
                            all.push(Call { name, arguments: arguments.trim().to_owned() });
                        }
                        None => all.extend(read::calls(part)?),
                    }
                }
                (!all.is_empty()).then_some(all)
            }
            Calls::Harmony => None,
        }
    }
}

fn give(deltas: &mut Vec<Delta>, kind: fn(String) -> Delta, text: &str) {
    if !text.is_empty() {
        deltas.push(kind(text.to_owned()));
    }
}

/// Bytes at the end of the text that one of the tags may begin with.
pub fn partial(text: &str, tags: &[&str]) -> usize {
    let longest = tags.iter().map(|tag| tag.len()).max().unwrap_or(0);
    let from = text.len().saturating_sub(longest);
    let starts = text.char_indices().map(|(at, _)| at).filter(|at| *at >= from);
    starts.map(|at| &text[at..]).find(|end| tags.iter().any(|tag| tag.starts_with(end))).map_or(0, str::len)
}
