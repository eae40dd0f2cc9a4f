//! Connections: how many, and how long each may take over a request's head and leave its reply unread.

use crate::patience::Patience;
use crate::state::App;
use axum::Router;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, oneshot};
use tower::ServiceExt;

/// Most headers of a request.
const MAX_HEADERS: usize = 100;
/// Most bytes of a request's head, and of what is read ahead.
const MAX_HEAD_BYTES: usize = 64 << 10;
/// How long replies may take to leave at the end.
const LAST_BYTES: Duration = Duration::from_secs(1);
/// The longest wait after a connection that could not be taken.
const MAX_BACKOFF: Duration = Duration::from_secs(1);

/// Takes connections until `stop`, then lets those that are writing end what they write.
pub(crate) async fn serve(listener: TcpListener, router: Router, app: Arc<App>, stop: oneshot::Receiver<()>) {
    let graceful = GracefulShutdown::new();
    tokio::select! {
        () = accept(listener, router, &app, &graceful) => {}
        _ = stop => {}
    }
    // One that is cut off here had its whole reply for this long and does not read it.
    let _ = tokio::time::timeout(LAST_BYTES, graceful.shutdown()).await;
}

async fn accept(listener: TcpListener, router: Router, app: &App, graceful: &GracefulShutdown) {
    let places = Arc::new(Semaphore::new(app.options.max_connections.clamp(1, Semaphore::MAX_PERMITS)));
    let builder = builder(app.options.header_timeout);
    let mut backoff = Duration::ZERO;
    loop {
        // Those beyond the limit wait in the system's own queue, where they cost nothing.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) if ended_early(&error) => continue,
            Err(error) => {
                // Most likely there are no file descriptors; asking again at once would burn a core until there are.
                backoff = (backoff * 2).clamp(Duration::from_millis(20), MAX_BACKOFF);
                tracing::warn!(%error, wait_ms = backoff.as_millis(), "a connection could not be taken");
                tokio::time::sleep(backoff).await;
                continue;
            }
        };
        backoff = Duration::ZERO;
        // Tokens are small, and each is waited for. Where the system refuses, they come later.
        let _ = stream.set_nodelay(true);
        let router = router.clone();
        let service = service_fn(move |request| router.clone().oneshot(request));
        let stream = TokioIo::new(Patience::new(stream, app.options.write_timeout));
        let connection = graceful.watch(builder.serve_connection(stream, service));
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection broke");
            }
            drop(place);
        });
    }
}

/// The time for a head starts with the connection and after each reply, so it bounds idle connections too.
fn builder(header_timeout: Duration) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .max_headers(MAX_HEADERS)
        .max_header_size(MAX_HEAD_BYTES)
        .max_buf_size(2 * MAX_HEAD_BYTES);
    builder
}

/// Whether only this connection is lost.
fn ended_early(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}
