//! Whether the server can serve, and what it serves.

use crate::error::ApiError;
use crate::state::App;
use axum::Json;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};
use std::sync::Arc;

/// Health, version, models, metrics.
pub(crate) fn routes() -> Router<Arc<App>> {
    let mut router = Router::new();
    for path in ["/health", "/health/", "/health/live", "/ping"] {
        router = router.route(path, get(health));
    }
    for path in ["/ready", "/ready/", "/health/ready"] {
        router = router.route(path, get(ready));
    }
    for path in ["/server_info", "/get_server_info", "/model_info", "/get_model_info"] {
        router = router.route(path, get(info));
    }
    router
        .route("/version", get(version))
        .route("/metrics", get(metrics))
        .route("/v1/models", get(models))
        .route("/v1/models/{*id}", get(model))
}

async fn health(State(app): State<Arc<App>>) -> Result<StatusCode, ApiError> {
    app.alive().map(|_| StatusCode::OK)
}

async fn ready(State(app): State<Arc<App>>) -> Result<StatusCode, ApiError> {
    app.alive()?;
    app.engine().map(|_| StatusCode::OK)
}

async fn version() -> Json<Value> {
    Json(json!({"version": env!("CARGO_PKG_VERSION")}))
}

async fn metrics(State(app): State<Arc<App>>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], app.metrics.text()).into_response()
}

async fn models(State(app): State<Arc<App>>) -> Result<Json<Value>, ApiError> {
    let all: Result<Vec<Value>, ApiError> =
        app.options.served_model_names.iter().map(|name| describe(&app, name)).collect();
    Ok(Json(json!({"object": "list", "data": all?})))
}

async fn model(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Json<Value>, ApiError> {
    match app.options.served_model_names.contains(&id) {
        true => describe(&app, &id).map(Json),
        false => Err(ApiError::no_such_model(&id)),
    }
}

fn describe(app: &App, name: &str) -> Result<Value, ApiError> {
    let handle = app.model()?;
    Ok(json!({
        "id": name,
        "object": "model",
        "created": app.created,
        "owned_by": "nxd",
        "root": app.options.served_model_names.first(),
        "parent": null,
        "max_model_len": handle.info().max_model_len,
    }))
}

/// What routers that discover their workers read.
async fn info(State(app): State<Arc<App>>) -> Result<Json<Value>, ApiError> {
    let handle = app.model()?;
    let name = app.options.served_model_names.first();
    Ok(Json(json!({
        "model_path": name,
        "served_model_name": name,
        "version": env!("CARGO_PKG_VERSION"),
        "is_generation": true,
        "max_model_len": handle.info().max_model_len,
        "tp_size": 1,
        "dp_size": 1,
    })))
}
