//! The sum of V, weighted.

use super::blocks::{Ahead, Blocks, CACHE_LINE, tiles_of};
use super::plan::PART;
use super::stored::Stored;
use super::tiled::{ByRows, add_products};
use crate::kernels::lanes::{LANES, Lanes};
use crate::kv::TILE;
use std::ops::Range;

/// The sum over `tokens` of V times its weight, added to `o`: an output is one FMA chain along the tokens.
pub(super) struct Weigh<'a, 'b, T> {
    pub(super) blocks: &'a Blocks<'a, T>,
    pub(super) tokens: Range<usize>,
    /// `[rows, PART]`
    pub(super) s: &'a [f32],
    /// `[rows, padded D]`
    pub(super) o: &'a mut [f32],
    /// What is likely to be read after it: K of the next partition.
    pub(super) ahead: &'a mut Ahead<'b, T>,
}

impl<T: Stored> ByRows for Weigh<'_, '_, T> {
    /// Columns are vectors of dimensions.
    #[inline(always)]
    fn run<L: Lanes, const R: usize, const N: usize>(mut self, zero: L) {
        let mut done = 0;
        self.columns::<L, R, N>(zero, &mut done);
        if N > 2 {
            self.columns::<L, R, 2>(zero, &mut done);
        }
        if N > 1 {
            self.columns::<L, R, 1>(zero, &mut done);
        }
    }
}

impl<T: Stored> Weigh<'_, '_, T> {
    /// As many whole groups of `N` vectors as are left behind the `done` first dimensions.
    #[inline(always)]
    fn columns<L: Lanes, const R: usize, const N: usize>(&mut self, zero: L, done: &mut usize) {
        let padded = self.blocks.shape().padded;
        assert!(self.s.len() == R * PART && self.o.len() == R * padded && self.tokens.end <= PART);
        let tiles = tiles_of(&self.tokens);
        while padded - *done >= N * LANES {
            let column = *done;
            *done += N * LANES;
            let mut sums = [[zero; N]; R];
            for (r, sums) in sums.iter_mut().enumerate() {
                let (o, _) = self.o[r * padded + column..][..N * LANES].as_chunks();
                for (sum, o) in sums.iter_mut().zip(o) {
                    *sum = zero.load(o);
                }
            }
            for tile in tiles.clone() {
                let values = self.blocks.values(tile).as_chunks::<LANES>().0;
                let (row, column) = (self.blocks.shape().row / LANES, column / LANES);
                assert!(values.len() == TILE * row && column + N <= row);
                for token in self.tokens.start.max(tile * TILE)..self.tokens.end.min(tile * TILE + TILE) {
                    // For each line that is read, another one is asked for.
                    for _ in 0..(N * size_of::<[T; LANES]>()).div_ceil(CACHE_LINE) {
                        self.ahead.fetch(zero);
                    }
                    let at = (token % TILE) * row + column;
                    add_products!(
                        sums[R][N] +=
                        // SAFETY: `s` has `PART` values a row and tokens end before, as asserted.
                        |r| zero.splat(unsafe { *self.s.get_unchecked(r * PART + token) }),
                        // SAFETY: a tile has eight rows, and the columns lie within one, as asserted.
                        |n| T::load(zero, unsafe { values.get_unchecked(at + n) })
                    );
                }
            }
            for (r, sums) in sums.iter().enumerate() {
                let (o, _) = self.o[r * padded + column..][..N * LANES].as_chunks_mut();
                for (o, sum) in o.iter_mut().zip(sums) {
                    sum.store(o);
                }
            }
        }
    }
}
