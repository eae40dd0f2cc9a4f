//! The paged KV cache of one KV group on one rank.
//!
//! A block holds `block_size` tokens of every layer of the group. Within a layer a block is, for each KV head, first K in tiles of eight
//! tokens, `[block_size / 8][D][8]` (lanes are tokens), then V, `[block_size][D]` with `D` rounded up to eight (lanes are dimensions).

mod error;

pub use self::error::KvError;
use crate::isa::Isa;
use crate::kernels::attention::store;
use crate::kernels::zeroed::Zeroed;
use crate::team::Team;
use nxd_ops::{Batch, GroupTables, KvSpec};
use std::fmt;

/// Tokens of a tile of K; block sizes are multiples of it.
pub const TILE: usize = 8;

/// How K and V are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum KvDtype {
    /// Single precision.
    F32,
    /// IEEE half precision: values beyond 65504 become infinite.
    #[default]
    F16,
    /// The upper half of a single.
    BF16,
}

impl KvDtype {
    /// Bytes of a value.
    pub const fn value_bytes(self) -> usize {
        match self {
            KvDtype::F32 => 4,
            KvDtype::F16 | KvDtype::BF16 => 2,
        }
    }
}

impl fmt::Display for KvDtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            KvDtype::F32 => "f32",
            KvDtype::F16 => "f16",
            KvDtype::BF16 => "bf16",
        })
    }
}

/// Where the rows of a step belong: a layer of the group, the batch, and the group's tables in it. The batch has been validated.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Index of the layer within its KV group.
    pub layer: usize,
    /// The step's batch.
    pub batch: &'a Batch,
    /// The block tables of the KV group.
    pub tables: &'a GroupTables,
}

impl Place<'_> {
    /// The physical block of logical block `index` of request `r`.
    ///
    /// # Panics
    /// If the request's table does not have it.
    pub(crate) fn block(&self, r: usize, index: usize) -> usize {
        let table = &self.tables.blocks[self.tables.starts[r] as usize..self.tables.starts[r + 1] as usize];
        table[index - self.tables.first_blocks[r] as usize] as usize
    }
}

/// K and V of every layer of a KV group, in blocks of tokens.
#[derive(Debug)]
pub struct KvCache {
    pub(crate) shape: Shape,
    spec: KvSpec,
    dtype: KvDtype,
    pub(crate) memory: Zeroed,
}

/// Where things lie in a cache; offsets and lengths count values.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) layers: usize,
    pub(crate) num_blocks: usize,
    pub(crate) block_size: usize,
    pub(crate) heads: usize,
    /// Values a head, `D`.
    pub(crate) dim: usize,
    /// `D` rounded up to whole vectors, the length of a row of V.
    pub(crate) padded: usize,
}

impl Shape {
    /// Values of K of one head in one block; V follows.
    pub(crate) fn keys(&self) -> usize {
        self.block_size * self.dim
    }

    /// Values of one head in one block.
    pub(crate) fn head(&self) -> usize {
        self.block_size * (self.dim + self.padded)
    }

    /// Values of one block.
    pub(crate) fn block(&self) -> usize {
        self.heads * self.head()
    }

    /// Where a block starts.
    ///
    /// # Panics
    /// If there is no such layer or block.
    pub(crate) fn block_at(&self, layer: usize, block: usize) -> usize {
        assert!(layer < self.layers && block < self.num_blocks, "block {block} of layer {layer} is outside {self:?}");
        (layer * self.num_blocks + block) * self.block()
    }

    /// Values of the cache, or `None` when they are too many to count.
    fn checked_len(&self) -> Option<usize> {
        let row = self.dim.checked_add(self.padded)?;
        let block = self.block_size.checked_mul(row)?.checked_mul(self.heads)?;
        block.checked_mul(self.num_blocks)?.checked_mul(self.layers)
    }
}

impl KvCache {
    /// A cache of `num_blocks` blocks of `block_size` tokens for `layers` layers. Memory is taken from the system as blocks are first
    /// written.
    ///
    /// # Errors
    /// When the block size is not a positive multiple of [`TILE`], the spec has no heads, dimensions or window, or the memory cannot
    /// be had.
    pub fn new(
        layers: usize,
        spec: &KvSpec,
        num_blocks: usize,
        block_size: usize,
        dtype: KvDtype,
    ) -> Result<Self, KvError> {
        if block_size == 0 || !block_size.is_multiple_of(TILE) {
            return Err(KvError::BlockSize { block_size });
        }
        for (field, value) in [
            ("num_kv_heads", spec.num_kv_heads),
            ("head_dim", spec.head_dim),
            ("window", spec.window.unwrap_or(usize::MAX)),
        ] {
            if value == 0 {
                return Err(KvError::Zero { field });
            }
        }
        let too_large = || KvError::TooLarge { layers, num_blocks, block_size };
        let padded = spec.head_dim.checked_next_multiple_of(TILE).ok_or_else(too_large)?;
        let shape = Shape { layers, num_blocks, block_size, heads: spec.num_kv_heads, dim: spec.head_dim, padded };
        let values = shape.checked_len().ok_or_else(too_large)?;
        let bytes = values.checked_mul(dtype.value_bytes()).ok_or_else(too_large)?;
        let memory = Zeroed::new(bytes).ok_or(KvError::Memory { bytes })?;
        Ok(KvCache { shape, spec: *spec, dtype, memory })
    }

    /// What the cache keeps of each token.
    pub fn spec(&self) -> &KvSpec {
        &self.spec
    }

    /// How values are stored.
    pub fn dtype(&self) -> KvDtype {
        self.dtype
    }

    /// Tokens of a block.
    pub fn block_size(&self) -> usize {
        self.shape.block_size
    }

    /// Blocks.
    pub fn num_blocks(&self) -> usize {
        self.shape.num_blocks
    }

    /// Bytes of the cache when every block is in use.
    pub fn bytes(&self) -> usize {
        self.memory.bytes().len()
    }

    /// Writes the step's rows `k` and `v`, both `[T, K * D]`, into their slots.
    ///
    /// # Panics
    /// If the rows do not fit the batch, or the tables do not cover them.
    pub fn write(&mut self, team: &Team, isa: Isa, place: &Place<'_>, k: &[f32], v: &[f32]) {
        let rows = store::Rows { shape: &self.shape, place, k, v };
        store::store(team, isa, self.dtype, self.memory.bytes_mut(), &rows);
    }

    /// Fills blocks with zeros, in every layer: done when they are handed out.
    ///
    /// # Panics
    /// If there is no such block.
    pub fn zero(&mut self, blocks: &[u32]) {
        let (block_bytes, value_bytes) = (self.shape.block() * self.dtype.value_bytes(), self.dtype.value_bytes());
        for layer in 0..self.shape.layers {
            for &block in blocks {
                let start = self.shape.block_at(layer, block as usize) * value_bytes;
                self.memory.bytes_mut()[start..start + block_bytes].fill(0);
            }
        }
    }

    pub(crate) fn shape(&self) -> &Shape {
        &self.shape
    }

    pub(crate) fn memory(&self) -> &[u8] {
        self.memory.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: KvSpec = KvSpec { num_kv_heads: 2, head_dim: 6, window: None };

    #[test]
    fn what_a_cache_cannot_be_is_an_error_that_says_so() {
        let new = |spec, blocks, size| KvCache::new(3, &spec, blocks, size, KvDtype::F16).unwrap_err().to_string();
        for size in [0, 12] {
            let expected = format!("kv cache: `block_size` is {size}, expected a positive multiple of 8 tokens");
            assert_eq!(new(SPEC, 4, size), expected);
        }
        for (spec, field) in [
            (KvSpec { num_kv_heads: 0, ..SPEC }, "num_kv_heads"),
            (KvSpec { head_dim: 0, ..SPEC }, "head_dim"),
            (KvSpec { window: Some(0), ..SPEC }, "window"),
        ] {
            assert_eq!(new(spec, 4, 16), format!("kv cache: `{field}` is 0, expected at least 1"));
        }
        let text = new(SPEC, usize::MAX / 8, 16);
        assert!(text.starts_with("kv cache: 3 layers of 2305843009213693951 blocks of 16 tokens are more"), "{text}");
        let text = new(SPEC, usize::MAX / 4096, 16);
        assert!(text.contains("cannot be had") && text.ends_with("use fewer blocks"), "{text}");
    }

    #[test]
    fn a_cache_may_be_larger_than_what_it_touches() {
        let cache = KvCache::new(8, &KvSpec { num_kv_heads: 8, head_dim: 128, window: None }, 4096, 16, KvDtype::F16);
        assert_eq!(cache.unwrap().bytes(), 8 * 4096 * 16 * 8 * 128 * 2 * 2);
    }
}
