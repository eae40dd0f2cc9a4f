//! From a command's flags to an opened model and the options it is loaded with.

use std::path::{Path, PathBuf};

use nxd::models::Model as Files;
use nxd::{Activations, AdapterId, Dtype, Error, ErrorKind, KvDtype, LoadMode, LoadOptions, Model};
use nxd_executor::ExecutorError;

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
    load_mode(args.load_mode)
}

/// How the weights' files are read, as a flag says it.
pub(crate) fn load_mode(mode: args::LoadMode) -> LoadMode {
    match mode {
        args::LoadMode::Mmap => LoadMode::Mmap,
        args::LoadMode::Read => LoadMode::Read,
    }
}

/// Opens the model's files.
pub(crate) fn open(path: &Path, args: &RuntimeArgs) -> Result<Files, Failure> {
    Files::open(path, mode(args)).map_err(|e| failure(&e.into()))
}

/// Opens and loads the model that the user named.
pub(crate) fn load(model: &str, runtime: &RuntimeArgs, engine: &EngineArgs) -> Result<Model, Failure> {
    Model::load(resolve(model)?, options(runtime, engine)).map_err(|e| failure(&e))
}

/// Loads the adapter that the user named, if any.
pub(crate) fn adapter(model: &Model, path: Option<&Path>) -> Result<Option<AdapterId>, Failure> {
    path.map(|path| model.load_adapter(path).map_err(|e| failure(&e))).transpose()
}

/// The options that the flags ask for.
pub(crate) fn options(runtime: &RuntimeArgs, engine: &EngineArgs) -> LoadOptions {
    LoadOptions {
        device: runtime.device.clone(),
        dtype: match runtime.dtype {
            args::Dtype::Auto => None,
            args::Dtype::F32 => Some(Dtype::F32),
            args::Dtype::Bf16 => Some(Dtype::BF16),
            args::Dtype::F16 => Some(Dtype::F16),
        },
        threads: runtime.threads,
        pin_threads: runtime.pin_threads,
        tensor_parallel_size: runtime.tensor_parallel_size,
        activations: match runtime.activations {
            args::Activations::Int8 => Activations::Int8,
            args::Activations::F32 => Activations::F32,
        },
        load_mode: mode(runtime),
        max_model_len: engine.max_model_len,
        kv_cache_dtype: match engine.kv_cache_dtype {
            KvCacheDtype::Auto => None,
            KvCacheDtype::F32 => Some(KvDtype::F32),
            KvCacheDtype::Bf16 => Some(KvDtype::BF16),
            KvCacheDtype::F16 => Some(KvDtype::F16),
            KvCacheDtype::Int8 => Some(KvDtype::I8),
            KvCacheDtype::Fp8 => Some(KvDtype::E4M3),
        },
        kv_cache_memory_bytes: engine.kv_cache_memory.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX)),
        block_size: engine.block_size,
        max_num_seqs: engine.max_num_seqs,
        max_num_batched_tokens: engine.tokens_a_step(),
        enable_prefix_caching: !engine.no_enable_prefix_caching,
    }
}

/// An error of the library with the exit code of its kind.
pub(crate) fn failure(error: &Error) -> Failure {
    let kind = match error.kind() {
        ErrorKind::Request => Kind::Failed,
        ErrorKind::Memory => Kind::Memory,
        ErrorKind::Distributed => Kind::Distributed,
        ErrorKind::Options => Kind::Usage,
        _ => Kind::Model,
    };
    Failure::of(kind, error)
}

/// An executor's error with the exit code of its kind.
pub(crate) fn executor_failure(error: ExecutorError) -> Failure {
    failure(&error.into())
}
