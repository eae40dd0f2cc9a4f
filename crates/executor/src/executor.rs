//! The object-safe door to a device.

use crate::error::ExecutorError;
use ndarray::ArrayView2;
use nxd_ops::{AdapterId, Batch, Drawn, KvSpec, LowRank, Output, SamplingBatch};
use std::sync::Arc;

/// What a scheduler must know of a loaded model.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelInfo {
    /// Tokens of the vocabulary: the exclusive end of token ids.
    pub vocab_size: usize,
    /// Width of hidden rows.
    pub hidden_size: usize,
    /// Longest request, prompt and completion together.
    pub max_model_len: usize,
    /// Tokens a KV block.
    pub block_size: usize,
    /// The KV groups and how many blocks each has.
    pub kv_groups: Vec<(KvSpec, usize)>,
    /// Bytes of one token's keys and values in each KV group, all its layers and all ranks together.
    pub kv_token_bytes: Vec<usize>,
    /// Bytes of weights that products read, all ranks together: those of a decode step, and of experts all.
    pub weights_bytes: usize,
    /// The mixtures of experts of which a step reads what its rows chose. Empty where it reads all of them.
    pub mixtures: Vec<Mixture>,
    /// Bytes of the KV cache, all ranks together.
    pub kv_bytes: usize,
    /// Bytes of weights that each kernel serves, all ranks together.
    pub kernels: Vec<(Arc<str>, usize)>,
    /// How the cache stores K and V, for reports: `f16`, `int8`.
    pub kv_dtype: String,
    /// Requests whose [`Batch::rope_lens`] entries are at most this have the same rotations, so equal tokens leave equal K and V; a longer
    /// one has rotations of its own, which only an equal length shares. `None` where rotations do not depend on the length.
    pub rope_lens_differ_from: Option<usize>,
}

/// Experts of which each row of a step takes some: those of one layer, or of all layers that are alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mixture {
    /// Experts of a layer.
    pub num_experts: usize,
    /// How many a row takes.
    pub chosen: usize,
    /// Bytes of all their weights, all ranks together.
    pub bytes: usize,
}

impl ModelInfo {
    /// Bytes of weights that a step of `rows` rows reads: of experts those that its rows chose, were each choice as likely as any other. Of
    /// one row it is what is read, of several what is to be expected.
    pub fn weights_bytes_of_step(&self, rows: usize) -> f64 {
        let idle = |mixture: &Mixture| mixture.bytes as f64 * mixture.idle_share(rows);
        self.weights_bytes as f64 - self.mixtures.iter().map(idle).sum::<f64>()
    }
}

impl Mixture {
    /// The share of experts that none of `rows` rows chooses.
    fn idle_share(&self, rows: usize) -> f64 {
        let left = 1.0 - self.chosen as f64 / self.num_experts.max(1) as f64;
        left.max(0.0).powi(i32::try_from(rows).unwrap_or(i32::MAX))
    }
}

/// A forward step whose rows wait to be sampled or read. Only the newest step can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StepId(pub u64);

/// What a sampled step gives.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepOutput {
    /// What each wanted row drew, `[W]`.
    pub drawn: Vec<Drawn>,
    /// The logits of the wanted rows, `[W, V]` row-major, where [`SamplingBatch::keep_logits`] is set; else empty.
    pub logits: Vec<f32>,
}

/// One step of a model on a device.
///
/// ```no_run
/// use nxd_executor::{Executor, ExecutorError};
/// use nxd_ops::{Batch, SamplingBatch};
///
/// fn one_step(executor: &mut dyn Executor, batch: &Batch, sampling: &SamplingBatch) -> Result<(), ExecutorError> {
///     let step = executor.forward(batch)?;
///     let output = executor.sample(step, sampling)?;
///     assert_eq!(output.drawn.len(), batch.wanted.len());
///     Ok(())
/// }
/// ```
pub trait Executor: Send {
    /// The loaded model.
    fn info(&self) -> &ModelInfo;

    /// Runs a batch to the final-norm rows that it wants.
    ///
    /// # Errors
    /// When the batch does not fit the model or the cache, or a rank failed.
    fn forward(&mut self, batch: &Batch) -> Result<StepId, ExecutorError>;

    /// Runs head and sampling on the rows of the newest forward step.
    ///
    /// # Errors
    /// When `step` is not the newest, `sampling` has another number of rows, or a rank failed.
    fn sample(&mut self, step: StepId, sampling: &SamplingBatch) -> Result<StepOutput, ExecutorError>;

    /// The final-norm rows of the newest forward step, `[W, E]`.
    ///
    /// # Errors
    /// When `step` is not the newest.
    fn hidden(&self, step: StepId) -> Result<ArrayView2<'_, f32>, ExecutorError>;

    /// What the newest forward step captured, each `[T, E]` row-major.
    ///
    /// # Errors
    /// When `step` is not the newest.
    fn captured(&self, step: StepId) -> Result<&[(Output, Vec<f32>)], ExecutorError>;

    /// Takes an adapter, which later batches name ([`Batch::adapters`]).
    ///
    /// # Errors
    /// When the device has no adapters, or a matrix does not fit the weight that it belongs to.
    fn load_adapter(&mut self, parts: &Arc<[LowRank]>) -> Result<AdapterId, ExecutorError> {
        let _ = parts;
        Err(ExecutorError::NoAdapters)
    }

    /// Gives an adapter's memory back; later batches may not name it.
    ///
    /// # Errors
    /// When there is no such adapter, or a rank failed.
    fn unload_adapter(&mut self, id: AdapterId) -> Result<(), ExecutorError> {
        Err(ExecutorError::Adapter { id: id.0 })
    }

    /// `forward`, then `sample`.
    ///
    /// # Errors
    /// As for both.
    fn step(&mut self, batch: &Batch, sampling: &SamplingBatch) -> Result<StepOutput, ExecutorError> {
        let step = self.forward(batch)?;
        self.sample(step, sampling)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_reads_the_experts_it_chose_and_many_rows_all() {
        let mixture = Mixture { num_experts: 8, chosen: 2, bytes: 800 };
        assert_eq!([1, 2].map(|rows| (mixture.idle_share(rows) * 16.0) as usize), [12, 9]);
        assert!(mixture.idle_share(1000) < 1e-9);
        assert!(Mixture { chosen: 8, ..mixture }.idle_share(1) < 1e-9);
    }
}
