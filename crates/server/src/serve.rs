//! The server's life: bind, answer while the model loads, serve, drain, end.

use crate::connection;
use crate::metrics::Observer;
use crate::options::ServerOptions;
use crate::router::router;
use crate::state::App;
use nxd_engine::Service;
use nxd_engine::service::Handle;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// Threads that move bytes: the other cores belong to the engine.
const THREADS: usize = 2;

/// How long connections may take to end when all requests have ended.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How often the server looks whether all requests have ended, while it drains.
const LOOK: Duration = Duration::from_millis(20);

/// Something that the program may tell its user.
#[non_exhaustive]
pub enum Moment<'a> {
    /// The address is bound; health is answered.
    Listening(SocketAddr),
    /// The model is loaded, after so much time.
    Ready(&'a Handle, SocketAddr, Duration),
    /// A signal came: nothing new is taken.
    Draining,
}

/// Why a server could not serve.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError<E> {
    /// The address cannot be had.
    #[error("cannot listen on {host}:{port}; choose another --port, or end the program that has it")]
    Bind {
        /// The host.
        host: String,
        /// The port.
        port: u16,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The system gives no threads, signals or sockets.
    #[error("the server could not be started")]
    Start(#[source] io::Error),
    /// The model cannot be loaded.
    #[error("the model could not be loaded")]
    Load(E),
}

/// How the load of a model ended: with its result, or without one when a signal came first.
enum Loaded<E> {
    Service(Service),
    Failed(E),
    Signalled,
}

/// Serves until a signal ends it. `load` runs beside the server, which says meanwhile that it is loading; the service that it starts is to
/// report to the observer. `tell` is called at moments that people may want to hear of.
///
/// # Errors
/// When the address cannot be had, the system gives no threads, or `load` fails.
pub fn serve<E: Send + 'static>(
    options: ServerOptions,
    load: impl FnOnce(Observer) -> Result<Service, E> + Send + 'static,
    tell: impl Fn(Moment<'_>),
) -> Result<(), ServeError<E>> {
    let bound = connection::bind(&options).map_err(|source| ServeError::Bind {
        host: options.host.clone(),
        port: options.port,
        source,
    })?;
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(THREADS).thread_name("nxd-http").enable_all().build();
    let runtime = runtime.map_err(ServeError::Start)?;
    let outcome = runtime.block_on(run(Arc::new(App::new(options)), bound, load, tell));
    // Work of requests that nobody waits for any more must not hold up the end.
    runtime.shutdown_background();
    outcome
}

async fn run<E: Send + 'static>(
    app: Arc<App>,
    bound: std::net::TcpListener,
    load: impl FnOnce(Observer) -> Result<Service, E> + Send + 'static,
    tell: impl Fn(Moment<'_>),
) -> Result<(), ServeError<E>> {
    let started = Instant::now();
    let mut signals = Signals::new().map_err(ServeError::Start)?;
    let listener = TcpListener::from_std(bound).map_err(ServeError::Start)?;
    let address = listener.local_addr().map_err(ServeError::Start)?;
    let (close, closed) = watch::channel(false);
    let options = Arc::new(app.options.clone());
    let connections = tokio::spawn(connection::accept(listener, router(&app), options, closed));
    tell(Moment::Listening(address));
    let service = match loaded(&app, load, &mut signals).await {
        Loaded::Service(service) => service,
        Loaded::Failed(error) => return Err(ServeError::Load(error)),
        Loaded::Signalled => return Ok(()),
    };
    let handle = service.handle();
    app.loaded(handle.clone());
    tell(Moment::Ready(&handle, address, started.elapsed()));
    signals.next().await;
    tell(Moment::Draining);
    drain(&app, &handle, &mut signals).await;
    // Nobody reads a closed channel's last word but the one who waits for it.
    let _ = close.send(true);
    let _ = tokio::time::timeout(LAST_WORDS, connections).await;
    // Ends the engine's thread after its step; a signal meanwhile ends the process with it.
    let end = tokio::task::spawn_blocking(move || drop(service));
    tokio::select! {
        _ = end => {}
        () = signals.next() => {}
    }
    Ok(())
}

/// Loads the model on a thread of its own.
async fn loaded<E: Send + 'static>(
    app: &App,
    load: impl FnOnce(Observer) -> Result<Service, E> + Send + 'static,
    signals: &mut Signals,
) -> Loaded<E> {
    let observer = app.metrics.observer();
    let load = tokio::task::spawn_blocking(move || load(observer));
    tokio::select! {
        loaded = load => match loaded {
            Ok(Ok(service)) => Loaded::Service(service),
            Ok(Err(error)) => Loaded::Failed(error),
            Err(panicked) => match panicked.try_into_panic() {
                // As if it had run on this thread.
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Loaded::Signalled,
            },
        },
        () = signals.next() => Loaded::Signalled,
    }
}

/// Lets requests end by themselves for a while, then aborts what is left. Another signal cuts the while short.
async fn drain(app: &App, handle: &Handle, signals: &mut Signals) {
    handle.drain();
    let all_ended = async {
        while app.requests() > 0 {
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::select! {
        () = all_ended => return,
        () = tokio::time::sleep(app.options.shutdown_timeout) => {}
        () = signals.next() => {}
    }
    tracing::warn!(requests = app.requests(), "requests are aborted: the time to shut down is over");
    handle.abort_all();
    let told = async {
        while app.requests() > 0 {
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::select! {
        _ = tokio::time::timeout(LAST_WORDS, told) => {}
        () = signals.next() => {}
    }
}

/// The signals that end a server.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Signals { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
