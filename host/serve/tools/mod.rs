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
//! Where a call must be made, its beginning is a part of the prompt and the rest follows a grammar of the tools' names, each with its schema;
//! where one may be made, the grammar begins where the model begins one. So a call names one of the tools, and its arguments always parse, unless
//! a limit cuts them, and have the properties that this tool's schema names and no others, unless it says otherwise. One call may follow
//! another, unless one tool is named or `parallel_tool_calls` is false; where a call must be made, that has to be true: a small model that has
//! to begin goes on and on. A template that knows no tools has them described in the system message, in Hermes's form.

mod closed;
mod grammar;
mod harmony;
mod json;
mod read;
mod split;
mod trigger;

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::{
    api::{FieldError, Fields, Format},
    chat::Message,
};

pub use grammar::{Begins, Grammar};
pub use split::{Delta, Splitter};
pub use trigger::Triggers;

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
    /// Whether an answer may make several calls; of one tool that is named, it makes one.
    pub are_parallel: bool,
}

impl Tools {
    /// No tools.
    pub fn none() -> Tools {
        Tools { all: Vec::new(), choice: Choice::None, are_parallel: true }
    }

    /// Takes `tools`, `tool_choice` and `parallel_tool_calls`.
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
        let are_parallel = fields.flag("parallel_tool_calls")?.unwrap_or(choice != Some(Choice::Required));
        Tools::new(all, choice, are_parallel)
    }

    /// Tools, whether one is called, and whether one may follow another.
    ///
    /// # Errors
    /// The choice is none that the tools allow.
    pub fn new(all: Vec<Tool>, choice: Option<Choice>, are_parallel: bool) -> Result<Tools, FieldError> {
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
        let are_parallel = are_parallel && !matches!(choice, Choice::Named(_));
        Ok(Tools { all, choice, are_parallel })
    }

    /// Whether there are any that may be called.
    pub fn are_callable(&self) -> bool {
        self.choice != Choice::None
    }

    /// Whether an answer in this format can be a call: in Llama 3's form it is JSON, as the answer is.
    pub fn may_be_called(&self, dialect: Dialect, format: &Format) -> bool {
        self.are_callable() && (*format == Format::Free || dialect.calls != Calls::Llama)
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

    /// The names of the tools that may be called.
    pub fn names(&self) -> Arc<[String]> {
        self.callable().into_iter().map(|tool| tool.name.clone()).collect()
    }

    fn callable(&self) -> Vec<&Tool> {
        let may = |tool: &&Tool| match &self.choice {
            Choice::None => false,
            Choice::Auto | Choice::Required => true,
            Choice::Named(name) => tool.name == *name,
        };
        self.all.iter().filter(may).collect()
    }

    /// What of the answer the prompt has already, where that is settled: a call that has to be made, or a format.
    pub fn opening(&self, dialect: Dialect, format: &Format) -> Option<&'static str> {
        if !self.is_forced() {
            let is_formatted = *format != Format::Free;
            let is_said = dialect.calls == Calls::Harmony && !self.are_callable();
            return is_formatted.then_some(if is_said { "<|channel|>final<|message|>" } else { "" });
        }
        Some(match dialect.calls {
            Calls::Hermes => "<tool_call>\n",
            Calls::Llama => "",
            Calls::Mistral | Calls::MistralArgs => "[TOOL_CALLS]",
            Calls::Harmony => "<|channel|>commentary",
        })
    }

    /// What the calls must look like; `answer` is the schema of an answer that is none. `control` knows the ids of control tokens.
    pub fn grammar(
        &self,
        dialect: Dialect,
        begins: Begins,
        answer: Option<&Value>,
        control: &dyn Fn(&str) -> Option<u32>,
    ) -> Grammar {
        grammar::grammar(dialect.calls, &self.callable(), begins, self.are_parallel, answer, control)
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
        let object = |value: &Value| {
            let is_object = match value.get("type") {
                None => true,
                Some(Value::Array(types)) => types.iter().any(|of| of == "object"),
                Some(of) => of == "object",
            };
            (is_object && value.is_object()).then(|| value.clone())
        };
        let parameters = function.read(schema, "the JSON schema of an object", object)?;
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
