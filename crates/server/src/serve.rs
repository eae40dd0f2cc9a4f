//! A server from its address to its end.

use crate::connection;
use crate::lifecycle::{self, Drained, End, Signals};
use crate::options::ServerOptions;
use crate::router::router;
use crate::state::App;
use nxd_engine::service::{Handle, Service};
use nxd_engine::{Engine, EngineError};
use nxd_models::{Adapter, Model};
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::Arc;
use tokio::sync::oneshot;

/// Threads for connections: they mostly wait, and processors are for kernels.
const WORKER_THREADS: usize = 2;

/// A server that has its address, and answers once it runs.
pub struct Server {
    app: Arc<App>,
    listener: TcpListener,
    address: SocketAddr,
}

/// Why a server does not run; `E` is how its model failed to load.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError<E> {
    /// The host is unknown.
    #[error("the host `{host}` has no address")]
    Host {
        /// What was asked for.
        host: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The model did not load.
    #[error("the model did not load")]
    Load(E),
    /// The engine has failed while it served.
    #[error("the engine has failed: {why}; every request that it had was answered with an error")]
    EngineFailed {
        /// What it said.
        why: Arc<str>,
    },
    /// The system gives no threads, signals or sockets.
    #[error("the server cannot start")]
    Start(#[source] io::Error),
}

/// What a loader is given.
pub struct Loading {
    app: Arc<App>,
}

impl Loading {
    /// Loads an adapter, which requests then name as their model.
    ///
    /// # Errors
    /// When the device has no adapters, or this one does not fit.
    pub fn adapter(&self, engine: &mut Engine, name: &str, adapter: &Adapter) -> Result<(), EngineError> {
        let id = engine.load_adapter(adapter.parts())?;
        self.app.adapters.insert(name.to_owned(), id);
        Ok(())
    }

    /// Starts the engine's thread under the server's limits, watched by its metrics.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(&self, engine: Engine, model: Arc<Model>) -> io::Result<Service> {
        let app = Arc::clone(&self.app);
        Service::start(engine, model, self.app.options.queue, move |report| app.metrics.observe(report))
    }
}

impl Server {
    /// Takes the address.
    ///
    /// # Errors
    /// When the host is unknown, or the address is taken or not ours.
    pub fn bind<E>(options: ServerOptions) -> Result<Self, ServeError<E>> {
        let host = |source| ServeError::Host { host: options.host.clone(), source };
        // An address of version 6 may come in brackets, as in a URL.
        let bare = options.host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(&options.host);
        let address = (bare, options.port).to_socket_addrs().map_err(host)?.next();
        let address = address.ok_or_else(|| host(io::ErrorKind::NotFound.into()))?;
        let bound = TcpListener::bind(address).and_then(|listener| {
            listener.set_nonblocking(true)?;
            Ok((listener.local_addr()?, listener))
        });
        let (address, listener) = bound.map_err(|source| ServeError::Bind { address, source })?;
        Ok(Server { app: Arc::new(App::new(options)), listener, address })
    }

    /// The address, with the port that the system chose where any was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until a signal ends it, or the engine's failure does where the options say so. `load` runs on a thread of its own while the server already says that it is loading; `ready` is
    /// called when requests are taken.
    ///
    /// # Errors
    /// When the model does not load, the system gives no threads, or the engine has failed.
    pub fn run<E: Send + 'static>(
        self,
        load: impl FnOnce(&Loading) -> Result<Service, E> + Send + 'static,
        ready: impl FnOnce(&Handle),
    ) -> Result<(), ServeError<E>> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(WORKER_THREADS)
            .thread_name("nxd-http")
            .on_thread_start(self.app.options.thread_start)
            .enable_all()
            .build()
            .map_err(ServeError::Start)?;
        let Server { app, listener, .. } = self;
        let ended = runtime.block_on(run(Arc::clone(&app), listener, load, ready));
        // Connections without a request are closed as they are.
        runtime.shutdown_background();
        let Some(Ended { service, drained, failure }) = ended? else { return Ok(()) };
        match drained {
            Drained::Orderly => drop(service),
            // Its thread may be in a long step, which the end of the process cuts off.
            Drained::AtOnce => std::mem::forget(service),
        }
        failure.map_or(Ok(()), |why| Err(ServeError::EngineFailed { why }))
    }
}

/// A server that had served, and has ended.
struct Ended {
    service: Service,
    drained: Drained,
    /// Why its engine failed, if that is what ended it.
    failure: Option<Arc<str>>,
}

async fn run<E: Send + 'static>(
    app: Arc<App>,
    listener: TcpListener,
    load: impl FnOnce(&Loading) -> Result<Service, E> + Send + 'static,
    ready: impl FnOnce(&Handle),
) -> Result<Option<Ended>, ServeError<E>> {
    let listener = tokio::net::TcpListener::from_std(listener).map_err(ServeError::Start)?;
    let mut signals = Signals::new().map_err(ServeError::Start)?;
    let (stop, stopped) = oneshot::channel();
    let connections = connection::serve(listener, router(Arc::clone(&app)), Arc::clone(&app), stopped);
    let connections = tokio::spawn(connections);
    let (loaded, loading) = oneshot::channel();
    let loader = Loading { app: Arc::clone(&app) };
    // Not one of the runtime's threads: its end need not be waited for when a signal comes first.
    let thread = std::thread::Builder::new().name("nxd-load".to_owned());
    thread
        .spawn(move || {
            // Nobody listens when a signal came first.
            let _ = loaded.send(load(&loader));
        })
        .map_err(ServeError::Start)?;
    let service = tokio::select! {
        service = loading => match service {
            Ok(service) => service.map_err(ServeError::Load)?,
            Err(_) => return Err(ServeError::Start(io::Error::other("the thread that loads the model panicked"))),
        },
        name = signals.next() => {
            tracing::info!(signal = name, "ending while the model loads");
            return Ok(None);
        }
    };
    let handle = service.handle();
    app.loaded(handle.clone());
    ready(&handle);
    let reports = {
        let app = Arc::clone(&app);
        tokio::spawn(async move { lifecycle::report(&app).await })
    };
    let (drained, failure) = match lifecycle::end(&app, &handle, &mut signals).await {
        End::Signal(name) => {
            tracing::info!(signal = name, "a signal to end");
            (lifecycle::drain(&app, &mut signals).await, None)
        }
        End::EngineFailed(why) => (lifecycle::say_farewell(&app, &mut signals).await, Some(why)),
    };
    reports.abort();
    if drained == Drained::Orderly {
        // They may have ended by themselves; a panic in them has nobody left to tell.
        let _ = stop.send(());
        let _ = connections.await;
    }
    Ok(Some(Ended { service, drained, failure }))
}
