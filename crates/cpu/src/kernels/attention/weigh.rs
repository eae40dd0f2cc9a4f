//! The sum of V, weighted.

use super::blocks::{Next, Values, tiles_of};
use super::plan::PART;
use super::stored::Stored;
use super::tiled::{ByRows, add_products, both, wide};
use crate::kernels::lanes::{LANES, Lanes, Wide};
use crate::kv::TILE;
use crate::prefetch::LINE;
use std::ops::Range;

/// The sum over `tokens` of V times its weight, added to `o`: an output is one FMA chain along the tokens.
pub(super) struct Weigh<'a, V, A> {
    pub(super) values: &'a V,
    pub(super) tokens: Range<usize>,
    /// Which vectors of a row of V.
    pub(super) columns: Range<usize>,
    /// `[rows, PART]`
    pub(super) s: &'a [f32],
    /// `[rows, padded D]`
    pub(super) o: &'a mut [f32],
    /// What is likely to be read after it: K of the next partition.
    pub(super) ahead: &'a mut A,
}

impl<V: Values, A: Next> ByRows for Weigh<'_, V, A> {
    /// Columns are vectors of dimensions.
    #[inline(always)]
    fn columns<L: Lanes, C: Wide<L>, const R: usize, const N: usize>(&mut self, zero: L) {
        let padded = self.o.len() / R;
        assert!(self.s.len() == R * PART && self.o.len().is_multiple_of(R * LANES) && self.tokens.end <= PART);
        let tiles = tiles_of(&self.tokens);
        let vectors = const { N * C::VECTORS };
        while self.columns.len() >= if N == 1 { 1 } else { vectors } {
            let (column, taken) = (self.columns.start, vectors.min(self.columns.len()));
            self.columns.start += taken;
            let mut sums = [[C::of(zero, zero); N]; R];
            for (r, sums) in sums.iter_mut().enumerate() {
                let (o, _) = self.o[r * padded + column * LANES..][..taken * LANES].as_chunks();
                for (sum, o) in sums.iter_mut().zip(o.chunks(C::VECTORS)) {
                    *sum = wide!(C, |i| zero.load(&o[i.min(o.len() - 1)]));
                }
            }
            for tile in tiles.clone() {
                let (values, row, column) = (self.values.values(tile), self.values.row(), column - self.values.first());
                assert!(values.len() == TILE * row && column + taken <= row);
                let (from, to) = (self.tokens.start.max(tile * TILE), self.tokens.end.min(tile * TILE + TILE));
                let mut at = from % TILE * row + column;
                for token in from..to {
                    // For each line that is read, another one is asked for.
                    for _ in 0..(vectors * size_of::<[V::Value; LANES]>()).div_ceil(LINE) {
                        self.ahead.fetch();
                    }
                    add_products!(
                        sums[R][N] +=
                        // SAFETY: `s` has `PART` values a row and tokens end before, as asserted.
                        |r| both!(C, zero.splat(unsafe { *self.s.get_unchecked(r * PART + token) })),
                        // SAFETY: a tile has eight rows, and the columns lie within one, as asserted.
                        |n| wide!(C, |i| V::Value::load(zero, unsafe {
                            values.get_unchecked(at + (n * C::VECTORS + i).min(taken - 1))
                        }))
                    );
                    at += row;
                }
            }
            for (r, sums) in sums.iter().enumerate() {
                let (o, _) = self.o[r * padded + column * LANES..][..taken * LANES].as_chunks_mut();
                for (o, sum) in o.chunks_mut(C::VECTORS).zip(sums) {
                    for (i, o) in o.iter_mut().enumerate() {
                        sum.vector(i).store(o);
                    }
                }
            }
        }
    }
}
