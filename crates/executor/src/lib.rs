//! The executor: one step of a model on a device, over one rank or many.
//!
//! [`Executor`] is what schedulers call, ours or a user's: it hides the device, its ranks and its buffers. [`CpuExecutor`] runs the eager
//! device, a team of threads for each rank. This is the only library that names devices.
//!
//! *Does not know*: requests, scheduling, text.
//!
//! Reading order: [`executor`], [`kv`], [`memory`], [`cpu`].

pub mod cpu;
pub mod error;
pub mod executor;
pub mod kv;
pub mod memory;
mod rank;

pub use cpu::{CpuExecutor, ExecutorOptions};
pub use error::ExecutorError;
pub use executor::{Executor, ModelInfo, StepId, StepOutput};
pub use kv::KvOptions;
pub use nxd_cpu::{Activations, CpuError, Isa, KvDtype};
