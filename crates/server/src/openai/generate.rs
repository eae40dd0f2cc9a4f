//! From prompts to events: places in the queue first, then what takes time off the server's threads, then the engine.

use super::constraint::{self, Asked};
use super::params::Sampling;
use super::prompt::{Encoding, Prompt};
use crate::error::ApiError;
use crate::state::App;
use axum::http::StatusCode;
use nxd_engine::service::{End, Event, Handle, Job, Stop, Stream, TextOptions, Ticket};
use nxd_engine::{Request, TokenLogprob};
use serde::Serialize;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use utoipa::ToSchema;

/// What all prompts of a request share.
pub(super) struct Plan {
    pub(super) sampling: Sampling,
    pub(super) encoding: Encoding,
    pub(super) constraint: Option<Asked>,
    /// The field that prompts come from.
    pub(super) field: &'static str,
    /// The field that says how many tokens a reply may have, and what it says.
    pub(super) max_tokens: (&'static str, Option<u32>),
    /// Tokens of a reply where the request does not say; as many as fit where this is not said either.
    pub(super) default_max_tokens: Option<usize>,
}

/// A prompt on its way.
#[derive(Clone, Debug, Default)]
pub(super) struct Prepared {
    /// Its tokens.
    pub(super) ids: Vec<u32>,
    /// Its text, as it was sent or rendered.
    pub(super) text: Option<String>,
    /// Most tokens of each completion.
    pub(super) max_tokens: usize,
}

/// The events of all prompts of a request. Dropping it takes them out of the engine.
pub(super) struct Running {
    pub(super) prompts: Vec<Prepared>,
    streams: Vec<Option<Stream>>,
    /// The stream that is asked first, so that none waits for another.
    turn: usize,
    /// An event that was looked at and not taken.
    first: Option<(usize, Event)>,
}

/// A completion as a whole.
#[derive(Clone, Debug, Default)]
pub(super) struct Completion {
    pub(super) text: String,
    pub(super) tokens: Vec<u32>,
    /// One entry a token, each empty unless asked for.
    pub(super) logprobs: Vec<Vec<TokenLogprob>>,
    pub(super) end: Option<End>,
}

/// What became of one prompt.
#[derive(Clone, Debug, Default)]
pub(super) struct Outcome {
    pub(super) prompt_logprobs: Option<Vec<Vec<TokenLogprob>>>,
    pub(super) completions: Vec<Completion>,
    pub(super) embedding: Option<Vec<f32>>,
}

/// What stopped a completion: a token or a text that the request named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum StopReason {
    /// A token id.
    Id(u32),
    /// A text.
    Text(String),
}

impl StopReason {
    /// What of `end` is told: not that the model's own end of text came.
    pub(super) fn of(end: &End, eos_ids: &[u32]) -> Option<StopReason> {
        match &end.stop {
            Some(Stop::Id(id)) if !eos_ids.contains(id) => Some(StopReason::Id(*id)),
            Some(Stop::Text(text)) => Some(StopReason::Text(text.clone())),
            _ => None,
        }
    }
}

/// Takes a place in the queue for each of `count` prompts.
///
/// # Errors
/// 429 when the queue is full, 503 when nothing is served.
pub(super) fn admit(handle: &Handle, count: usize) -> Result<Vec<Ticket>, ApiError> {
    (0..count).map(|_| handle.admit().map_err(ApiError::from)).collect()
}

/// Runs what takes long on a thread that may block.
///
/// # Errors
/// What `work` gives, and 500 when it panicked.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        tracing::error!(%error, "a request's preparation failed");
        let message = "the request could not be prepared".to_owned();
        Err(ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", "internal_error", message))
    })
}

/// Encodes `prompts`, compiles the constraint, and hands everything to the engine: one place in the queue for each prompt.
///
/// # Errors
/// When a prompt is too long, a parameter does not fit the model, or the engine refuses.
pub(super) async fn start(
    app: &Arc<App>,
    handle: &Handle,
    tickets: Vec<Ticket>,
    plan: Plan,
    prompts: impl FnOnce(&Handle) -> Result<Vec<Prompt>, ApiError> + Send + 'static,
) -> Result<Running, ApiError> {
    let (shared, owned) = (Arc::clone(app), handle.clone());
    let (field, text) = (plan.field, plan.sampling.text.clone());
    let prepared = blocking(move || {
        let prompts = prompts(&owned)?;
        prepare(&shared, &owned, &plan, prompts)
    });
    let (prompts, requests): (Vec<_>, Vec<_>) = prepared.await?.into_iter().unzip();
    let running = submit(app, handle, field, tickets, requests, &text)?;
    Ok(Running { prompts, ..running })
}

/// Hands requests to the engine; `field` is where their prompts come from.
///
/// # Errors
/// When the engine refuses one of them.
pub(super) fn submit(
    app: &App,
    handle: &Handle,
    field: &str,
    tickets: Vec<Ticket>,
    requests: Vec<Request>,
    text: &TextOptions,
) -> Result<Running, ApiError> {
    let now = Instant::now();
    let after = |limit: Option<Duration>| limit.and_then(|limit| now.checked_add(limit));
    let (queue_deadline, deadline) = (after(app.options.queue_timeout), after(app.options.request_timeout));
    let mut streams = Vec::new();
    for (ticket, request) in tickets.into_iter().zip(requests) {
        let job = Job { request, text: text.clone(), queue_deadline, deadline };
        let stream = handle.submit(ticket, job).map_err(|error| {
            let error = ApiError::from(error);
            let blame = error.status == StatusCode::BAD_REQUEST && error.param.as_deref().is_none_or(|p| p == "prompt");
            if blame { ApiError { param: Some(field.to_owned()), ..error } } else { error }
        })?;
        streams.push(Some(stream));
    }
    Ok(Running { prompts: Vec::new(), streams, turn: 0, first: None })
}

fn prepare(
    app: &App,
    handle: &Handle,
    plan: &Plan,
    prompts: Vec<Prompt>,
) -> Result<Vec<(Prepared, Request)>, ApiError> {
    let (model, info) = (handle.model(), handle.info());
    let mut request = plan.sampling.request.clone();
    if let Some(Asked { constraint, field }) = &plan.constraint {
        let grammar = app.grammars(handle).and_then(|grammars| grammars.compile(constraint));
        request.grammar = Some(grammar.map_err(|error| constraint::refused(&error, field))?);
    }
    // A grammar that has come to its end allows nothing but the end.
    if !plan.sampling.ignore_eos || request.grammar.is_some() {
        request.stop_ids.extend(model.eos_ids());
    }
    let reserved = plan.max_tokens.1.map_or(1, |asked| asked as usize);
    let room = info.max_model_len.saturating_sub(reserved);
    let one = |prompt: Prompt| {
        let sent = match &prompt {
            Prompt::Text(text) => Some(text.clone()),
            Prompt::Ids(_) => None,
        };
        let ids = plan.encoding.tokens(prompt, model.tokenizer(), room, plan.field)?;
        let max_tokens = plan.max_tokens(ids.len(), info.max_model_len)?;
        let text = if plan.encoding.cuts() { None } else { sent };
        let request = Request { prompt: ids.clone(), max_tokens: Some(max_tokens), ..request.clone() };
        Ok((Prepared { ids, text, max_tokens }, request))
    };
    prompts.into_iter().map(one).collect()
}

impl Plan {
    /// Most tokens of a reply to a prompt of `len` tokens.
    fn max_tokens(&self, len: usize, max_model_len: usize) -> Result<usize, ApiError> {
        let exceeded = |param: &str, message: String| ApiError {
            code: "context_length_exceeded",
            ..ApiError::invalid(param, message)
        };
        let room = max_model_len.saturating_sub(len);
        match self.max_tokens {
            (name, Some(asked)) if asked as usize > room && len < max_model_len => {
                let message = format!(
                    "the prompt has {len} tokens and `{name}` is {asked}; the context holds {max_model_len} tokens together"
                );
                Err(exceeded(name, message))
            }
            _ if room == 0 => {
                let message = format!(
                    "the prompt has {len} tokens; the context holds {max_model_len} together with at least one of the reply"
                );
                Err(exceeded(self.field, message))
            }
            (_, Some(asked)) => Ok(asked as usize),
            (_, None) => Ok(self.default_max_tokens.map_or(room, |default| default.min(room))),
        }
    }
}

impl Running {
    /// Waits for the first sign of life, so that a refusal gets its status.
    ///
    /// # Errors
    /// When the request fails before it starts.
    pub(super) async fn begin(&mut self) -> Result<(), ApiError> {
        match self.next().await {
            Some((_, Event::Failed(failure))) => Err(failure.into()),
            first => {
                self.first = first;
                Ok(())
            }
        }
    }

    /// The next event, with the index of its prompt; `None` after the last one.
    pub(super) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<(usize, Event)>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(first));
        }
        let count = self.streams.len();
        let mut open = false;
        for index in (0..count).map(|step| (self.turn + step) % count) {
            let Some(slot) = self.streams.get_mut(index) else { continue };
            let Some(stream) = slot else { continue };
            match stream.poll_next(context) {
                Poll::Ready(Some(event)) => {
                    self.turn = (index + 1) % count;
                    return Poll::Ready(Some((index, event)));
                }
                Poll::Ready(None) => *slot = None,
                Poll::Pending => open = true,
            }
        }
        if open { Poll::Pending } else { Poll::Ready(None) }
    }

    async fn next(&mut self) -> Option<(usize, Event)> {
        poll_fn(|context| self.poll_next(context)).await
    }

    /// Waits until all events are there.
    async fn ended(&mut self) {
        for stream in self.streams.iter_mut().flatten() {
            poll_fn(|context| stream.poll_ended(context)).await;
        }
    }

    /// Everything, once it is there.
    ///
    /// # Errors
    /// When one of the prompts fails.
    pub(super) async fn collect(&mut self, n: u32) -> Result<Vec<Outcome>, ApiError> {
        let empty = Outcome { completions: vec![Completion::default(); n as usize], ..Outcome::default() };
        let mut outcomes = vec![empty; self.streams.len()];
        self.ended().await;
        while let Some((index, event)) = self.next().await {
            let Some(outcome) = outcomes.get_mut(index) else { continue };
            match event {
                Event::Failed(failure) => return Err(failure.into()),
                Event::PromptLogprobs(logprobs) => outcome.prompt_logprobs = Some(logprobs),
                Event::Embedding(row) => outcome.embedding = Some(row),
                Event::Piece(piece) => {
                    if let Some(completion) = outcome.completions.get_mut(piece.choice as usize) {
                        completion.text.push_str(&piece.text);
                        completion.tokens.push(piece.token);
                        completion.logprobs.push(piece.logprobs);
                    }
                }
                Event::End(end) => {
                    if let Some(completion) = outcome.completions.get_mut(end.choice as usize) {
                        completion.text.push_str(&end.text);
                        completion.end = Some(end);
                    }
                }
                _ => {}
            }
        }
        Ok(outcomes)
    }
}
