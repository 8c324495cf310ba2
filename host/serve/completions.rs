//! `/v1/completions`.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use super::{
    App, Failure,
    chat::{Head, Stream},
    model::seconds,
    running::{Running, Update},
    sse::{Said, Voice, respond},
    tools::{Delta, Tools},
};
use crate::{
    api::{Asked, Fields, Form, finish_reason, flat_logprobs},
    generate::{Stop, TokenLogprobs},
};

/// Answers a request.
///
/// # Errors
/// What is wrong with it.
pub async fn create(State(app): State<Arc<App>>, request: Request) -> Result<Response, Failure> {
    let body = app.json(request).await?;
    let mut fields = Fields::new(if body.is_object() { "" } else { "body" }, body)?;
    let stream = Stream::take(&mut fields)?;
    fields.text("model")?;
    let asked = Asked::read(Form::Text, fields.into_value(), &app.model.defaults)?;
    let running = Running::begin(&app, asked, Tools::none()).await;
    let running = running.map_err(|failure| failure.renamed("messages", "prompt"))?;
    let head = Head { id: app.id("cmpl-"), created: seconds(), app: Arc::clone(&app) };
    if stream.is_wanted {
        let n_characters = vec![0; running.n_answers()];
        return Ok(respond(running, Chunks { head, with_usage: stream.with_usage, n_characters }));
    }
    let (answers, usage) = running.collect().await.map_err(|failure| failure.renamed("messages", "prompt"))?;
    let choice = |(index, answer): (usize, super::running::Written)| {
        let logprobs = logprobs(&head, &answer.logprobs, 0)?;
        let stop = answer.stop.unwrap_or(Stop::Interrupted);
        Ok(
            json!({ "index": index, "text": answer.content, "logprobs": logprobs, "finish_reason": finish_reason(&stop) }),
        )
    };
    let choices: Vec<Value> = answers.into_iter().enumerate().map(choice).collect::<Result<_, Failure>>()?;
    Ok(Json(head.object("text_completion", choices.into(), Some(usage.json()))).into_response())
}

fn logprobs(head: &Head, all: &[TokenLogprobs], offset: usize) -> Result<Value, Failure> {
    if all.is_empty() {
        return Ok(Value::Null);
    }
    flat_logprobs(all, &head.app.model.tokenizer, offset).map_err(|error| Failure::internal(error.to_string()))
}

/// A completion in parts.
struct Chunks {
    head: Head,
    with_usage: bool,
    /// Characters of the tokens said, by answer.
    n_characters: Vec<usize>,
}

impl Chunks {
    fn chunk(&self, choices: Value, usage: Value) -> Said {
        Said::data(&self.head.object("text_completion", choices, self.with_usage.then_some(usage)))
    }

    fn one(&self, index: usize, text: &str, logprobs: Value, finish_reason: Option<&str>) -> Said {
        let choice = json!({ "index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason });
        self.chunk(json!([choice]), Value::Null)
    }
}

impl Voice for Chunks {
    fn begin(&mut self) -> Vec<Said> {
        Vec::new()
    }

    fn say(&mut self, update: Update) -> Vec<Said> {
        match update {
            Update::Delta { answer, parts, logprobs } => {
                let logprobs = match self::logprobs(&self.head, &logprobs, self.n_characters[answer]) {
                    Ok(logprobs) => logprobs,
                    Err(failure) => return self.fail(&failure),
                };
                let tokens = logprobs["tokens"].as_array().into_iter().flatten().filter_map(Value::as_str);
                self.n_characters[answer] += tokens.map(|token| token.chars().count()).sum::<usize>();
                let text: String = parts
                    .into_iter()
                    .map(|part| match part {
                        Delta::Content(text) | Delta::Reasoning(text) | Delta::Arguments(text) => text,
                        Delta::Call(_) => String::new(),
                    })
                    .collect();
                vec![self.one(answer, &text, logprobs, None)]
            }
            Update::End { answer, stop, .. } => vec![self.one(answer, "", Value::Null, Some(finish_reason(&stop)))],
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
        vec![Said::data(&failure.clone().renamed("messages", "prompt").body())]
    }
}
