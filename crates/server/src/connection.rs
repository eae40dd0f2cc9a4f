//! Connections: accepted one by one, bounded in number, in the size and the time of a request's head, and ended together.

use crate::options::ServerOptions;
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// Most headers of a request.
const MAX_HEADERS: usize = 100;

/// Most bytes of a request's head.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// How long nothing is accepted after the system gave no connection, such as for want of file descriptors.
const BACK_OFF: Duration = Duration::from_millis(100);

/// Accepts connections until `closed` says so; then waits until those that are open have ended.
pub(crate) async fn accept(
    listener: TcpListener,
    router: Router,
    options: Arc<ServerOptions>,
    mut closed: watch::Receiver<bool>,
) {
    let seats = Arc::new(Semaphore::new(options.max_connections.clamp(1, Semaphore::MAX_PERMITS)));
    let connections = GracefulShutdown::new();
    loop {
        // A connection that finds no seat waits in the system's queue.
        let next = async {
            let seat = Arc::clone(&seats).acquire_owned().await;
            (seat, listener.accept().await)
        };
        let accepted = tokio::select! {
            accepted = next => accepted,
            _ = closed.wait_for(|closed| *closed) => break,
        };
        match accepted {
            (Ok(seat), Ok((stream, peer))) => {
                let connection = Connection { stream, peer, seat, watcher: connections.watcher() };
                tokio::spawn(connection.serve(router.clone(), Arc::clone(&options)));
            }
            (_, Err(error)) => {
                tracing::warn!(%error, "no connection could be accepted");
                tokio::time::sleep(BACK_OFF).await;
            }
            (Err(_), _) => break,
        }
    }
    drop(listener);
    connections.shutdown().await;
}

struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    seat: OwnedSemaphorePermit,
    watcher: Watcher,
}

impl Connection {
    async fn serve(self, router: Router, options: Arc<ServerOptions>) {
        // Each token of a stream is a small packet that should not wait for the next one.
        if let Err(error) = self.stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY cannot be set");
        }
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(options.header_timeout)
            .max_headers(MAX_HEADERS)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(self.stream), TowerToHyperService::new(router));
        if let Err(error) = self.watcher.watch(connection).await {
            tracing::debug!(peer = %self.peer, %error, "a connection ended early");
        }
        drop(self.seat);
    }
}

/// Binds the address.
pub(crate) fn bind(options: &ServerOptions) -> io::Result<std::net::TcpListener> {
    let listener = std::net::TcpListener::bind((options.host.as_str(), options.port))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}
