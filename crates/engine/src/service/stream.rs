//! What a request gives its caller: a mailbox that the engine's thread fills and a stream that empties it.

use super::worker::Command;
use crate::request::{FinishReason, Stats};
use crossbeam::channel::Sender;
use nxd_ops::TokenLogprob;
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// Something that happened to a request.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// Its first step is about to run, or has run.
    Started,
    /// For each token of the prompt after the first: the most likely ones, best first, then its own if it is not among them.
    PromptLogprobs(Vec<Vec<TokenLogprob>>),
    /// A new token.
    Piece(Piece),
    /// The embedding that was asked for, `[E]`.
    Embedding(Vec<f32>),
    /// One of its completions has ended. After the last one the stream ends.
    End(End),
    /// The request has failed, and with it the stream ends.
    Failed(Failure),
}

/// A new token and the text that has become sure with it.
#[derive(Clone, Debug, PartialEq)]
pub struct Piece {
    /// Which completion.
    pub choice: u32,
    /// The token.
    pub token: u32,
    /// The most likely tokens, best first, then the new one if it is not among them; empty unless asked for.
    pub logprobs: Vec<TokenLogprob>,
    /// Text that is sure to stay; empty while a character or a possible stop string is not whole.
    pub text: String,
    /// Whether it is a stop id of the request, with which the completion ends.
    pub stops: bool,
}

/// The end of a completion.
#[derive(Clone, Debug, PartialEq)]
pub struct End {
    /// Which completion.
    pub choice: u32,
    /// Why it ended.
    pub reason: FinishReason,
    /// What stopped it.
    pub stop: Option<Stop>,
    /// Text that was held back.
    pub text: String,
    /// What it took.
    pub stats: Stats,
}

/// What stopped a completion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// A stop id of the request.
    Id(u32),
    /// A stop string of the request.
    Text(String),
}

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// Nothing could be drawn.
    #[error(
        "the logits became NaN after {tokens} generated tokens; the weights or the numeric mode are not sound for this prompt"
    )]
    NotFinite {
        /// Tokens that it had drawn.
        tokens: usize,
    },
    /// Its adapter was unloaded before the engine took it.
    #[error("the adapter of the request was unloaded before it began")]
    NoAdapter,
    /// Its grammar failed; the log says how.
    #[error("the grammar of the request failed while it ran")]
    Grammar,
    /// It has not started in time.
    #[error("the request waited longer in the queue than is allowed")]
    QueueTimeout,
    /// It has not ended in time.
    #[error("the request took longer than is allowed")]
    Timeout,
    /// The service ends.
    #[error("the server is shutting down")]
    ShutDown,
    /// The engine has failed, and all of its requests with it.
    #[error("the engine has failed: {0}")]
    Dead(Arc<str>),
}

/// Where the engine's thread leaves a request's events.
pub(super) struct Mailbox {
    inner: Mutex<Inner>,
    filled: Condvar,
}

struct Inner {
    events: VecDeque<Event>,
    /// Completions that have not ended.
    open: u32,
    waker: Option<Waker>,
    /// Whether the waker waits for the last event.
    wakes_at_end: bool,
}

/// The events of one request. Dropping it takes the request out of the engine.
pub struct Stream {
    id: u64,
    mailbox: Arc<Mailbox>,
    commands: Sender<Command>,
}

impl Mailbox {
    pub(super) fn new(choices: u32) -> Self {
        let inner = Inner { events: VecDeque::new(), open: choices, waker: None, wakes_at_end: false };
        Mailbox { inner: Mutex::new(inner), filled: Condvar::new() }
    }

    pub(super) fn put(&self, event: Event) {
        let waker = {
            let mut inner = self.inner.lock();
            match &event {
                Event::End(_) | Event::Embedding(_) => inner.open = inner.open.saturating_sub(1),
                Event::Failed(_) => inner.open = 0,
                _ => {}
            }
            inner.events.push_back(event);
            if inner.open > 0 && inner.wakes_at_end { None } else { inner.waker.take() }
        };
        self.filled.notify_one();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn is_open(&self) -> bool {
        self.inner.lock().open > 0
    }
}

impl Inner {
    fn wait(&mut self, context: &mut Context<'_>, until_end: bool) {
        self.waker = Some(context.waker().clone());
        self.wakes_at_end = until_end;
    }
}

impl Stream {
    pub(super) fn new(id: u64, mailbox: Arc<Mailbox>, commands: Sender<Command>) -> Self {
        Stream { id, mailbox, commands }
    }

    /// The next event, waiting for it; `None` after the last one, or when none comes in time.
    pub fn recv_timeout(&mut self, timeout: Duration) -> Option<Event> {
        let deadline = Instant::now() + timeout;
        let mut inner = self.mailbox.inner.lock();
        loop {
            if let Some(event) = inner.events.pop_front() {
                return Some(event);
            }
            if inner.open == 0 || self.mailbox.filled.wait_until(&mut inner, deadline).timed_out() {
                return inner.events.pop_front();
            }
        }
    }

    /// The next event of those that are there; `Ready(None)` after the last one.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Event>> {
        let mut inner = self.mailbox.inner.lock();
        match inner.events.pop_front() {
            Some(event) => Poll::Ready(Some(event)),
            None if inner.open == 0 => Poll::Ready(None),
            None => {
                inner.wait(context, false);
                Poll::Pending
            }
        }
    }

    /// Ready once all events are there: who wants the whole is not woken for each token.
    pub fn poll_ended(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let mut inner = self.mailbox.inner.lock();
        if inner.open == 0 {
            return Poll::Ready(());
        }
        inner.wait(context, true);
        Poll::Pending
    }

    /// The next event; `None` after the last one. Needs no particular runtime.
    pub async fn next(&mut self) -> Option<Event> {
        poll_fn(|context| self.poll_next(context)).await
    }

    /// The next event if it is there already.
    pub fn try_next(&mut self) -> Option<Event> {
        self.mailbox.inner.lock().events.pop_front()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.mailbox.is_open() {
            // A thread that has ended has no requests.
            let _ = self.commands.send(Command::Abort(self.id));
        }
    }
}
