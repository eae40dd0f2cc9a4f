//! Where K and V of a partition lie.

use super::plan::{PART, Tile};
use super::stored::Stored;
use crate::kernels::lanes::LANES;
use crate::kv::{Place, Shape, TILE};
use crate::prefetch::{Cache, LINE, ask};
use bytemuck::cast_slice;
use std::marker::PhantomData;
use std::ops::Range;

/// Tiles of eight tokens in a partition.
pub(super) const TILES: usize = PART / TILE;

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
        // Looked up once: for each block they would take as long as a quarter of the attention of three rows.
        let (table, starts) = (place.table(tile.request), shape.starts_of(place.layer, tile.head));
        let (key, value) = (shape.key(), shape.value());
        while next < tiles.end {
            let [keys, values, scales] = starts(table.block(index));
            while slot < shape.block_size && next < tiles.end {
                blocks.keys[next] = keys + slot * key;
                blocks.values[next] = values + slot * value;
                blocks.scales[next] = scales + slot * size_of::<f32>();
                (next, slot) = (next + 1, slot + TILE);
            }
            (index, slot) = (index + 1, 0);
        }
        blocks
    }

    pub(super) fn shape(&self) -> &'a Shape {
        self.shape
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

/// Where products find keys: in the cache, or made floats of for several of them.
pub(super) trait Keys {
    type Value: Stored;

    fn dim(&self) -> usize;
    /// K of a tile, `[D][8]`.
    fn keys(&self, tile: usize) -> &[[Self::Value; LANES]];
}

/// Where sums find V, likewise.
pub(super) trait Values {
    type Value: Stored;

    /// Vectors of a row, and the first one's place among those of the cache.
    fn row(&self) -> usize;
    fn first(&self) -> usize;
    /// V of a tile, or its keys where they are values too, `[8][row]`.
    fn values(&self, tile: usize) -> &[[Self::Value; LANES]];
}

impl<T: Stored> Keys for Blocks<'_, T> {
    type Value = T;

    #[inline(always)]
    fn dim(&self) -> usize {
        self.shape.dim
    }
    #[inline(always)]
    fn keys(&self, tile: usize) -> &[[T; LANES]] {
        cast_slice::<u8, T>(&self.memory[self.keys[tile]..][..TILE * self.shape.key()]).as_chunks().0
    }
}

impl<T: Stored> Values for Blocks<'_, T> {
    type Value = T;

    #[inline(always)]
    fn row(&self) -> usize {
        self.shape.row / LANES
    }
    #[inline(always)]
    fn first(&self) -> usize {
        0
    }
    #[inline(always)]
    fn values(&self, tile: usize) -> &[[T; LANES]] {
        cast_slice::<u8, T>(&self.memory[self.values[tile]..][..TILE * self.shape.value()]).as_chunks().0
    }
}

/// What is asked for while something else is computed.
pub(super) trait Next {
    /// Asks for the next line.
    fn fetch(&mut self);
}

/// Nothing is asked for.
pub(super) struct Nothing;

impl Next for Nothing {
    #[inline(always)]
    fn fetch(&mut self) {}
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
    /// The next line, and where the tile ends.
    at: *const u8,
    end: *const u8,
    to: Cache,
}

impl<'a, T: Stored> Ahead<'a, T> {
    #[inline(always)]
    fn new(blocks: &'a Blocks<'a, T>, starts: &'a [usize; TILES], row: usize, scales: usize) -> Self {
        let (len, tile) = (TILE * row, blocks.tiles.start.min(TILES - 1));
        let at = blocks.memory.as_ptr().wrapping_add(starts[tile]);
        Ahead { blocks, starts, len, scales, tile, at, end: at.wrapping_add(len), to: Cache::preferred() }
    }
}

impl<T: Stored> Next for Ahead<'_, T> {
    /// Behind the last line there is one that was asked for before.
    #[inline(always)]
    fn fetch(&mut self) {
        ask(self.at, self.to);
        self.at = self.at.wrapping_add(LINE);
        if self.at >= self.end {
            let memory = self.blocks.memory.as_ptr();
            if T::SCALED {
                ask(memory.wrapping_add(self.blocks.scales[self.tile] + self.scales), self.to);
            }
            self.tile = (self.tile + 1).min(TILES - 1);
            self.at = memory.wrapping_add(self.starts[self.tile]);
            self.end = self.at.wrapping_add(self.len);
        }
    }
}
