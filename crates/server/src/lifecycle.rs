//! From a signal to the end: what runs goes on for a while, then it is told to end, then the server does.

use crate::metrics::Throughput;
use crate::options::OnEngineFailure;
use crate::state::App;
use nxd_engine::service::Handle;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How long requests that were told to end may take to say so to their clients.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How often the log says what the engine does.
const THROUGHPUT_EVERY: Duration = Duration::from_secs(10);

/// The signals that end a server.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

/// Why a server that serves ends.
pub(crate) enum End {
    /// A signal of this name came.
    Signal(&'static str),
    /// The engine has failed, for this reason.
    EngineFailed(Arc<str>),
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Drained {
    /// All requests were answered, or told that they end.
    Orderly,
    /// There is no time left for anything.
    AtOnce,
}

impl Signals {
    /// From now on these signals no longer end the process by themselves.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Signals { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for one of them.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Waits for a reason to end.
pub(crate) async fn end(app: &App, handle: &Handle, signals: &mut Signals) -> End {
    let why = tokio::select! {
        name = signals.next() => return End::Signal(name),
        why = handle.failed() => why,
    };
    match app.options.on_engine_failure {
        OnEngineFailure::Exit => {
            tracing::error!(%why, "the engine has failed; the server ends, so that it can be started again");
            End::EngineFailed(why)
        }
        OnEngineFailure::Stay => {
            tracing::error!(%why, "the engine has failed; the server stays and answers 503 until it is ended");
            End::Signal(signals.next().await)
        }
    }
}

/// Lets the errors that end all requests reach their clients. What is asked meanwhile is refused.
pub(crate) async fn say_farewell(app: &App, signals: &mut Signals) -> Drained {
    tokio::select! {
        () = app.in_flight.drained() => Drained::Orderly,
        () = tokio::time::sleep(LAST_WORDS) => Drained::AtOnce,
        _ = signals.next() => Drained::AtOnce,
    }
}

/// Takes nothing new and waits for what there is, but no longer than was allowed, nor past a second signal.
pub(crate) async fn drain(app: &App, signals: &mut Signals) -> Drained {
    app.drain();
    let Ok(handle) = app.model() else { return Drained::AtOnce };
    let timeout = app.options.shutdown_timeout;
    tracing::info!(requests = app.in_flight.count(), timeout_s = timeout.as_secs(), "draining");
    tokio::select! {
        () = app.in_flight.drained() => return Drained::Orderly,
        () = tokio::time::sleep(timeout) => {}
        name = signals.next() => {
            tracing::warn!(signal = name, "a second signal: ending at once");
            return Drained::AtOnce;
        }
    }
    tracing::warn!(requests = app.in_flight.count(), "requests are ended, as the time for them is over");
    handle.abort_all();
    say_farewell(app, signals).await
}

/// Logs what the engine does, while it does something.
pub(crate) async fn report(app: &App) {
    let (mut earlier, mut since) = (Throughput::default(), Instant::now());
    loop {
        tokio::time::sleep(THROUGHPUT_EVERY).await;
        let now = app.metrics.throughput();
        if let Some(interval) = now.since(earlier, since.elapsed().as_secs_f64()) {
            tracing::info!("{interval}");
        }
        (earlier, since) = (now, Instant::now());
    }
}
