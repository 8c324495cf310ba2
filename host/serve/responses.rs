//! OpenAI's `/v1/responses`. Nothing is stored: each request has the whole conversation.

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
    model::seconds,
    running::{Running, Update},
    sse::{Said, Voice, respond},
    tools::Delta,
};
use crate::{
    api::{FieldError, Fields, Usage, number},
    generate::Stop,
};

/// Fields that change nothing in an answer.
const LABELS: [&str; 8] = [
    "store",
    "metadata",
    "user",
    "safety_identifier",
    "prompt_cache_key",
    "service_tier",
    "include",
    "client_metadata",
];

/// Answers a request.
///
/// # Errors
/// What is wrong with it.
pub async fn create(State(app): State<Arc<App>>, request: Request) -> Result<Response, Failure> {
    let body = app.json(request).await?;
    let (Body { asked, tools, stream }, echo) = read(&app, body)?;
    let running = Running::begin(&app, asked, tools).await.map_err(renamed)?;
    let id = app.id("resp_");
    let mut voice = Items {
        app: Arc::clone(&app),
        id,
        created: seconds(),
        echo,
        items: Vec::new(),
        open: None,
        end: None,
        number: 0,
    };
    if stream.is_wanted {
        return Ok(respond(running, voice));
    }
    let mut running = running;
    let mut usage = None;
    while let Some(update) = running.next().await.map_err(renamed)? {
        if let Update::Done(done) = update {
            usage = Some(done);
        }
        voice.say(update);
    }
    Ok(Json(voice.response(voice.status(), usage)).into_response())
}

/// A failure by the names of this interface's fields.
fn renamed(failure: Failure) -> Failure {
    let failure = failure.renamed("messages", "input").renamed("max_completion_tokens", "max_output_tokens");
    let failure =
        failure.renamed("response_format.json_schema", "text.format").renamed("response_format", "text.format");
    failure.renamed("reasoning_effort", "reasoning.effort")
}

/// Reads a body, as a chat completion's, and what of it the answer repeats.
fn read(app: &App, body: Value) -> Result<(Body, Map<String, Value>), Failure> {
    let mut fields = Fields::new(if body.is_object() { "" } else { "body" }, body)?;
    fields.pass_over(&LABELS);
    let mut chat = Map::new();
    let mut echo = Map::new();
    for name in
        ["model", "temperature", "top_p", "tools", "tool_choice", "parallel_tool_calls", "stream", "stream_options"]
    {
        if let Some(value) = fields.take(name) {
            if ["temperature", "top_p", "tools", "tool_choice"].contains(&name) {
                echo.insert(name.to_owned(), value.clone());
            }
            chat.insert(name.to_owned(), value);
        }
    }
    if let Some(most) = fields.take("max_output_tokens") {
        echo.insert("max_output_tokens".to_owned(), most.clone());
        chat.insert("max_completion_tokens".to_owned(), most);
    }
    for field in ["previous_response_id", "conversation", "prompt"] {
        if let Some(value) = fields.take(field) {
            return Err(
                FieldError::new(field, &value, "none: nothing is stored here; give the conversation as input").into()
            );
        }
    }
    if fields.flag("background")? == Some(true) {
        return Err(FieldError::new("background", &true.into(), "false: it is not supported here").into());
    }
    let truncation = |value: &Value| value.as_str().filter(|name| *name == "disabled").map(drop);
    fields.read("truncation", "disabled: a conversation is never cut here", truncation)?;
    if let Some(n) = fields.count("top_logprobs", 0, 20)?.filter(|n| *n > 0) {
        return Err(FieldError::new("top_logprobs", &n.into(), "0: /v1/chat/completions has them").into());
    }
    if let Some(reasoning) = fields.take("reasoning") {
        let mut reasoning = Fields::new("reasoning", reasoning)?;
        chat.extend(reasoning.take("effort").map(|effort| ("reasoning_effort".to_owned(), effort)));
        // Thoughts are given whole.
        reasoning.pass_over(&["summary", "generate_summary"]);
        reasoning.expect_none()?;
    }
    if let Some(text) = fields.take("text") {
        let mut text = Fields::new("text", text)?;
        text.pass_over(&["verbosity"]);
        if let Some(format) = text.take("format") {
            echo.insert("text".to_owned(), json!({ "format": format }));
            chat.insert("response_format".to_owned(), nested(format));
        }
        text.expect_none()?;
    }
    let mut messages = Vec::new();
    if let Some(instructions) = fields.text("instructions")? {
        echo.insert("instructions".to_owned(), instructions.as_str().into());
        messages.push(json!({ "role": "system", "content": instructions }));
    }
    conversation(&mut fields, &mut messages)?;
    chat.insert("messages".to_owned(), messages.into());
    fields.expect_none()?;
    let body = Body::read(app, chat.into()).map_err(renamed)?;
    // What holds, whether the request said it or not.
    echo.insert("parallel_tool_calls".to_owned(), body.tools.are_parallel.into());
    let sampler = &body.asked.sampler;
    for (name, value) in [("temperature", sampler.temp), ("top_p", sampler.top_p)] {
        echo.entry(name).or_insert_with(|| number(value));
    }
    Ok((body, echo))
}

/// A schema's fields, which chat completions have one level deeper.
fn nested(format: Value) -> Value {
    match format {
        Value::Object(mut fields) if fields.get("type").is_some_and(|kind| kind == "json_schema") => {
            fields.shift_remove("type");
            json!({ "type": "json_schema", "json_schema": fields })
        }
        other => other,
    }
}

/// Input as messages of chat completions.
fn conversation(fields: &mut Fields, messages: &mut Vec<Value>) -> Result<(), FieldError> {
    let expected = "a string or an array of items";
    let items = match fields.take("input") {
        Some(Value::String(text)) => {
            messages.push(json!({ "role": "user", "content": text }));
            return Ok(());
        }
        Some(Value::Array(items)) if !items.is_empty() => items,
        other => return Err(FieldError::new("input", &other.unwrap_or_default(), expected)),
    };
    for (index, item) in items.iter().enumerate() {
        let path = format!("input[{index}]");
        let text = |field: &str| {
            let value = item.get(field).unwrap_or(&Value::Null);
            let text = value.as_str().map(str::to_owned);
            text.ok_or_else(|| FieldError::new(&format!("{path}.{field}"), value, "a string"))
        };
        match item.get("type").and_then(Value::as_str) {
            None | Some("message") => {
                let role = text("role")?;
                let content = said(item.get("content").unwrap_or(&Value::Null), &format!("{path}.content"))?;
                messages.push(json!({ "role": role, "content": content }));
            }
            Some("function_call") => {
                let function = json!({ "name": text("name")?, "arguments": text("arguments")? });
                let call = json!({ "id": text("call_id")?, "type": "function", "function": function });
                match messages.last_mut() {
                    // Several calls, and words before them, are one message.
                    Some(last) if last["role"] == "assistant" => {
                        match last.get_mut("tool_calls").and_then(Value::as_array_mut) {
                            Some(calls) => calls.push(call),
                            None => last["tool_calls"] = json!([call]),
                        }
                    }
                    _ => messages.push(json!({ "role": "assistant", "content": "", "tool_calls": [call] })),
                }
            }
            Some("function_call_output") => {
                let content = said(item.get("output").unwrap_or(&Value::Null), &format!("{path}.output"))?;
                messages.push(json!({ "role": "tool", "tool_call_id": text("call_id")?, "content": content }));
            }
            // Past thoughts are not shown to a model again.
            Some("reasoning") => {}
            Some(_) => {
                return Err(FieldError::new(
                    &path,
                    item,
                    "a message, function_call, function_call_output or reasoning",
                ));
            }
        }
    }
    Ok(())
}

/// The text of a content.
fn said(content: &Value, path: &str) -> Result<String, FieldError> {
    match content {
        Value::String(text) => Ok(text.clone()),
        Value::Array(parts) => {
            let mut texts = Vec::with_capacity(parts.len());
            for (index, part) in parts.iter().enumerate() {
                let kind = part.get("type").and_then(Value::as_str).unwrap_or_default();
                let text = part.get("text").and_then(Value::as_str);
                let text = text.filter(|_| ["input_text", "output_text", "text", "refusal"].contains(&kind));
                let expected = "a part of type input_text or output_text: no other is supported here";
                texts.push(text.ok_or_else(|| FieldError::new(&format!("{path}[{index}]"), part, expected))?);
            }
            Ok(texts.join("\n"))
        }
        other => Err(FieldError::new(path, other, "a string or an array of parts")),
    }
}

/// A part that grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Open {
    Reasoning,
    Message,
    Call,
}

/// A response: its items so far, each of which a stream says as it comes.
struct Items {
    app: Arc<App>,
    id: String,
    created: u64,
    echo: Map<String, Value>,
    items: Vec<Value>,
    /// The last item, while it grows.
    open: Option<Open>,
    end: Option<Stop>,
    /// Of the next event.
    number: usize,
}

impl Items {
    fn status(&self) -> &'static str {
        match self.end {
            Some(Stop::Eos | Stop::StopString(_)) => "completed",
            _ => "incomplete",
        }
    }

    fn response(&self, status: &str, usage: Option<Usage>) -> Value {
        let usage = usage.map(|usage| {
            json!({
                "input_tokens": usage.n_prompt,
                "input_tokens_details": { "cached_tokens": usage.n_cached },
                "output_tokens": usage.n_completion,
                "output_tokens_details": { "reasoning_tokens": usage.n_reasoning },
                "total_tokens": usage.n_prompt + usage.n_completion,
            })
        });
        let details = (status == "incomplete").then(|| json!({ "reason": "max_output_tokens" }));
        let mut response = json!({
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "error": null,
            "incomplete_details": details,
            "instructions": null,
            "max_output_tokens": null,
            "model": self.app.model.id,
            "output": self.items,
            "previous_response_id": null,
            "store": false,
            "text": { "format": { "type": "text" } },
            "tool_choice": "auto",
            "tools": [],
            "truncation": "disabled",
            "usage": usage,
            "metadata": {},
        });
        if let Some(fields) = response.as_object_mut() {
            fields.extend(self.echo.clone());
        }
        response
    }

    fn event(&mut self, name: &'static str, more: Value) -> Said {
        let mut data = json!({ "type": name, "sequence_number": self.number });
        self.number += 1;
        if let (Some(data), Value::Object(more)) = (data.as_object_mut(), more) {
            data.extend(more);
        }
        Said::named(name, &data)
    }

    /// The id and index of the last item.
    fn last(&self) -> (Value, usize) {
        let index = self.items.len() - 1;
        (self.items[index]["id"].clone(), index)
    }

    /// Ends the item that grows.
    fn close(&mut self, said: &mut Vec<Said>) {
        let Some(open) = self.open.take() else { return };
        let (id, index) = self.last();
        let status = if self.end.is_some() && self.status() == "incomplete" { "incomplete" } else { "completed" };
        self.items[index]["status"] = status.into();
        if open == Open::Call {
            let arguments = &self.items[index]["arguments"];
            let done = json!({ "item_id": id, "output_index": index, "name": self.items[index]["name"], "arguments": arguments });
            said.push(self.event("response.function_call_arguments.done", done));
        } else {
            let part = self.items[index]["content"][0].clone();
            let mut text = json!({ "item_id": id, "output_index": index, "content_index": 0, "text": part["text"] });
            let done = match open {
                Open::Message => {
                    text["logprobs"] = json!([]);
                    "response.output_text.done"
                }
                _ => "response.reasoning_text.done",
            };
            said.push(self.event(done, text));
            let place = json!({ "item_id": id, "output_index": index, "content_index": 0, "part": part });
            said.push(self.event("response.content_part.done", place));
        }
        let item = self.items[index].clone();
        said.push(self.event("response.output_item.done", json!({ "output_index": index, "item": item })));
    }

    /// Begins an item.
    fn open(&mut self, kind: Open, item: Value, said: &mut Vec<Said>) {
        self.close(said);
        let added = json!({ "output_index": self.items.len(), "item": item });
        said.push(self.event("response.output_item.added", added));
        self.items.push(item);
        self.open = Some(kind);
    }

    /// Adds to the item that grows, a new one where that is of another kind.
    fn add(&mut self, kind: Open, text: &str, said: &mut Vec<Said>) {
        if self.open != Some(kind) {
            let (item, part) = match kind {
                Open::Reasoning => (
                    json!({ "id": self.app.id("rs_"), "type": "reasoning", "summary": [], "content": [], "status": "in_progress" }),
                    json!({ "type": "reasoning_text", "text": "" }),
                ),
                _ => (
                    json!({ "id": self.app.id("msg_"), "type": "message", "role": "assistant", "content": [], "status": "in_progress" }),
                    json!({ "type": "output_text", "text": "", "annotations": [], "logprobs": [] }),
                ),
            };
            self.open(kind, item, said);
            let (id, index) = self.last();
            let place = json!({ "item_id": id, "output_index": index, "content_index": 0, "part": part });
            said.push(self.event("response.content_part.added", place));
            self.items[index]["content"] = json!([part]);
        }
        let (id, index) = self.last();
        if let Value::String(whole) = &mut self.items[index]["content"][0]["text"] {
            whole.push_str(text);
        }
        let mut delta = json!({ "item_id": id, "output_index": index, "content_index": 0, "delta": text });
        let name = match kind {
            Open::Reasoning => "response.reasoning_text.delta",
            _ => {
                delta["logprobs"] = json!([]);
                "response.output_text.delta"
            }
        };
        said.push(self.event(name, delta));
    }

    /// Begins a call.
    fn call(&mut self, name: &str, said: &mut Vec<Said>) {
        let (id, call_id) = (self.app.id("fc_"), self.app.id("call_"));
        let item = json!({
            "id": id, "type": "function_call", "call_id": call_id, "name": name, "arguments": "", "status": "in_progress",
        });
        self.open(Open::Call, item, said);
    }

    /// Adds to the call that grows.
    fn arguments(&mut self, text: &str, said: &mut Vec<Said>) {
        let (id, index) = self.last();
        if let Value::String(whole) = &mut self.items[index]["arguments"] {
            whole.push_str(text);
        }
        let delta = json!({ "item_id": id, "output_index": index, "delta": text });
        said.push(self.event("response.function_call_arguments.delta", delta));
    }
}

impl Voice for Items {
    fn begin(&mut self) -> Vec<Said> {
        let response = self.response("in_progress", None);
        let names = ["response.created", "response.in_progress"];
        names.map(|name| self.event(name, json!({ "response": response }))).into()
    }

    fn say(&mut self, update: Update) -> Vec<Said> {
        let mut said = Vec::new();
        match update {
            Update::Delta { parts, .. } => {
                for part in parts {
                    match part {
                        Delta::Reasoning(text) => self.add(Open::Reasoning, &text, &mut said),
                        Delta::Content(text) => self.add(Open::Message, &text, &mut said),
                        Delta::Call(name) => self.call(&name, &mut said),
                        Delta::Arguments(text) => self.arguments(&text, &mut said),
                    }
                }
            }
            Update::End { stop, .. } => {
                self.end = Some(stop);
                self.close(&mut said);
            }
            Update::Done(usage) => {
                let status = self.status();
                let name = if status == "completed" { "response.completed" } else { "response.incomplete" };
                let response = self.response(status, Some(usage));
                said.push(self.event(name, json!({ "response": response })));
            }
        }
        said
    }

    fn fail(&mut self, failure: &Failure) -> Vec<Said> {
        let mut response = self.response("failed", None);
        response["error"] = json!({ "code": failure.code, "message": failure.message });
        vec![self.event("response.failed", json!({ "response": response }))]
    }
}
