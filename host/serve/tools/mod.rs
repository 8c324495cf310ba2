//! Tools: what a request offers, how a model's template has calls written, and reading them.
//!
//! A model writes a call in the form that it was trained on, which its template shows:
//!
//! | dialect | a call |
//! |---|---|
//! | Hermes, Qwen | `<tool_call>\n{"name": "f", "arguments": {…}}\n</tool_call>` |
//! | Llama 3 | the answer is `{"name": "f", "parameters": {…}}`, alone |
//! | Mistral | `[TOOL_CALLS][{"name": "f", "arguments": {…}}]`, newer `[TOOL_CALLS]f[ARGS]{…}` |
//! | gpt-oss (harmony) | `<\|channel\|>commentary to=functions.f <\|constrain\|>json<\|message\|>{…}<\|call\|>` |
//!
//! Where a call must be made, its beginning is a part of the prompt and the rest follows a grammar made of the tools' schemas; where one
//! may be made, the grammar begins where the model begins one. So arguments always parse, unless a limit cuts them, and have
//! the properties that the schema names and no others, unless it says otherwise. A template that knows no
//! tools has them described in the system message, in Hermes's form.

mod closed;
mod harmony;
mod read;
mod split;

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::Failure;
use crate::{
    api::{FieldError, Fields},
    chat::Message,
    engine::Trigger,
    sample::{Constraint, ConstraintVocabulary},
};

pub use split::{Call, Delta, Splitter};

/// The most tools of a request.
const MAX_TOOLS: usize = 128;

/// How a model writes calls and thoughts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dialect {
    /// How it writes calls.
    pub calls: Calls,
    /// Whether the template knows tools.
    pub knows_tools: bool,
    /// Whether thoughts stand between `<think>` and `</think>`.
    pub thinks: bool,
}

/// How a model writes calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Calls {
    /// JSON in a tag.
    #[default]
    Hermes,
    /// JSON alone.
    Llama,
    /// A list of JSON behind a token.
    Mistral,
    /// A name and JSON behind tokens.
    MistralArgs,
    /// Messages in channels.
    Harmony,
}

impl Dialect {
    /// The dialect that a template's source shows.
    pub fn of_template(source: &str) -> Dialect {
        let has = |text: &str| source.contains(text);
        let calls = if has("<|channel|>") {
            Calls::Harmony
        } else if has("[TOOL_CALLS]") {
            if has("[ARGS]") { Calls::MistralArgs } else { Calls::Mistral }
        } else if has("<tool_call>") {
            Calls::Hermes
        } else if has("<|python_tag|>") || (has("<|start_header_id|>") && has("tools")) {
            Calls::Llama
        } else {
            Calls::Hermes
        };
        Dialect { calls, knows_tools: has("tools"), thinks: has("<think>") || has("</think>") }
    }

    /// Whether control tokens are a part of the form.
    pub fn shows_control(self) -> bool {
        matches!(self.calls, Calls::Harmony | Calls::Mistral | Calls::MistralArgs)
    }
}

/// Whether a call is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// None.
    None,
    /// The model decides.
    Auto,
    /// One of any tool.
    Required,
    /// One of this tool.
    Named(String),
}

/// A tool that can be called.
#[derive(Clone, Debug, PartialEq)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// What it does.
    pub description: Option<String>,
    /// A JSON schema of its arguments.
    pub parameters: Value,
}

/// What a request says of tools.
#[derive(Clone, Debug, PartialEq)]
pub struct Tools {
    /// The tools.
    pub all: Vec<Tool>,
    /// Whether one is called.
    pub choice: Choice,
}

impl Tools {
    /// No tools.
    pub fn none() -> Tools {
        Tools { all: Vec::new(), choice: Choice::None }
    }

    /// Takes `tools` and `tool_choice`.
    ///
    /// # Errors
    /// [`FieldError`].
    pub fn take(fields: &mut Fields) -> Result<Tools, FieldError> {
        let mut all = Vec::new();
        for (index, value) in take_array(fields, "tools")?.into_iter().enumerate() {
            let path = format!("tools[{index}]");
            let mut tool = Fields::new(&path, value)?;
            expect_function(&mut tool)?;
            // As chat completions have it, or as responses do.
            let name = tool.name("function");
            let function = match tool.take("function") {
                Some(function) => {
                    tool.expect_none()?;
                    Fields::new(&name, function)?
                }
                None => tool,
            };
            all.push(Tool::take(function, "parameters")?);
        }
        let choice = match fields.take("tool_choice") {
            None => None,
            Some(Value::Object(object)) => {
                let mut choice = Fields::new("tool_choice", Value::Object(object))?;
                expect_function(&mut choice)?;
                let mut inner = match choice.take("function") {
                    Some(function) => Fields::new("tool_choice.function", function)?,
                    None => choice,
                };
                let path = inner.name("name");
                let name = inner.text("name")?;
                Some(Choice::Named(name.ok_or_else(|| FieldError::new(&path, &Value::Null, "a tool's name"))?))
            }
            Some(other) => Some(match other.as_str() {
                Some("none") => Choice::None,
                Some("auto") => Choice::Auto,
                Some("required") => Choice::Required,
                _ => {
                    return Err(FieldError::new(
                        "tool_choice",
                        &other,
                        "none, auto, required or an object with a tool's name",
                    ));
                }
            }),
        };
        Tools::new(all, choice)
    }

    /// Tools, and whether one is called.
    ///
    /// # Errors
    /// The choice is none that the tools allow.
    pub fn new(all: Vec<Tool>, choice: Option<Choice>) -> Result<Tools, FieldError> {
        for (index, tool) in all.iter().enumerate() {
            if all[..index].iter().any(|other| other.name == tool.name) {
                let path = format!("tools[{index}].name");
                return Err(FieldError::new(&path, &Value::from(tool.name.as_str()), "a name that no other tool has"));
            }
        }
        let choice = choice.unwrap_or(if all.is_empty() { Choice::None } else { Choice::Auto });
        match &choice {
            Choice::Named(name) if !all.iter().any(|tool| tool.name == *name) => {
                return Err(FieldError::new("tool_choice", &name.as_str().into(), "the name of one of the tools"));
            }
            Choice::Required if all.is_empty() => {
                return Err(FieldError::new("tool_choice", &"required".into(), "tools beside it"));
            }
            _ => {}
        }
        let choice = if all.is_empty() { Choice::None } else { choice };
        Ok(Tools { all, choice })
    }

    /// Whether there are any that may be called.
    pub fn are_callable(&self) -> bool {
        self.choice != Choice::None
    }

    /// Whether a call has to be made.
    pub fn is_forced(&self) -> bool {
        matches!(self.choice, Choice::Required | Choice::Named(_))
    }

    /// What the template gets: tools that may be called, as chat completions have them.
    pub fn for_template(&self, dialect: Dialect) -> Option<Value> {
        (self.are_callable() && dialect.knows_tools).then(|| self.descriptions())
    }

    fn descriptions(&self) -> Value {
        let describe = |tool: &Tool| {
            let mut function = Map::new();
            function.insert("name".to_owned(), tool.name.as_str().into());
            // Templates join it with text.
            function.insert("description".to_owned(), tool.description.as_deref().unwrap_or_default().into());
            function.insert("parameters".to_owned(), tool.parameters.clone());
            json!({ "type": "function", "function": function })
        };
        self.all.iter().map(describe).collect()
    }

    /// The messages, with a description of the tools where the template knows none.
    pub fn described(&self, mut messages: Vec<Message>, dialect: Dialect) -> Vec<Message> {
        if dialect.knows_tools {
            return messages;
        }
        messages = messages.into_iter().map(read::plain).collect();
        if !self.are_callable() {
            return messages;
        }
        let mut text = "Tools, one a line:\n".to_owned();
        if let Value::Array(tools) = self.descriptions() {
            tools.iter().for_each(|tool| text += &format!("{tool}\n"));
        }
        text += "To call one, answer with\n<tool_call>\n{\"name\": NAME, \"arguments\": OBJECT}\n</tool_call>";
        match messages.first() {
            Some(first) if first.role() == "system" => {
                let system = format!("{}\n\n{text}", first.content().unwrap_or_default());
                messages[0] = Message::new("system", &system);
            }
            _ => messages.insert(0, Message::new("system", &text)),
        }
        messages
    }

    fn forced(&self) -> Option<Vec<&Tool>> {
        match &self.choice {
            Choice::Required => Some(self.all.iter().collect()),
            Choice::Named(name) => Some(self.all.iter().filter(|tool| tool.name == *name).collect()),
            Choice::None | Choice::Auto => None,
        }
    }

    /// How the answer begins where a call has to be made.
    pub fn opening(&self, dialect: Dialect) -> Option<String> {
        let forced = self.forced()?;
        Some(match dialect.calls {
            Calls::Hermes => "<tool_call>\n".to_owned(),
            Calls::Llama => String::new(),
            Calls::Mistral => "[TOOL_CALLS]".to_owned(),
            Calls::MistralArgs => match forced.as_slice() {
                [one] => format!("[TOOL_CALLS]{}[ARGS]", one.name),
                _ => "[TOOL_CALLS]".to_owned(),
            },
            Calls::Harmony => match forced.as_slice() {
                [one] => format!("<|channel|>commentary to=functions.{} <|constrain|>json<|message|>", one.name),
                _ => "<|channel|>commentary to=functions.".to_owned(),
            },
        })
    }

    /// What follows [`Self::opening`]: one of these schemas between its words. None where calls are free, or begin with a name between tokens.
    pub fn must_call(&self, dialect: Dialect) -> Option<Vec<(String, Value, String)>> {
        let forced = self.forced()?;
        let frame = |tool: &&Tool| {
            let name = Value::from(tool.name.as_str());
            let (before, after) = match dialect.calls {
                Calls::Hermes => (format!("{{\"name\": {name}, \"arguments\": "), "}\n</tool_call>".to_owned()),
                Calls::Llama => (format!("{{\"name\": {name}, \"parameters\": "), "}".to_owned()),
                Calls::Mistral => (format!("[{{\"name\": {name}, \"arguments\": "), "}]".to_owned()),
                // A control token is nothing that a grammar allows: the name before it is in the prompt.
                Calls::MistralArgs | Calls::Harmony => (String::new(), String::new()),
            };
            (before, closed::closed(&tool.parameters), after)
        };
        match dialect.calls {
            Calls::MistralArgs | Calls::Harmony if forced.len() > 1 => None,
            _ => Some(forced.iter().map(frame).collect()),
        }
    }

    /// Where calls begin in an answer that is free otherwise, and what they follow.
    ///
    /// # Errors
    /// A schema cannot be used.
    pub fn triggers<'v>(
        &self,
        dialect: Dialect,
        vocabulary: impl FnOnce() -> Result<&'v ConstraintVocabulary, Failure>,
    ) -> Result<Option<Triggers>, Failure> {
        if !self.are_callable() {
            return Ok(None);
        }
        let vocabulary = vocabulary()?;
        let frame = |tool: &Tool| {
            let name = Value::from(tool.name.as_str());
            let (before, after) = match dialect.calls {
                Calls::Hermes => (format!("\n{{\"name\": {name}, \"arguments\": "), "}\n</tool_call>".to_owned()),
                Calls::Llama => (format!(" {name}, \"parameters\": "), "}".to_owned()),
                Calls::Mistral => (format!("[{{\"name\": {name}, \"arguments\": "), "}]".to_owned()),
                Calls::MistralArgs | Calls::Harmony => (String::new(), String::new()),
            };
            (before, closed::closed(&tool.parameters), after)
        };
        let by_name = matches!(dialect.calls, Calls::MistralArgs | Calls::Harmony);
        let constraints = if by_name {
            let one = |tool: &Tool| {
                let constraint = Constraint::from_framed_schemas("tools", &[frame(tool)], vocabulary)?;
                Ok::<_, Failure>((tool.name.clone(), constraint))
            };
            self.all.iter().map(one).collect::<Result<Vec<_>, _>>()?
        } else {
            let framed: Vec<_> = self.all.iter().map(frame).collect();
            vec![(String::new(), Constraint::from_framed_schemas("tools", &framed, vocabulary)?)]
        };
        Ok(Some(Triggers { calls: dialect.calls, opening: self.opening(dialect), constraints: constraints.into() }))
    }
}

impl Tool {
    /// Reads a function's fields, whose arguments' schema is called `schema`.
    ///
    /// # Errors
    /// [`FieldError`].
    pub fn take(mut function: Fields, schema: &str) -> Result<Tool, FieldError> {
        let path = function.name("name");
        let is_name = |name: &str| {
            (1..=128).contains(&name.len())
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.:/".contains(&byte))
        };
        let expected = "1 to 128 letters, digits and _ - . : /";
        let read = |value: &Value| value.as_str().filter(|name| is_name(name)).map(str::to_owned);
        let name = function.read("name", expected, read)?;
        let name = name.ok_or_else(|| FieldError::new(&path, &Value::Null, expected))?;
        let description = function.text("description")?;
        let object = |value: &Value| value.is_object().then(|| value.clone());
        let parameters = function.read(schema, "a JSON schema, an object", object)?;
        let parameters = parameters.unwrap_or_else(|| json!({ "type": "object", "properties": {} }));
        // Arguments always follow their schema.
        function.pass_over(&["strict", "cache_control"]);
        function.expect_none()?;
        Ok(Tool { name, description, parameters })
    }
}

/// Takes a field that is an array of at most [`MAX_TOOLS`].
pub fn take_array(fields: &mut Fields, field: &str) -> Result<Vec<Value>, FieldError> {
    let read = |value: &Value| value.as_array().filter(|all| all.len() <= MAX_TOOLS).cloned();
    Ok(fields.read(field, &format!("an array of at most {MAX_TOOLS}"), read)?.unwrap_or_default())
}

fn expect_function(tool: &mut Fields) -> Result<(), FieldError> {
    let path = tool.name("type");
    match tool.text("type")?.as_deref() {
        Some("function") => Ok(()),
        other => Err(FieldError::new(&path, &other.into(), "function: no other kind of tool is supported")),
    }
}

/// The messages, with past calls' arguments as objects where they are texts of objects.
pub fn with_objects(messages: &[Message]) -> Vec<Message> {
    messages.iter().cloned().map(read::with_objects).collect()
}

/// Where calls begin, and what they follow then.
#[derive(Clone)]
pub struct Triggers {
    calls: Calls,
    /// What of the answer is in the prompt.
    opening: Option<String>,
    /// By tool, where the name stands before the trigger; else one.
    constraints: Arc<[(String, Constraint)]>,
}

impl Triggers {
    /// For one answer.
    pub fn watch(&self) -> Trigger {
        let Triggers { calls, opening, constraints } = self.clone();
        let mut opening = opening.unwrap_or_default();
        let named =
            move |name: &str| constraints.iter().find(|(of, _)| of == name).map(|(_, constraint)| constraint.again());
        Box::new(move |text| match calls {
            Calls::Hermes => Some((after(text, "<tool_call>")?, named("")?)),
            Calls::Llama => {
                let start = text.len() - text.trim_start().len();
                text[start..].starts_with("{\"name\":").then_some(())?;
                Some((start + "{\"name\":".len(), named("")?))
            }
            Calls::Mistral => Some((after(text, "[TOOL_CALLS]")?, named("")?)),
            Calls::MistralArgs => {
                let end = after(text, "[ARGS]")?;
                let before = format!("{opening}{}", &text[..end - "[ARGS]".len()]);
                opening.clear();
                let name = before.rsplit("[TOOL_CALLS]").next().unwrap_or_default();
                Some((end, named(name.split('[').next().unwrap_or_default().trim())?))
            }
            Calls::Harmony => {
                let end = after(text, "<|message|>")?;
                // The header of the last message whose body begins where the text ends.
                let end = text.rfind("<|message|>").map_or(end, |at| at + "<|message|>".len());
                let header = format!("{opening}{}", &text[..end]);
                let header = header.rsplit("<|channel|>").next().unwrap_or_default();
                let name = harmony::recipient(header)?;
                let constraint = named(name)?;
                // The prompt's part of the header belongs to the first message alone.
                opening.clear();
                Some((end, constraint))
            }
        })
    }
}

/// Where the text after the first `tag` begins.
fn after(text: &str, tag: &str) -> Option<usize> {
    text.find(tag).map(|at| at + tag.len())
}
