//! Answers as they come, as server-sent events.

use std::{collections::VecDeque, convert::Infallible, time::Duration};

use axum::response::{
    IntoResponse, Response,
    sse::{Event, KeepAlive, Sse},
};
use futures_util::stream;
use serde_json::Value;

use super::{
    Failure,
    running::{Running, Update},
};

/// How often a stream without news shows that it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// An event of a stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Said {
    /// The event's name, where the interface has one.
    pub name: Option<&'static str>,
    /// Its data.
    pub data: String,
}

impl Said {
    /// An event without a name.
    pub fn data(data: &Value) -> Said {
        Said { name: None, data: data.to_string() }
    }

    /// An event with its name, which its data have as `type` too.
    pub fn named(name: &'static str, data: &Value) -> Said {
        Said { name: Some(name), data: data.to_string() }
    }
}

/// How an interface says what comes.
pub trait Voice: Send + 'static {
    /// Before all.
    fn begin(&mut self) -> Vec<Said>;

    /// What there is to say of news.
    fn say(&mut self, update: Update) -> Vec<Said>;

    /// Why there will be no more.
    fn fail(&mut self, failure: &Failure) -> Vec<Said>;
}

struct Streaming<V> {
    running: Option<Running>,
    voice: V,
    ready: VecDeque<Said>,
}

/// The response that says what comes of a request.
pub fn respond(running: Running, mut voice: impl Voice) -> Response {
    let ready = voice.begin().into();
    let streaming = Streaming { running: Some(running), voice, ready };
    let events = stream::unfold(streaming, |mut this| async move {
        loop {
            if let Some(said) = this.ready.pop_front() {
                let event = Event::default().data(said.data);
                let event = match said.name {
                    Some(name) => event.event(name),
                    None => event,
                };
                return Some((Ok::<_, Infallible>(event), this));
            }
            match this.running.as_mut()?.next().await {
                Ok(Some(update)) => this.ready.extend(this.voice.say(update)),
                Ok(None) => this.running = None,
                Err(failure) => {
                    this.running = None;
                    this.ready.extend(this.voice.fail(&failure));
                }
            }
        }
    });
    let mut response = Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response();
    // A proxy in between passes events on at once.
    response.headers_mut().insert("x-accel-buffering", axum::http::HeaderValue::from_static("no"));
    response
}
