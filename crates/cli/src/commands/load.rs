//! From a command's flags to an opened model and the options of an executor.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nxd_executor::{Activations, ExecutorError, ExecutorOptions, KvDtype, KvOptions, memory};
use nxd_models::{LoadMode, Model};

use crate::args::{self, EngineArgs, KvCacheDtype, RuntimeArgs};
use crate::failure::{Failure, Kind};
use crate::hub;

/// The files of the model that the user named.
pub(crate) fn resolve(model: &str) -> Result<PathBuf, Failure> {
    hub::resolve(model, &hub::Settings::from_env(false)?)
}

/// The folder of a model that was named by a folder or by a file in it.
pub(crate) fn folder(path: &Path) -> &Path {
    if path.is_dir() { path } else { path.parent().unwrap_or(path) }
}

/// How the weights' files are read.
pub(crate) fn mode(args: &RuntimeArgs) -> LoadMode {
    match args.load_mode {
        args::LoadMode::Mmap => LoadMode::Mmap,
        args::LoadMode::Read => LoadMode::Read,
    }
}

/// Opens the model.
pub(crate) fn open(path: &Path, args: &RuntimeArgs) -> Result<Model, Failure> {
    Model::open(path, mode(args)).map_err(|e| Failure::of(Kind::Model, &e))
}

/// The executor that the flags ask for.
pub(crate) fn executor_options(runtime: &RuntimeArgs, engine: &EngineArgs) -> ExecutorOptions {
    let defaults = ExecutorOptions::default();
    let activations = match runtime.activations {
        args::Activations::Int8 => Activations::Int8,
        args::Activations::F32 => Activations::F32,
    };
    let dtype = match (engine.kv_cache_dtype, activations) {
        (KvCacheDtype::Auto, Activations::Int8) | (KvCacheDtype::F16, _) => KvDtype::F16,
        (KvCacheDtype::Auto, Activations::F32) | (KvCacheDtype::F32, _) => KvDtype::F32,
        (KvCacheDtype::Bf16, _) => KvDtype::BF16,
    };
    // Half of what is free: weights and work space need the rest.
    let budget = engine.kv_cache_memory.or_else(|| memory::look().available_bytes.map(|bytes| bytes / 2));
    ExecutorOptions {
        threads: runtime.threads.unwrap_or(defaults.threads),
        tensor_parallel_size: runtime.tensor_parallel_size,
        activations,
        kv: KvOptions {
            block_size: engine.block_size,
            dtype,
            budget_bytes: budget.map_or(defaults.kv.budget_bytes, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX)),
            max_model_len: engine.max_model_len,
            max_num_seqs: engine.max_num_seqs,
            max_num_batched_tokens: engine.max_num_batched_tokens,
        },
        step_timeout: Duration::from_secs(300),
        ..defaults
    }
}

/// An executor's error with the exit code of its kind.
pub(crate) fn executor_failure(error: &ExecutorError) -> Failure {
    let kind = match error {
        ExecutorError::Model(_) => Kind::Model,
        ExecutorError::KvBudget { .. } => Kind::Memory,
        ExecutorError::TensorParallel { .. } => Kind::Usage,
        ExecutorError::Lost { .. } => Kind::Distributed,
        ExecutorError::Rank { source, .. } => match source {
            nxd_cpu::CpuError::Source(_) => Kind::Model,
            nxd_cpu::CpuError::Kv(_) => Kind::Memory,
            _ => Kind::Distributed,
        },
        _ => Kind::Failed,
    };
    Failure::of(kind, error)
}
