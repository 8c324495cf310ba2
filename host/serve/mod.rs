//! A server: models by HTTP, in the interfaces that clients know.
//!
//! ```text
//! client ── HTTP ──► connections      how many; a model that is being loaded
//!                     │
//!                    app      who may ask, how much, how long; errors as OpenAI's objects
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
mod connections;
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
    net::{IpAddr, TcpListener},
    sync::{Arc, OnceLock, mpsc::SyncSender},
    thread,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc::UnboundedReceiver, oneshot, watch};

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
    /// Names under which the server may be asked besides those of its own machine; none for any name.
    pub hosts: Option<Vec<String>>,
    /// The most connections at a time.
    pub max_connections: usize,
    /// How long the head of a request may take to come, on a connection that waits for its next one too.
    pub head_time: Duration,
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

impl Options {
    /// The names that a server answers to, as [`Self::hosts`] has them, which listens on `address`. Where it is this machine alone that may ask, and
    /// no key says who does, a page of any name can be made to lead here: such a server answers to this machine's names and those `allowed`,
    /// of which `*` is all. What listens on a network has names that it cannot know, and what asks for keys gives a page nothing without one.
    pub fn hosts_of(address: IpAddr, api_keys: &[String], allowed: &[String]) -> Option<Vec<String>> {
        let is_any = allowed.iter().any(|name| name == "*");
        (address.to_canonical().is_loopback() && api_keys.is_empty() && !is_any).then(|| allowed.to_vec())
    }
}

impl Default for Options {
    fn default() -> Options {
        Options {
            api_keys: Vec::new(),
            hosts: Some(Vec::new()),
            max_connections: 1024,
            head_time: Duration::from_secs(75),
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

/// A server, whose port answers from the first moment: that the model is being loaded, until [`Server::serve`] has one.
pub struct Server {
    options: Options,
    begin: oneshot::Sender<Begin>,
    http: thread::JoinHandle<Result<(), ServeError>>,
}

/// What requests are answered with.
struct Begin {
    app: Arc<App>,
    stopper: Stopper,
    /// Told once requests are taken.
    begun: SyncSender<()>,
}

impl Server {
    /// Answers on a port.
    ///
    /// # Errors
    /// [`ServeError::Io`].
    pub fn open(listener: TcpListener, options: Options) -> Result<Server, ServeError> {
        listener.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(2).build()?;
        let (begin, begins) = oneshot::channel();
        let Options { max_connections, head_time, .. } = options;
        let bounds = connections::Bounds { max_connections, head_time };
        let http = thread::Builder::new().name("http".to_owned()).spawn(move || {
            let result = runtime.block_on(serve(listener, bounds, begins));
            // A template or grammar that is still at work is nobody's any more.
            runtime.shutdown_background();
            result
        })?;
        Ok(Server { options, begin, http })
    }

    /// Takes requests to a model from here on; they wait for [`Serving::run`].
    ///
    /// # Errors
    /// [`ServeError::Io`].
    pub fn serve(self, model: Model, stopper: Stopper) -> Result<Serving, ServeError> {
        let Server { options, begin, http } = self;
        let (engine, commands) = engine::channel();
        let model = Arc::new(model);
        let app = Arc::new(App::new(Arc::clone(&model), options, engine));
        let metrics = Arc::clone(&app.metrics);
        let (begun, is_begun) = std::sync::mpsc::sync_channel(1);
        let sent = begin.send(Begin { app, stopper, begun });
        let serving = Serving { model, metrics, commands, http };
        if sent.is_err() || is_begun.recv().is_err() {
            serving.join()?;
            return Err(std::io::Error::other("the thread that answers ended").into());
        }
        Ok(serving)
    }
}

/// A server that takes requests.
pub struct Serving {
    model: Arc<Model>,
    metrics: Arc<Metrics>,
    commands: engine::Commands,
    http: thread::JoinHandle<Result<(), ServeError>>,
}

impl Serving {
    /// Answers until the server is told to stop. The engine has the calling thread, HTTP others.
    ///
    /// # Errors
    /// [`ServeError`].
    pub fn run<R: Runner<Error: std::fmt::Display>>(self, runner: &mut R) -> Result<(), ServeError> {
        let ran = engine::run(runner, &self.model, &self.metrics, &self.commands);
        match ran {
            Ok(()) => self.join(),
            // The requests have been told; what HTTP has to write is given a moment.
            Err(error) => {
                let Serving { commands, http, .. } = self;
                // Requests that came too late find nobody.
                drop(commands);
                let start = Instant::now();
                while !http.is_finished() && start.elapsed() < FAREWELL / 4 {
                    thread::sleep(Duration::from_millis(10));
                }
                Err(ServeError::Runner(error.to_string()))
            }
        }
    }

    fn join(self) -> Result<(), ServeError> {
        let Serving { commands, http, .. } = self;
        drop(commands);
        http.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

async fn serve(
    listener: TcpListener,
    bounds: connections::Bounds,
    begins: oneshot::Receiver<Begin>,
) -> Result<(), ServeError> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let routes = connections::Routes::default();
    let (close, closing) = watch::channel(false);
    let mut connections = tokio::spawn(connections::serve(listener, bounds, Arc::clone(&routes), closing));
    // The model could not be loaded: whoever loads it says so.
    let Ok(begin) = begins.await else { return Ok(()) };
    let app = Arc::clone(&begin.app);
    let result = until_stopped(begin, &routes).await;
    close.send_replace(true);
    // A client that reads nothing does not hold the end.
    let _ = tokio::time::timeout(FAREWELL, &mut connections).await;
    app.engine.stop();
    result
}

/// Takes requests, then no new ones, then none.
async fn until_stopped(begin: Begin, routes: &OnceLock<axum::Router>) -> Result<(), ServeError> {
    let Begin { app, stopper, begun } = begin;
    let mut stops = Stops::new(stopper)?;
    routes.get_or_init(|| router(Arc::clone(&app)));
    // It waits for this.
    let _ = begun.send(());
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
