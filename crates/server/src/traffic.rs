//! What surrounds every request: its id, its line in the log, its share of the metrics, headers of every reply, and the count of requests
//! whose replies are not out yet.

use crate::error::ApiError;
use crate::state::App;
use crate::unique;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hyper::body::{Frame, SizeHint};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;
use tokio::sync::Notify;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest request id that is taken from a client.
const MAX_ID_CHARS: usize = 128;

/// A request's name in the log, in the request's extensions and in the reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(pub Arc<str>);

/// How many requests are not answered to the end.
#[derive(Default)]
pub(crate) struct InFlight {
    count: AtomicUsize,
    none: Notify,
}

impl InFlight {
    /// Waits until there are none.
    pub(crate) async fn drained(&self) {
        loop {
            // Asked for before the count is looked at, so that no end is missed.
            let none = self.none.notified();
            if self.count.load(Ordering::SeqCst) == 0 {
                return;
            }
            none.await;
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }
}

/// Follows a request from its head to the last byte of its reply.
pub(crate) async fn follow(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let id = RequestId(given_id(request.headers()).unwrap_or_else(new_id));
    request.extensions_mut().insert(id.clone());
    let handler = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
    let path: String = request.uri().path().chars().take(200).collect();
    app.in_flight.count.fetch_add(1, Ordering::SeqCst);
    let (method, began, id) = (request.method().clone(), Instant::now(), id.0);
    let mut followed = Followed { app, id, method, path, handler, began, status: None, whole: false };
    let response = next.run(request).await;
    let (mut head, body) = response.into_parts();
    followed.status = Some(head.status);
    if let Ok(id) = HeaderValue::try_from(&*followed.id) {
        head.headers.insert(REQUEST_ID, id);
    }
    head.headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if followed.app.is_draining() {
        // Routers that keep connections open look for another server.
        head.headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    followed.whole = body.is_end_stream();
    Response::from_parts(head, Body::new(FollowedBody { body, followed }))
}

/// Refuses a body that is said to be too long, before any of it is read. Handlers bound what comes without saying so.
pub(crate) async fn bound(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let declared =
        request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let allowed = app.options.max_body_bytes;
    if declared.is_none_or(|declared| declared <= allowed as u64) {
        return next.run(request).await;
    }
    let message = format!("the body has more than {allowed} bytes, which is the limit");
    let error = ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error", "request_too_large", message);
    let mut response = error.into_response();
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// The id that the client gives, if it may stand in logs and headers.
fn given_id(headers: &HeaderMap) -> Option<Arc<str>> {
    let id = headers.get(REQUEST_ID)?.to_str().ok()?;
    let sane = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    (!id.is_empty() && id.len() <= MAX_ID_CHARS && id.chars().all(sane)).then(|| id.into())
}

/// An id that no other request has.
fn new_id() -> Arc<str> {
    unique::bytes().iter().take(16).map(|byte| format!("{byte:02x}")).collect::<String>().into()
}

/// A request on its way; what is known of it is said when it is dropped.
struct Followed {
    app: Arc<App>,
    id: Arc<str>,
    method: Method,
    path: String,
    handler: String,
    began: Instant,
    /// `None` while no reply has begun.
    status: Option<StatusCode>,
    /// Whether the reply is out to its end.
    whole: bool,
}

impl Drop for Followed {
    fn drop(&mut self) {
        let elapsed = self.began.elapsed();
        // A client that goes away has no status of HTTP's own; this one is what other servers write.
        let status = self.status.filter(|_| self.whole).map_or(499, |status| status.as_u16());
        self.app.metrics.http.count(&self.handler, &self.method, status, elapsed);
        let (id, method, path, ms) = (&*self.id, self.method.as_str(), self.path.as_str(), elapsed.as_millis());
        // Probes come every second and say nothing.
        match self.handler.as_str() {
            "/health" | "/health/live" | "/health/ready" | "/ready" | "/ping" | "/metrics" => {
                tracing::debug!(request_id = id, method, path, status, ms, "request");
            }
            _ => tracing::info!(request_id = id, method, path, status, ms, "request"),
        }
        if self.app.in_flight.count.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.app.in_flight.none.notify_waiters();
        }
    }
}

/// A reply's body, which carries what follows the request.
struct FollowedBody {
    body: Body,
    followed: Followed,
}

impl HttpBody for FollowedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        // A body of known length is not asked again after its last frame.
        if matches!(frame, Poll::Ready(None)) || self.body.is_end_stream() {
            self.followed.whole = true;
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_clients_are_kept_when_they_may_stand_in_a_log() {
        let given = |id: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, HeaderValue::from_static(id));
            given_id(&headers).map(|id| id.to_string())
        };
        assert_eq!(given("run-7.a_b:3").as_deref(), Some("run-7.a_b:3"));
        for bad in ["", "two words", "a\tb", "a;b", "\"", "%0a"] {
            assert_eq!(given(bad), None, "{bad:?}");
        }
        let mut headers = HeaderMap::new();
        headers.insert(REQUEST_ID, HeaderValue::try_from("x".repeat(MAX_ID_CHARS + 1)).unwrap());
        assert_eq!(given_id(&headers), None);
    }

    #[test]
    fn made_ids_differ() {
        assert_ne!(new_id(), new_id());
        assert_eq!(new_id().len(), 32);
    }
}
