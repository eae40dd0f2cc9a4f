//! What can go wrong, and whose matter it is.

use nxd_engine::EngineError;
use nxd_executor::ExecutorError;
use nxd_models::chat::ChatError;
use nxd_models::{AdapterError, ModelError, TokenizerError};

/// An error of the facade.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The model's files cannot be used.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// An adapter's files cannot be used.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    /// The model cannot be run as asked.
    #[error(transparent)]
    Executor(#[from] ExecutorError),
    /// A request cannot be served, or a step failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// One of several prompts failed; none is completed.
    #[error("prompt {} of {count} failed", .index + 1)]
    Prompt {
        /// Index of the prompt.
        index: usize,
        /// How many there are.
        count: usize,
        /// Why.
        #[source]
        source: Box<Error>,
    },
    /// Text for a model that cannot read any.
    #[error("{model} has no tokenizer files, so text cannot be encoded; give token ids, or add its tokenizer.json")]
    NoTokenizer {
        /// The model's path.
        model: String,
    },
    /// A conversation for a model that was not made for one.
    #[error("{model} has no chat template; give the text itself, or add a chat_template to its tokenizer_config.json")]
    NoChatTemplate {
        /// The model's path.
        model: String,
    },
    /// A text that the tokenizer fails on.
    #[error(transparent)]
    Encode(TokenizerError),
    /// A conversation that the template refuses or fails on.
    #[error(transparent)]
    Chat(#[from] ChatError),
    /// Nothing could be drawn.
    #[error(
        "the logits became NaN after {tokens} generated tokens; the weights or the numeric mode are not sound for this prompt"
    )]
    NotFinite {
        /// Tokens generated until then.
        tokens: usize,
    },
}

/// Whose matter an error is; the command line's exit codes follow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request.
    Request,
    /// The model, or one of its files.
    Model,
    /// Not enough memory.
    Memory,
    /// A rank, or the layout of ranks.
    Distributed,
    /// What was asked for cannot be had in this build, or not together.
    Options,
}

impl Error {
    /// Whose matter it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Model(_) | Error::Adapter(_) | Error::NoTokenizer { .. } | Error::NoChatTemplate { .. } => {
                ErrorKind::Model
            }
            // Weights and cache are bound by then: what a rank can still fail at is its peers.
            Error::Engine(EngineError::Executor(ExecutorError::Rank { .. })) => ErrorKind::Distributed,
            Error::Engine(EngineError::Adapter(error)) => executor_kind(error),
            Error::Executor(error) | Error::Engine(EngineError::Executor(error)) => executor_kind(error),
            Error::Chat(ChatError::Raised(_)) => ErrorKind::Request,
            // A template that fails is a broken file.
            Error::Chat(_) => ErrorKind::Model,
            Error::Engine(_) | Error::Encode(_) | Error::NotFinite { .. } => ErrorKind::Request,
            Error::Prompt { source, .. } => source.kind(),
        }
    }
}

fn executor_kind(error: &ExecutorError) -> ErrorKind {
    match error {
        _ if error.is_memory() => ErrorKind::Memory,
        _ if error.is_distributed() => ErrorKind::Distributed,
        ExecutorError::NoAdapters
        | ExecutorError::NotBuilt { .. }
        | ExecutorError::Dtype { .. }
        | ExecutorError::KvDtype { .. } => ErrorKind::Options,
        ExecutorError::Batch(_) | ExecutorError::Step { .. } | ExecutorError::SamplingRows { .. } => ErrorKind::Request,
        // Files, and the libraries that drive devices.
        _ => ErrorKind::Model,
    }
}
