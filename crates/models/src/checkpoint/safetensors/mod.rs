//! Safetensors checkpoints: one file, or shards with an index.

mod header;
mod index;

pub use header::SafetensorsError;
pub use index::IndexError;

pub(super) use index::{index_files, open_sharded};

use super::map::FileBytes;
use super::{CheckpointError, LoadMode, TensorInfo};
use std::path::Path;

/// The opened files of a safetensors checkpoint.
pub(super) struct Opened {
    pub(super) files: Vec<FileBytes>,
    pub(super) tensors: Vec<TensorInfo>,
}

/// Opens a checkpoint of one file.
pub(super) fn open(path: &Path, mode: LoadMode) -> Result<Opened, CheckpointError> {
    let (file, tensors) = open_file(path, mode, 0)?;
    Ok(Opened { files: vec![file], tensors })
}

/// Opens one file, number `number` of its checkpoint.
fn open_file(path: &Path, mode: LoadMode, number: usize) -> Result<(FileBytes, Vec<TensorInfo>), CheckpointError> {
    let file = FileBytes::open(path, mode)?;
    match file.parse(|bytes, file_bytes| header::parse(bytes, file_bytes, number))? {
        Ok(tensors) => Ok((file, tensors)),
        Err(problem) => Err(CheckpointError::Safetensors { file: file.name(), problem }),
    }
}
