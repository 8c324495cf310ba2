//! Chat templates: from messages to the prompt that a model was trained on.
//!
//! A model file carries its own template (`tokenizer.chat_template`), a program in the Jinja language. It runs here
//! under `minijinja` with the settings Hugging Face's `transformers` uses: blocks take their line break along,
//! unknown variables print as nothing, loops know `break` and `continue`, and there are `raise_exception`,
//! `strftime_now` and a `tojson` that escapes nothing for HTML. Values print as Python would print them.
//!
//! A template comes with a model from anywhere, so it runs on a budget of instructions ([`FUEL`] and
//! [`FUEL_PER_MESSAGE`]), and it cannot read files or load other templates. An instruction may double a string or compare
//! lists for hours, and a template may nest as deep as it is long; so its length is bounded ([`MAX_SOURCE`]), and it is
//! compiled and run on a thread whose stack, memory and time are ([`bounded`]).
//!
//! The result is the prompt in pieces that say who wrote what (module `provenance`), so that control tokens are
//! only read in the template's own words. Joined, the pieces are what Jinja2 gives, byte for byte.

mod content;
mod provenance;
mod python;
mod source;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::ValueKind;
use minijinja::{Environment, ErrorKind, Value, escape_formatter};
use serde_json::Map;

use crate::bounded::{self, Exceeded, Limits};
use crate::gguf::{Gguf, MetadataError};
use crate::tokenizer::{Piece, Tokenizer};
use content::Forms;
use provenance::{Marks, Selection, Twins};
use source::Segment;

pub use python::DateTime;

/// Instructions a template may run whatever it is given.
pub const FUEL: u64 = 100_000;

/// Instructions it may run besides for each message and each tool. Published templates take some 200.
pub const FUEL_PER_MESSAGE: u64 = 5_000;

/// The most bytes that a template's source may have. Published templates have some thousands.
pub const MAX_SOURCE: usize = 128 << 10;

/// What a template may take. The deepest nesting that [`MAX_SOURCE`] has room for takes less stack.
const LIMITS: Limits = Limits { stack: 256 << 20, memory: 256 << 20, time: Duration::from_secs(30) };

/// Memory for each byte of the messages besides: a template may look at them in several ways.
const MEMORY_PER_BYTE: usize = 64;

/// The ChatML template, for vocabularies that have its tokens and files that bring no template.
pub const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/// Why a prompt could not be made from messages.
#[derive(Debug, thiserror::Error)]
pub enum ChatError {
    /// The template's key has the wrong type.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// There is no template.
    #[error(
        "{file}: tokenizer.chat_template: missing, and the vocabulary has no <|im_start|> for a default; give a template with --chat-template, or the prompt as it is with --raw"
    )]
    NoTemplate {
        /// The file.
        file: String,
    },
    /// The template is not valid Jinja.
    #[error("{name}, line {line}: {message}; give another template with --chat-template")]
    Syntax {
        /// Where the template comes from.
        name: String,
        /// Line, from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// The template failed on these messages.
    #[error("{name}, line {line}: {message}")]
    Render {
        /// Where the template comes from.
        name: String,
        /// Line, from 1.
        line: usize,
        /// What went wrong; the template's own words where it called `raise_exception`.
        message: String,
    },
    /// The template ran too long.
    #[error(
        "{name}: the template ran for more than {fuel} instructions, so it may never end; give another one with --chat-template"
    )]
    Endless {
        /// Where the template comes from.
        name: String,
        /// The instructions it was given.
        fuel: u64,
    },
    /// The template's source is too long.
    #[error(
        "{name}: found a template of {bytes} bytes, expected at most {MAX_SOURCE}; give another one with --chat-template"
    )]
    Long {
        /// Where the template comes from.
        name: String,
        /// Length of its source.
        bytes: usize,
    },
    /// The template took too much memory or time.
    #[error("{name}: the template was stopped: {reason}; give another one with --chat-template")]
    Exceeded {
        /// Where the template comes from.
        name: String,
        /// What it took.
        reason: Exceeded,
    },
    /// The messages use up the characters needed to tell them from the template.
    #[error(
        "the messages hold private-use characters (U+F0000 to U+10EFFF) in such number that none are free; remove some"
    )]
    PrivateUse,
    /// A message is no JSON object, or has no role.
    #[error("message: found {found}, expected a JSON object with a string \"role\"")]
    Message {
        /// What was given.
        found: String,
    },
    /// What a message says is in no form that text has.
    #[error(
        "message {number}, from {role:?}: content: found {found}, expected a string, null or a list of \
         {{\"type\": \"text\", \"text\": …}}"
    )]
    Content {
        /// Which message, from 1.
        number: usize,
        /// Who speaks.
        role: String,
        /// What was given.
        found: String,
    },
}

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    fields: Map<String, serde_json::Value>,
}

impl Message {
    /// What `role` (`system`, `user`, `assistant`, `tool`, …) said.
    pub fn new(role: &str, content: &str) -> Message {
        let mut fields = Map::new();
        fields.insert("role".to_owned(), role.into());
        fields.insert("content".to_owned(), content.into());
        Message { fields }
    }

    /// A message with any fields a template may look at, such as `tool_calls` or `reasoning_content`.
    ///
    /// # Errors
    /// [`ChatError::Message`] when `value` is no object with a string `role`.
    pub fn from_json(value: serde_json::Value) -> Result<Message, ChatError> {
        match value {
            serde_json::Value::Object(fields) if fields.get("role").is_some_and(serde_json::Value::is_string) => {
                Ok(Message { fields })
            }
            other => Err(ChatError::Message { found: other.to_string() }),
        }
    }

    /// All that it says.
    pub fn fields(&self) -> &Map<String, serde_json::Value> {
        &self.fields
    }

    /// The same, said by `to` where `from` said it.
    #[must_use]
    pub fn with_role(mut self, from: &str, to: &str) -> Message {
        if self.role() == from {
            self.fields.insert("role".to_owned(), to.into());
        }
        self
    }

    /// Who speaks.
    pub fn role(&self) -> &str {
        let role = self.fields.get("role").and_then(serde_json::Value::as_str);
        role.unwrap_or_default()
    }

    /// What was said, when it is a plain string.
    pub fn content(&self) -> Option<&str> {
        self.fields.get("content")?.as_str()
    }
}

/// What a template is told beside the messages.
#[derive(Clone, Debug)]
pub struct RenderOptions {
    /// Whether the prompt ends with the start of an assistant's turn.
    pub add_generation_prompt: bool,
    /// Descriptions of tools, a JSON array.
    pub tools: Option<serde_json::Value>,
    /// What `strftime_now` takes for now.
    pub now: DateTime,
    /// Further variables, such as `enable_thinking` or `date_string`.
    pub variables: Map<String, serde_json::Value>,
}

impl Default for RenderOptions {
    /// A generation prompt, no tools, the present moment by the clock on the wall.
    fn default() -> RenderOptions {
        RenderOptions { add_generation_prompt: true, tools: None, now: DateTime::local_now(), variables: Map::new() }
    }
}

/// A chat template, compiled for one vocabulary.
#[derive(Clone, Debug)]
pub struct ChatTemplate(Arc<Template>);

#[derive(Debug)]
struct Template {
    name: String,
    segments: Vec<Segment>,
    source: String,
    marks: Marks,
    bos_token: String,
    eos_token: String,
    /// The forms of content that the template takes, once someone asked.
    forms: OnceLock<Forms>,
}

impl ChatTemplate {
    /// The template `source`, which messages call `name`, for the tokens of `tokenizer`.
    ///
    /// # Errors
    /// [`ChatError::Syntax`].
    pub fn new(name: &str, source: &str, tokenizer: &Tokenizer) -> Result<ChatTemplate, ChatError> {
        let text = |id: Option<u32>| {
            let bytes = id.and_then(|id| tokenizer.token_bytes(id).ok());
            bytes.map_or(String::new(), |bytes| String::from_utf8_lossy(bytes).into_owned())
        };
        let control: Vec<String> = tokenizer.control_texts().map(str::to_owned).collect();
        ChatTemplate::with_tokens(name, source, &text(tokenizer.bos()), &text(tokenizer.eos()), &control)
    }

    /// The template `source`, with the values of `bos_token` and `eos_token`, and the texts of all control tokens.
    ///
    /// # Errors
    /// [`ChatError::Syntax`].
    pub fn with_tokens(
        name: &str,
        source: &str,
        bos_token: &str,
        eos_token: &str,
        control_texts: &[String],
    ) -> Result<ChatTemplate, ChatError> {
        if source.len() > MAX_SOURCE {
            return Err(ChatError::Long { name: name.to_owned(), bytes: source.len() });
        }
        let segments = source::segments(source);
        let template = Template {
            name: name.to_owned(),
            source: segments.iter().map(Segment::source).collect(),
            marks: Marks::find(&segments, control_texts),
            segments,
            bos_token: bos_token.to_owned(),
            eos_token: eos_token.to_owned(),
            forms: OnceLock::new(),
        };
        let template = Arc::new(template);
        let shared = Arc::clone(&template);
        let compiled = bounded::run(LIMITS, move || {
            let environment = environment(DateTime::from_unix(0), FUEL);
            let compiled = environment.template_from_str(&shared.source).map(drop);
            compiled.map_err(|error| ChatError::Syntax {
                name: shared.name.clone(),
                line: error.line().unwrap_or(1),
                message: error.detail().unwrap_or("not valid Jinja").to_owned(),
            })
        });
        compiled.map_err(|reason| template.exceeded(reason))??;
        Ok(ChatTemplate(template))
    }

    /// The file's own template, or ChatML where the file has none and the vocabulary has its tokens.
    ///
    /// # Errors
    /// [`ChatError`]: no template, or one that is not valid.
    pub fn from_gguf(gguf: &Gguf, tokenizer: &Tokenizer) -> Result<ChatTemplate, ChatError> {
        let source = gguf.metadata().opt_str("tokenizer.chat_template")?;
        // As llama.cpp has it: an empty template means ChatML, whatever the vocabulary.
        let is_empty = source.is_some_and(|source| source.trim().is_empty());
        if let Some(source) = source.filter(|_| !is_empty) {
            let name = format!("{}: tokenizer.chat_template", gguf.name());
            return ChatTemplate::new(&name, source, tokenizer);
        }
        if is_empty || tokenizer.control_texts().any(|text| text == "<|im_start|>") {
            return ChatTemplate::new("the default template, ChatML", CHATML, tokenizer);
        }
        Err(ChatError::NoTemplate { file: gguf.name().to_owned() })
    }

    /// Its source, with the settings of `transformers` written out.
    pub fn source(&self) -> &str {
        &self.0.source
    }

    /// The prompt for `messages`, in pieces that say which text the template wrote itself.
    ///
    /// # Errors
    /// [`ChatError::Content`], [`ChatError::Render`], [`ChatError::Endless`], [`ChatError::Exceeded`] or [`ChatError::PrivateUse`].
    pub fn render(&self, messages: &[Message], options: &RenderOptions) -> Result<Vec<Piece>, ChatError> {
        let template = Arc::clone(&self.0);
        let given = inputs(messages, options).len();
        let limits = Limits { memory: LIMITS.memory + MEMORY_PER_BYTE * given, ..LIMITS };
        let (messages, options) = (messages.to_vec(), options.clone());
        let rendered = bounded::run(limits, move || template.render(&messages, &options));
        rendered.map_err(|reason| self.0.exceeded(reason))?
    }
}

impl Template {
    fn exceeded(&self, reason: Exceeded) -> ChatError {
        ChatError::Exceeded { name: self.name.clone(), reason }
    }

    fn render(&self, messages: &[Message], options: &RenderOptions) -> Result<Vec<Piece>, ChatError> {
        let messages = &self.with_contents(messages)?[..];
        let prompt = self.run(&self.source, [&self.bos_token, &self.eos_token], messages, options)?;
        let inputs = inputs(messages, options);
        let twins = self.marks.twins([inputs.as_str(), &prompt, &self.source]).ok_or(ChatError::PrivateUse)?;
        let all = self.marks.all();
        let marked = match self.run_marked(&all, &twins, messages, options) {
            Some(marked) if twins.unmark(&marked) == prompt => marked,
            _ => {
                let unchanged = |selection: &Selection| {
                    self.run_marked(selection, &twins, messages, options)
                        .is_some_and(|marked| twins.unmark(&marked) == prompt)
                };
                let selection = self.marks.narrowed(unchanged);
                self.run_marked(&selection, &twins, messages, options)
                    .filter(|marked| twins.unmark(marked) == prompt)
                    .unwrap_or(prompt)
            }
        };
        let roles: Vec<&str> = messages.iter().map(Message::role).collect();
        Ok(twins.pieces(&marked, &roles))
    }

    /// The rendering with the selected places marked; `None` when the marks make the template fail.
    fn run_marked(
        &self,
        selection: &Selection,
        twins: &Twins,
        messages: &[Message],
        options: &RenderOptions,
    ) -> Option<String> {
        let source = self.marks.marked_source(&self.segments, selection, twins);
        let ends =
            [&self.bos_token, &self.eos_token].map(|text| if selection.ends { twins.mark(text) } else { text.clone() });
        self.run(&source, [&ends[0], &ends[1]], messages, options).ok()
    }

    fn run(
        &self,
        source: &str,
        [bos_token, eos_token]: [&str; 2],
        messages: &[Message],
        options: &RenderOptions,
    ) -> Result<String, ChatError> {
        let n_tools = options.tools.as_ref().and_then(serde_json::Value::as_array).map_or(0, Vec::len);
        let fuel = FUEL + FUEL_PER_MESSAGE * (messages.len() + n_tools) as u64;
        let messages: Vec<Value> = messages.iter().map(|message| object(&message.fields)).collect();
        let tools = options.tools.as_ref().map_or(Value::from(()), value);
        let given = [
            ("messages", Value::from(messages)),
            ("tools", tools),
            ("documents", Value::from(())),
            ("add_generation_prompt", Value::from(options.add_generation_prompt)),
            ("bos_token", Value::from(bos_token)),
            ("eos_token", Value::from(eos_token)),
        ];
        let further = options.variables.iter().map(|(name, json)| (name.as_str(), value(json)));
        let context = Value::from_pairs(given.into_iter().chain(further));
        let environment = environment(options.now, fuel);
        let rendered = environment.template_from_str(source).and_then(|template| template.render(context));
        rendered.map_err(|error| match error.kind() {
            ErrorKind::OutOfFuel => ChatError::Endless { name: self.name.clone(), fuel },
            kind => ChatError::Render {
                name: self.name.clone(),
                line: error.line().unwrap_or(1),
                message: match error.detail() {
                    Some(detail) if kind == ErrorKind::InvalidOperation => detail.to_owned(),
                    Some(detail) => format!("{kind}: {detail}"),
                    None => kind.to_string(),
                },
            },
        })
    }
}

/// The engine with the settings of `transformers`.
fn environment<'a>(now: DateTime, fuel: u64) -> Environment<'a> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().unwrap_or_default());
    environment.set_fuel(Some(fuel));
    environment.set_unknown_method_callback(python::method);
    environment.set_formatter(|out, state, value| match value.kind() {
        ValueKind::Seq | ValueKind::Map | ValueKind::Number => {
            out.write_str(&python::python_str(value)?).map_err(minijinja::Error::from)
        }
        _ => escape_formatter(out, state, value),
    });
    environment.add_filter("tojson", |value: Value, options| python::tojson(&value, options));
    environment.add_filter("string", |value: Value| python::python_str(&value));
    environment.add_test("sequence", |value: &Value| {
        matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::String)
    });
    // What Python's iter takes: not None, nor a number.
    environment.add_test("iterable", |value: &Value| {
        !matches!(value.kind(), ValueKind::None | ValueKind::Bool | ValueKind::Number | ValueKind::Invalid)
    });
    environment.add_function("raise_exception", |message: String| {
        Err::<Value, _>(minijinja::Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_function("strftime_now", move |format: &str| now.strftime(format));
    environment
}

/// Everything a caller said, as one text: no twin may occur in it.
fn inputs(messages: &[Message], options: &RenderOptions) -> String {
    let mut text = String::new();
    for message in messages {
        collect_strings(message.fields.iter(), &mut text);
    }
    collect_strings(options.variables.iter(), &mut text);
    if let Some(tools) = &options.tools {
        collect_string(tools, &mut text);
    }
    text
}

fn collect_strings<'a>(fields: impl Iterator<Item = (&'a String, &'a serde_json::Value)>, text: &mut String) {
    for (key, value) in fields {
        text.push_str(key);
        collect_string(value, text);
    }
}

fn collect_string(value: &serde_json::Value, text: &mut String) {
    match value {
        serde_json::Value::String(string) => text.push_str(string),
        serde_json::Value::Array(items) => items.iter().for_each(|item| collect_string(item, text)),
        serde_json::Value::Object(fields) => collect_strings(fields.iter(), text),
        _ => {}
    }
}

/// A JSON value as the engine's. Objects keep the order of their keys.
fn value(json: &serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::from(()),
        serde_json::Value::Bool(truth) => Value::from(*truth),
        serde_json::Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(integer), _) => Value::from(integer),
            (None, Some(integer)) => Value::from(integer),
            (None, None) => Value::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        serde_json::Value::String(text) => Value::from(text.as_str()),
        serde_json::Value::Array(items) => Value::from(items.iter().map(value).collect::<Vec<_>>()),
        serde_json::Value::Object(fields) => object(fields),
    }
}

fn object(fields: &Map<String, serde_json::Value>) -> Value {
    Value::from_pairs(fields.iter().map(|(key, json)| (key.as_str(), value(json))))
}
