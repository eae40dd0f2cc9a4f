//! From paths to handlers, and what stands around all of them.

use crate::error::ApiError;
use crate::state::App;
use crate::{auth, info, openai, page, traffic};
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Router, middleware};
use std::any::Any;
use std::sync::Arc;
use std::time::Duration;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowOrigin, CorsLayer};

/// The whole server, without its connections.
pub fn router(app: Arc<App>) -> Router {
    let cors = cors(&app.options.cors_origins);
    let routes = Router::new()
        .merge(info::routes())
        .merge(page::routes())
        .merge(openai::routes(&app.options))
        .route("/metrics", get(metrics))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        // The last one stands outermost: a browser's preflight carries no key, and a panic's reply is logged like any other.
        .layer(middleware::from_fn_with_state(Arc::clone(&app), traffic::bound))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), auth::check));
    let routes = match cors {
        Some(cors) => routes.layer(cors),
        None => routes,
    };
    routes
        .layer(CatchPanicLayer::custom(panicked))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), traffic::follow))
        .with_state(app)
}

async fn metrics(State(app): State<Arc<App>>) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"))], app.metrics.text())
        .into_response()
}

async fn not_found(request: Request) -> ApiError {
    let path: String = request.uri().path().chars().take(100).collect();
    let message = format!("there is nothing at `{path}`; GET /v1/models lists what is served");
    ApiError::new(StatusCode::NOT_FOUND, "invalid_request_error", "not_found", message)
}

async fn method_not_allowed(request: Request) -> ApiError {
    let path: String = request.uri().path().chars().take(100).collect();
    let method: String = request.method().as_str().chars().take(20).collect();
    let message = format!("`{path}` does not take the method {method}; the header `Allow` says which ones it takes");
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error", "method_not_allowed", message)
}

/// The reply of a handler that panicked: a mistake of ours that ends one request.
fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let why = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
    tracing::error!(%why, "a handler panicked");
    let message = "the server made a mistake; its log says more";
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", "internal_error", message).into_response()
}

/// What browsers may do from other origins; `*` is every origin.
fn cors(origins: &[String]) -> Option<CorsLayer> {
    if origins.is_empty() {
        return None;
    }
    let origin = match origins.iter().any(|origin| origin == "*") {
        true => AllowOrigin::any(),
        false => AllowOrigin::list(origins.iter().filter_map(|origin| HeaderValue::try_from(origin).ok())),
    };
    let headers = [
        header::AUTHORIZATION,
        header::CONTENT_TYPE,
        HeaderName::from_static("x-api-key"),
        HeaderName::from_static("x-request-id"),
    ];
    let layer = CorsLayer::new()
        .allow_origin(origin)
        .allow_methods([Method::GET, Method::POST])
        .allow_headers(headers)
        .expose_headers([HeaderName::from_static("x-request-id")])
        .max_age(Duration::from_secs(600));
    Some(layer)
}

#[cfg(test)]
mod tests;
