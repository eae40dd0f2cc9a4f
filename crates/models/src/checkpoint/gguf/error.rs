//! What can be wrong with the bytes of a GGUF file.

/// Bytes that are not a usable GGUF file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GgufError {
    /// No bytes at all.
    #[error("not a GGUF file: 0 bytes")]
    Empty,
    /// The file ends inside a field.
    #[error("truncated in {what}: {needed} bytes are needed at offset {offset}, {left} are left")]
    Truncated {
        /// The field.
        what: String,
        /// Where it starts.
        offset: usize,
        /// Bytes it has.
        needed: u64,
        /// Bytes that are left.
        left: u64,
    },
    /// Another kind of file.
    #[error("bad magic {found}, expected `GGUF`")]
    Magic {
        /// The first four bytes.
        found: String,
    },
    /// A format from before GGUF.
    #[error("old GGML format (magic `{magic}`), convert the model to GGUF")]
    OldFormat {
        /// The first four bytes.
        magic: String,
    },
    /// A version that cannot be read.
    #[error("unsupported version {found}: {reason}; supported are 2 and 3")]
    Version {
        /// The version.
        found: u32,
        /// Why.
        reason: &'static str,
    },
    /// More entries are claimed than fit into the file.
    #[error("{what} count {found} exceeds what a file of {file_bytes} bytes can hold ({max})")]
    Count {
        /// Tensor or key.
        what: &'static str,
        /// How many are claimed.
        found: u64,
        /// Bytes of the file.
        file_bytes: usize,
        /// How many fit.
        max: u64,
    },
    /// More entries than any real file has.
    #[error("{what} count {found} exceeds the limit of {limit}")]
    TooMany {
        /// Tensor or key.
        what: &'static str,
        /// How many are claimed.
        found: u64,
        /// How many are allowed.
        limit: u64,
    },
    /// A length goes beyond the end of the file.
    #[error("{what} length {found} exceeds the remaining {left} bytes of the file")]
    Length {
        /// The field.
        what: String,
        /// Its length in bytes or values.
        found: u64,
        /// Bytes that are left.
        left: u64,
    },
    /// A length is greater than any real one.
    #[error("{what} length {found} exceeds the limit of {limit} bytes")]
    Limit {
        /// The field.
        what: String,
        /// Its length in bytes.
        found: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// A name is not UTF-8.
    #[error("{what} is not UTF-8 at offset {offset}")]
    Utf8 {
        /// The field.
        what: String,
        /// The first wrong byte.
        offset: usize,
    },
    /// A key without a name.
    #[error("empty metadata key at index {index}")]
    EmptyKey {
        /// The key's place in the table.
        index: u64,
    },
    /// A key that is there twice.
    #[error("duplicate key `{key}`")]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// A value type that does not exist.
    #[error("key `{key}` has the unknown value type {found}, allowed are 0 to 12")]
    ValueType {
        /// The key.
        key: String,
        /// The type's number.
        found: u32,
    },
    /// An array of arrays.
    #[error("key `{key}` is an array of arrays, nested arrays are not supported")]
    NestedArray {
        /// The key.
        key: String,
    },
    /// More strings than any vocabulary has.
    #[error("key `{key}` has {found} strings, allowed are at most {limit}")]
    Strings {
        /// The key.
        key: String,
        /// How many there are.
        found: u64,
        /// How many are allowed.
        limit: u64,
    },
    /// A bool that is neither 0 nor 1.
    #[error("key `{key}` is a bool of value {found}, allowed are 0 and 1")]
    Bool {
        /// The key.
        key: String,
        /// The byte.
        found: u8,
    },
    /// An alignment that cannot be used.
    #[error("key `general.alignment` is {found}, must be a power of two from 1 to {limit}")]
    Alignment {
        /// The value.
        found: u32,
        /// The greatest allowed.
        limit: u32,
    },
    /// `general.alignment` is no u32.
    #[error("key `general.alignment` has the wrong type: found {found}, expected u32")]
    AlignmentType {
        /// Its type.
        found: String,
    },
    /// A tensor without a name.
    #[error("empty tensor name at index {index}")]
    EmptyTensorName {
        /// The tensor's place in the table.
        index: u64,
    },
    /// A tensor that is there twice.
    #[error("tensors {first} and {second} are both named `{name}`")]
    DuplicateTensor {
        /// The name.
        name: String,
        /// Place of the first in the table.
        first: usize,
        /// Place of the second.
        second: usize,
    },
    /// Too few or too many dimensions.
    #[error("tensor `{tensor}` has n_dims {found}, must be 1 to 4")]
    Dims {
        /// The tensor.
        tensor: String,
        /// Dimensions it has.
        found: u32,
    },
    /// A dimension of length zero.
    #[error("tensor `{tensor}` has the shape {dims:?}, every dimension must be at least 1")]
    ZeroDim {
        /// The tensor.
        tensor: String,
        /// Its dimensions, as stored.
        dims: Vec<u64>,
    },
    /// Elements or bytes do not fit into 64 bits.
    #[error("tensor `{tensor}` has the shape {dims:?}, its {what} overflows")]
    Overflow {
        /// The tensor.
        tensor: String,
        /// Its dimensions, as stored.
        dims: Vec<u64>,
        /// Element count, byte count, or end of the data.
        what: &'static str,
    },
    /// A type that does not exist.
    #[error("unknown tensor type {found} in `{tensor}`")]
    TensorType {
        /// The tensor.
        tensor: String,
        /// The type's number.
        found: u32,
    },
    /// Rows that are not whole blocks.
    #[error("tensor `{tensor}` of type {format} has ne0={ne0}, not a multiple of {block_len}")]
    Blocks {
        /// The tensor.
        tensor: String,
        /// Its type.
        format: &'static str,
        /// Values a row.
        ne0: u64,
        /// Values a block.
        block_len: u64,
    },
    /// Data that does not start at a multiple of the alignment.
    #[error("tensor `{tensor}` has offset {offset}, not a multiple of {alignment}")]
    Unaligned {
        /// The tensor.
        tensor: String,
        /// Offset in the data section.
        offset: u64,
        /// The file's alignment.
        alignment: u64,
    },
    /// Data beyond the end of the file.
    #[error(
        "tensor `{tensor}` needs bytes {start}..{end} but the file has {file_bytes} ({percent} % of what its header describes); is the download incomplete?"
    )]
    PastEnd {
        /// The tensor.
        tensor: String,
        /// First byte.
        start: u64,
        /// Byte behind the last.
        end: u64,
        /// Bytes there are.
        file_bytes: usize,
        /// Part of the file that is there.
        percent: u64,
    },
    /// Tensors that overlap, leave holes or are out of order.
    #[error(
        "tensor `{tensor}` has offset {found}, expected {expected}: tensors must follow one another without gap or overlap"
    )]
    Packing {
        /// The tensor.
        tensor: String,
        /// Its offset in the data section.
        found: u64,
        /// Where the tensor before it ends, aligned.
        expected: u64,
    },
}
