//! OpenAI's routes, and vLLM's for tokens: bodies in, replies out.
//!
//! A body's fields are described once (`fields`): values are read from them, and the schema at `/openapi.json` is written from them. A
//! request takes its places in the queue, is prepared on a thread that may block, runs as events, and is written whole or in chunks.
//!
//! *Does not know*: connections, keys, metrics, how the engine schedules.
//!
//! Reading order: `fields`, `room`, `body`, `params`, `prompt`, `constraint`, `generate`, `stream`, `logprobs`, `completions`, `chat`, `embeddings`,
//! `tokenize`, `adapters`, `openapi`.

mod adapters;
mod body;
mod chat;
mod completions;
mod constraint;
mod embeddings;
mod fields;
mod generate;
mod ids;
mod json;
mod logprobs;
mod openapi;
mod params;
mod prompt;
mod room;
mod stream;
mod tokenize;
mod usage;

pub(crate) use adapters::Adapters;
pub(crate) use room::BodyRoom;

use crate::options::ServerOptions;
use crate::state::App;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};
use std::sync::Arc;

/// The routes. The body's limit is that of the server's options.
pub fn routes(options: &ServerOptions) -> Router<Arc<App>> {
    let of_adapters = if options.allow_runtime_lora_updating { adapters::routes() } else { Router::new() };
    of_adapters
        .route("/v1/completions", post(completions::create))
        .route("/v1/chat/completions", post(chat::create))
        .route("/v1/embeddings", post(embeddings::create))
        .route("/tokenize", post(tokenize::tokenize))
        .route("/detokenize", post(tokenize::detokenize))
        .route("/openapi.json", get(openapi::document))
        // The extractor of bodies has the server's own limit.
        .layer(DefaultBodyLimit::disable())
}
