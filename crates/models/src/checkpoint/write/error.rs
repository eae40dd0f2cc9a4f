//! What can go wrong while a checkpoint is written.

use nxd_ops::Format;
use std::io;
use std::path::{Path, PathBuf};

/// A checkpoint that cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// There is something in its place.
    #[error("{}: exists already; choose another name, or ask for it to be replaced", .path.display())]
    Exists {
        /// The place.
        path: PathBuf,
    },
    /// What is in its place does not look like something that was written here.
    #[error("{}: is {found}, which is not replaced; remove it first", .path.display())]
    NotReplaced {
        /// The place.
        path: PathBuf,
        /// What it is.
        found: &'static str,
    },
    /// The place has no name, such as `..`.
    #[error("{}: is no name of a {kind} to write", .path.display())]
    Name {
        /// The place.
        path: PathBuf,
        /// What was to be written there.
        kind: &'static str,
    },
    /// The system refuses.
    #[error("{}: cannot be written", .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// A tensor's rows are no whole blocks of its format, or it is too large.
    #[error("tensor `{tensor}` of {shape:?} cannot be stored as {format}")]
    Shape {
        /// The tensor.
        tensor: String,
        /// Its shape.
        shape: Vec<usize>,
        /// The format.
        format: Format,
    },
    /// The container has no type for the format.
    #[error("tensor `{tensor}` is {format}, which {container} files cannot hold")]
    Format {
        /// The tensor.
        tensor: String,
        /// The format.
        format: Format,
        /// The container.
        container: &'static str,
    },
    /// A tensor got more or fewer bytes than its shape has.
    #[error("tensor `{tensor}` got {found} bytes, its shape and format have {expected}")]
    Length {
        /// The tensor.
        tensor: String,
        /// Bytes it got.
        found: usize,
        /// Bytes of its shape and format.
        expected: usize,
    },
    /// A tensor was written twice, was not announced, or never came.
    #[error("tensor `{tensor}` {problem}")]
    Tensor {
        /// The tensor.
        tensor: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A header that its container does not allow.
    #[error("the header cannot be written: {reason}")]
    Header {
        /// Why.
        reason: String,
    },
}

impl WriteError {
    /// The error of a call into the system about `path`.
    pub(super) fn io(path: &Path) -> impl FnOnce(io::Error) -> WriteError {
        let path = path.to_owned();
        move |source| WriteError::Io { path, source }
    }
}
