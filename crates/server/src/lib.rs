//! The HTTP server: OpenAI's API over an engine, metrics, a chat page.
//!
//! [`serve`](serve()) binds an address, answers health from the first second, loads a model beside that, and serves it until a signal ends it.
//!
//! *Does not know*: devices, executors, how a model is loaded, the command line.
//!
//! Reading order: [`options`], [`serve`](mod@serve), `connection`, [`state`], `router`, `exchange`, `auth`, `health`, [`error`], [`tools`], [`page`],
//! [`metrics`].

mod auth;
mod connection;
pub mod error;
mod exchange;
mod health;
pub mod metrics;
pub mod options;
pub mod page;
mod router;
pub mod serve;
pub mod state;
pub mod tools;

pub use error::ApiError;
pub use metrics::Observer;
pub use options::ServerOptions;
pub use serve::{Moment, ServeError, serve};
pub use state::App;
