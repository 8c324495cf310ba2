//! The small routes: what is served, how it fares, and llama.cpp's tools for tokens and templates.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, Request, State, rejection::PathRejection},
    http::{StatusCode, Uri, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use super::{App, Failure, Model, Phase, chat::Body, engine::Slot, model::params};
use crate::{
    api::{Defaults, FieldError, Fields, Prompt},
    engine::Progress,
    tokenizer::{ControlText, Ends, Special},
};

/// That the process lives.
pub async fn health() -> Json<Value> {
    Json(json!({ "status": "ok" }))
}

/// That requests are taken: an orchestrator sends none where this fails.
///
/// # Errors
/// The server is being stopped.
pub async fn ready(State(app): State<Arc<App>>) -> Result<Json<Value>, Failure> {
    match *app.phase.borrow() {
        Phase::Serving => Ok(Json(json!({ "status": "ok" }))),
        Phase::Draining | Phase::Closing => Err(Failure::draining()),
    }
}

fn description(app: &App) -> Value {
    let model = &app.model;
    json!({
        "id": model.id,
        "object": "model",
        "created": model.created,
        "owned_by": "ferrowarp",
        "meta": { "n_vocab": model.n_tokens, "n_ctx": model.n_context },
    })
}

/// The models there are: one.
pub async fn models(State(app): State<Arc<App>>) -> Json<Value> {
    Json(json!({ "object": "list", "data": [description(&app)] }))
}

/// One of the models.
///
/// # Errors
/// It is not the one.
pub async fn model(
    State(app): State<Arc<App>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<Value>, Failure> {
    let found = match id {
        Ok(Path(id)) if id == app.model.id => return Ok(Json(description(&app))),
        Ok(Path(id)) => format!("{id:?}"),
        Err(_) => "bytes that are no text".to_owned(),
    };
    let message = format!("model: found {found}, expected {:?}, the only one here", app.model.id);
    Err(Failure { status: StatusCode::NOT_FOUND, code: "model_not_found", ..Failure::invalid("model", message) })
}

/// The numbers, in Prometheus' format.
///
/// # Errors
/// A number cannot be written.
pub async fn metrics(State(app): State<Arc<App>>) -> Result<Response, Failure> {
    let (mime, text) = app.metrics.text().map_err(|error| Failure::internal(error.to_string()))?;
    Ok(([(CONTENT_TYPE, mime)], text).into_response())
}

/// The tokens of a text.
///
/// # Errors
/// What is wrong with the body.
pub async fn tokenize(State(app): State<Arc<App>>, request: Request) -> Result<Json<Value>, Failure> {
    let body = app.json(request).await?;
    let mut fields = Fields::new(if body.is_object() { "" } else { "body" }, body)?;
    let Some(content) = fields.text("content")? else {
        return Err(FieldError::new("content", &Value::Null, "a string").into());
    };
    let ends = if fields.flag("add_special")?.unwrap_or(false) { Ends::AsFileSays } else { Ends::Bare };
    let special = if fields.flag("parse_special")?.unwrap_or(true) { Special::Parse } else { Special::Text };
    let with_pieces = fields.flag("with_pieces")?.unwrap_or(false);
    fields.expect_none()?;
    let tokens = app.work({
        let app = Arc::clone(&app);
        move || {
            let tokenizer = &app.model.tokenizer;
            let ids = tokenizer.encode(&content, special, ends)?;
            let piece = |id: &u32| {
                let bytes = tokenizer.token_bytes(*id)?;
                let piece = std::str::from_utf8(bytes).map_or_else(|_| json!(bytes), |text| json!(text));
                Ok(json!({ "id": id, "piece": piece }))
            };
            if with_pieces { ids.iter().map(piece).collect() } else { Ok(json!(ids)) }
        }
    });
    let tokens: Result<Value, crate::tokenizer::TokenizerError> = tokens.await?;
    Ok(Json(json!({ "tokens": tokens.map_err(|error| Failure::invalid("content", error.to_string()))? })))
}

/// The text of tokens.
///
/// # Errors
/// What is wrong with the body.
pub async fn detokenize(State(app): State<Arc<App>>, request: Request) -> Result<Json<Value>, Failure> {
    let body = app.json(request).await?;
    let mut fields = Fields::new(if body.is_object() { "" } else { "body" }, body)?;
    let ids = |value: &Value| -> Option<Vec<u32>> {
        value.as_array()?.iter().map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok())).collect()
    };
    let expected = "an array of token ids";
    let ids = fields.read("tokens", expected, ids)?;
    let ids = ids.ok_or_else(|| FieldError::new("tokens", &Value::Null, expected))?;
    fields.expect_none()?;
    let text = app.model.tokenizer.decode(&ids, ControlText::Show);
    let text = text.map_err(|error| Failure::invalid("tokens", format!("tokens: {error}")))?;
    Ok(Json(json!({ "content": text })))
}

/// The prompt that a conversation becomes.
///
/// # Errors
/// What is wrong with the body.
pub async fn apply_template(State(app): State<Arc<App>>, request: Request) -> Result<Json<Value>, Failure> {
    let body = app.json(request).await?;
    let Body { asked, tools, .. } = Body::read(&app, body)?;
    let prompt = app.work({
        let app = Arc::clone(&app);
        move || {
            let mut text = String::new();
            for prompt in &asked.prompts {
                let Prompt::Messages(messages, own) = prompt else { continue };
                let (pieces, _) = app.model.render(messages, own, &tools, &asked.format)?;
                pieces.iter().for_each(|piece| text += &piece.text);
            }
            Ok::<_, Failure>(text)
        }
    });
    Ok(Json(json!({ "prompt": prompt.await?? })))
}

/// What the server is and how it samples where a request says nothing.
pub async fn props(State(app): State<Arc<App>>) -> Json<Value> {
    let model = &app.model;
    let text = |id: Option<u32>| {
        let bytes = id.and_then(|id| model.tokenizer.token_bytes(id).ok());
        bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned()).unwrap_or_default()
    };
    let mut settings = slot(model, 0, None);
    // What `/slots` does not show of a request, whose user may have written it.
    let sampler = &model.defaults.sampler;
    let bias = |(id, bias): &(u32, f32)| json!({ "token": id, "bias": bias });
    let more = json!({
        "dry_sequence_breakers": sampler.dry_sequence_breakers,
        "logit_bias": sampler.logit_bias.iter().map(bias).collect::<Value>(),
        "stop": [],
        "grammar": "",
    });
    if let (Some(params), Value::Object(more)) = (settings["params"].as_object_mut(), more) {
        params.extend(more);
    }
    // Where a template knows no tools, they are described to the model all the same.
    let has_template = model.template.is_ok();
    Json(json!({
        "model_alias": model.id,
        // Its file's name: where that lies is nobody's business.
        "model_path": model.name,
        "modalities": { "vision": false, "audio": false },
        "total_slots": model.n_slots,
        "chat_template": model.template.as_ref().map_or("", |template| template.source()),
        "chat_template_caps": {
            "supports_tools": has_template,
            "supports_tool_calls": has_template,
            "supports_parallel_tool_calls": has_template,
        },
        "bos_token": text(model.tokenizer.bos()),
        "eos_token": text(model.tokenizer.eos()),
        "build_info": super::chat::FINGERPRINT,
        "is_sleeping": false,
        "default_generation_settings": settings,
    }))
}

/// What is in the engine's slots.
///
/// # Errors
/// The engine's thread has ended; or no slot is free, and the query has `fail_on_no_slot`.
pub async fn slots(State(app): State<Arc<App>>, uri: Uri) -> Result<Json<Value>, Failure> {
    let slots = app.engine.slots().await.ok_or_else(Failure::stopped)?;
    let mut asked = uri.query().unwrap_or_default().split('&').map(|pair| pair.split('=').next());
    if asked.any(|name| name == Some("fail_on_no_slot")) && slots.iter().all(Option::is_some) {
        let message = format!("all {} slots are taken", slots.len());
        return Err(Failure {
            retry_after: Some(1),
            ..Failure::new(StatusCode::SERVICE_UNAVAILABLE, "no_slot_available", message)
        });
    }
    Ok(Json(slots.iter().enumerate().map(|(id, held)| slot(&app.model, id, held.as_ref())).collect()))
}

/// A slot as llama.cpp shows it, of which clients read the numbers to see how far an answer is.
fn slot(model: &Model, id: usize, held: Option<&Slot>) -> Value {
    let progress = held.map(|slot| slot.progress);
    let count = |of: fn(Progress) -> usize| progress.map_or(0, of);
    let Defaults { sampler, n_predict } = &model.defaults;
    let asked = held.map(|slot| slot.params.clone()).filter(|params| !params.is_null());
    json!({
        "id": id,
        "id_task": held.map_or_else(|| json!(-1), |slot| slot.job.into()),
        "n_ctx": model.n_context,
        "speculative": model.is_speculative,
        "is_processing": held.is_some(),
        "n_prompt_tokens": count(|of| of.n_prompt),
        "n_prompt_tokens_processed": count(|of| of.n_prefilled),
        "n_prompt_tokens_cache": count(|of| of.n_reused),
        "params": asked.unwrap_or_else(|| params(sampler, *n_predict, false, None)),
        // There is but one, in an array.
        "next_token": [{
            "has_next_token": held.is_some(),
            "has_new_line": held.is_some_and(|slot| slot.has_new_line),
            "n_remain": held.and_then(|slot| slot.n_remain).map_or_else(|| json!(-1), Value::from),
            "n_decoded": count(|of| of.n_generated),
        }],
    })
}
