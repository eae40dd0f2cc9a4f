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
            let (from, row) = (blocks.values(tile), blocks.row());
            assert!(from.len() == TILE * row && columns.end <= row);
            match len {
                COLUMNS => make_columns::<L, T, COLUMNS>(zero, from, row, column, values, ahead),
                _ => make_columns::<L, T, 1>(zero, from, row, column, values, ahead),
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
    let line = const { LINE / size_of::<[T; LANES]>() };
    let (mut from, mut to) = (from.chunks_exact(line), to.chunks_exact_mut(line));
    for (from, to) in from.by_ref().zip(to.by_ref()) {
        ahead.fetch();
        for (from, to) in from.iter().zip(to) {
            T::load(zero, from).store(to);
        }
    }
    for (from, to) in from.remainder().iter().zip(to.into_remainder()) {
        T::load(zero, from).store(to);
    }
}

/// Makes `N` vectors of each row of a tile floats, from vector `column` on, of rows of `row` vectors.
#[inline(always)]
fn make_columns<L: Lanes, T: Stored, const N: usize>(
    zero: L,
    from: &[[T; LANES]],
    row: usize,
    column: usize,
    to: &mut [[f32; LANES]],
    ahead: &mut impl Next,
) {
    for (token, to) in to.as_chunks_mut::<N>().0.iter_mut().enumerate() {
        ahead.fetch();
        let from: &[[T; LANES]; N] =
            from[token * row + column..].first_chunk().expect("the column is one of the row's");
        for (from, to) in from.iter().zip(to) {
            T::load(zero, from).store(to);
        }
    }
}
