//! Why a model is not quantised.

use crate::checkpoint::CheckpointError;
use crate::checkpoint::write::WriteError;
use crate::config::ConfigError;
use crate::model::ModelError;
use crate::tokenizer::TokenizerError;
use nxd_ops::SourceError;
use nxd_ops::quant::EncodeError;
use std::path::PathBuf;

/// A model that cannot be quantised.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QuantiseError {
    /// The model cannot be opened.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Its weights cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A weight is missing or malformed.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Its configuration has no form in the other container.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Its tokenizer has none.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The result cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A value has no place in the format.
    #[error("{origin}, row {row}")]
    Value {
        /// File and tensor.
        origin: String,
        /// The row.
        row: usize,
        /// The value, and what is allowed.
        #[source]
        source: EncodeError,
    },
    /// The scheme makes folders of folders.
    #[error("{}: is a GGUF file, and {scheme} is made of a Hugging Face folder; give that, or choose q8_0, q4_0 or q4_k", .file.display())]
    NeedsFolder {
        /// The file.
        file: PathBuf,
        /// The scheme.
        scheme: &'static str,
    },
    /// The folder's weights are quantised already.
    #[error("{}: the weights are quantised as {found}; give the folder of the original weights", .folder.display())]
    AlreadyQuantised {
        /// The folder.
        folder: PathBuf,
        /// How.
        found: String,
    },
    /// No weight is stored as a linear layer has it.
    #[error("{}: no weight of this model is stored as a matrix of a linear layer, [outputs, inputs]; choose q8_0, q4_0 or q4_k", .folder.display())]
    NothingLinear {
        /// The folder.
        folder: PathBuf,
    },
    /// The result would take the place of what is read.
    #[error("{}: is where the model is read from; choose another name", .path.display())]
    Same {
        /// The place.
        path: PathBuf,
    },
    /// GGUF has no architecture for the family.
    #[error("models of the {family} family cannot be written as GGUF files: {reason}; choose int8 or fp8")]
    NoGguf {
        /// The family.
        family: &'static str,
        /// What GGUF lacks.
        reason: String,
    },
    /// A small file of the model's folder cannot be read.
    #[error("{}: cannot be copied", .file.display())]
    Copy {
        /// The file.
        file: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
}
