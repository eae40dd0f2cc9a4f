//! What all requests share: the options, and the model from loading to its end.

use crate::error::ApiError;
use crate::metrics::Metrics;
use crate::options::ServerOptions;
use nxd_engine::grammar::{GrammarError, Grammars};
use nxd_engine::service::{Handle, State};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// A server's state.
pub struct App {
    /// What the server was told.
    pub options: ServerOptions,
    /// Seconds since 1970 at which it was started.
    pub created: u64,
    pub(crate) metrics: Metrics,
    handle: OnceLock<Handle>,
    grammars: OnceLock<Grammars>,
    /// Requests whose answers are not sent to their ends.
    requests: AtomicUsize,
}

/// Counts a request for as long as it lives.
pub(crate) struct Counted(std::sync::Arc<App>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

impl App {
    /// A server whose model is still loading.
    pub fn new(options: ServerOptions) -> Self {
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let metrics = Metrics::new(options.served_model_names.first().map_or("model", String::as_str));
        App { options, created, metrics, handle: OnceLock::new(), grammars: OnceLock::new(), requests: AtomicUsize::new(0) }
    }

    /// Opens the doors: the model is loaded.
    pub fn loaded(&self, handle: Handle) {
        self.metrics.loaded(handle.info());
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

    /// The engine, if it can generate: also while the server drains.
    ///
    /// # Errors
    /// 503 with `loading` or `engine_dead`.
    pub fn alive(&self) -> Result<&Handle, ApiError> {
        let handle = self.model()?;
        if let State::Dead(why) = handle.state() {
            return Err(ApiError::unavailable("engine_dead", format!("the engine has failed: {why}")));
        }
        match handle.step_takes() {
            Some(time) if time > self.options.step_timeout => {
                let message = format!("the engine's step has not ended for {} s", time.as_secs());
                Err(ApiError::unavailable("engine_dead", message))
            }
            _ => Ok(handle),
        }
    }

    /// The engine, whatever it can do: its model's files can be looked at.
    ///
    /// # Errors
    /// 503 with `loading`.
    pub fn model(&self) -> Result<&Handle, ApiError> {
        self.handle.get().ok_or_else(|| ApiError::unavailable("loading", "Loading model"))
    }

    /// Whether nothing new is taken because the server ends.
    pub fn drains(&self) -> bool {
        self.handle.get().is_some_and(|handle| handle.state() == State::Draining)
    }

    /// The compiler of constraints, made when it is first asked for.
    ///
    /// # Errors
    /// When the model has no tokenizer, or its vocabulary cannot be used.
    pub fn grammars(&self) -> Result<&Grammars, ApiError> {
        if let Some(grammars) = self.grammars.get() {
            return Ok(grammars);
        }
        let handle = self.model()?;
        let tokenizer = handle.model().tokenizer().ok_or_else(ApiError::no_tokenizer)?;
        let made: Result<Grammars, GrammarError> =
            Grammars::new(tokenizer, handle.info().vocab_size, handle.model().eos_ids());
        let made = made.map_err(|error| ApiError::invalid("response_format", error.to_string()))?;
        Ok(self.grammars.get_or_init(|| made))
    }

    /// Counts a request until what is given back is dropped.
    pub(crate) fn count(self: &std::sync::Arc<Self>) -> Counted {
        self.requests.fetch_add(1, Ordering::Relaxed);
        Counted(std::sync::Arc::clone(self))
    }

    /// Requests whose answers are not sent to their ends.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }
}
