//! Anthropic's `/v1/messages`, and the count of a request's tokens.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value, json};

use super::{
    App, Failure,
    chat::Body,
    running::{Running, Update},
    sse::{Said, Voice, respond},
    tools::{Choice, Delta, Tool, Tools, take_array},
};
use crate::{
    api::{Asked, FieldError, Fields, Form, Usage},
    generate::Stop,
};

/// Answers a request.
///
/// # Errors
/// What is wrong with it.
pub async fn create(State(app): State<Arc<App>>, request: Request) -> Result<Response, Failure> {
    let body = app.json(request).await?;
    let Body { asked, tools, stream } = read(&app, body, true)?;
    let running = Running::begin(&app, asked, tools).await?;
    let n_prompt = running.usage().n_prompt;
    let voice = Message {
        app: Arc::clone(&app),
        id: app.id("msg_"),
        n_prompt,
        blocks: Vec::new(),
        input: String::new(),
        end: Value::Null,
    };
    if stream.is_wanted {
        return Ok(respond(running, voice));
    }
    let (mut running, mut voice) = (running, voice);
    let mut usage = Usage::default();
    while let Some(update) = running.next().await? {
        if let Update::Done(done) = update {
            usage = done;
        }
        voice.say(update);
    }
    Ok(Json(voice.object(usage)).into_response())
}

/// Counts a request's tokens.
///
/// # Errors
/// What is wrong with it.
pub async fn count_tokens(State(app): State<Arc<App>>, request: Request) -> Result<Json<Value>, Failure> {
    let body = app.json(request).await?;
    let Body { asked, tools, .. } = read(&app, body, false)?;
    let count = app.work({
        let app = Arc::clone(&app);
        move || {
            let count = |prompt| Ok::<_, Failure>(app.model.ids(prompt, &tools, &asked.format)?.ids.len());
            asked.prompts.iter().map(count).sum::<Result<usize, Failure>>()
        }
    });
    Ok(Json(json!({ "input_tokens": count.await?? })))
}

/// Reads a body, as a chat completion's.
fn read(app: &App, body: Value, with_limit: bool) -> Result<Body, Failure> {
    let mut fields = Fields::new(if body.is_object() { "" } else { "body" }, body)?;
    let mut chat = Map::new();
    // What both interfaces have, and call the same.
    for name in ["temperature", "top_p", "top_k"] {
        chat.extend(fields.take(name).map(|value| (name.to_owned(), value)));
    }
    fields.text("model")?;
    let expected = "a whole number of tokens, at least 1";
    match fields.count("max_tokens", 1, u64::from(u32::MAX))? {
        Some(n) => drop(chat.insert("max_tokens".to_owned(), n.into())),
        None if with_limit => return Err(FieldError::new("max_tokens", &Value::Null, expected).into()),
        None => {}
    }
    let is_streamed = fields.flag("stream")?.unwrap_or(false);
    if let Some(stop) = fields.take("stop_sequences") {
        chat.insert("stop".to_owned(), stop);
    }
    let tools = tools(&mut fields)?;
    let mut variables = Map::new();
    if let Some(thinking) = fields.take("thinking") {
        let path = "thinking.type";
        let kind = thinking.get("type").cloned().unwrap_or(Value::Null);
        let thinks = match kind.as_str() {
            Some("enabled" | "adaptive") => true,
            Some("disabled") => false,
            _ => return Err(FieldError::new(path, &kind, "enabled, adaptive or disabled").into()),
        };
        variables.insert("enable_thinking".to_owned(), thinks.into());
    }
    chat.insert("chat_template_kwargs".to_owned(), variables.into());
    fields.pass_over(&["metadata", "service_tier", "betas", "cache_control"]);
    chat.insert("messages".to_owned(), conversation(&mut fields)?.into());
    fields.expect_none()?;
    let asked = Asked::read(Form::Chat, chat.into(), &app.model.defaults);
    let asked = asked.map_err(|error| Failure::from(error).renamed("stop", "stop_sequences"))?;
    let stream = super::chat::Stream { is_wanted: is_streamed, with_usage: true };
    let body = Body { asked, tools, stream };
    body.check(app)?;
    Ok(body)
}

fn tools(fields: &mut Fields) -> Result<Tools, FieldError> {
    let mut all = Vec::new();
    for (index, value) in take_array(fields, "tools")?.into_iter().enumerate() {
        let mut tool = Fields::new(&format!("tools[{index}]"), value)?;
        let path = tool.name("type");
        match tool.text("type")?.as_deref() {
            None | Some("custom") => {}
            Some(other) => return Err(FieldError::new(&path, &other.into(), "custom: no other kind is supported")),
        }
        all.push(Tool::take(tool, "input_schema")?);
    }
    let (mut choice, mut are_parallel) = (None, None);
    if let Some(value) = fields.take("tool_choice") {
        let mut object = Fields::new("tool_choice", value)?;
        let name = object.text("name")?;
        are_parallel = object.flag("disable_parallel_tool_use")?.map(|is_off| !is_off);
        choice = Some(match (object.text("type")?.as_deref(), name) {
            (Some("auto"), None) => Choice::Auto,
            (Some("none"), None) => Choice::None,
            (Some("any"), None) => Choice::Required,
            (Some("tool"), Some(name)) => Choice::Named(name),
            (other, _) => {
                let expected = "auto, any, none, or tool with a name";
                return Err(FieldError::new("tool_choice.type", &other.into(), expected));
            }
        });
        object.expect_none()?;
    }
    let are_parallel = are_parallel.unwrap_or(choice != Some(Choice::Required));
    Tools::new(all, choice, are_parallel)
}

/// Messages as chat completions have them.
fn conversation(fields: &mut Fields) -> Result<Vec<Value>, FieldError> {
    let mut messages = Vec::new();
    match fields.take("system") {
        None => {}
        Some(Value::String(text)) => messages.push(json!({ "role": "system", "content": text })),
        Some(value) => {
            let parts = blocks(&value, "system")?;
            let text: Vec<String> = parts
                .iter()
                .enumerate()
                .map(|(index, part)| text_of(part, &format!("system[{index}]")))
                .collect::<Result<_, _>>()?;
            messages.push(json!({ "role": "system", "content": text.join("\n") }));
        }
    }
    let expected = "an array of messages, each with the role user or assistant";
    let Some(Value::Array(all)) = fields.take("messages") else {
        return Err(FieldError::new("messages", &Value::Null, expected));
    };
    if all.is_empty() {
        return Err(FieldError::new("messages", &Value::Array(all), expected));
    }
    for (index, message) in all.iter().enumerate() {
        let path = format!("messages[{index}]");
        let role = message.get("role").and_then(Value::as_str);
        let content = message.get("content").unwrap_or(&Value::Null);
        match role {
            Some("user" | "system") => user(role.unwrap_or("user"), content, &path, &mut messages)?,
            Some("assistant") => messages.push(assistant(content, &path)?),
            _ => return Err(FieldError::new(&path, message, "an object with the role user or assistant")),
        }
    }
    if messages.last().is_some_and(|last| last["role"] == "assistant") {
        let path = format!("messages[{}].role", all.len() - 1);
        return Err(FieldError::new(&path, &"assistant".into(), "user: an answer that is begun is not gone on with"));
    }
    Ok(messages)
}

fn blocks(content: &Value, path: &str) -> Result<Vec<Value>, FieldError> {
    match content {
        Value::String(text) => Ok(vec![json!({ "type": "text", "text": text })]),
        Value::Array(blocks) => Ok(blocks.clone()),
        other => Err(FieldError::new(path, other, "a string or an array of blocks")),
    }
}

fn kind(block: &Value) -> &str {
    block.get("type").and_then(Value::as_str).unwrap_or_default()
}

fn string(block: &Value, field: &str, path: &str) -> Result<String, FieldError> {
    let value = block.get(field).unwrap_or(&Value::Null);
    let text = value.as_str().map(str::to_owned);
    text.ok_or_else(|| FieldError::new(&format!("{path}.{field}"), value, "a string"))
}

fn text_of(block: &Value, path: &str) -> Result<String, FieldError> {
    match kind(block) {
        "text" => string(block, "text", path),
        _ => Err(FieldError::new(path, block, "a block of type text: no other is supported here")),
    }
}

fn user(role: &str, content: &Value, path: &str, messages: &mut Vec<Value>) -> Result<(), FieldError> {
    let mut texts = Vec::new();
    for (index, block) in blocks(content, &format!("{path}.content"))?.iter().enumerate() {
        let path = format!("{path}.content[{index}]");
        if kind(block) != "tool_result" {
            texts.push(text_of(block, &path)?);
            continue;
        }
        let id = string(block, "tool_use_id", &path)?;
        let path = format!("{path}.content");
        let said = match block.get("content") {
            None | Some(Value::Null) => Vec::new(),
            Some(content) => blocks(content, &path)?,
        };
        let said: Vec<String> = said.iter().map(|block| text_of(block, &path)).collect::<Result<_, _>>()?;
        messages.push(json!({ "role": "tool", "tool_call_id": id, "content": said.join("\n") }));
    }
    if !texts.is_empty() || messages.is_empty() {
        messages.push(json!({ "role": role, "content": texts.join("\n") }));
    }
    Ok(())
}

fn assistant(content: &Value, path: &str) -> Result<Value, FieldError> {
    let (mut texts, mut calls, mut thoughts) = (Vec::new(), Vec::new(), Vec::new());
    for (index, block) in blocks(content, &format!("{path}.content"))?.iter().enumerate() {
        let path = format!("{path}.content[{index}]");
        match kind(block) {
            "tool_use" => {
                let (id, name) = (string(block, "id", &path)?, string(block, "name", &path)?);
                let input = block.get("input").unwrap_or(&Value::Null);
                if !input.is_object() {
                    return Err(FieldError::new(&format!("{path}.input"), input, "an object"));
                }
                let function = json!({ "name": name, "arguments": input.to_string() });
                calls.push(json!({ "id": id, "type": "function", "function": function }));
            }
            "thinking" => thoughts.push(string(block, "thinking", &path)?),
            "redacted_thinking" => {}
            _ => texts.push(text_of(block, &path)?),
        }
    }
    let mut message = json!({ "role": "assistant", "content": texts.join("\n") });
    if !calls.is_empty() {
        message["tool_calls"] = calls.into();
    }
    if !thoughts.is_empty() {
        message["reasoning_content"] = thoughts.join("\n").into();
    }
    Ok(message)
}

/// An answer: its blocks so far, each of which stream says as it comes.
struct Message {
    app: Arc<App>,
    id: String,
    n_prompt: usize,
    blocks: Vec<Value>,
    /// The arguments of the call that is the last block, so far.
    input: String,
    /// Why it ended, as `message_delta` has it.
    end: Value,
}

impl Message {
    fn usage(usage: Usage) -> Value {
        json!({
            "input_tokens": usage.n_prompt - usage.n_cached,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": usage.n_cached,
            "output_tokens": usage.n_completion,
        })
    }

    fn object(&self, usage: Usage) -> Value {
        json!({
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.app.model.id,
            "content": self.blocks,
            "stop_reason": self.end["stop_reason"],
            "stop_sequence": self.end["stop_sequence"],
            "usage": Message::usage(usage),
        })
    }

    fn event(name: &'static str, more: Value) -> Said {
        let mut data = json!({ "type": name });
        if let (Some(data), Value::Object(more)) = (data.as_object_mut(), more) {
            data.extend(more);
        }
        Said::named(name, &data)
    }

    /// Begins a block, and ends the one before.
    fn start_block(&mut self, block: Value, said: &mut Vec<Said>) {
        said.extend(self.stop_block());
        said.push(Message::event("content_block_start", json!({ "index": self.blocks.len(), "content_block": block })));
        self.blocks.push(block);
    }

    /// Ends the last block.
    fn stop_block(&mut self) -> Option<Said> {
        let index = self.blocks.len().checked_sub(1)?;
        let block = &mut self.blocks[index];
        if block["type"] == "tool_use" {
            // Arguments that a limit cut are no JSON.
            block["input"] = serde_json::from_str(&std::mem::take(&mut self.input)).unwrap_or_else(|_| json!({}));
        }
        Some(Message::event("content_block_stop", json!({ "index": index })))
    }

    /// Adds to a block of text, a new one where the last is of another kind.
    fn add(&mut self, kind: &'static str, field: &'static str, text: &str, said: &mut Vec<Said>) {
        if self.blocks.last().is_none_or(|block| block["type"] != kind) {
            let mut block = json!({ "type": kind, field: "" });
            if kind == "thinking" {
                block["signature"] = "".into();
            }
            self.start_block(block, said);
        }
        let index = self.blocks.len() - 1;
        if let Value::String(whole) = &mut self.blocks[index][field] {
            whole.push_str(text);
        }
        let delta = json!({ "type": format!("{field}_delta"), field: text });
        said.push(Message::event("content_block_delta", json!({ "index": index, "delta": delta })));
    }
}

impl Voice for Message {
    fn begin(&mut self) -> Vec<Said> {
        let message = self.object(Usage { n_prompt: self.n_prompt, ..Usage::default() });
        vec![Message::event("message_start", json!({ "message": message }))]
    }

    fn say(&mut self, update: Update) -> Vec<Said> {
        let mut said = Vec::new();
        match update {
            Update::Delta { parts, .. } => {
                for part in parts {
                    match part {
                        Delta::Reasoning(text) => self.add("thinking", "thinking", &text, &mut said),
                        Delta::Content(text) => self.add("text", "text", &text, &mut said),
                        Delta::Call(name) => {
                            let id = self.app.id("toolu_");
                            let block = json!({ "type": "tool_use", "id": id, "name": name, "input": {} });
                            self.start_block(block, &mut said);
                        }
                        Delta::Arguments(text) => {
                            let delta = json!({ "type": "input_json_delta", "partial_json": text });
                            let more = json!({ "index": self.blocks.len().saturating_sub(1), "delta": delta });
                            said.push(Message::event("content_block_delta", more));
                            self.input += &text;
                        }
                    }
                }
            }
            Update::End { stop, has_calls, .. } => {
                said.extend(self.stop_block());
                let (reason, sequence) = match stop {
                    Stop::StopString(text) => ("stop_sequence", Some(text)),
                    Stop::Eos if has_calls => ("tool_use", None),
                    Stop::Eos => ("end_turn", None),
                    Stop::Length | Stop::ContextFull | Stop::Interrupted => ("max_tokens", None),
                };
                self.end = json!({ "stop_reason": reason, "stop_sequence": sequence });
            }
            Update::Done(usage) => {
                let delta = json!({ "delta": self.end, "usage": Message::usage(usage) });
                said.push(Message::event("message_delta", delta));
                said.push(Message::event("message_stop", json!({})));
            }
        }
        said
    }

    fn fail(&mut self, failure: &Failure) -> Vec<Said> {
        vec![Said::named("error", &failure.body())]
    }
}
