//! What all requests share: the options, and the model from loading to its end.

use crate::error::ApiError;
use crate::options::ServerOptions;
use nxd_engine::service::{Handle, State};
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

/// A server's state.
pub struct App {
    /// What the server was told.
    pub options: ServerOptions,
    /// Seconds since 1970 at which it was started.
    pub created: u64,
    handle: OnceLock<Handle>,
}

impl App {
    /// A server whose model is still loading.
    pub fn new(options: ServerOptions) -> Self {
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        App { options, created, handle: OnceLock::new() }
    }

    /// Opens the doors: the model is loaded.
    pub fn loaded(&self, handle: Handle) {
        // A second model would be a mistake of ours; the first one stays.
        let _ = self.handle.set(handle);
    }

    /// The engine, if it can take requests.
    ///
    /// # Errors
    /// 503 with `loading`, `draining` or `engine_dead`.
    pub fn engine(&self) -> Result<&Handle, ApiError> {
        let handle = self.model()?;
        match handle.state() {
            State::Running => Ok(handle),
            State::Draining => Err(ApiError::unavailable("draining", "the server is shutting down")),
            State::Dead(why) => Err(ApiError::unavailable("engine_dead", format!("the engine has failed: {why}"))),
        }
    }

    /// The engine, whatever it can do: its model's files can be looked at.
    ///
    /// # Errors
    /// 503 with `loading`.
    pub fn model(&self) -> Result<&Handle, ApiError> {
        self.handle.get().ok_or_else(|| ApiError::unavailable("loading", "the model is loading"))
    }
}
