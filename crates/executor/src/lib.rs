//! The executor: one step of a model on a device, over one rank or many.
//!
//! [`Executor`] is what schedulers call, ours or a user's: it hides the device, its ranks and its buffers. [`load`](load()) gives the
//! executor of the device that is asked for. [`CpuExecutor`] runs the eager device, a team of threads for each rank; with the cargo
//! feature `pjrt` there is one for traced devices too. This is the only library that names devices.
//!
//! *Does not know*: requests, scheduling, text.
//!
//! Reading order: [`executor`], [`device`], [`options`], [`load`](mod@load), [`kv`], [`memory`],
//! [`plan`](mod@plan), [`cpu`], `traced`.

pub mod cpu;
pub mod device;
pub mod error;
pub mod executor;
pub mod kv;
pub mod load;
pub mod memory;
pub mod options;
pub mod plan;
mod rank;
mod steps;
#[cfg(feature = "pjrt")]
pub mod traced;

pub use cpu::CpuExecutor;
pub use device::{Device, Dtype, ParseDeviceError};
pub use error::ExecutorError;
pub use executor::{Executor, Mixture, ModelInfo, StepId, StepOutput};
pub use kv::{KvGroup, KvOptions};
pub use load::load;
pub use nxd_cpu::{Activations, CpuError, Isa, KvDtype};
pub use options::ExecutorOptions;
pub use plan::{MemoryNeeds, MemoryPlan, plan};
#[cfg(feature = "pjrt")]
pub use traced::TracedExecutor;
