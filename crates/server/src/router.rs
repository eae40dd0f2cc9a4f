//! All routes, and what is wrapped around them.

use crate::auth::Keys;
use crate::error::ApiError;
use crate::exchange::{Around, around, panicked};
use crate::state::App;
use crate::{health, page};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::Router;
use std::sync::Arc;
use std::time::Duration;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowOrigin, CorsLayer};

/// How long a browser may remember what it is allowed.
const CORS_MAX_AGE: Duration = Duration::from_secs(600);

/// The server's routes.
pub fn router(app: &Arc<App>) -> Router {
    let keys = Arc::new(Keys::new(&app.options));
    let routes = Router::new()
        .merge(health::routes())
        .merge(page::routes())
        .fallback(async || {
            ApiError::new(StatusCode::NOT_FOUND, "invalid_request_error", "unknown_route", "there is no such route; GET /openapi.json lists all")
        })
        .method_not_allowed_fallback(async || {
            ApiError::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "invalid_request_error",
                "method_not_allowed",
                "this route does not know the method; GET /openapi.json lists those of all routes",
            )
        })
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn_with_state(Around { app: Arc::clone(app), keys }, around))
        .with_state(Arc::clone(app));
    match cors(&app.options.cors_origins) {
        Some(cors) => routes.layer(cors),
        None => routes,
    }
}

/// What browsers may do from other origins: nothing, unless the server was told of any.
fn cors(origins: &[String]) -> Option<CorsLayer> {
    if origins.is_empty() {
        return None;
    }
    let origin = match origins.iter().any(|origin| origin == "*") {
        true => AllowOrigin::any(),
        false => AllowOrigin::list(origins.iter().filter_map(|origin| HeaderValue::try_from(origin).ok())),
    };
    let headers = [header::AUTHORIZATION, header::CONTENT_TYPE, HeaderName::from_static("x-request-id"), HeaderName::from_static("x-api-key")];
    let layer = CorsLayer::new().allow_origin(origin).allow_methods([Method::GET, Method::POST]).allow_headers(headers);
    Some(layer.max_age(CORS_MAX_AGE))
}
