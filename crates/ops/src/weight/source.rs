//! Where the bytes of weights come from.

use super::manifest::WeightSpec;
use crate::format::Format;
use std::ops::{Deref, Range};
use std::sync::Arc;

/// Who keeps bytes alive: a mapped file, or memory.
pub trait ByteOwner: Send + Sync {
    /// All of them.
    fn bytes(&self) -> &[u8];

    /// Says that the bytes of `range` will not be read for a while. They stay what they are; an owner that can get them again, such as
    /// a mapped file, may give up the memory behind them.
    fn release(&self, range: Range<usize>) {
        let _ = range;
    }
}

impl ByteOwner for Vec<u8> {
    fn bytes(&self) -> &[u8] {
        self
    }
}

/// Bytes that somebody keeps alive. Cloning is cheap.
#[derive(Clone)]
pub struct SharedBytes {
    owner: Arc<dyn ByteOwner>,
    range: Range<usize>,
}

impl SharedBytes {
    /// All bytes of `owner`.
    pub fn new(owner: Arc<dyn ByteOwner>) -> Self {
        let range = 0..owner.bytes().len();
        SharedBytes { owner, range }
    }

    /// Part of these bytes; `None` when `range` leaves them.
    pub fn slice(&self, range: Range<usize>) -> Option<Self> {
        let (start, end) = (self.range.start.checked_add(range.start)?, self.range.start.checked_add(range.end)?);
        if range.start > range.end || end > self.range.end {
            return None;
        }
        Some(SharedBytes { owner: Arc::clone(&self.owner), range: start..end })
    }

    /// Says that these bytes will not be read for a while ([`ByteOwner::release`]).
    pub fn release(&self) {
        self.owner.release(self.range.clone());
    }
}

impl From<Vec<u8>> for SharedBytes {
    fn from(bytes: Vec<u8>) -> Self {
        SharedBytes::new(Arc::new(bytes))
    }
}

impl Deref for SharedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.owner.bytes()[self.range.clone()]
    }
}

impl std::fmt::Debug for SharedBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SharedBytes({} bytes)", self.len())
    }
}

/// A whole weight as a checkpoint stores it.
#[derive(Clone, Debug)]
pub struct StoredWeight {
    /// Where it is from, for messages: file and tensor, such as ``model.safetensors: tensor `lm_head.weight` ``.
    pub origin: String,
    /// How its numbers are stored.
    pub format: Format,
    /// Rows and columns; a vector of `n` values is `[n, 1]` and stored as one row of `n`.
    pub shape: [usize; 2],
    /// The stored rows, one after the other, without gaps.
    pub data: SharedBytes,
    /// Row `i` of the weight is stored row `order[i]`; `None` where they are the same.
    pub order: Option<Arc<[u32]>>,
}

/// A checkpoint, seen as the weights that a manifest declares.
pub trait WeightSource: Send + Sync {
    /// The whole weight behind a declaration.
    ///
    /// # Errors
    /// When the checkpoint does not have it, or has it in another shape.
    fn weight(&self, spec: &WeightSpec) -> Result<StoredWeight, SourceError>;
}

/// A weight that a checkpoint cannot give.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// There is no such tensor.
    #[error("{file}: tensor `{tensor}` is missing{hint}")]
    Missing {
        /// The file or folder.
        file: String,
        /// The tensor's name there.
        tensor: String,
        /// Similar names, or empty.
        hint: String,
    },
    /// The tensor has another shape than the configuration implies.
    #[error(
        "{origin} is {found:?}, the configuration implies {expected:?}; use the configuration that came with these weights"
    )]
    Shape {
        /// File and tensor.
        origin: String,
        /// The stored shape.
        found: Vec<usize>,
        /// The declared shape.
        expected: Vec<usize>,
    },
    /// Rows are not whole blocks.
    #[error("{origin} has rows of {cols} values, not a multiple of the {block_len} of a {format} block")]
    Blocks {
        /// File and tensor.
        origin: String,
        /// Values a row.
        cols: usize,
        /// Values a block.
        block_len: usize,
        /// The format.
        format: Format,
    },
    /// The data is shorter or longer than shape and format imply.
    #[error("{origin} has {found} bytes, its shape and format need {expected}")]
    Length {
        /// File and tensor.
        origin: String,
        /// Bytes there are.
        found: usize,
        /// Bytes needed.
        expected: usize,
    },
    /// The format cannot be used for this purpose.
    #[error("{origin} is stored as {format}, which is not supported for a {role}")]
    Format {
        /// File and tensor.
        origin: String,
        /// The format.
        format: String,
        /// What it was to be used as.
        role: &'static str,
    },
}
