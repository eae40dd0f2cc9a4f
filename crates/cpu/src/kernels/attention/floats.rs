//! Parts of a partition's K and V as floats, for tiles of many rows.
//!
//! With 16 registers six rows meet two vectors at a time, so that each value of K and V would be made a float again for every six rows; on
//! processors that do so on the ports of their multiplications (Zen 1) that is a quarter of a product's time. What is made at once stays in
//! the nearest cache.

use super::blocks::{Blocks, Keys, Next, Values};
use super::plan::PART;
use super::stored::Stored;
use crate::floats::whole_lines;
use crate::kernels::lanes::{LANES, Lanes};
use crate::kv::TILE;
use crate::prefetch::LINE;
use std::ops::Range;

/// Vectors of V that are made floats at once, for all tokens of a partition.
const COLUMNS: usize = 2;
/// Values of K that are made floats at once, but for what two tiles have.
const KEYS: usize = 2048;

/// Whether tiles of more rows than a product takes at once take floats: with 16 registers. With 32, on a Zen 4, nothing was gained.
pub(super) const fn serve<L: Lanes, T: Stored>() -> bool {
    L::ROWS == 6 && size_of::<T>() < size_of::<f32>()
}

/// Tiles of K that are made floats at once.
pub(super) fn tiles_at_once(dim: usize) -> usize {
    (KEYS / (TILE * dim)).max(2)
}

/// Values of work space.
pub(super) fn floats_len(dim: usize) -> usize {
    whole_lines(tiles_at_once(dim) * TILE * dim).max(PART * COLUMNS * LANES)
}

/// K of some tiles.
pub(super) struct FloatKeys<'a> {
    first: usize,
    dim: usize,
    values: &'a [[f32; LANES]],
}

impl<'a> FloatKeys<'a> {
    /// The K of `tiles`, made in `memory`.
    #[inline(always)]
    pub(super) fn new<L: Lanes, T: Stored>(
        zero: L,
        blocks: &Blocks<'_, T>,
        tiles: &Range<usize>,
        memory: &'a mut [f32],
        ahead: &mut impl Next,
    ) -> Self {
        let dim = blocks.dim();
        let values = &mut memory.as_chunks_mut().0[..tiles.len() * dim];
        for (tile, values) in tiles.clone().zip(values.chunks_exact_mut(dim)) {
            make(zero, blocks.keys(tile), values, ahead);
        }
        FloatKeys { first: tiles.start, dim, values }
    }
}

impl Keys for FloatKeys<'_> {
    type Value = f32;

    #[inline(always)]
    fn dim(&self) -> usize {
        self.dim
    }
    #[inline(always)]
    fn keys(&self, tile: usize) -> &[[f32; LANES]] {
        &self.values[(tile - self.first) * self.dim..][..self.dim]
    }
}

/// Some columns of V.
pub(super) struct FloatValues<'a> {
    first_tile: usize,
    columns: Range<usize>,
    values: &'a [[f32; LANES]],
}

impl<'a> FloatValues<'a> {
    /// The vectors from `column` on of the V of `tiles`, made in `memory`; as many as there is room for.
    #[inline(always)]
    pub(super) fn new<L: Lanes, T: Stored>(
        zero: L,
        blocks: &Blocks<'_, T>,
        tiles: &Range<usize>,
        column: usize,
        memory: &'a mut [f32],
        ahead: &mut impl Next,
    ) -> Self {
        let columns = column..(blocks.shape().padded / LANES).min(column + COLUMNS);
        let len = columns.len();
        let values = &mut memory.as_chunks_mut().0[..tiles.len() * TILE * len];
        for (tile, values) in tiles.clone().zip(values.chunks_exact_mut(TILE * len)) {
            for (from, to) in blocks.values(tile).chunks_exact(blocks.row()).zip(values.chunks_exact_mut(len)) {
                make(zero, &from[columns.clone()], to, ahead);
            }
        }
        FloatValues { first_tile: tiles.start, columns, values }
    }

    pub(super) fn columns(&self) -> Range<usize> {
        self.columns.clone()
    }
}

impl Values for FloatValues<'_> {
    type Value = f32;

    #[inline(always)]
    fn row(&self) -> usize {
        self.columns.len()
    }
    #[inline(always)]
    fn first(&self) -> usize {
        self.columns.start
    }
    #[inline(always)]
    fn values(&self, tile: usize) -> &[[f32; LANES]] {
        let len = TILE * self.columns.len();
        &self.values[(tile - self.first_tile) * len..][..len]
    }
}

/// Makes vectors floats; for each line that is read, another one is asked for.
#[inline(always)]
fn make<L: Lanes, T: Stored>(zero: L, from: &[[T; LANES]], to: &mut [[f32; LANES]], ahead: &mut impl Next) {
    let line = LINE / size_of::<[T; LANES]>().min(LINE);
    for (from, to) in from.chunks(line).zip(to.chunks_mut(line)) {
        ahead.fetch();
        for (from, to) in from.iter().zip(to) {
            T::load(zero, from).store(to);
        }
    }
}
