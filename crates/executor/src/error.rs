//! What an executor reports.

use crate::device::{Device, Dtype};
use crate::plan::{Bytes, Count};
use nxd_cpu::{CpuError, KvDtype};
use nxd_models::ModelError;
use nxd_ops::BatchError;
#[cfg(feature = "pjrt")]
use nxd_runtime::pjrt::{ErrorCode, PjrtError};
#[cfg(feature = "pjrt")]
use nxd_stablehlo::error::DeviceError;

/// An error of an executor.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExecutorError {
    /// The model's files cannot be used.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A device that this build has no code for.
    #[error("device `{device}` is not in this build: {why}")]
    NotBuilt {
        /// The device.
        device: Device,
        /// Why not, or what to do.
        why: &'static str,
    },
    /// A type that the device does not compute in.
    #[error(
        "--dtype {dtype} on the device `{device}`: weights cannot be converted to another 16-bit type while they are loaded; --dtype takes `auto` and `f32` there"
    )]
    Dtype {
        /// The device.
        device: Device,
        /// The type asked for.
        dtype: Dtype,
    },
    /// A type that the device does not store keys and values in.
    #[error("--kv-cache-dtype {dtype} is for the CPU; the device `{device}` stores f32, bf16 or f16")]
    KvDtype {
        /// The device.
        device: Device,
        /// The type asked for.
        dtype: KvDtype,
    },
    /// Adapters, on a device that does not compute them.
    #[error("LoRA adapters are for the CPU; the device that is used does not compute them")]
    NoAdapters,
    /// A batch, or somebody who wants it gone, names an adapter that is not loaded.
    #[error("adapter {id} is not loaded")]
    Adapter {
        /// Its number.
        id: u32,
    },
    /// The device failed on a rank.
    #[error("rank {rank} failed")]
    Rank {
        /// The rank.
        rank: usize,
        /// Why.
        #[source]
        source: CpuError,
    },
    /// The traced device failed.
    #[cfg(feature = "pjrt")]
    #[error("the traced device failed")]
    Traced(#[from] DeviceError),
    /// The library that drives a device cannot be used.
    #[cfg(feature = "pjrt")]
    #[error("device `{device}` cannot be used")]
    Plugin {
        /// The device.
        device: Device,
        /// What is wrong with its library.
        #[source]
        source: PjrtError,
    },
    /// The machine is not set up for Neuron.
    #[cfg(feature = "pjrt")]
    #[error("device `neuron` cannot be started")]
    Startup(#[source] Box<nxd_runtime::neuron::startup::StartupError>),
    /// A rank's thread is gone or does not answer.
    #[error("rank {rank} {what}")]
    Lost {
        /// The rank.
        rank: usize,
        /// What happened to it.
        what: String,
    },
    /// The batch does not fit the model or the cache.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// A step that is not the newest.
    #[error("step {asked} was asked for, the newest is {newest}")]
    Step {
        /// The step asked for.
        asked: u64,
        /// The newest one.
        newest: u64,
    },
    /// A sampling batch of another size than the step's wanted rows.
    #[error("{found} sampling rows for {expected} wanted rows")]
    SamplingRows {
        /// Rows given.
        found: usize,
        /// Rows wanted.
        expected: usize,
    },
    /// The KV cache cannot hold what is asked for.
    #[error(
        "a KV cache of {} holds a request of {} tokens, --max-model-len asks for {}, which take {}; lower --max-model-len, raise --kv-cache-memory, or choose a smaller --kv-cache-dtype",
        Bytes(*.budget as u64), Count(*.tokens), Count(*.max_model_len), Bytes(*.needed as u64)
    )]
    KvBudget {
        /// Bytes allowed.
        budget: usize,
        /// Tokens of one request that fit.
        tokens: usize,
        /// Tokens asked for.
        max_model_len: usize,
        /// Bytes that one request of as many takes.
        needed: usize,
    },
    /// The machine's memory does not hold the model.
    #[error(
        "weights of {}, work space of {} and the smallest KV cache, {}, are more than the {} of memory that can be had; free memory, raise the limit of the container, or use a smaller quantisation or fewer --max-num-batched-tokens",
        Bytes(*.weights as u64), Bytes(*.workspace as u64), Bytes(*.kv as u64), Bytes(*.available)
    )]
    Memory {
        /// Bytes that can be had.
        available: u64,
        /// Bytes of weights.
        weights: usize,
        /// Bytes of work space.
        workspace: usize,
        /// Bytes of a block in each KV group.
        kv: usize,
    },
    /// A parallel layout that cannot be.
    #[error("--tensor-parallel-size {found} is not possible: {why}")]
    TensorParallel {
        /// The size asked for.
        found: usize,
        /// Why not.
        why: String,
    },
}

impl ExecutorError {
    /// Whether memory does not suffice, the machine's or a device's.
    pub fn is_memory(&self) -> bool {
        match self {
            ExecutorError::KvBudget { .. }
            | ExecutorError::Memory { .. }
            | ExecutorError::Rank { source: CpuError::Kv(_), .. } => true,
            #[cfg(feature = "pjrt")]
            ExecutorError::Plugin { source, .. } | ExecutorError::Traced(DeviceError::Plugin { source, .. }) => {
                matches!(source, PjrtError::Plugin { code: ErrorCode::ResourceExhausted, .. })
            }
            _ => false,
        }
    }

    /// Whether the layout of ranks is the matter, or a rank that is gone.
    pub fn is_distributed(&self) -> bool {
        match self {
            ExecutorError::TensorParallel { .. } | ExecutorError::Lost { .. } => true,
            #[cfg(feature = "pjrt")]
            ExecutorError::Traced(DeviceError::Devices { .. }) => true,
            _ => false,
        }
    }
}

#[cfg(all(test, feature = "pjrt"))]
mod tests {
    use super::*;

    #[test]
    fn failures_of_a_plugin_are_told_apart() {
        let refused = |code| PjrtError::Plugin { function: "PJRT_Buffer", code, text: "no".to_owned() };
        let upload =
            |code| ExecutorError::from(DeviceError::Plugin { doing: "upload".to_owned(), source: refused(code) });
        assert!(upload(ErrorCode::ResourceExhausted).is_memory() && !upload(ErrorCode::Internal).is_memory());
        let devices = DeviceError::Devices { ranks: 4, devices: 1, platform: "cuda".to_owned() };
        let devices = ExecutorError::from(devices);
        assert!(devices.is_distributed() && !devices.is_memory());
        assert!(!upload(ErrorCode::Internal).is_distributed());
    }
}
