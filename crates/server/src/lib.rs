//! The HTTP server: OpenAI's API over an engine, metrics, a chat page.
//!
//! *Does not know*: devices, executors, how a model is loaded, the command line.

mod auth;
mod connection;
pub mod error;
mod info;
mod lifecycle;
pub mod metrics;
pub mod openai;
pub mod options;
pub mod page;
mod patience;
pub mod router;
pub mod serve;
pub mod state;
pub mod tools;
pub mod traffic;
mod unique;

pub use error::ApiError;
pub use metrics::Metrics;
pub use options::{OnEngineFailure, ServerOptions};
pub use serve::{Loading, ServeError, Server};
pub use state::App;
