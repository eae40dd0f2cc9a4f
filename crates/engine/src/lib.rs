//! The engine: many requests, one executor.
//!
//! [`Engine::add_request`] checks a [`Request`] and queues it, [`Engine::step`] runs one step of the executor for all requests that fit and
//! says what came of it, [`Engine::abort`] takes a request out. A request's tokens do not depend on what shares its steps.
//!
//! ```no_run
//! use nxd_engine::{Engine, EngineOptions, Request};
//! use nxd_executor::{CpuExecutor, ExecutorOptions};
//! use nxd_models::{LoadMode, Model};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let model = Model::open("models/tiny".as_ref(), LoadMode::default())?;
//! let executor = CpuExecutor::load(&model, &ExecutorOptions::default())?;
//! let mut engine = Engine::new(Box::new(executor), EngineOptions::default());
//! engine.add_request(Request { prompt: vec![1, 2, 3], max_tokens: Some(8), ..Request::default() })?;
//! while engine.has_work() {
//!     for output in engine.step()? {
//!         println!("{:?}: {:?}", output.id, output.token);
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! *Does not know*: devices, ranks, model families, async, HTTP. Text begins and ends in [`text`], which the scheduler never sees.
//!
//! Reading order: [`request`], [`engine`], `scheduler`, `sequence`, `blocks`, [`text`], [`grammar`], [`service`]. The block manager has a
//! `README.md`.

mod blocks;
pub mod engine;
pub mod error;
pub mod grammar;
pub mod request;
mod scheduler;
mod sequence;
pub mod service;
pub mod text;

pub use engine::{Engine, EngineOptions};
pub use error::EngineError;
pub use nxd_executor::ModelInfo;
pub use nxd_ops::{AdapterId, SamplingParams, TokenLogprob};
pub use request::{FinishReason, Finished, Output, Request, RequestId, Stats, Task};
pub use scheduler::Counts;
pub use service::Service;
pub use text::Generation;
