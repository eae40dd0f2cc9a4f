//! The HTTP server: OpenAI's API over an engine, metrics, a chat page.
//!
//! *Does not know*: devices, executors, how a model is loaded, the command line.

pub mod error;
pub mod openai;
pub mod options;
pub mod state;
pub mod tools;

pub use error::ApiError;
pub use options::ServerOptions;
pub use state::App;
