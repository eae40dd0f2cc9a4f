//! What the server says of itself: whether it can serve, and what.

use crate::error::ApiError;
use crate::state::App;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use std::sync::Arc;

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

async fn version() -> Json<Value> {
    Json(json!({"version": env!("CARGO_PKG_VERSION")}))
}

async fn models(State(app): State<Arc<App>>) -> Json<Value> {
    let data: Vec<Value> = app.options.served_model_names.iter().map(|name| entry(&app, name)).collect();
    Json(json!({"object": "list", "data": data}))
}

async fn model(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Json<Value>, ApiError> {
    match app.options.served_model_names.contains(&id) {
        true => Ok(Json(entry(&app, &id))),
        false => Err(ApiError::no_such_model(&id)),
    }
}

/// A served name, which is known before the model is loaded; its context is not.
fn entry(app: &App, name: &str) -> Value {
    let max_model_len = app.model().ok().map(|handle| handle.info().max_model_len);
    json!({
        "id": name,
        "object": "model",
        "created": app.created,
        "owned_by": "nxd",
        "root": app.options.served_model_names.first(),
        "parent": null,
        "max_model_len": max_model_len,
    })
}

async fn server_info(State(app): State<Arc<App>>) -> Result<Json<Value>, ApiError> {
    let handle = app.model()?;
    let (info, (waiting, waiting_tokens)) = (handle.info(), handle.queued());
    Ok(Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "served_model_name": app.options.served_model_names.first(),
        "max_model_len": info.max_model_len,
        "block_size": info.block_size,
        "kv_cache_dtype": info.kv_dtype,
        "kv_cache_bytes": info.kv_bytes,
        "weights_bytes": info.weights_bytes,
        "max_queued_requests": app.options.queue.max_queued_requests,
        "max_queued_tokens": app.options.queue.max_queued_tokens,
        "queued_requests": waiting,
        "queued_tokens": waiting_tokens,
        "requests_in_flight": app.in_flight.count(),
    })))
}

async fn model_info(State(app): State<Arc<App>>) -> Result<Json<Value>, ApiError> {
    let handle = app.model()?;
    let (info, model) = (handle.info(), handle.model());
    Ok(Json(json!({
        "model_path": app.options.served_model_names.first(),
        "is_generation": true,
        "architecture": model.config().architecture(),
        "vocab_size": info.vocab_size,
        "hidden_size": info.hidden_size,
        "max_model_len": info.max_model_len,
        "has_tokenizer": model.tokenizer().is_some(),
        "has_chat_template": model.tokenizer().is_some_and(|tokenizer| tokenizer.chat_template().is_some()),
    })))
}
