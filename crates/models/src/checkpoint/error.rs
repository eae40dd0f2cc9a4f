//! What can be wrong with a checkpoint.

use super::gguf::{GgufError, MetadataError, SplitError};
use super::safetensors::{IndexError, SafetensorsError};

/// A checkpoint that cannot be opened, or cannot give a tensor.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The system refuses.
    #[error("{file}: {reason}")]
    Read {
        /// The path.
        file: String,
        /// What the system says.
        reason: String,
    },
    /// The path is not a regular file.
    #[error("{file}: is a {found}, expected a regular file")]
    NotAFile {
        /// The path.
        file: String,
        /// What it is.
        found: &'static str,
    },
    /// The file is being written or was cut while it is read.
    #[error("{file}: had {opened} bytes when it was opened and has {now} now; load it again when nobody writes to it")]
    Changed {
        /// The file.
        file: String,
        /// Bytes at first.
        opened: u64,
        /// Bytes now.
        now: u64,
    },
    /// The file does not fit into memory.
    #[error(
        "{file}: {needed} bytes do not fit into the {available} bytes of free memory; map the file instead of reading it"
    )]
    Memory {
        /// The file.
        file: String,
        /// Bytes of the file.
        needed: u64,
        /// Bytes that can be had.
        available: u64,
    },
    /// A small file, such as an index, is larger than any real one.
    #[error("{file}: {found} bytes, allowed are at most {limit}")]
    TooLarge {
        /// The file.
        file: String,
        /// Bytes it has.
        found: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// The file is no usable GGUF file.
    #[error("{file}: {problem}")]
    Gguf {
        /// The file.
        file: String,
        /// What is wrong.
        problem: GgufError,
    },
    /// A metadata value of a GGUF file has another type or range.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// A part of a split GGUF file does not fit.
    #[error("{file}: {problem}")]
    Split {
        /// The part.
        file: String,
        /// What is wrong.
        problem: SplitError,
    },
    /// The file is no usable safetensors file.
    #[error("{file}: {problem}")]
    Safetensors {
        /// The file.
        file: String,
        /// What is wrong.
        problem: SafetensorsError,
    },
    /// The index of a sharded checkpoint does not fit its shards.
    #[error("{file}: {problem}")]
    Index {
        /// The index file.
        file: String,
        /// What is wrong.
        problem: IndexError,
    },
    /// The folder holds no weights.
    #[error(
        "{folder}: holds no weights, expected `model.safetensors`, `model.safetensors.index.json` with its shards, or one `.gguf` file{hint}"
    )]
    NoWeights {
        /// The folder.
        folder: String,
        /// What is there instead, or empty.
        hint: String,
    },
    /// The folder holds several checkpoints.
    #[error("{folder}: holds several checkpoints ({found}); {advice}")]
    Ambiguous {
        /// The folder.
        folder: String,
        /// Their names.
        found: String,
        /// How to choose.
        advice: &'static str,
    },
    /// The weights are pickled Python objects.
    #[error(
        "{file}: pickle weights are not supported, loading them runs code; convert them to safetensors (`save_pretrained` of transformers does)"
    )]
    Pickle {
        /// The pickle file.
        file: String,
    },
    /// There is no such tensor.
    #[error("{file}: tensor `{tensor}` is missing{hint}")]
    MissingTensor {
        /// The checkpoint.
        file: String,
        /// The tensor.
        tensor: String,
        /// Similar names, or empty.
        hint: String,
    },
    /// The tensor's numbers are stored in a way that is not supported.
    #[error("{origin} is stored as {format}, which is not supported; supported are {supported}")]
    Format {
        /// File and tensor.
        origin: String,
        /// How it is stored.
        format: &'static str,
        /// The formats that are supported.
        supported: String,
    },
    /// A tensor is not the small vector that it should be.
    #[error("{origin} is {found:?}, expected a vector of 1 to {limit} values")]
    Vector {
        /// File and tensor.
        origin: String,
        /// The stored shape.
        found: Vec<usize>,
        /// Values allowed.
        limit: usize,
    },
}
