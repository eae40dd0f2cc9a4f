//! What an executor reports.

use nxd_cpu::CpuError;
use nxd_models::ModelError;
use nxd_ops::BatchError;

/// An error of an executor.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExecutorError {
    /// The model's files cannot be used.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The device failed on a rank.
    #[error("rank {rank} failed")]
    Rank {
        /// The rank.
        rank: usize,
        /// Why.
        #[source]
        source: CpuError,
    },
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
        "a KV cache of {budget} bytes holds {tokens} tokens, --max-model-len asks for {max_model_len}; lower --max-model-len, raise --kv-cache-memory, or choose a smaller --kv-cache-dtype"
    )]
    KvBudget {
        /// Bytes allowed.
        budget: usize,
        /// Tokens of one request that fit.
        tokens: usize,
        /// Tokens asked for.
        max_model_len: usize,
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
