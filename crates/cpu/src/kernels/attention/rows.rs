//! The products of queries and keys that lie in rows, as they are values too.

use super::blocks::{Blocks, Values};
use super::plan::PART;
use super::queries::{RUN, row_len};
use super::stored::Stored;
use super::tiled::{ByRows, add_products};
use crate::kernels::lanes::{LANES, Lanes};
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
    fn run<L: Lanes, const R: usize, const N: usize>(mut self, zero: L) {
        self.tokens::<L, R, N>(zero);
        if N > 2 {
            self.tokens::<L, R, 2>(zero);
        }
        if N > 1 {
            self.tokens::<L, R, 1>(zero);
        }
    }
}

impl<T: Stored> RowScores<'_, T> {
    /// As many whole groups of `N` tokens as are left.
    #[inline(always)]
    fn tokens<L: Lanes, const R: usize, const N: usize>(&mut self, zero: L) {
        let shape = self.blocks.shape();
        let (row, vectors) = (shape.row / LANES, shape.dim.div_ceil(LANES));
        assert!(self.q.len() == R * row_len(shape.dim) && self.s.len() == R * PART && self.tokens.end <= PART);
        let (q, _) = self.q.as_chunks::<LANES>();
        while self.tokens.len() >= N {
            let first = self.tokens.start;
            self.tokens.start += N;
            let mut keys: [&[[T; LANES]]; N] = [&[]; N];
            for (n, keys) in keys.iter_mut().enumerate() {
                let tile = self.blocks.values((first + n) / TILE);
                *keys = &tile[(first + n) % TILE * row..][..vectors];
            }
            let mut sums = [[zero; N]; R];
            // Vectors of a row that lie beside each other.
            const BESIDE: usize = RUN / LANES;
            for run in (0..vectors).step_by(BESIDE) {
                for v in run..vectors.min(run + BESIDE) {
                    add_products!(
                        sums[R][N] +=
                        // SAFETY: `q` has `BESIDE` vectors for each of `R` rows and each run, as asserted, and `v` is one of this run.
                        |r| zero.load(unsafe { q.get_unchecked(run * R + r * BESIDE + (v - run)) }),
                        // SAFETY: each key has `vectors` vectors, by the slice above.
                        |n| T::load(zero, unsafe { keys[n].get_unchecked(v) })
                    );
                }
            }
            for (r, sums) in sums.iter().enumerate() {
                let s = &mut self.s[r * PART + first..][..N];
                for (s, sum) in s.iter_mut().zip(sums) {
                    *s = sum.sum();
                }
            }
        }
    }
}
