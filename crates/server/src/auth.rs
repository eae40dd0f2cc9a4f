//! API keys: which requests need one, and whether the one that they show is among ours.

use crate::error::ApiError;
use crate::state::App;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use std::sync::Arc;
use subtle::{Choice, ConstantTimeEq};

/// What probes, routers and browsers ask before they have a key. Only these very paths: no other spelling of a path is served.
const OPEN_PATHS: [&str; 7] = ["/", "/health", "/health/live", "/health/ready", "/ready", "/ping", "/version"];

/// The keys, as hashes: comparing these tells nothing of a key's length or beginning.
pub(crate) struct Keys(Vec<[u8; 32]>);

impl Keys {
    pub(crate) fn new(keys: &[String]) -> Self {
        Keys(keys.iter().map(|key| Sha256::digest(key.as_bytes()).into()).collect())
    }

    /// Whether any key is asked for.
    fn are_asked_for(&self) -> bool {
        !self.0.is_empty()
    }

    /// Compares with all keys, whichever is the right one.
    fn hold(&self, shown: &[u8]) -> bool {
        let shown: [u8; 32] = Sha256::digest(shown).into();
        self.0.iter().fold(Choice::from(0), |found, key| found | key.ct_eq(&shown)).into()
    }
}

/// Lets a request pass that needs no key or shows one.
pub(crate) async fn check(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let open = !app.keys.are_asked_for()
        || OPEN_PATHS.contains(&path) && [Method::GET, Method::HEAD].contains(request.method())
        || path == "/metrics" && app.options.public_metrics;
    if open || shown_key(request.headers()).is_some_and(|key| app.keys.hold(key)) {
        return next.run(request).await;
    }
    let message = "no valid API key; send `Authorization: Bearer KEY` with a key of this server";
    let error = ApiError::new(StatusCode::UNAUTHORIZED, "authentication_error", "invalid_api_key", message);
    let mut response = error.into_response();
    response.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
    response
}

/// The key of a request that shows exactly one.
fn shown_key(headers: &HeaderMap) -> Option<&[u8]> {
    let mut bearers = headers.get_all(header::AUTHORIZATION).iter();
    let mut plain = headers.get_all("x-api-key").iter();
    let key = match (bearers.next(), plain.next()) {
        (Some(bearer), _) => {
            let (scheme, key) = bearer.as_bytes().split_at_checked("Bearer ".len())?;
            scheme.eq_ignore_ascii_case(b"Bearer ").then_some(key)?
        }
        (None, key) => key?.as_bytes(),
    };
    (bearers.next().is_none() && plain.next().is_none()).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::{HeaderName, HeaderValue};

    fn passes(pairs: &[(&'static str, &'static str)]) -> bool {
        let keys = Keys::new(&["first".to_owned(), "second key".to_owned()]);
        let mut headers = HeaderMap::new();
        for &(name, value) in pairs {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        shown_key(&headers).is_some_and(|key| keys.hold(key))
    }

    #[test]
    fn each_key_opens_and_nothing_else_does() {
        for good in [
            &[("authorization", "Bearer first")][..],
            &[("authorization", "bearer second key")],
            &[("x-api-key", "second key")],
            &[("authorization", "Bearer first"), ("x-api-key", "anything")],
        ] {
            assert!(passes(good), "{good:?}");
        }
        for bad in [
            &[][..],
            &[("authorization", "first")],
            &[("authorization", "Bearer")],
            &[("authorization", "Bearer ")],
            &[("authorization", "Bearer firs")],
            &[("authorization", "Bearer first ")],
            &[("authorization", "Bearer First")],
            &[("authorization", "Basic first")],
            &[("x-api-key", "Bearer first")],
            &[("authorization", "Bearer first"), ("authorization", "Bearer first")],
            &[("authorization", "Basic x"), ("x-api-key", "first")],
            &[("x-api-key", "first"), ("x-api-key", "first")],
        ] {
            assert!(!passes(bad), "{bad:?}");
        }
    }
}
