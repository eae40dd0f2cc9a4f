//! What can go wrong when a cache is made.

/// A cache that cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KvError {
    /// A block size that kernels cannot read in whole tiles.
    #[error("kv cache: `block_size` is {block_size}, expected a positive multiple of 8 tokens")]
    BlockSize {
        /// The size asked for.
        block_size: usize,
    },
    /// A spec with nothing to keep or to see.
    #[error("kv cache: `{field}` is 0, expected at least 1")]
    Zero {
        /// The field.
        field: &'static str,
    },
    /// Values that are more of the keys than there is.
    #[error("kv cache: values are the first {values} columns of keys that have {head_dim}, expected as many at most")]
    Values {
        /// Columns that are values.
        values: usize,
        /// Columns of a key.
        head_dim: usize,
    },
    /// More bytes than can be counted.
    #[error(
        "kv cache: {layers} layers of {num_blocks} blocks of {block_size} tokens are more than memory can hold; use fewer blocks"
    )]
    TooLarge {
        /// Layers of the group.
        layers: usize,
        /// Blocks asked for.
        num_blocks: usize,
        /// Tokens of a block.
        block_size: usize,
    },
    /// The system does not give the memory.
    #[error("kv cache: {bytes} bytes cannot be had from the system; use fewer blocks")]
    Memory {
        /// Bytes asked for.
        bytes: usize,
    },
}
