//! The model hub: from files to a decoder.
//!
//! [`Model::open`] reads a folder in Hugging Face layout or a GGUF file: the configuration becomes a [`nxd_modules::DecoderSpec`] through one
//! of the [`families`], the [`checkpoint`] becomes a [`nxd_ops::WeightSource`], the [`tokenizer`] and the [`chat`] template are made ready.
//!
//! *Does not know*: devices, batches, scheduling. It opens files and computes nothing with a weight but its
//! quantised form.
//!
//! Reading order: [`model`], [`config`], [`families`], [`names`], [`checkpoint`], [`quantisation`], [`adapter`], [`tokenizer`], [`chat`]; then
//! [`quantise`], which writes models.

pub mod adapter;
mod beside;
pub mod chat;
pub mod checkpoint;
pub mod config;
pub mod families;
mod generation;
pub mod model;
pub mod names;
pub mod quantisation;
pub mod quantise;
mod strings;
pub mod tokenizer;

pub use adapter::{Adapter, AdapterError};
pub use checkpoint::{Checkpoint, CheckpointError, LoadMode};
pub use config::{Config, ConfigError};
pub use model::{Model, ModelError};
pub use strings::Strings;
pub use tokenizer::{Tokenizer, TokenizerError};
