//! The paged KV cache of one KV group on one rank.
//!
//! A block holds `block_size` tokens of every layer of the group. Within a layer it has, for each KV head, K in tiles of eight tokens,
//! `[block_size / 8][D][8]` (lanes are tokens), and V, `[block_size][D]` with `D` rounded up to eight (lanes are dimensions). Eight-bit
//! caches have the f32 scales of K's and of V's tokens too, `[2][block_size]`: a value is its integer times the scale, or a 256th of its
//! float. Where values are the first columns of the keys, K lies as V otherwise does, `[block_size][D]`, and there is nothing else but its
//! scales.
//!
//! Blocks of neighbouring numbers are a run, 256 tokens: `[run][layer][head]`, and there K of each block, then V of each, then the scales of
//! each. So a request whose blocks follow each other is read in long pieces, while the blocks of a few requests lie in few huge pages.

mod error;

pub use self::error::KvError;
use crate::isa::Isa;
use crate::kernels::attention::store;
use crate::kernels::zeroed::Zeroed;
use crate::team::Team;
use nxd_ops::{Batch, GroupTables, KvSpec, Values};
use std::fmt;
use std::ops::Range;

/// Tokens of a tile of K; block sizes are multiples of it.
pub const TILE: usize = 8;

/// Tokens of a run of blocks, as many as attention reads at a time.
const RUN: usize = 256;

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
    /// Integers of eight bits, within -127..=127, with a scale for each token and head.
    I8,
    /// Floats of eight bits, `e4m3fn`, with a scale for each token and head by which the largest of them becomes 448.
    E4M3,
}

impl KvDtype {
    /// All of them, the widest first.
    pub const ALL: [KvDtype; 5] = [KvDtype::F32, KvDtype::F16, KvDtype::BF16, KvDtype::I8, KvDtype::E4M3];

    /// Bytes of a value, its share of a scale left out.
    pub const fn value_bytes(self) -> usize {
        match self {
            KvDtype::F32 => 4,
            KvDtype::F16 | KvDtype::BF16 => 2,
            KvDtype::I8 | KvDtype::E4M3 => 1,
        }
    }

    /// Bytes of what one token's K, and its V, of one head have beside their values.
    pub const fn scale_bytes(self) -> usize {
        match self {
            KvDtype::F32 | KvDtype::F16 | KvDtype::BF16 => 0,
            KvDtype::I8 | KvDtype::E4M3 => size_of::<f32>(),
        }
    }
}

impl fmt::Display for KvDtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            KvDtype::F32 => "f32",
            KvDtype::F16 => "f16",
            KvDtype::BF16 => "bf16",
            KvDtype::I8 => "int8",
            KvDtype::E4M3 => "fp8",
        })
    }
}

/// Bytes of what a cache of `dtype` keeps of a token in one layer of `spec`, or [`usize::MAX`] where that is more.
pub fn token_bytes(spec: &KvSpec, dtype: KvDtype) -> usize {
    Shape::of(spec, 1, 1, 1, dtype).and_then(|shape| shape.checked_len()).unwrap_or(usize::MAX)
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

impl<'a> Place<'a> {
    /// The block table of request `r`.
    pub(crate) fn table(&self, r: usize) -> Table<'a> {
        let GroupTables { starts, blocks, first_blocks, .. } = self.tables;
        Table { first: first_blocks[r] as usize, blocks: &blocks[starts[r] as usize..starts[r + 1] as usize] }
    }
}

/// Which physical blocks a request has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Table<'a> {
    first: usize,
    blocks: &'a [u32],
}

impl Table<'_> {
    /// The physical block of logical block `index`.
    ///
    /// # Panics
    /// If the table does not have it.
    #[inline]
    pub(crate) fn block(&self, index: usize) -> usize {
        self.blocks[index - self.first] as usize
    }
}

/// K and V of every layer of a KV group, in blocks of tokens.
#[derive(Debug)]
pub struct KvCache {
    pub(crate) shape: Shape,
    spec: KvSpec,
    pub(crate) memory: Zeroed,
}

/// Where things lie in a cache; offsets and lengths count bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) layers: usize,
    pub(crate) num_blocks: usize,
    pub(crate) block_size: usize,
    pub(crate) heads: usize,
    /// Values of a head's key, `D`.
    pub(crate) dim: usize,
    /// Values of a head's value: as many, or fewer where it is the first ones of the key.
    pub(crate) value_dim: usize,
    /// That rounded up to whole vectors.
    pub(crate) padded: usize,
    /// `D` rounded up to whole vectors, the length of a row of V, and of a key where that is the value too.
    pub(crate) row: usize,
    /// Whether keys are values too, and lie in rows.
    pub(crate) shared: bool,
    pub(crate) dtype: KvDtype,
}

impl Shape {
    /// `None` when it is too large to count.
    fn of(spec: &KvSpec, layers: usize, num_blocks: usize, block_size: usize, dtype: KvDtype) -> Option<Self> {
        let (heads, dim, value_dim) = (spec.num_kv_heads, spec.head_dim, spec.value_dim());
        let (padded, row) = (value_dim.checked_next_multiple_of(TILE)?, dim.checked_next_multiple_of(TILE)?);
        let shared = spec.values != Values::Own;
        Some(Shape { layers, num_blocks, block_size, heads, dim, value_dim, padded, row, shared, dtype })
    }

    /// Length of K of one token of one head, where K lies in tiles.
    pub(crate) fn key(&self) -> usize {
        if self.shared { 0 } else { self.dim * self.dtype.value_bytes() }
    }

    /// Length of a row of V of one token of one head.
    pub(crate) fn value(&self) -> usize {
        self.row * self.dtype.value_bytes()
    }

    /// How many scales a token has in one head, where values are scaled.
    fn sides(&self) -> usize {
        if self.shared { 1 } else { 2 }
    }

    /// From the scale of a token's K to that of its V.
    pub(crate) fn to_value_scale(self) -> usize {
        (self.sides() - 1) * self.block_size * size_of::<f32>()
    }

    /// Lengths of a block's K, V and scales in one layer and head; scales of K stand before those of V if they are others.
    pub(crate) fn parts(&self) -> [usize; 3] {
        [self.key(), self.value(), self.sides() * self.dtype.scale_bytes()].map(|token| self.block_size * token)
    }

    /// Where those of each block start.
    ///
    /// # Panics
    /// If there is no such layer or head; what is returned, if there is no such block.
    #[inline(always)]
    pub(crate) fn starts_of(&self, layer: usize, head: usize) -> impl Fn(usize) -> [usize; 3] + use<> {
        assert!(layer < self.layers && head < self.heads, "head {head} of layer {layer} is outside {self:?}");
        let (run, num_blocks, [keys, values, scales]) = ((RUN / self.block_size).max(1), self.num_blocks, self.parts());
        let (before, all) = (layer * self.heads + head, self.layers * self.heads);
        move |block| {
            assert!(block < num_blocks, "block {block} is outside a cache of {num_blocks}");
            // The last run may be shorter.
            let first = block / run * run;
            let (index, beside) = (block - first, run.min(num_blocks - first));
            let start = (first * all + before * beside) * (keys + values + scales);
            [
                start + index * keys,
                start + beside * keys + index * values,
                start + beside * (keys + values) + index * scales,
            ]
        }
    }

    /// Where all that a block has in a layer lies, head by head.
    ///
    /// # Panics
    /// If there is no such layer or block.
    pub(crate) fn places_of(&self, layer: usize, block: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let shape = *self;
        (0..shape.heads).flat_map(move |head| {
            let starts = shape.starts_of(layer, head)(block).into_iter();
            starts.zip(shape.parts()).map(|(start, len)| start..start + len)
        })
    }

    /// The same in every layer.
    fn all_places_of(&self, block: u32) -> impl Iterator<Item = Range<usize>> + use<> {
        let shape = *self;
        (0..shape.layers).flat_map(move |layer| shape.places_of(layer, block as usize))
    }

    /// Length of the cache, or `None` when it is too large to count.
    fn checked_len(&self) -> Option<usize> {
        let keys = if self.shared { 0 } else { self.dim };
        let row = keys.checked_add(self.row)?.checked_mul(self.dtype.value_bytes())?;
        let row = row.checked_add(self.sides() * self.dtype.scale_bytes())?;
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
            ("values", spec.value_dim()),
            ("window", spec.window.unwrap_or(usize::MAX)),
        ] {
            if value == 0 {
                return Err(KvError::Zero { field });
            }
        }
        if spec.value_dim() > spec.head_dim {
            return Err(KvError::Values { values: spec.value_dim(), head_dim: spec.head_dim });
        }
        let too_large = || KvError::TooLarge { layers, num_blocks, block_size };
        let shape = Shape::of(spec, layers, num_blocks, block_size, dtype).ok_or_else(too_large)?;
        let bytes = shape.checked_len().ok_or_else(too_large)?;
        let memory = Zeroed::new(bytes).ok_or(KvError::Memory { bytes })?;
        Ok(KvCache { shape, spec: *spec, memory })
    }

    /// What the cache keeps of each token.
    pub fn spec(&self) -> &KvSpec {
        &self.spec
    }

    /// How values are stored.
    pub fn dtype(&self) -> KvDtype {
        self.shape.dtype
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

    /// Writes the step's rows `k` and `v`, both `[T, K * D]`, into their slots; `v` is `None` where values are part of the keys.
    ///
    /// # Panics
    /// If the rows do not fit spec and batch, or the tables do not cover them.
    pub fn write(&mut self, team: &Team, isa: Isa, place: &Place<'_>, k: &[f32], v: Option<&[f32]>) {
        let rows = store::Rows { shape: &self.shape, place, k, v };
        store::store(team, isa, self.memory.bytes_mut(), &rows);
    }

    /// Fills blocks with zeros, in every layer: done when they are handed out.
    ///
    /// # Panics
    /// If there is no such block.
    pub fn zero(&mut self, blocks: &[u32]) {
        for &block in blocks {
            for place in self.shape.all_places_of(block) {
                self.memory.bytes_mut()[place].fill(0);
            }
        }
    }

    /// Copies blocks, as (from, to), in every layer, with their scales: one after the other in this order.
    ///
    /// # Panics
    /// If there is no such block.
    pub fn copy(&mut self, blocks: &[(u32, u32)]) {
        for &(from, to) in blocks {
            for (from, to) in self.shape.all_places_of(from).zip(self.shape.all_places_of(to)) {
                self.memory.bytes_mut().copy_within(from, to.start);
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

    const SPEC: KvSpec = KvSpec { num_kv_heads: 2, head_dim: 6, values: Values::Own, window: None };

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
            (KvSpec { values: Values::OfKeys(0), ..SPEC }, "values"),
            (KvSpec { window: Some(0), ..SPEC }, "window"),
        ] {
            assert_eq!(new(spec, 4, 16), format!("kv cache: `{field}` is 0, expected at least 1"));
        }
        let text = new(KvSpec { values: Values::OfKeys(7), ..SPEC }, 4, 16);
        assert_eq!(text, "kv cache: values are the first 7 columns of keys that have 6, expected as many at most");
        let text = new(SPEC, usize::MAX / 8, 16);
        assert!(text.starts_with("kv cache: 3 layers of 2305843009213693951 blocks of 16 tokens are more"), "{text}");
        let text = new(SPEC, usize::MAX / 4096, 16);
        assert!(text.contains("cannot be had") && text.ends_with("use fewer blocks"), "{text}");
    }

    #[test]
    fn blocks_are_copied_one_after_the_other_in_every_layer_and_no_other_is_touched() {
        let shared = KvSpec { values: Values::OfKeys(5), ..SPEC };
        for (spec, dtype) in [SPEC, shared].into_iter().flat_map(|spec| KvDtype::ALL.map(|dtype| (spec, dtype))) {
            let mut cache = KvCache::new(2, &spec, 4, 8, dtype).unwrap();
            let shape = cache.shape;
            let all = || (0..2).flat_map(|layer| (0..4).map(move |block| (layer, block)));
            // Each block is filled with a number of its own.
            for (i, (layer, block)) in all().enumerate() {
                for place in shape.places_of(layer, block) {
                    cache.memory.bytes_mut()[place].fill(10 + i as u8);
                }
            }
            cache.copy(&[(3, 0), (0, 1), (2, 2), (1, 3)]);
            let expected = [13, 13, 12, 13, 17, 17, 16, 17];
            for ((layer, block), expected) in all().zip(expected) {
                let mut bytes = shape.places_of(layer, block).flat_map(|place| &cache.memory()[place]);
                assert!(bytes.all(|&byte| byte == expected), "block {block} of layer {layer}, {dtype}");
            }
        }
    }

    #[test]
    fn what_blocks_have_fills_the_cache_and_lies_apart() {
        let shared = KvSpec { values: Values::OfKeys(5), ..SPEC };
        let all = [SPEC, shared].into_iter().flat_map(|spec| KvDtype::ALL.map(|dtype| (spec, dtype)));
        // Fewer blocks than a run, whole runs, a shorter last one, and blocks that are longer than a run.
        for ((spec, dtype), (num_blocks, block_size)) in
            all.flat_map(|kind| [(3, 8), (64, 8), (39, 16), (23, 24), (2, 512)].map(|blocks| (kind, blocks)))
        {
            let shape = Shape::of(&spec, 3, num_blocks, block_size, dtype).unwrap();
            let blocks = (0..num_blocks).flat_map(|block| (0..3).flat_map(move |layer| shape.places_of(layer, block)));
            let mut places: Vec<_> = blocks.filter(|place| !place.is_empty()).collect();
            places.sort_unstable_by_key(|place| place.start);
            let end = places.iter().fold(0, |end, place| {
                assert_eq!(place.start, end, "{spec:?} {dtype} {num_blocks} blocks of {block_size}");
                place.end
            });
            assert_eq!(Some(end), shape.checked_len());
        }
    }

    #[test]
    fn a_run_of_a_requests_keys_lies_in_one_piece() {
        let shape = Shape::of(&SPEC, 3, 40, 16, KvDtype::F16).unwrap();
        let starts = shape.starts_of(1, 1);
        let [keys, values, _] = shape.parts();
        for block in 1..16 {
            assert_eq!(starts(16 + block)[..2], [starts(16)[0] + block * keys, starts(16)[1] + block * values]);
        }
        assert_eq!(starts(16)[1], starts(16)[0] + 16 * keys);
    }

    #[test]
    fn a_cache_may_be_larger_than_what_it_touches() {
        let spec = KvSpec { num_kv_heads: 8, head_dim: 128, values: Values::Own, window: None };
        let cache = KvCache::new(8, &spec, 4096, 16, KvDtype::F16);
        assert_eq!(cache.unwrap().bytes(), 8 * 4096 * 16 * 8 * 128 * 2 * 2);
    }

    #[test]
    fn a_token_takes_what_a_cache_has_for_each() {
        let latent = KvSpec { num_kv_heads: 1, head_dim: 20, values: Values::OfKeys(13), window: None };
        for (spec, dtype, bytes) in [
            (SPEC, KvDtype::F32, 2 * (6 + 8) * 4),
            (SPEC, KvDtype::I8, 2 * (6 + 8 + 2 * 4)),
            (latent, KvDtype::F16, 24 * 2),
            (SPEC, KvDtype::E4M3, 2 * (6 + 8 + 2 * 4)),
            (latent, KvDtype::I8, 24 + 4),
            (latent, KvDtype::E4M3, 24 + 4),
        ] {
            assert_eq!(token_bytes(&spec, dtype), bytes, "{spec:?} {dtype}");
            assert_eq!(KvCache::new(3, &spec, 5, 16, dtype).unwrap().bytes(), 3 * 5 * 16 * bytes);
        }
        let large = KvSpec { head_dim: usize::MAX, ..SPEC };
        assert_eq!(token_bytes(&large, KvDtype::F32), usize::MAX);
    }
}
