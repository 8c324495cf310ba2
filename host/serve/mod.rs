//! A server: models by HTTP, in the interfaces that clients know.
//!
//! ```text
//! client ── HTTP ──► app      who may ask, how much, how long; errors as OpenAI's objects
//!                     │
//!                     ├─ chat, completions, responses, messages     bodies read, answers written
//!                     ├─ model, tools     templates, tokens, grammars: on threads that may take their time
//!                     ▼
//!                  running ◄── events, a channel for each request ──┐
//!                     │                                             │
//!                     └── requests, cancellations ──►  engine: one thread, scheduler and device
//! ```
//!
//! The engine's thread never waits for a client, and a client that goes away takes its sequences along: what answers a request owns a
//! [`Ticket`](engine::Ticket), whose drop cancels it. The text of a user is in no log, and never becomes a control token.

mod admission;
mod app;
mod chat;
mod completions;
mod embeddings;
pub mod engine;
mod error;
mod extras;
mod messages;
mod metrics;
mod model;
mod page;
mod responses;
mod running;
mod sse;
#[cfg(test)]
mod tests;
pub mod tools;

use std::{
    net::TcpListener,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use axum::serve::ListenerExt;
use tokio::sync::{mpsc::UnboundedReceiver, watch};

use crate::engine::Runner;

pub use app::{App, router};
pub use error::Failure;
pub use metrics::Metrics;
pub use model::{Model, ModelParts};
pub use running::limit;

/// Bounds, and who may ask.
#[derive(Clone, Debug)]
pub struct Options {
    /// Keys of which a client must show one; none for no keys.
    pub api_keys: Vec<String>,
    /// The most bytes of a body.
    pub max_body: usize,
    /// The most messages of a conversation.
    pub max_messages: usize,
    /// The most answers that wait for a slot.
    pub max_waiting: usize,
    /// How long a request may take; none for no limit.
    pub timeout: Option<Duration>,
    /// How long running answers may go on once the server is told to stop.
    pub grace: Duration,
    /// Origins whose pages may ask; `*` for all.
    pub cors: Vec<String>,
    /// Whether logs have the texts of requests and errors.
    pub log_text: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            api_keys: Vec::new(),
            max_body: 8 << 20,
            max_messages: 2048,
            max_waiting: 256,
            timeout: Some(Duration::from_secs(600)),
            grace: Duration::from_secs(30),
            cors: Vec::new(),
            log_text: false,
        }
    }
}

/// How far the server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It takes requests.
    Serving,
    /// It takes no new ones.
    Draining,
    /// It ends those that are left.
    Closing,
}

/// Who tells the server to stop: the first time it drains, the second time it ends.
pub enum Stopper {
    /// SIGTERM and SIGINT.
    Signals,
    /// Each message.
    Messages(UnboundedReceiver<()>),
}

/// How long what is left to say may take once all answers have ended.
const FAREWELL: Duration = Duration::from_secs(2);

/// Why a server ended that nobody stopped.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // each variant's text is its documentation
pub enum ServeError {
    #[error("cannot serve: {0}")]
    Io(#[from] std::io::Error),
    #[error("the device failed, and every request with it: {0}")]
    Runner(String),
}

/// Serves until it is told to stop. The engine has the calling thread, HTTP others.
///
/// # Errors
/// [`ServeError`].
pub fn run<R: Runner<Error: std::fmt::Display>>(
    runner: &mut R,
    model: Model,
    options: Options,
    listener: TcpListener,
    stopper: Stopper,
) -> Result<(), ServeError> {
    let (engine, commands) = engine::channel();
    let model = Arc::new(model);
    let app = Arc::new(App::new(Arc::clone(&model), options, engine.clone()));
    let metrics = Arc::clone(&app.metrics);
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(2).build()?;
    let http = thread::Builder::new().name("http".to_owned()).spawn(move || {
        let result = runtime.block_on(serve(app, listener, stopper));
        engine.stop();
        // A template or grammar that is still at work is nobody's any more.
        runtime.shutdown_background();
        result
    })?;
    let ran = engine::run(runner, &model, &metrics, &commands);
    // Requests that came too late find nobody.
    drop(commands);
    match ran {
        Ok(()) => http.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
        // The requests have been told; what HTTP has to write is given a moment.
        Err(error) => {
            let start = Instant::now();
            while !http.is_finished() && start.elapsed() < FAREWELL / 4 {
                thread::sleep(Duration::from_millis(10));
            }
            Err(ServeError::Runner(error.to_string()))
        }
    }
}

async fn serve(app: Arc<App>, listener: TcpListener, stopper: Stopper) -> Result<(), ServeError> {
    // A token is on its way at once, not when a packet is full. Where the system will not, it is only later.
    let listener = tokio::net::TcpListener::from_std(listener)?.tap_io(|io| drop(io.set_nodelay(true)));
    let mut stops = Stops::new(stopper)?;
    let mut closing = app.phase.subscribe();
    let until = async move {
        // The sender lives as long as the app.
        let _ = closing.wait_for(|phase| *phase == Phase::Closing).await;
    };
    let server = axum::serve(listener, router(Arc::clone(&app))).with_graceful_shutdown(until);
    let mut server = tokio::spawn(async move { server.await });
    stops.next().await;
    app.phase.send_replace(Phase::Draining);
    tracing::info!(grace = app.options.grace.as_secs(), open = app.admission.n_open(), "draining");
    let drained = async {
        while app.admission.n_open() > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        () = drained => {}
        () = tokio::time::sleep(app.options.grace) => {}
        () = stops.next() => {}
    }
    app.phase.send_replace(Phase::Closing);
    tracing::info!(open = app.admission.n_open(), "closing");
    // A client that reads nothing does not hold the end.
    let _ = tokio::time::timeout(FAREWELL, &mut server).await;
    Ok(())
}

/// Where [`Stopper`]'s words come from.
enum Stops {
    Signals { term: tokio::signal::unix::Signal, interrupt: tokio::signal::unix::Signal },
    Messages(UnboundedReceiver<()>),
}

impl Stops {
    fn new(stopper: Stopper) -> std::io::Result<Stops> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(match stopper {
            Stopper::Signals => {
                Stops::Signals { term: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? }
            }
            Stopper::Messages(messages) => Stops::Messages(messages),
        })
    }

    async fn next(&mut self) {
        match self {
            Stops::Signals { term, interrupt } => tokio::select! {
                _ = term.recv() => {}
                _ = interrupt.recv() => {}
            },
            // Nobody is left to send one: that is one.
            Stops::Messages(messages) => drop(messages.recv().await),
        }
    }
}

/// The phase, to watch and to change.
pub(crate) type PhaseSender = watch::Sender<Phase>;
