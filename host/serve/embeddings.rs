//! `/v1/embeddings`.

use std::{sync::Arc, time::Instant};

use axum::{
    Json,
    extract::{Request, State},
};
use serde_json::Value;
use tokio::sync::mpsc::unbounded_channel;

use super::{
    App, Failure, Phase,
    engine::{Event, Job, Made, Prompted},
    running::within,
    tools::Tools,
};
use crate::{
    api::{EmbeddingsAsked, Format},
    generate::Limits,
    tokenizer::ControlText,
};

/// Answers a request.
///
/// # Errors
/// What is wrong with it.
pub async fn create(State(app): State<Arc<App>>, request: Request) -> Result<Json<Value>, Failure> {
    let asked_at = Instant::now();
    let deadline = app.options.timeout.map(|time| asked_at + time);
    let body = app.json(request).await?;
    let asked = EmbeddingsAsked::read(body, app.model.n_embd)?;
    let n = asked.inputs.len();
    let place = app.admit(n).map_err(|failure| failure.renamed("n", "input"))?;
    let prepared = app.work({
        let (app, inputs) = (Arc::clone(&app), asked.inputs.clone());
        move || {
            let one = |input| {
                let ids = app.model.ids(input, &Tools::none(), &Format::Free)?.ids;
                Ok(Prompted { ids, made: Made::Embedding(app.model.pooling) })
            };
            inputs.iter().map(one).collect::<Result<Vec<Prompted>, Failure>>()
        }
    });
    let prompts = within(deadline, prepared).await??.map_err(|failure| failure.renamed("prompt", "input"))?;
    let n_tokens = prompts.iter().map(|prompt| prompt.ids.len()).sum();
    let job = Job {
        prompts,
        stop: Vec::new(),
        limits: Limits { n_predict: None, ignore_eos: false, shift_keeping: None },
        logprobs: None,
        control: ControlText::Hide,
        params: Value::Null,
        asked: asked_at,
        deadline,
    };
    let (sender, mut events) = unbounded_channel();
    // Dropped where the client goes away.
    let _ticket = app.engine.submit(job, sender, place);
    let mut phase = app.phase.subscribe();
    let mut vectors = vec![Vec::new(); n];
    let mut n_left = n;
    while n_left > 0 {
        let event = tokio::select! {
            biased;
            event = events.recv() => event,
            _ = phase.wait_for(|phase| *phase == Phase::Closing) => None,
        };
        match event {
            Some(Event::Vector { answer, vector }) => {
                vectors[answer] = vector;
                n_left -= 1;
            }
            Some(Event::Failed(failure)) => {
                return Err(failure.renamed("prompt", "input").renamed("messages", "input"));
            }
            Some(Event::Piece { .. } | Event::End { .. }) => {}
            None => return Err(Failure::stopped()),
        }
    }
    Ok(Json(asked.answer(&app.model.id, &vectors, n_tokens)))
}
