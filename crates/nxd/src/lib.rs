//! LLM inference: load a model, generate text, or take the layer you need.
//!
//! **Use a model.** [`Model::load`] opens a folder in Hugging Face layout or a GGUF file; settings are derived from checkpoint and machine.
//!
//! ```no_run
//! use nxd::{GenerateOptions, Model};
//!
//! # fn main() -> Result<(), nxd::Error> {
//! let model = Model::load("models/SmolLM2-135M-Instruct", Default::default())?;
//! let completion = model.generate("The capital of France is", GenerateOptions { max_tokens: Some(16), ..Default::default() })?;
//! println!("{}", completion.text);
//! # Ok(())
//! # }
//! ```
//!
//! **Serve requests of your own.** [`engine::Engine`] takes requests one by one and shares each step among all of them.
//!
//! ```no_run
//! use nxd::engine::{Engine, EngineOptions, Request};
//! use nxd::executor::{self, ExecutorOptions};
//! use nxd::models::{LoadMode, Model};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let model = Model::open("models/SmolLM2-135M-Instruct".as_ref(), LoadMode::default())?;
//! let executor = executor::load(&model, &ExecutorOptions::default())?;
//! let mut engine = Engine::new(executor, EngineOptions::default());
//! let first = engine.add_request(Request { prompt: vec![1, 2, 3], max_tokens: Some(8), ..Request::default() })?;
//! let outputs = engine.step()?;
//! engine.abort(first);
//! # drop(outputs);
//! # Ok(())
//! # }
//! ```
//!
//! **Bring a scheduler.** [`executor::Executor`] runs one ragged batch at a time and knows no requests.
//!
//! ```no_run
//! use nxd::{LoadOptions, executor};
//! use nxd::models::{LoadMode, Model};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let model = Model::open("models/SmolLM2-135M-Instruct".as_ref(), LoadMode::default())?;
//! let executor = executor::load(&model, &LoadOptions::default().executor_options())?;
//! println!("{} tokens of context", executor.info().max_model_len);
//! # Ok(())
//! # }
//! ```
//!
//! To build a model, depend on `nxd-modules` or `nxd-parallel` instead; they know nothing of this crate.
//!
//! *Does not know*: devices by name, HTTP, the command line.
//!
//! Reading order: [`options`], [`prompt`], [`model`], [`completion`], [`error`].

pub mod completion;
pub mod error;
pub mod model;
pub mod options;
pub mod prompt;

pub use nxd_engine as engine;
pub use nxd_executor as executor;
pub use nxd_models as models;

pub use completion::{Completion, Timing};
pub use error::{Error, ErrorKind};
pub use model::Model;
pub use nxd_engine::{AdapterId, FinishReason, SamplingParams, TokenLogprob};
pub use nxd_executor::{Activations, Device, Dtype, KvDtype};
pub use nxd_models::LoadMode;
pub use options::{GenerateOptions, LoadOptions};
pub use prompt::{Message, Prompt};
