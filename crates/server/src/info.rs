//! What the server says of itself: whether it can serve, and what.

use crate::error::ApiError;
use crate::state::App;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;

/// The server's version.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct VersionReply {
    version: &'static str,
}

/// The served models, which are names of one.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct ModelList {
    /// `list`.
    object: &'static str,
    data: Vec<ModelEntry>,
}

/// A name that requests may give the model.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct ModelEntry {
    id: String,
    /// `model`.
    object: &'static str,
    /// Seconds since 1970 at which the server was started.
    created: u64,
    owned_by: &'static str,
    /// The model's first name.
    root: String,
    /// The model that an adapter belongs to; null for the model itself.
    parent: Option<String>,
    /// Most tokens of a request and its reply together; null while the model loads.
    max_model_len: Option<usize>,
}

/// What a router asks of a server.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct ServerInfoReply {
    version: &'static str,
    served_model_name: String,
    max_model_len: usize,
    /// Tokens of a KV block.
    block_size: usize,
    kv_cache_dtype: String,
    kv_cache_bytes: usize,
    weights_bytes: usize,
    max_queued_requests: usize,
    max_queued_tokens: usize,
    queued_requests: usize,
    queued_tokens: usize,
    requests_in_flight: usize,
}

/// What a router asks of a model.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct ModelInfoReply {
    /// The model's first name: nothing is told of this machine's folders.
    model_path: String,
    is_generation: bool,
    architecture: String,
    vocab_size: usize,
    hidden_size: usize,
    max_model_len: usize,
    has_tokenizer: bool,
    has_chat_template: bool,
}

pub(crate) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/health", get(health))
        .route("/health/live", get(health))
        .route("/ping", get(health))
        .route("/ready", get(ready))
        .route("/health/ready", get(ready))
        .route("/version", get(version))
        .route("/v1/models", get(models))
        .route("/v1/models/{*id}", get(model))
        .route("/server_info", get(server_info))
        .route("/get_server_info", get(server_info))
        .route("/model_info", get(model_info))
        .route("/get_model_info", get(model_info))
}

async fn health(State(app): State<Arc<App>>) -> Result<StatusCode, ApiError> {
    app.health().map(|()| StatusCode::OK)
}

async fn ready(State(app): State<Arc<App>>) -> Result<StatusCode, ApiError> {
    app.ready().map(|()| StatusCode::OK)
}

async fn version() -> Json<VersionReply> {
    Json(VersionReply { version: env!("CARGO_PKG_VERSION") })
}

async fn models(State(app): State<Arc<App>>) -> Json<ModelList> {
    let names = app.options.served_model_names.iter().cloned().chain(app.adapters.names());
    let data = names.map(|name| entry(&app, &name)).collect();
    Json(ModelList { object: "list", data })
}

async fn model(
    State(app): State<Arc<App>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<ModelEntry>, ApiError> {
    // What is no text is no name either.
    let id = id.map_or_else(|_| String::new(), |Path(id)| id);
    match app.serves(&id) {
        true => Ok(Json(entry(&app, &id))),
        false => Err(ApiError::no_such_model(&id)),
    }
}

/// A served name, which is known before the model is loaded; its context is not.
fn entry(app: &App, name: &str) -> ModelEntry {
    ModelEntry {
        id: name.to_owned(),
        object: "model",
        created: app.created,
        owned_by: "nxd",
        root: app.model_name().to_owned(),
        parent: app.adapters.find(name).map(|_| app.model_name().to_owned()),
        max_model_len: app.model().ok().map(|handle| handle.info().max_model_len),
    }
}

async fn server_info(State(app): State<Arc<App>>) -> Result<Json<ServerInfoReply>, ApiError> {
    let handle = app.model()?;
    let (info, (queued_requests, queued_tokens)) = (handle.info(), handle.queued());
    Ok(Json(ServerInfoReply {
        version: env!("CARGO_PKG_VERSION"),
        served_model_name: app.model_name().to_owned(),
        max_model_len: info.max_model_len,
        block_size: info.block_size,
        kv_cache_dtype: info.kv_dtype.clone(),
        kv_cache_bytes: info.kv_bytes,
        weights_bytes: info.weights_bytes,
        max_queued_requests: app.options.queue.max_queued_requests,
        max_queued_tokens: app.options.queue.max_queued_tokens,
        queued_requests,
        queued_tokens,
        requests_in_flight: app.in_flight.count(),
    }))
}

async fn model_info(State(app): State<Arc<App>>) -> Result<Json<ModelInfoReply>, ApiError> {
    let handle = app.model()?;
    let (info, model) = (handle.info(), handle.model());
    Ok(Json(ModelInfoReply {
        model_path: app.model_name().to_owned(),
        is_generation: true,
        architecture: model.config().architecture().to_string(),
        vocab_size: info.vocab_size,
        hidden_size: info.hidden_size,
        max_model_len: info.max_model_len,
        has_tokenizer: model.tokenizer().is_some(),
        has_chat_template: model.tokenizer().is_some_and(|tokenizer| tokenizer.chat_template().is_some()),
    }))
}
