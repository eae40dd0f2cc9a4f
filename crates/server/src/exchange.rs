//! What happens around every request: its id, its key, its line in the log, its count, and headers that every answer has.

use crate::auth::Keys;
use crate::error::ApiError;
use crate::state::{App, Counted};
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body_util::combinators::UnsyncBoxBody;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

/// The header that names a request.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest id that a client may give.
const MAX_ID_BYTES: usize = 128;

/// The id of a request, for those who answer it.
#[derive(Clone, Debug)]
pub(crate) struct RequestId(pub(crate) String);

/// What the middleware knows.
#[derive(Clone)]
pub(crate) struct Around {
    pub(crate) app: Arc<App>,
    pub(crate) keys: Arc<Keys>,
}

/// Answers a request.
pub(crate) async fn around(State(around): State<Around>, mut request: Request, next: Next) -> Response {
    let start = Instant::now();
    let app = &around.app;
    let counted = app.count();
    let id = request_id(&request, app.created);
    request.extensions_mut().insert(RequestId(id.clone()));
    let method = request.method().clone();
    // Paths as the router knows them: those that a client makes up must not become labels.
    let handler = request.extensions().get::<MatchedPath>().map_or("unknown", MatchedPath::as_str).to_owned();
    let checked = around.keys.check(&method, request.uri().path(), request.headers());
    let mut response = match checked {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    };
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::try_from(&id) {
        headers.insert(REQUEST_ID, value);
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if app.drains() {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    let status = response.status().as_u16();
    let known = matches!(method, Method::GET | Method::POST | Method::HEAD | Method::OPTIONS);
    let name = if known { method.as_str() } else { "other" };
    app.metrics.answered(&handler, name, status, start.elapsed());
    tracing::info!(request_id = %id, %method, handler, status, ms = start.elapsed().as_millis() as u64, "answered");
    response.map(|body| Body::new(Tracked { body, _counted: counted }))
}

/// The client's own id if it can stand in logs and headers, else a new one.
fn request_id(request: &Request, created: u64) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let given = request.headers().get(REQUEST_ID).and_then(|value| value.to_str().ok());
    let sane = |id: &&str| {
        !id.is_empty() && id.len() <= MAX_ID_BYTES && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b))
    };
    match given.filter(sane) {
        Some(id) => id.to_owned(),
        None => format!("{created:x}-{:x}", NEXT.fetch_add(1, Ordering::Relaxed)),
    }
}

/// The answer to a panic of ours.
pub(crate) fn panicked(panic: Box<dyn std::any::Any + Send + 'static>) -> Response<UnsyncBoxBody<Bytes, axum::Error>> {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    tracing::error!(panic = text.unwrap_or("without a message"), "a handler panicked");
    let error = ApiError::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "server_error",
        "internal_error",
        "the server failed on this request; its log says more",
    );
    error.into_response().map(UnsyncBoxBody::new)
}

/// A body that keeps its request counted until it has been sent or its client has gone.
struct Tracked {
    body: Body,
    _counted: Counted,
}

impl HttpBody for Tracked {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.body.size_hint()
    }
}
