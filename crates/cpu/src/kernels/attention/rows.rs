//! The products of queries and keys that lie in rows, as they are values too.

use super::blocks::{Blocks, Values};
use super::plan::PART;
use super::queries::{RUN, row_len};
use super::stored::Stored;
use super::tiled::{ByRows, add_products, both, wide};
use crate::kernels::lanes::{LANES, Lanes, Wide};
use crate::kv::TILE;
use std::ops::Range;

/// The products of some rows' queries with the keys of `tokens`: a score is eight FMA chains, dimension `d` in chain `d mod 8`, and a fixed
/// tree. Nothing is asked for ahead: V is what has been read.
pub(super) struct RowScores<'a, T> {
    pub(super) blocks: &'a Blocks<'a, T>,
    pub(super) tokens: Range<usize>,
    /// As [`super::queries`] says.
    pub(super) q: &'a [f32],
    /// `[rows, PART]`
    pub(super) s: &'a mut [f32],
}

impl<T: Stored> ByRows for RowScores<'_, T> {
    /// Columns are tokens.
    #[inline(always)]
    fn columns<L: Lanes, C: Wide<L>, const R: usize, const N: usize>(&mut self, zero: L) {
        let shape = self.blocks.shape();
        let (row, vectors) = (shape.row / LANES, shape.dim.div_ceil(LANES));
        assert!(self.q.len() == R * row_len(shape.dim) && self.s.len() == R * PART && self.tokens.end <= PART);
        let (q, _) = self.q.as_chunks::<LANES>();
        let tokens = const { N * C::VECTORS };
        while self.tokens.len() >= if N == 1 { 1 } else { tokens } {
            let (first, taken) = (self.tokens.start, tokens.min(self.tokens.len()));
            self.tokens.start += taken;
            // The first and the last token of each column.
            let mut keys: [[&[[T; LANES]]; 2]; N] = [[&[]; 2]; N];
            for (n, keys) in keys.iter_mut().enumerate() {
                for (keys, i) in keys.iter_mut().zip([0, C::VECTORS - 1]) {
                    let token = (first + n * C::VECTORS + i).min(self.tokens.start - 1);
                    *keys = &self.blocks.values(token / TILE)[token % TILE * row..][..vectors];
                }
            }
            let mut sums = [[C::of(zero, zero); N]; R];
            // Vectors of a row that lie beside each other.
            const BESIDE: usize = RUN / LANES;
            for run in (0..vectors).step_by(BESIDE) {
                for v in run..vectors.min(run + BESIDE) {
                    add_products!(
                        sums[R][N] +=
                        // SAFETY: `q` has `BESIDE` vectors for each of `R` rows and each run, as asserted, and `v` is one of this run.
                        |r| both!(C, zero.load(unsafe { q.get_unchecked(run * R + r * BESIDE + (v - run)) })),
                        // SAFETY: each key has `vectors` vectors, by the slice above.
                        |n| wide!(C, |i| T::load(zero, unsafe { keys[n][i].get_unchecked(v) }))
                    );
                }
            }
            for (r, sums) in sums.iter().enumerate() {
                let s = &mut self.s[r * PART + first..][..taken];
                for (s, sum) in s.chunks_mut(C::VECTORS).zip(sums) {
                    for (i, s) in s.iter_mut().enumerate() {
                        *s = sum.vector(i).sum();
                    }
                }
            }
        }
    }
}
