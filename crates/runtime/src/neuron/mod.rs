//! AWS Trainium and Inferentia2: libnrt (compiled programs on cores), and what the PJRT plugin for them needs.
//!
//! Two ways lead to a Neuron core. Traced programs go through the PJRT plugin, which [`startup`] starts in the order that
//! it needs, in the environment that [`environment`] works out. A program that is compiled already (a NEFF file) runs on
//! libnrt itself:
//!
//! ```no_run
//! use nxd_runtime::neuron::{Model, Neff, NeuronError, Nrt, Placement, Runtime, Tensor, TensorSet, World};
//!
//! # fn run(file: &[u8]) -> Result<(), NeuronError> {
//! let nrt = Nrt::find()?;
//! println!("libnrt {} on {} cores", nrt.version()?, nrt.total_cores()?);
//! let core = Runtime::start(&nrt)?.core(0)?;
//! let model = Model::load(&core, &Neff::parse(file)?, World::SINGLE)?;
//! let (mut inputs, mut outputs) = (TensorSet::new(&core)?, TensorSet::new(&core)?);
//! for info in model.inputs() {
//!     inputs.insert(&info.name, &Tensor::allocate(&core, Placement::Device, &info.name, info.bytes)?)?;
//! }
//! for info in model.outputs() {
//!     outputs.insert(&info.name, &Tensor::allocate(&core, Placement::Device, &info.name, info.bytes)?)?;
//! }
//! model.execute(&inputs, &mut outputs)?;
//! # Ok(())
//! # }
//! ```
//!
//! State that a program updates in place (its KV cache) is the same [`Tensor`] in both sets, under the two names that the
//! NEFF gives it.
//!
//! - A process has one [`Runtime`]. Cores, models, tensors and sets hold it, so it closes when the last of them goes.
//! - Every object belongs to a [`Core`]; mixing cores is an error. Calls on one core wait for each other and block the calling
//!   thread, calls on different cores do not wait: one thread a core.
//! - Names, lengths and offsets are checked before libnrt is called, what it answers is checked after. A failed
//!   execution leaves its outputs, and state in place, without meaning.
//!
//! No function here has run on hardware by us. Layouts, names and codes are those of AWS's public headers and pages; the
//! tests run against a mock library.
//!
//! In reading order: `load` (find and open), `runtime` (start, cores), `neff` (a program's header), `model` and `info`, `tensor`,
//! `status`, `error`, `abi` (the C interface); [`target`](Target) (instance families as data), [`environment`], [`startup`].

mod abi;
pub mod environment;
mod error;
mod info;
mod load;
mod model;
mod neff;
mod runtime;
pub mod startup;
mod status;
mod target;
mod tensor;

pub use error::NeuronError;
pub use info::{Dtype, TensorInfo, Usage};
pub use load::{Nrt, PATH_VARIABLE, Version};
pub use model::{Model, World};
pub use neff::{HEADER_BYTES, Neff, NeffHeader};
pub use runtime::{Core, Memory, Runtime};
pub use status::Status;
pub use target::{Fp8, Instance, TARGETS, Target, TargetFacts};
pub use tensor::{Placement, Tensor, TensorSet};
