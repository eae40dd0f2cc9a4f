//! What all requests share: the options, and the model from loading to its end.

use crate::error::ApiError;
use crate::options::ServerOptions;
use nxd_engine::grammar::{GrammarError, Grammars};
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
    grammars: OnceLock<Result<Grammars, GrammarError>>,
}

impl App {
    /// A server whose model is still loading.
    pub fn new(options: ServerOptions) -> Self {
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        App { options, created, handle: OnceLock::new(), grammars: OnceLock::new() }
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

    /// The name of the model in replies.
    pub fn model_name(&self) -> &str {
        self.options.served_model_names.first().map_or("model", String::as_str)
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
}
