//! What can go wrong on the device.

use nxd_collectives::CollectiveError;
use nxd_ops::{BatchError, SourceError};

/// An error of the CPU device.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CpuError {
    /// A weight that the checkpoint cannot give.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The KV cache cannot be had.
    #[error(transparent)]
    Kv(#[from] crate::kv::KvError),
    /// A batch that does not fit the model or the cache.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// An adapter of another model.
    #[error("an adapter adds to the weight `{0}`, which the model does not have")]
    Adapter(String),
    /// A collective failed; the step's results are void.
    #[error("{op} of layer {layer} failed")]
    Collective {
        /// The op.
        op: &'static str,
        /// The layer, or `head`/`embedding`.
        layer: String,
        /// Why.
        #[source]
        source: CollectiveError,
    },
}
