//! What is wrong on purpose: an executor that fails when it is told to, and a checkpoint with a poisoned token.

use ndarray::ArrayView2;
use nxd_executor::{CpuExecutor, Device, Executor, ExecutorError, ModelInfo, StepId, StepOutput};
use nxd_ops::{Batch, Output, SamplingBatch};
use serde_json::Value;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;

/// What becomes of a step.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// It is computed, this much later.
    Late(Duration),
    /// Its computation panics.
    Panic,
    /// Its computation fails.
    Error,
}

/// An executor whose next steps go as it was last told.
pub(crate) struct Faulty {
    inner: CpuExecutor,
    fault: Arc<Mutex<Fault>>,
}

impl Faulty {
    /// Wraps `inner`; `fault` may be changed at any time.
    pub(crate) fn around(inner: CpuExecutor, fault: &Arc<Mutex<Fault>>) -> Box<dyn Executor> {
        Box::new(Faulty { inner, fault: Arc::clone(fault) })
    }
}

impl Executor for Faulty {
    fn info(&self) -> &ModelInfo {
        self.inner.info()
    }

    fn forward(&mut self, batch: &Batch) -> Result<StepId, ExecutorError> {
        let fault = *self.fault.lock().unwrap();
        match fault {
            Fault::Late(delay) => std::thread::sleep(delay),
            Fault::Panic => panic!("told to"),
            Fault::Error => return Err(ExecutorError::NotBuilt { device: Device::Cpu, why: "told to" }),
        }
        self.inner.forward(batch)
    }

    fn sample(&mut self, step: StepId, sampling: &SamplingBatch) -> Result<StepOutput, ExecutorError> {
        self.inner.sample(step, sampling)
    }

    fn hidden(&self, step: StepId) -> Result<ArrayView2<'_, f32>, ExecutorError> {
        self.inner.hidden(step)
    }

    fn captured(&self, step: StepId) -> Result<&[(Output, Vec<f32>)], ExecutorError> {
        self.inner.captured(step)
    }
}

/// A golden model whose head has weights of its own: what is wrong with an embedding is wrong with that token alone.
pub(crate) const UNTIED: &str = "llama-mha-default";

/// A copy of [`UNTIED`] in which the embedding of token `id` is NaN.
pub(crate) fn poisoned(id: usize) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(nxd_testkit::goldens().join(UNTIED)).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    poison(&copy.path().join("model.safetensors"), id);
    copy
}

fn poison(file: &Path, id: usize) {
    let mut bytes = std::fs::read(file).unwrap();
    let begin = 8 + usize::try_from(u64::from_le_bytes(*bytes.first_chunk().unwrap())).unwrap();
    let header: Value = serde_json::from_slice(&bytes[8..begin]).unwrap();
    let entry = &header["model.embed_tokens.weight"];
    let number = |value: &Value| usize::try_from(value.as_u64().unwrap()).unwrap();
    let (first, end) = (number(&entry["data_offsets"][0]), number(&entry["data_offsets"][1]));
    let row_bytes = (end - first) / number(&entry["shape"][0]);
    let row = begin + first + id * row_bytes;
    // All bits set is a NaN in each of the float types.
    bytes[row..row + row_bytes].fill(0xff);
    std::fs::write(file, bytes).unwrap();
}
