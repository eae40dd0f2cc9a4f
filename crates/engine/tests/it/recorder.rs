//! An executor that notes the bits of all logits, and can pretend to have fewer KV blocks than it has.

use ndarray::ArrayView2;
use nxd_executor::{CpuExecutor, Executor, ExecutorError, ExecutorOptions, ModelInfo, StepId, StepOutput};
use nxd_models::{LoadMode, Model};
use nxd_ops::{AdapterId, Batch, KvSpec, LowRank, Output, SamplingBatch};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// Bits of a row's logits by (`choice`, position of the token that is drawn). Tests give each request a `choice` of its own.
pub(crate) type Rows = BTreeMap<(u32, u32), Vec<u32>>;

/// The rows so far.
pub(crate) type Bits = Arc<Mutex<Rows>>;

pub(crate) struct Recorder {
    inner: CpuExecutor,
    info: ModelInfo,
    bits: Bits,
}

impl Recorder {
    /// Wraps `inner`; `num_blocks` says how many blocks of each group the engine may use.
    pub(crate) fn new(inner: CpuExecutor, num_blocks: impl Fn(&KvSpec, usize) -> usize) -> (Recorder, Bits) {
        let mut info = inner.info().clone();
        for (spec, blocks) in &mut info.kv_groups {
            *blocks = num_blocks(spec, *blocks).min(*blocks);
        }
        let bits = Bits::default();
        (Recorder { inner, info, bits: Arc::clone(&bits) }, bits)
    }
}

impl Executor for Recorder {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn forward(&mut self, batch: &Batch) -> Result<StepId, ExecutorError> {
        batch.validate(self.info.vocab_size, &self.info.kv_groups, self.info.block_size)?;
        self.inner.forward(batch)
    }

    fn sample(&mut self, step: StepId, sampling: &SamplingBatch) -> Result<StepOutput, ExecutorError> {
        let sampling = SamplingBatch { rows: sampling.rows.clone(), keep_logits: true };
        let output = self.inner.sample(step, &sampling)?;
        let mut bits = self.bits.lock().unwrap();
        for (row, logits) in sampling.rows.iter().zip(output.logits.chunks(self.info.vocab_size)) {
            let logits: Vec<u32> = logits.iter().map(|x| x.to_bits()).collect();
            let before = bits.insert((row.choice, row.position), logits.clone());
            assert!(before.is_none_or(|before| before == logits), "a row computed again has other bits");
        }
        Ok(output)
    }

    fn hidden(&self, step: StepId) -> Result<ArrayView2<'_, f32>, ExecutorError> {
        self.inner.hidden(step)
    }

    fn captured(&self, step: StepId) -> Result<&[(Output, Vec<f32>)], ExecutorError> {
        self.inner.captured(step)
    }

    fn load_adapter(&mut self, parts: &Arc<[LowRank]>) -> Result<AdapterId, ExecutorError> {
        self.inner.load_adapter(parts)
    }

    fn unload_adapter(&mut self, id: AdapterId) -> Result<(), ExecutorError> {
        self.inner.unload_adapter(id)
    }
}

/// The golden models that can be opened, with their folders; prints those that cannot.
pub(crate) fn models() -> Vec<(PathBuf, Model)> {
    let mut found = Vec::new();
    for dir in nxd_testkit::folders(&nxd_testkit::goldens()) {
        let weights = |name: &str| dir.join(name).exists();
        if !dir.join("expected.json").exists() || !(weights("config.json") || weights("model.gguf")) {
            continue;
        }
        match Model::open(&dir, LoadMode::default()) {
            Ok(model) => found.push((dir, model)),
            Err(error) => println!("skipped {}: {error}", dir.display()),
        }
    }
    assert!(!found.is_empty(), "no golden model could be opened");
    found
}

/// Loads `model` with room for any test.
pub(crate) fn load(dir: &Path, model: &Model, options: &ExecutorOptions) -> CpuExecutor {
    CpuExecutor::load(model, options)
        .unwrap_or_else(|e| panic!("{}: {e}: {:?}", dir.display(), std::error::Error::source(&e)))
}
