//! The products of queries and keys.

use super::blocks::{Keys, Next, TILES};
use super::plan::PART;
use super::queries::{RUN, row_len};
use super::stored::Stored;
use super::tiled::{ByRows, add_products, both, wide};
use crate::kernels::lanes::{LANES, Lanes, Wide};
use crate::kv::TILE;
use crate::prefetch::LINE;
use std::ops::Range;

/// The products of some rows' queries with the keys of `tiles`: a score is one FMA chain along `D`.
pub(super) struct Scores<'a, K, A> {
    pub(super) keys: &'a K,
    pub(super) tiles: Range<usize>,
    /// As [`super::queries`] says.
    pub(super) q: &'a [f32],
    /// `[rows, PART]`
    pub(super) s: &'a mut [f32],
    /// What is read after it: V of the same tokens.
    pub(super) ahead: &'a mut A,
}

impl<K: Keys, A: Next> ByRows for Scores<'_, K, A> {
    /// Columns are tiles: enough chains to hide the latency of an FMA, few enough for the registers.
    #[inline(always)]
    fn columns<L: Lanes, C: Wide<L>, const R: usize, const N: usize>(&mut self, zero: L) {
        let dim = self.keys.dim();
        assert!(self.q.len() == R * row_len(dim) && self.s.len() == R * PART && self.tiles.end <= TILES);
        let tiles = const { N * C::VECTORS };
        while self.tiles.len() >= if N == 1 { 1 } else { tiles } {
            let (first, taken) = (self.tiles.start, tiles.min(self.tiles.len()));
            self.tiles.start += taken;
            // The first and the last tile of each column.
            let mut keys: [[&[[K::Value; LANES]]; 2]; N] = [[&[]; 2]; N];
            for (n, keys) in keys.iter_mut().enumerate() {
                let first = first + n * C::VECTORS;
                let last = (first + C::VECTORS).min(self.tiles.start) - 1;
                *keys = [&self.keys.keys(first)[..dim], &self.keys.keys(last)[..dim]];
            }
            let mut sums = [[C::of(zero, zero); N]; R];
            // For each line that is read, another one is asked for.
            let line = LINE / size_of::<[K::Value; LANES]>();
            const { assert!(RUN.is_multiple_of(LINE / size_of::<[K::Value; LANES]>()), "a run begins with a line") };
            let mut at = 0;
            // One loop: with another one inside, compilers keep sums of 16 registers in memory.
            for d in 0..dim {
                if d % line == 0 {
                    for _ in 0..tiles {
                        self.ahead.fetch();
                    }
                    at = d / RUN * R * RUN + d % RUN;
                }
                add_products!(
                    sums[R][N] +=
                    // SAFETY: `q` has `RUN` values for each of `R` rows and each run, as asserted, and `at` is `d` in its run's first row,
                    // as it is looked up where a run begins.
                    |r| both!(C, zero.splat(unsafe { *self.q.get_unchecked(at + r * RUN) })),
                    // SAFETY: each tile has `dim` vectors, by the slices above.
                    |n| wide!(C, |i| K::Value::load(zero, unsafe { keys[n][i].get_unchecked(d) }))
                );
                at += 1;
            }
            for (r, sums) in sums.iter().enumerate() {
                let (s, _) = self.s[r * PART + first * TILE..][..taken * TILE].as_chunks_mut();
                for (s, sum) in s.chunks_mut(C::VECTORS).zip(sums) {
                    for (i, s) in s.iter_mut().enumerate() {
                        sum.vector(i).store(s);
                    }
                }
            }
        }
    }
}
