//! Replies in parts, as server-sent events.

use super::generate::Running;
use crate::error::ApiError;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_core::Stream;
use nxd_engine::service::Event;
use serde::Serialize;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// Turns events into a reply's chunks.
pub(super) trait Writer: Send + Unpin + 'static {
    /// What is said of an event of the prompt `prompt`.
    fn event(&mut self, prompt: usize, event: Event, out: &mut Chunks);

    /// What is said after the last event.
    fn end(&mut self, out: &mut Chunks);
}

/// Chunks that wait to be sent.
#[derive(Default)]
pub(super) struct Chunks(VecDeque<String>);

impl Chunks {
    /// Adds a chunk.
    pub(super) fn push(&mut self, chunk: &impl Serialize) {
        match serde_json::to_string(chunk) {
            Ok(text) => self.0.push_back(text),
            Err(error) => tracing::error!(%error, "a chunk of a reply could not be written"),
        }
    }
}

/// The body of a streamed reply. When it is dropped, the request leaves the engine.
struct Body<W> {
    /// `None` once everything was read.
    running: Option<Running>,
    writer: W,
    chunks: Chunks,
}

/// Streams what `writer` makes of the events. Silence is broken by a comment every `ping`.
///
/// # Errors
/// When the request fails before anything of it has started.
pub(super) async fn respond(mut running: Running, writer: impl Writer, ping: Duration) -> Result<Response, ApiError> {
    running.begin().await?;
    let body = Body { running: Some(running), writer, chunks: Chunks::default() };
    let mut response = Sse::new(body).keep_alive(KeepAlive::new().interval(ping).text("ping")).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // nginx would hold the chunks back.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    Ok(response)
}

impl<W: Writer> Stream for Body<W> {
    type Item = Result<sse::Event, Infallible>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let body = self.get_mut();
        loop {
            if let Some(chunk) = body.chunks.0.pop_front() {
                return Poll::Ready(Some(Ok(sse::Event::default().data(chunk))));
            }
            let Some(running) = &mut body.running else { return Poll::Ready(None) };
            match running.poll_next(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some((_, Event::Failed(failure)))) => {
                    body.chunks.push(&ApiError::from(failure).body());
                    body.done();
                }
                Poll::Ready(Some((prompt, event))) => body.writer.event(prompt, event, &mut body.chunks),
                Poll::Ready(None) => {
                    body.writer.end(&mut body.chunks);
                    body.done();
                }
            }
        }
    }
}

impl<W> Body<W> {
    fn done(&mut self) {
        self.running = None;
        self.chunks.0.push_back("[DONE]".to_owned());
    }
}
