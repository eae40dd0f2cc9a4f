//! The eager device: runs a step's ops at once, on the CPU.
//!
//! [`CpuDevice`] is one rank: its bound weights, its part of the paged KV cache, a team of threads and work space. `open` gives a
//! [`CpuStep`], the [`nxd_ops::Ops`] that modules call. A request's logits have the same bits whatever shares its step.
//!
//! *Does not know*: model families, checkpoints' files, schedulers. It sees weights through [`nxd_ops::WeightSource`] alone.
//!
//! Reading order: [`device`], [`step`], `bound`, `arena`, [`team`], [`kernels`], [`kv`], [`sampling`], [`isa`], [`limits`],
//! [`topology`], [`footprint`].

mod adapters;
mod arena;
mod bound;
pub mod device;
pub mod error;
mod floats;
pub mod footprint;
pub mod isa;
pub mod kernels;
pub mod kv;
pub mod limits;
mod prefetch;
mod rope;
pub mod sampling;
pub mod step;
pub mod team;
pub mod topology;

pub use arena::Tensor;
pub use device::{CpuDevice, CpuOptions};
pub use error::CpuError;
pub use footprint::Footprint;
pub use isa::Isa;
pub use kernels::linear::Activations;
pub use kv::KvDtype;
pub use step::{CpuStep, Outputs};
