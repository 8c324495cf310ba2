//! Connections: how many are open at a time, how long a head may take to come, and what they are told while a model is loaded.

use std::{
    convert::Infallible,
    io::ErrorKind,
    sync::{Arc, OnceLock},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    http::{
        HeaderValue, Request, StatusCode,
        header::{ACCEPT, HeaderName},
    },
    response::{IntoResponse, Response},
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
};
use tower::ServiceExt;

use super::Failure;

/// How long nothing is accepted after the system had no room for a connection.
const NO_ROOM_TIME: Duration = Duration::from_millis(500);

/// The routes, once there are any.
pub type Routes = Arc<OnceLock<Router>>;

/// What holds for connections.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub max_connections: usize,
    pub head_time: Duration,
}

/// Accepts connections until `closing` is true, `max_connections` open at a time: what is beyond them waits with the system. Then the requests
/// that are under way are answered. A head that is not whole after `head_time` ends its connection.
pub async fn serve(listener: TcpListener, bounds: Bounds, routes: Routes, mut closing: watch::Receiver<bool>) {
    let room = Arc::new(Semaphore::new(bounds.max_connections));
    let open = GracefulShutdown::new();
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(bounds.head_time);
    let service = service_fn(move |request| answer(routes.get().cloned(), request));
    loop {
        let next = async {
            let place = Arc::clone(&room).acquire_owned().await.expect("nobody closes it");
            (place, accept(&listener).await)
        };
        let (place, stream) = tokio::select! {
            next = next => next,
            _ = closing.wait_for(|is_closing| *is_closing) => break,
        };
        // A token is on its way at once, not when a packet is full. Where the system will not, it is only later.
        drop(stream.set_nodelay(true));
        let connection = open.watch(http.serve_connection(TokioIo::new(stream), service.clone()));
        tokio::spawn(async move {
            // A client may break off.
            drop(connection.await);
            drop(place);
        });
    }
    drop(listener);
    open.shutdown().await;
}

async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            // A client that was gone before it was greeted.
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset) => {}
            Err(error) => {
                // Some have to end first.
                tracing::warn!(%error, "no connection accepted");
                tokio::time::sleep(NO_ROOM_TIME).await;
            }
        }
    }
}

async fn answer(routes: Option<Router>, request: Request<Incoming>) -> Result<Response, Infallible> {
    match routes {
        Some(routes) => routes.oneshot(request.map(Body::new)).await,
        None => Ok(loading(&request)),
    }
}

/// What every route says before there is a model.
fn loading(request: &Request<Incoming>) -> Response {
    let message = "the model is being loaded; ask again in a second";
    let failure = Failure::new(StatusCode::SERVICE_UNAVAILABLE, "loading", message);
    let mut response = Failure { retry_after: Some(1), ..failure }.into_response();
    let is_browser = |value: &HeaderValue| value.to_str().is_ok_and(|types| types.contains("text/html"));
    if request.headers().get(ACCEPT).is_some_and(is_browser) {
        // A browser asks again by itself.
        response.headers_mut().insert(HeaderName::from_static("refresh"), HeaderValue::from_static("1"));
    }
    response
}
