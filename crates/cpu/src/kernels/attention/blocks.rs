//! Where K and V of a partition lie.

use super::plan::{PART, Tile};
use super::stored::Stored;
use crate::kernels::lanes::{LANES, Lanes};
use crate::kv::{Place, Shape, TILE};
use bytemuck::cast_slice;
use std::marker::PhantomData;
use std::ops::Range;

/// Tiles of eight tokens in a partition.
pub(super) const TILES: usize = PART / TILE;

/// Bytes.
pub(super) const CACHE_LINE: usize = 64;

/// Where K and V of one partition lie for one KV head, a tile of eight tokens at a time; only the tiles that rows see are set.
pub(super) struct Blocks<'a, T> {
    memory: &'a [u8],
    shape: &'a Shape,
    /// Where a tile's K starts, and its V.
    keys: [usize; TILES],
    values: [usize; TILES],
    /// Where the scales of a tile's K start; those of V follow, unless they are the same. Used where values are scaled.
    scales: [usize; TILES],
    /// The tiles that are set.
    tiles: Range<usize>,
    stored: PhantomData<T>,
}

/// The tiles of eight that hold `tokens`.
#[inline(always)]
pub(super) fn tiles_of(tokens: &Range<usize>) -> Range<usize> {
    tokens.start / TILE..tokens.end.div_ceil(TILE)
}

impl<'a, T: Stored> Blocks<'a, T> {
    /// Looks up what the rows of `tile` see of partition `part`.
    #[inline(always)]
    pub(super) fn find(memory: &'a [u8], shape: &'a Shape, place: &Place<'_>, tile: &Tile, part: usize) -> Self {
        let tiles = tiles_of(&tile.seen(part));
        let (keys, values, scales) = ([0; TILES], [0; TILES], [0; TILES]);
        let mut blocks = Blocks { memory, shape, keys, values, scales, tiles: tiles.clone(), stored: PhantomData };
        let first = part * PART + tiles.start * TILE;
        let (mut index, mut slot) = (first / shape.block_size, first % shape.block_size);
        let mut next = tiles.start;
        let table = place.table(tile.request);
        while next < tiles.end {
            let head = shape.block_at(place.layer, table.block(index)) + tile.head * shape.head();
            // Both ends lie within the block, which is what the reads below rely on.
            assert!(tile.head < shape.heads && head + shape.head() <= memory.len());
            while slot < shape.block_size && next < tiles.end {
                blocks.keys[next] = head + slot * shape.key();
                blocks.values[next] = head + shape.values() + slot * shape.value();
                blocks.scales[next] = head + shape.scales() + slot * size_of::<f32>();
                (next, slot) = (next + 1, slot + TILE);
            }
            (index, slot) = (index + 1, 0);
        }
        blocks
    }

    pub(super) fn shape(&self) -> &'a Shape {
        self.shape
    }

    /// K of a tile, `[D][8]`.
    #[inline(always)]
    pub(super) fn keys(&self, tile: usize) -> &'a [[T; LANES]] {
        cast_slice::<u8, T>(&self.memory[self.keys[tile]..][..TILE * self.shape.key()]).as_chunks().0
    }

    /// V of a tile, or its keys where they are values too, `[8][padded D]`.
    #[inline(always)]
    pub(super) fn values(&self, tile: usize) -> &'a [T] {
        cast_slice(&self.memory[self.values[tile]..][..TILE * self.shape.value()])
    }

    /// The scales of the K of a tile's tokens, and of their V. Only where values are scaled.
    #[inline(always)]
    pub(super) fn scales(&self, tile: usize) -> [&'a [f32; TILE]; 2] {
        let of = |start: usize| {
            let bytes = &self.memory[start..][..TILE * size_of::<f32>()];
            cast_slice(bytes).first_chunk().expect("the slice has a tile's length")
        };
        let start = self.scales[tile];
        [of(start), of(start + self.shape.to_value_scale())]
    }

    /// K and its scales, in the order of tokens.
    #[inline(always)]
    pub(super) fn keys_ahead(&self) -> Ahead<'_, T> {
        if self.shape.shared {
            return self.values_ahead();
        }
        Ahead::new(self, &self.keys, self.shape.key(), 0)
    }

    /// V and its scales, in the order of tokens.
    #[inline(always)]
    pub(super) fn values_ahead(&self) -> Ahead<'_, T> {
        Ahead::new(self, &self.values, self.shape.value(), self.shape.to_value_scale())
    }
}

/// Asks for the K, or the V, of a partition while something else is computed, a cache line at a time. Blocks lie anywhere, so that the
/// hardware cannot guess what is next; the table can. Requests in a row would block each other, so they are to be spread.
pub(super) struct Ahead<'a, T> {
    blocks: &'a Blocks<'a, T>,
    starts: &'a [usize; TILES],
    /// Bytes of a tile.
    len: usize,
    /// From a tile's scales of K to those that are wanted.
    scales: usize,
    tile: usize,
    offset: usize,
}

impl<'a, T: Stored> Ahead<'a, T> {
    #[inline(always)]
    fn new(blocks: &'a Blocks<'a, T>, starts: &'a [usize; TILES], row: usize, scales: usize) -> Self {
        Ahead { blocks, starts, len: TILE * row, scales, tile: blocks.tiles.start.min(TILES - 1), offset: 0 }
    }

    /// Asks for the next line. Behind the last one there is a line that was asked for before.
    #[inline(always)]
    pub(super) fn fetch<L: Lanes>(&mut self, zero: L) {
        let memory = self.blocks.memory.as_ptr();
        zero.prefetch_far(memory.wrapping_add(self.starts[self.tile] + self.offset));
        self.offset += CACHE_LINE;
        if self.offset >= self.len {
            if T::SCALED {
                zero.prefetch_far(memory.wrapping_add(self.blocks.scales[self.tile] + self.scales));
            }
            self.offset = 0;
            self.tile = (self.tile + 1).min(TILES - 1);
        }
    }
}
