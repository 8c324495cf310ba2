//! The routes, and what holds for all of them: who may ask, how much, a request's id, a line of log.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{MatchedPath, Request, State},
    http::{
        HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
        header::{AUTHORIZATION, CONTENT_TYPE, HOST},
    },
    middleware::{Next, from_fn_with_state},
    response::Response,
    routing::{get, post},
};
use serde_json::Value;
use subtle::ConstantTimeEq;
use tokio::sync::{Semaphore, watch};
use tower_http::cors::{AllowOrigin, Any, CorsLayer};

use super::{
    Failure, Metrics, Model, Options, Phase, PhaseSender,
    admission::{Admission, Place},
    chat, completions, embeddings,
    engine::Handle,
    extras, messages,
    metrics::RequestLabels,
    page, responses,
};

/// How long a body may take to come.
const BODY_TIME: Duration = Duration::from_secs(30);

static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

tokio::task_local! {
    /// The id of the request that a task answers.
    pub static REQUEST: String;
}

/// What all requests share.
pub struct App {
    /// The model.
    pub model: Arc<Model>,
    /// Bounds.
    pub options: Options,
    /// The engine's thread.
    pub engine: Handle,
    /// Who is in.
    pub admission: Arc<Admission>,
    /// What `/metrics` says.
    pub metrics: Arc<Metrics>,
    /// How far the server is.
    pub phase: PhaseSender,
    /// Templates, tokenizers and grammars at work: as many as there are processors.
    workers: Arc<Semaphore>,
    /// Makes the ids of this process different from another's.
    process: u64,
    next_id: AtomicU64,
}

impl App {
    /// For a model and the engine that runs it.
    pub fn new(model: Arc<Model>, options: Options, engine: Handle) -> App {
        let n_workers = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        App {
            admission: Arc::new(Admission::new(model.n_slots, options.max_waiting)),
            metrics: Arc::new(Metrics::new()),
            phase: watch::Sender::new(Phase::Serving),
            workers: Arc::new(Semaphore::new(n_workers)),
            process: RandomState::new().build_hasher().finish(),
            next_id: AtomicU64::new(1),
            model,
            options,
            engine,
        }
    }

    /// A new id, with what it is an id of before it.
    pub fn id(&self, prefix: &str) -> String {
        let number = self.next_id.fetch_add(1, Ordering::Relaxed);
        format!("{prefix}{:016x}{number:08x}", self.process)
    }

    /// A place for so many answers.
    ///
    /// # Errors
    /// There is none, or the server takes no new work.
    pub fn admit(&self, n_answers: usize) -> Result<Place, Failure> {
        if *self.phase.borrow() != Phase::Serving {
            return Err(Failure::draining());
        }
        self.admission.enter(n_answers)
    }

    /// Does work that may take a while away from the threads that serve others.
    pub async fn work<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
        let permit = Arc::clone(&self.workers).acquire_owned().await;
        let permit = permit.map_err(|error| Failure::internal(error.to_string()))?;
        let worker = tokio::task::spawn_blocking(move || {
            let result = work();
            drop(permit);
            result
        });
        worker.await.map_err(|error| Failure::internal(format!("a request's preparation ended early: {error}")))
    }

    /// The body of a request, JSON within bounds.
    ///
    /// # Errors
    /// It is none.
    pub async fn json(&self, request: Request) -> Result<Value, Failure> {
        let bytes = self.body(request).await?;
        serde_json::from_slice(&bytes).map_err(|error| {
            // What serde says has places and kinds, and no text of the body but a character.
            let message = format!("the body is no JSON: {error}");
            Failure::new(StatusCode::BAD_REQUEST, "invalid_json", message)
        })
    }

    async fn body(&self, request: Request) -> Result<Vec<u8>, Failure> {
        let most = self.options.max_body;
        let large = || {
            let message = format!("the body has more than {most} bytes, which this server takes at most");
            Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message)
        };
        let length = request.headers().get("content-length").and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        if length.is_some_and(|length| length > most as u64) {
            return Err(large());
        }
        let mime = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let mime = mime.split(';').next().unwrap_or_default().trim();
        // A page of another origin can send anything else without asking first.
        if !mime.eq_ignore_ascii_case("application/json") {
            let message = "the header content-type: expected application/json";
            return Err(Failure {
                param: Some("content-type".to_owned()),
                ..Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message)
            });
        }
        match tokio::time::timeout(BODY_TIME, to_bytes(request.into_body(), most)).await {
            Ok(Ok(bytes)) => Ok(bytes.to_vec()),
            Ok(Err(_)) => Err(large()),
            Err(_) => {
                let message = format!("the body took longer than {} seconds to come", BODY_TIME.as_secs());
                Err(Failure::new(StatusCode::REQUEST_TIMEOUT, "timeout", message))
            }
        }
    }

    /// That the client means this server. A page whose name was made to lead here has its own name in the request, and would otherwise read
    /// answers as its own (DNS rebinding).
    fn check_host(&self, headers: &HeaderMap) -> Result<(), Failure> {
        // What is no browser may leave it out.
        let (Some(names), Some(host)) = (&self.options.hosts, headers.get(HOST)) else { return Ok(()) };
        let host = host.to_str().unwrap_or_default();
        let name = match host.strip_prefix('[') {
            Some(rest) => rest.split(']').next().unwrap_or_default(),
            None => host.split(':').next().unwrap_or_default(),
        };
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        let is_own =
            is("localhost") || name.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback());
        if is_own || names.iter().any(|name| is(name)) {
            return Ok(());
        }
        let message = format!(
            "the header host: found {name}, expected localhost or this machine's own address; start the server with --allowed-host {name}, or with \
             --api-key-file"
        );
        Err(Failure::new(StatusCode::FORBIDDEN, "host_not_allowed", message))
    }

    /// That the client shows a key, where there are keys.
    fn authorise(&self, headers: &HeaderMap) -> Result<(), Failure> {
        if self.options.api_keys.is_empty() {
            return Ok(());
        }
        let bearer = headers.get(AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
        let shown = bearer.or_else(|| headers.get("x-api-key").map(HeaderValue::as_bytes)).unwrap_or_default();
        // Each key is compared, and each to its end: the time says nothing of how much was right.
        let known = self.options.api_keys.iter().map(|key| key.as_bytes().ct_eq(shown));
        if bool::from(known.fold(subtle::Choice::from(0), |any, one| any | one)) {
            return Ok(());
        }
        let message = "no key, or one that this server does not know: expected the header authorization: Bearer KEY";
        Err(Failure::new(StatusCode::UNAUTHORIZED, "invalid_api_key", message))
    }
}

/// All routes.
pub fn router(app: Arc<App>) -> Router {
    let open = page::routes().route("/health", get(extras::health)).route("/ready", get(extras::ready));
    let guarded = Router::new()
        .route("/v1/chat/completions", post(chat::create))
        .route("/v1/completions", post(completions::create))
        .route("/v1/embeddings", post(embeddings::create))
        .route("/v1/responses", post(responses::create))
        .route("/v1/messages", post(messages::create))
        .route("/v1/messages/count_tokens", post(messages::count_tokens))
        .route("/v1/models", get(extras::models))
        .route("/v1/models/{id}", get(extras::model))
        .route("/metrics", get(extras::metrics))
        .route("/tokenize", post(extras::tokenize))
        .route("/detokenize", post(extras::detokenize))
        .route("/apply-template", post(extras::apply_template))
        .route("/props", get(extras::props))
        .route("/slots", get(extras::slots))
        .layer(from_fn_with_state(Arc::clone(&app), guard));
    let router = open
        .merge(guarded)
        .fallback(not_found)
        .method_not_allowed_fallback(not_allowed)
        .layer(from_fn_with_state(Arc::clone(&app), expect_host))
        .layer(from_fn_with_state(Arc::clone(&app), watch_request))
        .with_state(Arc::clone(&app));
    match cors(&app.options.cors) {
        Some(layer) => router.layer(layer),
        None => router,
    }
}

fn cors(origins: &[String]) -> Option<CorsLayer> {
    let origin = match origins {
        [] => return None,
        all if all.iter().any(|origin| origin == "*") => AllowOrigin::from(Any),
        some => AllowOrigin::list(some.iter().filter_map(|origin| HeaderValue::from_str(origin).ok())),
    };
    let layer = CorsLayer::new().allow_origin(origin).allow_methods([Method::GET, Method::POST]);
    Some(layer.allow_headers(Any).expose_headers([REQUEST_ID.clone()]))
}

async fn expect_host(State(app): State<Arc<App>>, request: Request, next: Next) -> Result<Response, Failure> {
    app.check_host(request.headers())?;
    Ok(next.run(request).await)
}

async fn guard(State(app): State<Arc<App>>, request: Request, next: Next) -> Result<Response, Failure> {
    app.authorise(request.headers())?;
    Ok(next.run(request).await)
}

/// Gives the request an id, counts it, and writes a line of log.
async fn watch_request(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let start = Instant::now();
    let own = request.headers().get(&REQUEST_ID).and_then(|value| value.to_str().ok());
    let is_plain = |id: &&str| {
        (1..=64).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    let id = own.filter(is_plain).map_or_else(|| app.id("req-"), str::to_owned);
    let method = request.method().clone();
    // Never the path itself: a client wrote it.
    let route = request.extensions().get::<MatchedPath>().map_or("-", MatchedPath::as_str).to_owned();
    let mut response = REQUEST.scope(id.clone(), next.run(request)).await;
    let status = response.status().as_u16();
    app.metrics.requests.get_or_create(&RequestLabels { route: route.clone(), status }).inc();
    let ms = start.elapsed().as_millis() as u64;
    match response.extensions().get::<Failure>() {
        None => tracing::info!(request = id, %method, route, status, ms),
        Some(failure) if app.options.log_text => {
            tracing::info!(request = id, %method, route, status, ms, code = failure.code, message = failure.message);
        }
        Some(failure) => tracing::info!(request = id, %method, route, status, ms, code = failure.code),
    }
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID.clone(), id);
    }
    response
}

async fn not_found(request: Request<Body>) -> Failure {
    let message = format!("there is no {}", request.uri().path());
    Failure::new(StatusCode::NOT_FOUND, "not_found", message)
}

async fn not_allowed(request: Request<Body>) -> Failure {
    let message = format!("{} takes no {}", request.uri().path(), request.method());
    Failure::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
}
