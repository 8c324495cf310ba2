//! An answer's text, apart: thoughts, what is said, and calls of tools. The result does not depend on how the text was cut into pieces.
//!
//! Every interface gets its answers from here, whole or in parts, so both say the same. A call is one from where the name of one of the
//! tools and the beginning of its arguments are there; its arguments are given as the model writes them, and end with their object.

use std::sync::Arc;

use super::{
    Calls, Dialect,
    harmony::Harmony,
    json::{self, Head, Object},
};

/// A part of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delta {
    /// More of the thoughts.
    Reasoning(String),
    /// More of what is said.
    Content(String),
    /// A call of this tool begins.
    Call(String),
    /// More of the arguments, JSON, of the call that began last.
    Arguments(String),
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
    /// Behind so many bytes a call may begin.
    Head(usize),
    Arguments(Object),
    /// Behind the arguments, in their call's object.
    Tail(Object),
    /// Behind that object.
    Closing,
    /// Behind a call: blanks lead to the next, or to what is said.
    AfterCall,
}

#[derive(Clone, Debug)]
struct Tags {
    thinks: bool,
    /// How calls are written, where there are any.
    calls: Option<Calls>,
    names: Arc<[String]>,
    held: String,
    state: State,
    /// How the call is written that began last.
    form: Form,
}

/// How a call is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// An object with name and arguments.
    Object,
    /// Such an object in a list.
    Listed,
    /// The name, and an object of arguments.
    Named,
}

impl Splitter {
    /// For an answer of this model, which may call the tools of these names.
    pub fn new(dialect: Dialect, names: Arc<[String]>) -> Splitter {
        let kind = if dialect.calls == Calls::Harmony {
            Kind::Harmony(Harmony::new(names))
        } else if dialect.thinks || !names.is_empty() {
            let calls = (!names.is_empty()).then_some(dialect.calls);
            let (held, state, form) = (String::new(), State::Start, Form::Object);
            Kind::Tags(Tags { thinks: dialect.thinks, calls, names, held, state, form })
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

    /// Whether what comes next belongs to a thought.
    pub fn is_thinking(&self) -> bool {
        match &self.kind {
            Kind::Plain => false,
            Kind::Tags(tags) => matches!(tags.state, State::BeforeThought | State::Thought),
            Kind::Harmony(harmony) => harmony.is_thinking(),
        }
    }

    /// Where the model began a call by itself, and its name is still to come: the text since.
    pub fn begun(&self) -> Option<&str> {
        match &self.kind {
            Kind::Plain => None,
            Kind::Tags(tags) => tags.begun(),
            Kind::Harmony(harmony) => harmony.begun(),
        }
    }
}

impl Tags {
    /// The text that begins a call.
    fn opening(&self) -> Option<&'static str> {
        match self.calls? {
            Calls::Hermes => Some("<tool_call>"),
            Calls::Mistral | Calls::MistralArgs => Some("[TOOL_CALLS]"),
            Calls::Llama | Calls::Harmony => None,
        }
    }

    fn begun(&self) -> Option<&str> {
        let State::Head(lead) = self.state else { return None };
        let head = &self.held[lead..];
        match self.calls? {
            Calls::Llama => match json::head(head) {
                Head::Open { key } => Some(&head[key?..]),
                _ => None,
            },
            // A list that goes on was begun before.
            _ => (lead > 0).then_some(head),
        }
    }

    /// Takes so many bytes away.
    fn take(&mut self, n: usize) -> String {
        let rest = self.held.split_off(n);
        std::mem::replace(&mut self.held, rest)
    }

    /// Takes blanks away; whether anything is left.
    fn skip_blanks(&mut self) -> bool {
        let n = self.held.len() - self.held.trim_start().len();
        self.held.drain(..n);
        !self.held.is_empty()
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
                let blanks = self.held.len() - text.len();
                self.state = match self.calls {
                    Some(Calls::Llama) if text.starts_with('{') => State::Head(blanks),
                    Some(Calls::Llama) if text.starts_with(PYTHON) => State::Head(blanks + PYTHON.len()),
                    Some(Calls::Llama) if PYTHON.starts_with(text) => return false,
                    _ => State::Content,
                };
            }
            State::BeforeThought => {
                if !self.skip_blanks() {
                    return false;
                }
                self.state = State::Thought;
            }
            State::Thought => {
                if let Some(at) = self.held.find("</think>") {
                    let thought = self.take(at + "</think>".len());
                    give(deltas, Delta::Reasoning, thought[..at].trim_end());
                    self.state = State::AfterThought;
                    return true;
                }
                // Blanks before the end are not the thought's.
                let n = self.held.len() - partial(&self.held, &["</think>"]);
                let thought = self.take(self.held[..n].trim_end().len());
                give(deltas, Delta::Reasoning, &thought);
                return false;
            }
            State::AfterThought => {
                if !self.skip_blanks() {
                    return false;
                }
                // A second thought is none: from here on tags are text.
                self.thinks = false;
                self.state = State::Start;
            }
            State::Content => {
                let Some(opening) = self.opening() else {
                    let said = std::mem::take(&mut self.held);
                    give(deltas, Delta::Content, &said);
                    return false;
                };
                let at = self.held.find(opening);
                // Blanks before a call are not what is said.
                let n = at.unwrap_or(self.held.len() - partial(&self.held, &[opening]));
                let said = self.take(self.held[..n].trim_end().len());
                give(deltas, Delta::Content, &said);
                let Some(at) = at else { return false };
                self.state = State::Head(at - said.len() + opening.len());
            }
            State::Head(lead) => match self.head(lead) {
                Head::Open { .. } => return false,
                Head::Call { name, at } if self.names.contains(&name) => {
                    self.take(lead + at);
                    deltas.push(Delta::Call(name));
                    self.state = State::Arguments(Object::default());
                }
                Head::Call { .. } | Head::Other => {
                    let said = self.take(lead);
                    give(deltas, Delta::Content, &said);
                    self.state = State::Content;
                }
            },
            State::Arguments(mut object) => {
                let end = object.push(&self.held);
                let arguments = self.take(end.unwrap_or(self.held.len()));
                give(deltas, Delta::Arguments, &arguments);
                self.state = match (end, self.form) {
                    (None, _) => State::Arguments(object),
                    (Some(_), Form::Named) => State::AfterCall,
                    (Some(_), Form::Object | Form::Listed) => State::Tail(Object::begun()),
                };
                return end.is_some();
            }
            State::Tail(mut object) => {
                let end = object.push(&self.held);
                self.take(end.unwrap_or(self.held.len()));
                self.state = if end.is_some() { State::Closing } else { State::Tail(object) };
                return end.is_some();
            }
            State::Closing => {
                let closes = match (self.calls, self.form) {
                    (Some(Calls::Hermes), _) => "</tool_call>",
                    (_, Form::Listed) => "]",
                    _ => "",
                };
                if !self.skip_blanks() || (closes.len() > self.held.len() && closes.starts_with(&self.held)) {
                    return false;
                }
                self.state = if self.held.starts_with(closes) {
                    self.take(closes.len());
                    State::AfterCall
                } else if self.form == Form::Listed && self.held.starts_with(',') {
                    self.take(1);
                    State::Head(0)
                } else {
                    // Several objects may stand in one tag.
                    State::Head(0)
                };
            }
            State::AfterCall => {
                if !self.skip_blanks() {
                    return false;
                }
                self.state = match self.calls {
                    Some(Calls::Llama) if self.held.starts_with(';') => {
                        self.take(1);
                        return true;
                    }
                    Some(Calls::Llama) => State::Head(0),
                    _ => State::Content,
                };
            }
        }
        true
    }

    /// How a call begins behind so many bytes of the held text.
    fn head(&mut self, lead: usize) -> Head {
        let text = &self.held[lead..];
        if !matches!(self.calls, Some(Calls::Mistral | Calls::MistralArgs)) {
            self.form = Form::Object;
            return json::head(text);
        }
        if lead == 0 {
            return json::head(text);
        }
        let blanks = text.len() - text.trim_start().len();
        match text[blanks..].bytes().next() {
            None => Head::Open { key: None },
            Some(b'{') => {
                self.form = Form::Object;
                json::head(text)
            }
            Some(b'[') => {
                self.form = Form::Listed;
                match json::head(&text[blanks + 1..]) {
                    Head::Call { name, at } => Head::Call { name, at: blanks + 1 + at },
                    other => other,
                }
            }
            Some(_) => {
                self.form = Form::Named;
                named(&text[blanks..], blanks)
            }
        }
    }

    fn finish(&mut self, deltas: &mut Vec<Delta>) {
        let rest = std::mem::take(&mut self.held);
        match self.state {
            State::Start | State::Content => {
                give(deltas, Delta::Content, if self.calls.is_some() { rest.trim_end() } else { &rest });
            }
            State::Thought => give(deltas, Delta::Reasoning, rest.trim_end()),
            State::Head(_) => give(deltas, Delta::Content, rest.trim_end()),
            State::BeforeThought
            | State::AfterThought
            | State::Arguments(_)
            | State::Tail(_)
            | State::Closing
            | State::AfterCall => {}
        }
    }
}

/// What Llama 3 may put before a call.
const PYTHON: &str = "<|python_tag|>";

/// A call that begins with a name: `f[ARGS]{`, or `f[CALL_ID]9[ARGS]{`. Its text begins `skipped` bytes later.
fn named(text: &str, skipped: usize) -> Head {
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && !"_-.:/".contains(c)).unwrap_or(text.len());
    let (name, mut rest) = text.split_at(end);
    if name.len() > 128 {
        return Head::Other;
    }
    if let Some(id) = rest.strip_prefix("[CALL_ID]") {
        let end = id.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(id.len());
        rest = &id[end.min(128)..];
    }
    let Some(arguments) = rest.strip_prefix("[ARGS]") else {
        let is_open = ["[ARGS]", "[CALL_ID]"].iter().any(|tag| tag.starts_with(rest));
        return if is_open { Head::Open { key: None } } else { Head::Other };
    };
    match arguments.trim_start() {
        "" => Head::Open { key: None },
        object if object.starts_with('{') => {
            Head::Call { name: name.to_owned(), at: skipped + text.len() - object.len() }
        }
        _ => Head::Other,
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
