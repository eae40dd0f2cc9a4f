//! Errors as clients see them: OpenAI's envelope, and the status that its client libraries expect.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use nxd_engine::EngineError;
use nxd_engine::service::{Failure, Refusal, SubmitError};
use serde_json::{Value, json};

/// Longest message: what a client sent is never sent back at length.
const MAX_MESSAGE_CHARS: usize = 1000;

/// An error with its HTTP status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    /// The HTTP status.
    pub status: StatusCode,
    /// `error.type`.
    pub kind: &'static str,
    /// `error.code`.
    pub code: &'static str,
    /// `error.param`: the field of the request that is wrong.
    pub param: Option<String>,
    /// `error.message`.
    pub message: String,
    /// Seconds after which a client may try again.
    pub retry_after: Option<u32>,
}

impl ApiError {
    /// An error of `status`.
    pub fn new(status: StatusCode, kind: &'static str, code: &'static str, message: impl Into<String>) -> Self {
        ApiError { status, kind, code, param: None, message: message.into(), retry_after: None }
    }

    /// A request whose field `param` cannot be meant.
    pub fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        let error = ApiError::new(StatusCode::BAD_REQUEST, "invalid_request_error", "invalid_value", message);
        ApiError { param: Some(param.into()), ..error }
    }

    /// A model that is not served here.
    pub fn no_such_model(name: &str) -> Self {
        let name: String = name.chars().take(100).collect();
        let message = format!("the model `{name}` does not exist; GET /v1/models lists those that are served");
        let error = ApiError::new(StatusCode::NOT_FOUND, "invalid_request_error", "model_not_found", message);
        ApiError { param: Some("model".to_owned()), ..error }
    }

    /// The server cannot serve now; `code` says why: `loading`, `draining`, `engine_dead`.
    pub fn unavailable(code: &'static str, message: impl Into<String>) -> Self {
        let error = ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable_error", code, message);
        ApiError { retry_after: Some(5), ..error }
    }

    /// The body: `{"error": {…}}`.
    pub fn body(&self) -> Value {
        let message: String = self.message.chars().take(MAX_MESSAGE_CHARS).collect();
        json!({"error": {"message": message, "type": self.kind, "param": self.param, "code": self.code}})
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let message = refusal.to_string();
        match refusal {
            Refusal::Draining => ApiError::unavailable("draining", message),
            Refusal::Dead(_) => ApiError::unavailable("engine_dead", message),
            _ => {
                let full = ApiError::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", "queue_full", message);
                ApiError { retry_after: Some(1), ..full }
            }
        }
    }
}

impl From<SubmitError> for ApiError {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::Refused(refusal) => refusal.into(),
            SubmitError::Request(error) => error.into(),
            _ => ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", "internal_error", error.to_string()),
        }
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        let (param, code) = match &error {
            EngineError::PromptTooLong { .. } | EngineError::NeverFits { .. } => (None, "context_length_exceeded"),
            EngineError::EmptyPrompt | EngineError::TokenOutsideVocabulary { .. } => (Some("prompt"), "invalid_value"),
            EngineError::NoTokensAsked => (Some("max_tokens"), "invalid_value"),
            EngineError::Parameter { name, .. } | EngineError::ListOutsideVocabulary { name, .. } => {
                (Some(*name), "invalid_value")
            }
            EngineError::LogitBias { .. } => (Some("logit_bias"), "invalid_value"),
            EngineError::NothingAllowed => (Some("allowed_token_ids"), "invalid_value"),
            _ => {
                let message = error.to_string();
                return ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", "internal_error", message);
            }
        };
        let bad = ApiError::new(StatusCode::BAD_REQUEST, "invalid_request_error", code, error.to_string());
        ApiError { param: param.map(str::to_owned), ..bad }
    }
}

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        let message = failure.to_string();
        let server = |code| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", code, message.clone());
        match failure {
            Failure::NotFinite { .. } => server("numerical_error"),
            Failure::NoAdapter => ApiError {
                param: Some("model".to_owned()),
                ..ApiError::new(StatusCode::NOT_FOUND, "invalid_request_error", "model_not_found", message)
            },
            Failure::QueueTimeout => ApiError {
                retry_after: Some(5),
                ..ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable_error", "queue_timeout", message)
            },
            Failure::Timeout => ApiError::new(StatusCode::GATEWAY_TIMEOUT, "timeout_error", "request_timeout", message),
            Failure::ShutDown => ApiError::unavailable("draining", message),
            Failure::Dead(_) => server("engine_dead"),
            _ => server("internal_error"),
        }
    }
}
