//! `/v1/chat/completions`.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value, json};

use super::{
    App, Failure,
    model::seconds,
    running::{Call, Running, Update, Written},
    sse::{Said, Voice, respond},
    tools::{Delta, Tools},
};
use crate::{
    api::{Asked, FieldError, Fields, Form, Format, Prompt, finish_reason, token_logprobs},
    generate::{Stop, TokenLogprobs},
};

/// Whether an answer comes in parts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stream {
    /// It does.
    pub is_wanted: bool,
    /// The last part says how many tokens there were.
    pub with_usage: bool,
}

impl Stream {
    /// Takes `stream` and `stream_options`.
    ///
    /// # Errors
    /// [`FieldError`].
    pub fn take(fields: &mut Fields) -> Result<Stream, FieldError> {
        let is_wanted = fields.flag("stream")?.unwrap_or(false);
        let mut with_usage = false;
        if let Some(options) = fields.take("stream_options") {
            let mut options = Fields::new("stream_options", options)?;
            with_usage = options.flag("include_usage")?.unwrap_or(false);
            options.pass_over(&["include_obfuscation", "continuous_usage_stats"]);
            options.expect_none()?;
        }
        Ok(Stream { is_wanted, with_usage })
    }
}

/// A body, read.
pub struct Body {
    /// What is to be written.
    pub asked: Asked,
    /// With which tools.
    pub tools: Tools,
    /// Whether in parts.
    pub stream: Stream,
}

impl Body {
    /// Reads a body.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(app: &App, body: Value) -> Result<Body, Failure> {
        let mut fields = Fields::new(if body.is_object() { "" } else { "body" }, body)?;
        let stream = Stream::take(&mut fields)?;
        let tools = Tools::take(&mut fields)?;
        // A name is the client's own affair: one model is served.
        fields.text("model")?;
        let text_only = |value: &Value| (value == &json!(["text"])).then_some(());
        fields.read("modalities", "[\"text\"]", text_only)?;
        let expected = "none, minimal, low, medium, high or xhigh";
        let is_effort = |value: &Value| {
            let known = ["none", "minimal", "low", "medium", "high", "xhigh"];
            value.as_str().filter(|effort| known.contains(effort)).map(str::to_owned)
        };
        let effort = fields.read("reasoning_effort", expected, is_effort)?;
        let mut asked = Asked::read(Form::Chat, fields.into_value(), &app.model.defaults)?;
        if let (Some(effort), [Prompt::Messages(_, variables)]) = (effort, asked.prompts.as_mut_slice()) {
            if effort == "none" {
                variables.entry("enable_thinking").or_insert(false.into());
            }
            variables.entry("reasoning_effort").or_insert_with(|| effort.into());
        }
        let body = Body { asked, tools, stream };
        body.check(app)?;
        Ok(body)
    }

    /// That it is within bounds.
    ///
    /// # Errors
    /// It is not.
    pub fn check(&self, app: &App) -> Result<(), Failure> {
        let most = app.options.max_messages;
        for prompt in &self.asked.prompts {
            if let Prompt::Messages(messages, _) = prompt
                && messages.len() > most
            {
                let message = format!("messages: found {}, expected at most {most}", messages.len());
                return Err(Failure::invalid("messages", message));
            }
        }
        if self.tools.is_forced() && self.asked.format != Format::Free {
            let found = Value::from("a format");
            return Err(FieldError::new("response_format", &found, "none beside a tool that must be called").into());
        }
        if self.tools.are_callable() && matches!(self.asked.format, Format::Grammar(_)) {
            return Err(FieldError::new("grammar", &"a grammar".into(), "none beside tools that may be called").into());
        }
        if self.asked.ignore_eos && (self.tools.is_forced() || !self.tools.are_parallel) {
            return Err(FieldError::new("ignore_eos", &true.into(), "false beside a call that ends the answer").into());
        }
        Ok(())
    }
}

/// Answers a request.
///
/// # Errors
/// What is wrong with it.
pub async fn create(State(app): State<Arc<App>>, request: Request) -> Result<Response, Failure> {
    let body = app.json(request).await?;
    let Body { asked, tools, stream } = Body::read(&app, body)?;
    let running = Running::begin(&app, asked, tools).await?;
    let head = Head { id: app.id("chatcmpl-"), created: seconds(), app: Arc::clone(&app) };
    if stream.is_wanted {
        let n_answers = running.n_answers();
        return Ok(respond(
            running,
            Chunks { head, n_answers, with_usage: stream.with_usage, n_calls: vec![0; n_answers] },
        ));
    }
    let (answers, usage) = running.collect().await?;
    let choices = answers.iter().enumerate().map(|(index, answer)| choice(&head, index, answer));
    let choices: Vec<Value> = choices.collect::<Result<_, Failure>>()?;
    Ok(Json(head.object("chat.completion", choices.into(), Some(usage.json()))).into_response())
}

/// Which program answered.
pub const FINGERPRINT: &str = concat!("ferrowarp-", env!("CARGO_PKG_VERSION"));

/// What every object of an answer begins with.
pub(super) struct Head {
    pub(super) id: String,
    pub(super) created: u64,
    pub(super) app: Arc<App>,
}

impl Head {
    /// An answer, or a part of it.
    pub(super) fn object(&self, kind: &str, choices: Value, usage: Option<Value>) -> Value {
        let mut object = json!({
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.app.model.id,
            "system_fingerprint": FINGERPRINT,
            "choices": choices,
        });
        if let Some(usage) = usage {
            object["usage"] = usage;
        }
        object
    }

    fn logprobs(&self, all: &[TokenLogprobs]) -> Result<Value, Failure> {
        if all.is_empty() {
            return Ok(Value::Null);
        }
        let content = token_logprobs(all, &self.app.model.tokenizer);
        let content = content.map_err(|error| Failure::internal(error.to_string()))?;
        Ok(json!({ "content": content, "refusal": null }))
    }

    fn call(&self, call: &Call) -> Map<String, Value> {
        let mut object = Map::new();
        object.insert("id".to_owned(), self.app.id("call_").into());
        object.insert("type".to_owned(), "function".into());
        object.insert("function".to_owned(), json!({ "name": call.name, "arguments": call.arguments }));
        object
    }
}

/// Why an answer ended.
pub fn finish(stop: &Stop, has_calls: bool) -> &'static str {
    match finish_reason(stop) {
        "stop" if has_calls => "tool_calls",
        reason => reason,
    }
}

fn choice(head: &Head, index: usize, answer: &Written) -> Result<Value, Failure> {
    let mut message = Map::new();
    message.insert("role".to_owned(), "assistant".into());
    let has_content = !answer.content.is_empty() || answer.calls.is_empty();
    message.insert("content".to_owned(), if has_content { answer.content.as_str().into() } else { Value::Null });
    message.insert("refusal".to_owned(), Value::Null);
    if !answer.reasoning.is_empty() {
        message.insert("reasoning_content".to_owned(), answer.reasoning.as_str().into());
    }
    if !answer.calls.is_empty() {
        let calls: Vec<Value> = answer.calls.iter().map(|call| head.call(call).into()).collect();
        message.insert("tool_calls".to_owned(), calls.into());
    }
    let stop = answer.stop.as_ref().unwrap_or(&Stop::Interrupted);
    Ok(json!({
        "index": index,
        "message": message,
        "logprobs": head.logprobs(&answer.logprobs)?,
        "finish_reason": finish(stop, !answer.calls.is_empty()),
    }))
}

/// A chat completion in parts.
struct Chunks {
    head: Head,
    n_answers: usize,
    with_usage: bool,
    /// Calls said, by answer.
    n_calls: Vec<usize>,
}

impl Chunks {
    fn chunk(&self, choices: Value, usage: Value) -> Said {
        Said::data(&self.head.object("chat.completion.chunk", choices, self.with_usage.then_some(usage)))
    }

    fn one(&self, index: usize, delta: Value, logprobs: Value, finish_reason: Option<&str>) -> Said {
        let choice = json!({ "index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason });
        self.chunk(json!([choice]), Value::Null)
    }
}

impl Voice for Chunks {
    fn begin(&mut self) -> Vec<Said> {
        let delta = || json!({ "role": "assistant", "content": "" });
        (0..self.n_answers).map(|index| self.one(index, delta(), Value::Null, None)).collect()
    }

    fn say(&mut self, update: Update) -> Vec<Said> {
        match update {
            Update::Delta { answer, parts, logprobs } => {
                let mut logprobs = match self.head.logprobs(&logprobs) {
                    Ok(logprobs) => logprobs,
                    Err(failure) => return self.fail(&failure),
                };
                let mut deltas = Vec::new();
                for part in parts {
                    deltas.push(match part {
                        Delta::Reasoning(text) => json!({ "reasoning_content": text }),
                        Delta::Content(text) => json!({ "content": text }),
                        Delta::Call(name) => {
                            let mut call = self.head.call(&Call { name, arguments: String::new() });
                            call.insert("index".to_owned(), self.n_calls[answer].into());
                            self.n_calls[answer] += 1;
                            json!({ "tool_calls": [call] })
                        }
                        Delta::Arguments(text) => {
                            let index = self.n_calls[answer].saturating_sub(1);
                            json!({ "tool_calls": [{ "index": index, "function": { "arguments": text } }] })
                        }
                    });
                }
                if deltas.is_empty() {
                    // The text of these tokens is held back; what the model thought of them is not.
                    deltas.push(json!({ "content": "" }));
                }
                deltas.into_iter().map(|delta| self.one(answer, delta, logprobs.take(), None)).collect()
            }
            Update::End { answer, stop, has_calls } => {
                vec![self.one(answer, json!({}), Value::Null, Some(finish(&stop, has_calls)))]
            }
            Update::Done(usage) => {
                let mut said = Vec::new();
                if self.with_usage {
                    said.push(self.chunk(json!([]), usage.json()));
                }
                said.push(Said { name: None, data: "[DONE]".to_owned() });
                said
            }
        }
    }

    fn fail(&mut self, failure: &Failure) -> Vec<Said> {
        vec![Said::data(&failure.body())]
    }
}
