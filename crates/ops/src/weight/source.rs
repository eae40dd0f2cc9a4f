//! Where the bytes of weights come from.

use super::manifest::WeightSpec;
use crate::format::Format;
use std::ops::{Deref, Range};
use std::sync::Arc;

/// Who keeps bytes alive: a mapped file, or memory.
pub trait ByteOwner: Send + Sync {
    /// All of them.
    fn bytes(&self) -> &[u8];

    /// Says that the bytes of `range` are read next. An owner that has them elsewhere, such as a mapped file, may get them at once, which
    /// takes less time than to get a page after the other.
    fn expect(&self, range: Range<usize>) {
        let _ = range;
    }

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

    /// Says that the bytes of `range`, of these, are read next ([`ByteOwner::expect`]).
    pub fn expect(&self, range: Range<usize>) {
        if let Some(next) = self.slice(range) {
            self.owner.expect(next.range);
        }
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

/// Rows of a weight that a checkpoint does not store as rows: they are put together from several tensors, or gathered from a matrix that lies
/// the other way round, whenever one is read.
pub trait StoredRows: Send + Sync + std::fmt::Debug {
    /// Writes the bytes `bytes` of stored row `row`, in the weight's format, to `out`: whole blocks.
    ///
    /// # Panics
    /// When there is no such row, or `out` has another length than `bytes`.
    fn read(&self, row: usize, bytes: Range<usize>, out: &mut [u8]);

    /// Says that these rows will not be read for a while ([`SharedBytes::release`]).
    fn release(&self, rows: Range<usize>) {
        let _ = rows;
    }

    /// Which column of the weight each stored column is, where they are stored in another order; all columns, each once.
    fn columns(&self) -> Option<&[u32]> {
        None
    }
}

/// The data of a stored weight.
#[derive(Clone, Debug)]
pub enum StoredData {
    /// The stored rows, one after the other, without gaps.
    Bytes(SharedBytes),
    /// As many rows, of which each is made when it is read.
    Rows(Arc<dyn StoredRows>),
}

impl StoredData {
    /// The bytes, where there are any to be read in place.
    pub fn bytes(&self) -> Option<&SharedBytes> {
        match self {
            StoredData::Bytes(bytes) => Some(bytes),
            StoredData::Rows(_) => None,
        }
    }

    /// Which column of the weight each stored one is; `None` where they are the same.
    pub fn columns(&self) -> Option<&[u32]> {
        match self {
            StoredData::Bytes(_) => None,
            StoredData::Rows(rows) => rows.columns(),
        }
    }
}

impl From<SharedBytes> for StoredData {
    fn from(bytes: SharedBytes) -> Self {
        StoredData::Bytes(bytes)
    }
}

impl From<Vec<u8>> for StoredData {
    fn from(bytes: Vec<u8>) -> Self {
        StoredData::Bytes(bytes.into())
    }
}

/// A whole weight as a checkpoint stores it.
#[derive(Clone, Debug)]
pub struct StoredWeight {
    /// Where it is from, for messages: file and tensor, such as ``model.safetensors: tensor `lm_head.weight` ``.
    pub origin: String,
    /// How its numbers are stored.
    pub format: Format,
    /// Rows and columns as they are stored; a vector of `n` values is `[n, 1]` and stored as one row of `n`.
    pub shape: [usize; 2],
    /// The stored rows.
    pub data: StoredData,
    /// Row `i` of the weight is stored row `order[i]`, all of which are there; `None` where they are the same. A weight may have fewer rows
    /// than are stored.
    pub order: Option<Arc<[u32]>>,
    /// What the numbers are multiplied with; `None` where they are the values, and for blocks, which have their scales among their bytes.
    pub scales: Option<Scales>,
}

/// The scales of a stored weight, one for each group of `rows × cols` neighbouring numbers: a value is its number times its group's scale.
/// So a scale for a whole tensor, for each row (output channel) and for each block of 128 × 128 are one thing.
///
/// Groups begin at stored row 0 and column 0 and are cut short where the weight ends. A shard's scales are found by the row and column that
/// a number has in the whole weight, so that ranks may be cut anywhere.
#[derive(Clone, Debug, PartialEq)]
pub struct Scales {
    /// Stored rows of a group.
    pub rows: usize,
    /// Columns of a group.
    pub cols: usize,
    /// `[weight rows / rows][weight columns / cols]`, both rounded up.
    pub values: Arc<[f32]>,
}

impl Scales {
    /// Magnitudes of scales are below this: so they can be folded with a format's own power of two.
    pub const LIMIT: f32 = f32::from_bits((127 + 100) << 23);

    /// One scale for all numbers.
    pub fn of_tensor(scale: f32) -> Self {
        Scales { rows: usize::MAX, cols: usize::MAX, values: Arc::new([scale]) }
    }

    /// A scale for each row.
    pub fn of_rows(scales: impl Into<Arc<[f32]>>) -> Self {
        Scales { rows: 1, cols: usize::MAX, values: scales.into() }
    }

    /// The scale of a number of a weight of `weight_cols` columns.
    ///
    /// # Panics
    /// When there are fewer scales than that.
    pub fn at(&self, weight_cols: usize, row: usize, col: usize) -> f32 {
        self.values[row / self.rows * weight_cols.div_ceil(self.cols) + col / self.cols]
    }

    /// How many there must be for a weight of `shape`; `None` where groups are empty.
    pub(super) fn needed(&self, [rows, cols]: [usize; 2]) -> Option<usize> {
        (self.rows > 0 && self.cols > 0).then(|| rows.div_ceil(self.rows).saturating_mul(cols.div_ceil(self.cols)))
    }
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
    /// There are too few or too many scales.
    #[error("{origin} has {found} scales for groups of {rows} rows and {cols} columns, its shape needs {expected}")]
    ScaleCount {
        /// File and tensor.
        origin: String,
        /// Scales there are.
        found: usize,
        /// Rows of a group.
        rows: usize,
        /// Columns of a group.
        cols: usize,
        /// Scales needed.
        expected: usize,
    },
    /// A scale is not a number to multiply with.
    #[error("{origin} has the scale {scale} at {index}, allowed are magnitudes below {limit:e}", limit = Scales::LIMIT)]
    Scale {
        /// File and tensor.
        origin: String,
        /// The scale.
        scale: f32,
        /// Which one.
        index: usize,
    },
    /// The tensors that are a quantised weight together do not fit each other, or what the configuration says of them.
    #[error("{origin} {found}, expected {expected}")]
    Quantised {
        /// File and tensor.
        origin: String,
        /// What is wrong with it.
        found: String,
        /// What it should be.
        expected: String,
    },
    /// The format has no kernels for such scales.
    #[error("{origin} is stored as {format} with {scales}, which is not supported")]
    Scaling {
        /// File and tensor.
        origin: String,
        /// The format.
        format: Format,
        /// What is wrong with them.
        scales: &'static str,
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
