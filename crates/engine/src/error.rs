//! Why a request is refused, or a step failed.

use nxd_executor::ExecutorError;

/// An error of the engine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// A prompt without tokens: there is nothing to continue.
    #[error(
        "the prompt has no tokens and the model has no token that starts a text; give a prompt of at least one token"
    )]
    EmptyPrompt,
    /// A prompt that leaves no room for an answer.
    #[error(
        "the prompt has {found} tokens, the context holds {max_model_len} together with at least one generated token; shorten the prompt or raise --max-model-len"
    )]
    PromptTooLong {
        /// Tokens of the prompt.
        found: usize,
        /// Tokens of the context.
        max_model_len: usize,
    },
    /// A token that the model does not have.
    #[error("token id {id} at index {index} of the prompt is outside the vocabulary of {vocab_size} tokens")]
    TokenOutsideVocabulary {
        /// The id.
        id: u32,
        /// Where it stands in the prompt.
        index: usize,
        /// The size of the vocabulary.
        vocab_size: usize,
    },
    /// A list of tokens with one that the model does not have.
    #[error("`{name}` holds token id {id}, which is outside the vocabulary of {vocab_size} tokens")]
    ListOutsideVocabulary {
        /// The list.
        name: &'static str,
        /// The id.
        id: u32,
        /// The size of the vocabulary.
        vocab_size: usize,
    },
    /// A bias that is no number.
    #[error("`logit_bias` of token id {id} is {bias}; finite numbers are allowed")]
    LogitBias {
        /// The token.
        id: u32,
        /// Its bias.
        bias: f32,
    },
    /// A list of allowed tokens without any.
    #[error("`allowed_ids` is empty, so no token could be drawn; leave it out or name a token")]
    NothingAllowed,
    /// A request for nothing.
    #[error("max_tokens is 0; ask for at least one token")]
    NoTokensAsked,
    /// A sampling parameter outside its range.
    #[error("sampling parameter `{name}` is {found}; {allowed} is allowed")]
    Parameter {
        /// The parameter.
        name: &'static str,
        /// Its value.
        found: f32,
        /// Its range.
        allowed: &'static str,
    },
    /// A request that the KV cache cannot hold even alone.
    #[error(
        "the request needs {needed} KV blocks for {tokens} tokens, the cache has {blocks}; ask for fewer tokens or raise --kv-cache-memory"
    )]
    NeverFits {
        /// Tokens whose keys and values it would store.
        tokens: usize,
        /// Blocks that these take in the group that is short.
        needed: usize,
        /// Blocks that the group has.
        blocks: usize,
    },
    /// An adapter that is not loaded, or was told to go.
    #[error("the request's adapter is not loaded")]
    NoAdapter,
    /// An adapter that cannot be loaded, or a device that failed as it was.
    #[error("the adapter cannot be loaded or unloaded")]
    Adapter(#[source] Box<ExecutorError>),
    /// The executor failed; every request of the engine is lost.
    #[error("the step failed; all running requests have ended")]
    Executor(#[source] ExecutorError),
}

/// An error's text and those of its causes, as one line.
pub fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}
