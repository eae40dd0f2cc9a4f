//! The extractor of bodies: JSON objects of bounded size, and what is wrong with those that are none.

use super::fields::{Fields, found};
use super::json::Strict;
use super::room::Held;
use crate::error::ApiError;
use crate::state::App;
use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Frame;
use serde_json::{Map, Value};
use std::sync::Arc;

impl FromRequest<Arc<App>> for Fields {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, ApiError> {
        let (head, body) = request.into_parts();
        check_type(&head.headers)?;
        let options = &app.options;
        let mut held = Held::nothing(&app.bodies);
        let read = tokio::time::timeout(options.body_timeout, read(body, options.max_body_bytes, &mut held)).await;
        let bytes = read.map_err(|_| {
            let message = format!("the body did not come within {} s", options.body_timeout.as_secs_f64());
            ApiError::new(StatusCode::REQUEST_TIMEOUT, "timeout_error", "body_timeout", message)
        })??;
        held.grow_for_values(&bytes)?;
        Ok(Fields::of_body(parse(&bytes)?, held))
    }
}

/// The body's type must be JSON, and nothing may be wrapped around it.
fn check_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let media = |message: String| {
        ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "invalid_request_error", "unsupported_media_type", message)
    };
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if essence != "application/json" && !(essence.starts_with("application/") && essence.ends_with("+json")) {
        return Err(media("the `Content-Type` must be application/json".to_owned()));
    }
    match headers.get(header::CONTENT_ENCODING) {
        Some(encoding) if !encoding.as_bytes().eq_ignore_ascii_case(b"identity") => {
            Err(media("a body with a `Content-Encoding` is not supported; send it as it is".to_owned()))
        }
        _ => Ok(()),
    }
}

async fn read(body: Body, max_bytes: usize, held: &mut Held) -> Result<Vec<u8>, ApiError> {
    let (mut body, mut whole) = (Limited::new(body, max_bytes), Vec::new());
    while let Some(frame) = body.frame().await {
        match frame.map(Frame::into_data) {
            Ok(Ok(data)) => {
                held.grow(data.len())?;
                whole.extend_from_slice(&data);
            }
            // Trailers, of which none is known.
            Ok(Err(_)) => {}
            Err(error) if error.is::<LengthLimitError>() => {
                let message = format!("the body has more than {max_bytes} bytes, which is the limit");
                let code = "request_too_large";
                return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error", code, message));
            }
            Err(_) => return Err(not_json("the body broke off".to_owned())),
        }
    }
    Ok(whole)
}

fn parse(bytes: &[u8]) -> Result<Map<String, Value>, ApiError> {
    match serde_json::from_slice(bytes) {
        Ok(Strict(Value::Object(map))) => Ok(map),
        Ok(Strict(other)) => Err(not_json(format!("the body is {}; a JSON object is allowed", found(&other)))),
        Err(error) => Err(not_json(format!("the body is not JSON: {error}"))),
    }
}

fn not_json(message: String) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, "invalid_request_error", "invalid_json", message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn bodies_that_are_no_objects_are_refused_in_few_words() {
        let deep = "[".repeat(10 << 20);
        for (body, text) in [
            (&b"not json"[..], "the body is not JSON: expected ident at line 1 column 2"),
            (b"", "the body is not JSON: EOF while parsing a value at line 1 column 0"),
            (b"[]", "the body is a list; a JSON object is allowed"),
            (b"\"x\"", "the body is \"x\"; a JSON object is allowed"),
            (b"null", "the body is null; a JSON object is allowed"),
            (deep.as_bytes(), "the body is not JSON: recursion limit exceeded at line 1 column 128"),
            (br#"{"a": "\ud800"}"#, "the body is not JSON: unexpected end of hex escape at line 1 column 14"),
            (b"{\"a\": \"\xff\"}", "the body is not JSON: invalid unicode code point at line 1 column 8"),
            (
                b"{\"a\": \"\0\"}",
                "the body is not JSON: control character (\\u0000-\\u001F) found while parsing a string at line 1 column 8",
            ),
        ] {
            let error = parse(body).unwrap_err();
            assert_eq!((error.status.as_u16(), error.message.as_str()), (400, text));
        }
        assert!(parse(br#"{"a": 1, "a": 2}"#).is_err() && parse(br#"{"a": 1, "b": 2}"#).is_ok());
    }

    #[test]
    fn only_json_is_read() {
        let status = |name: header::HeaderName, value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            headers.insert(name, HeaderValue::from_static(value));
            check_type(&headers).map_err(|error| error.status.as_u16())
        };
        for good in ["application/json", "Application/JSON; charset=utf-8", "application/vnd.api+json"] {
            assert_eq!(status(header::CONTENT_TYPE, good), Ok(()));
        }
        for bad in ["text/plain", "", "application/x-www-form-urlencoded", "json"] {
            assert_eq!(status(header::CONTENT_TYPE, bad), Err(415));
        }
        assert_eq!(status(header::CONTENT_ENCODING, "gzip"), Err(415));
        assert_eq!(check_type(&HeaderMap::new()).unwrap_err().status.as_u16(), 415);
    }
}
