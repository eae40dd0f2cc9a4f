//! Writing checkpoints: GGUF files and safetensors folders, whose tensors are given one after the other.
//!
//! A [`Place`] is where the result will stand: it is written under another name beside it and renamed when it is complete. A [`TensorFile`]
//! knows from the start which tensors it will hold, and refuses to be finished before each was written, whole and once.
//!
//! Reading order: `place`, `file`, then [`gguf`] and [`safetensors`], which make the headers.

mod error;
mod file;
pub mod gguf;
mod place;
pub mod safetensors;

pub use error::WriteError;
pub use file::TensorFile;
pub use place::Place;

use nxd_ops::Format;

/// A tensor that is to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTensor {
    /// Its name in the file.
    pub name: String,
    /// How its numbers are stored.
    pub format: Format,
    /// The shape, rows first.
    pub shape: Vec<usize>,
}

impl NewTensor {
    /// Rows and columns, all dimensions but the last taken as rows.
    pub fn matrix(&self) -> [usize; 2] {
        match self.shape.split_last() {
            Some((&cols, rows)) => [rows.iter().fold(1, |n: usize, &dim| n.saturating_mul(dim)), cols],
            None => [1, 1],
        }
    }

    /// Bytes of its data.
    ///
    /// # Errors
    /// When its rows are no whole blocks of its format, or the size overflows.
    pub fn bytes(&self) -> Result<usize, WriteError> {
        let [rows, cols] = self.matrix();
        self.format.row_bytes(cols).and_then(|row| row.checked_mul(rows)).ok_or_else(|| WriteError::Shape {
            tensor: self.name.clone(),
            shape: self.shape.clone(),
            format: self.format,
        })
    }
}
