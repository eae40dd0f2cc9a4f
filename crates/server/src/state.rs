//! What all requests share: the options, the metrics, and the model from loading to its end.

use crate::auth::Keys;
use crate::error::ApiError;
use crate::metrics::Metrics;
use crate::openai::{Adapters, BodyRoom};
use crate::options::ServerOptions;
use crate::traffic::InFlight;
use nxd_engine::grammar::{GrammarError, Grammars};
use nxd_engine::service::{Handle, State};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

/// A server's state.
pub struct App {
    /// What the server was told.
    pub options: ServerOptions,
    /// Seconds since 1970 at which it was started.
    pub created: u64,
    /// What it counts.
    pub metrics: Metrics,
    pub(crate) adapters: Adapters,
    pub(crate) keys: Keys,
    pub(crate) in_flight: InFlight,
    pub(crate) bodies: Arc<BodyRoom>,
    draining: AtomicBool,
    handle: OnceLock<Handle>,
    grammars: OnceLock<Result<Grammars, GrammarError>>,
}

impl App {
    /// A server whose model is still loading.
    pub fn new(options: ServerOptions) -> Self {
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let metrics = Metrics::new(options.served_model_names.first().map_or("model", String::as_str));
        App {
            metrics,
            adapters: Adapters::default(),
            keys: Keys::new(&options.api_keys),
            in_flight: InFlight::default(),
            bodies: Arc::new(BodyRoom::new(options.max_bodies_bytes)),
            draining: AtomicBool::new(false),
            handle: OnceLock::new(),
            grammars: OnceLock::new(),
            options,
            created,
        }
    }

    /// Opens the doors: the model is loaded.
    pub fn loaded(&self, handle: Handle) {
        self.metrics.describe(handle.info());
        // A second model would be a mistake of ours; the first one stays.
        let _ = self.handle.set(handle);
    }

    /// Takes no new requests for the engine from now on.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
        if let Some(handle) = self.handle.get() {
            handle.drain();
        }
    }

    /// Whether the server is on its way to its end.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// The engine, if it can take requests.
    ///
    /// # Errors
    /// 503 with `loading`, `draining` or `engine_dead`.
    pub fn engine(&self) -> Result<&Handle, ApiError> {
        if self.is_draining() {
            return Err(ApiError::unavailable("draining", "the server is shutting down"));
        }
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

    /// The name of the model in replies.
    pub fn model_name(&self) -> &str {
        self.options.served_model_names.first().map_or("model", String::as_str)
    }

    /// Whether requests may name `name`: the model, or one of its adapters.
    pub(crate) fn serves(&self, name: &str) -> bool {
        self.options.served_model_names.iter().any(|served| served == name) || self.adapters.find(name).is_some()
    }

    /// What compiles constraints for the tokenizer of `handle`. Made when first asked for, which may take a while.
    ///
    /// # Errors
    /// When the model's tokens cannot be arranged, or there is no tokenizer.
    pub fn grammars(&self, handle: &Handle) -> Result<&Grammars, GrammarError> {
        let made = self.grammars.get_or_init(|| {
            let without = || GrammarError::Tokenizer { reason: "this model has none".to_owned() };
            let model = handle.model();
            let tokenizer = model.tokenizer().ok_or_else(without)?;
            Grammars::new(tokenizer, handle.info().vocab_size, model.eos_ids())
        });
        made.as_ref().map_err(Clone::clone)
    }

    /// Whether the engine can generate: it is there, lives, and gets on. A server that drains still can.
    ///
    /// # Errors
    /// 503 with `loading`, `engine_dead` or `stalled`.
    pub fn health(&self) -> Result<(), ApiError> {
        let handle = self.model()?;
        if let State::Dead(why) = handle.state() {
            return Err(ApiError::unavailable("engine_dead", format!("the engine has failed: {why}")));
        }
        match handle.step_takes() {
            Some(takes) if takes > self.options.step_timeout => {
                let message = format!("the running step takes {} s already", takes.as_secs());
                Err(ApiError::unavailable("stalled", message))
            }
            _ => Ok(()),
        }
    }

    /// Whether a router should send requests here: [`App::health`], and not draining.
    ///
    /// # Errors
    /// Those of [`App::health`]; 503 with `draining`.
    pub fn ready(&self) -> Result<(), ApiError> {
        self.health()?;
        self.engine().map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_without_its_model_says_why_it_serves_nothing() {
        let app = App::new(ServerOptions::default());
        let code = |answer: Result<(), ApiError>| answer.map_err(|error| (error.status.as_u16(), error.code));
        assert_eq!(code(app.health()), Err((503, "loading")));
        assert_eq!(code(app.engine().map(|_| ())), Err((503, "loading")));
        app.drain();
        assert_eq!(code(app.engine().map(|_| ())), Err((503, "draining")));
    }
}
