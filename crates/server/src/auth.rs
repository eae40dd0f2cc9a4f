//! Keys: who may call what.

use crate::error::ApiError;
use crate::options::ServerOptions;
use axum::http::{HeaderMap, Method, StatusCode, header};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

/// What anybody may ask: whether the server lives, its version, and the page where a key is typed.
const OPEN: [&str; 9] =
    ["/", "/health", "/health/", "/health/live", "/health/ready", "/ready", "/ready/", "/ping", "/version"];

/// Longest key that is looked at.
const MAX_KEY_BYTES: usize = 4096;

/// The keys that open the server, as hashes: comparing them takes the same time whatever is wrong.
pub(crate) struct Keys {
    hashes: Vec<[u8; 32]>,
    public_metrics: bool,
}

impl Keys {
    pub(crate) fn new(options: &ServerOptions) -> Self {
        let hashes = options.api_keys.iter().map(|key| hash(key.as_bytes())).collect();
        Keys { hashes, public_metrics: options.public_metrics }
    }

    /// Checks a request.
    ///
    /// # Errors
    /// 401 when it needs a key and shows none that fits.
    pub(crate) fn check(&self, method: &Method, path: &str, headers: &HeaderMap) -> Result<(), ApiError> {
        let reads = method == Method::GET || method == Method::HEAD;
        let open = reads && (OPEN.contains(&path) || (self.public_metrics && path == "/metrics"));
        if self.hashes.is_empty() || open || shown(headers).is_some_and(|key| self.fits(key)) {
            return Ok(());
        }
        let message = "an API key is needed: send `Authorization: Bearer KEY` or `X-Api-Key: KEY` with one that this server knows";
        Err(ApiError::new(StatusCode::UNAUTHORIZED, "authentication_error", "invalid_api_key", message))
    }

    /// Compares with all keys, whether or not one has fitted.
    fn fits(&self, key: &[u8]) -> bool {
        let shown = hash(key);
        let fits = |any: Choice, hash: &[u8; 32]| any | hash.ct_eq(&shown);
        self.hashes.iter().fold(Choice::from(0), fits).into()
    }
}

/// The key that a request shows, if it shows exactly one.
fn shown(headers: &HeaderMap) -> Option<&[u8]> {
    let one = |name: &str| {
        let mut all = headers.get_all(name).iter();
        all.next().filter(|_| all.next().is_none())
    };
    let key = match (headers.contains_key(header::AUTHORIZATION), headers.contains_key("x-api-key")) {
        (true, false) => {
            let value = one("authorization")?.as_bytes();
            let (scheme, key) = value.split_at_checked("Bearer ".len())?;
            scheme.eq_ignore_ascii_case(b"Bearer ").then_some(key)?
        }
        (false, true) => one("x-api-key")?.as_bytes(),
        _ => return None,
    };
    (key.len() <= MAX_KEY_BYTES).then_some(key)
}

fn hash(key: &[u8]) -> [u8; 32] {
    Sha256::digest(key).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn keys(keys: &[&str]) -> Keys {
        let api_keys = keys.iter().map(|key| (*key).to_owned()).collect();
        Keys::new(&ServerOptions { api_keys, ..ServerOptions::default() })
    }

    fn headers(all: &[(&'static str, &str)]) -> HeaderMap {
        all.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_str(value).unwrap())).collect()
    }

    #[test]
    fn one_of_the_keys_opens_and_nothing_else_does() {
        let keys = keys(&["one", "two"]);
        let check = |all: &[(&'static str, &str)]| keys.check(&Method::POST, "/v1/completions", &headers(all)).is_ok();
        assert!(check(&[("authorization", "Bearer two")]) && check(&[("authorization", "bearer one")]));
        assert!(check(&[("x-api-key", "one")]));
        for wrong in ["Bearer three", "Bearer one ", "Basic one", "Bearer", "one", "Bearer  one"] {
            assert!(!check(&[("authorization", wrong)]), "{wrong}");
        }
        assert!(!check(&[]) && !check(&[("authorization", "Bearer one"), ("x-api-key", "one")]));
        let mut twice = headers(&[("authorization", "Bearer one")]);
        twice.append("authorization", HeaderValue::from_static("Bearer one"));
        assert!(keys.check(&Method::POST, "/", &twice).is_err());
    }

    #[test]
    fn only_health_version_and_the_page_are_open() {
        let keys = keys(&["one"]);
        let open = |method: Method, path| keys.check(&method, path, &HeaderMap::new()).is_ok();
        for path in ["/", "/health", "/health/", "/ready", "/ping", "/version"] {
            assert!(open(Method::GET, path), "{path}");
        }
        for path in ["/metrics", "/v1/models", "/v1/models/", "/tokenize", "//health", "/health/../metrics", "/openapi.json"] {
            assert!(!open(Method::GET, path), "{path}");
        }
        assert!(!open(Method::OPTIONS, "/v1/models") && !open(Method::POST, "/health"));
    }
}
