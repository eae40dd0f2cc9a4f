//! The products of queries and keys.

use super::blocks::{CACHE_LINE, Keys, Next, TILES};
use super::plan::PART;
use super::queries::{RUN, row_len};
use super::stored::Stored;
use super::tiled::{ByRows, add_products};
use crate::kernels::lanes::{LANES, Lanes};
use crate::kv::TILE;
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
    fn run<L: Lanes, const R: usize, const N: usize>(mut self, zero: L) {
        self.tiles::<L, R, N>(zero);
        if N > 2 {
            self.tiles::<L, R, 2>(zero);
        }
        if N > 1 {
            self.tiles::<L, R, 1>(zero);
        }
    }
}

impl<K: Keys, A: Next> Scores<'_, K, A> {
    /// As many whole groups of `N` tiles as are left.
    #[inline(always)]
    fn tiles<L: Lanes, const R: usize, const N: usize>(&mut self, zero: L) {
        let dim = self.keys.dim();
        assert!(self.q.len() == R * row_len(dim) && self.s.len() == R * PART && self.tiles.end <= TILES);
        while self.tiles.len() >= N {
            let first = self.tiles.start;
            self.tiles.start += N;
            let mut keys: [&[[K::Value; LANES]]; N] = [&[]; N];
            for (n, keys) in keys.iter_mut().enumerate() {
                *keys = &self.keys.keys(first + n)[..dim];
            }
            let mut sums = [[zero; N]; R];
            // For each line that is read, another one is asked for.
            let line = CACHE_LINE / size_of::<[K::Value; LANES]>();
            const { assert!(RUN.is_multiple_of(CACHE_LINE / size_of::<[K::Value; LANES]>()), "a run begins with a line") };
            let mut at = 0;
            // One loop: with another one inside, compilers keep sums of 16 registers in memory.
            for d in 0..dim {
                if d % line == 0 {
                    for _ in 0..N {
                        self.ahead.fetch(zero);
                    }
                    at = d / RUN * R * RUN + d % RUN;
                }
                add_products!(
                    sums[R][N] +=
                    // SAFETY: `q` has `RUN` values for each of `R` rows and each run, as asserted, and `at` is `d` in its run's first row,
                    // as it is looked up where a run begins.
                    |r| zero.splat(unsafe { *self.q.get_unchecked(at + r * RUN) }),
                    // SAFETY: each tile has `dim` vectors, by the slice above.
                    |n| K::Value::load(zero, unsafe { keys[n].get_unchecked(d) })
                );
                at += 1;
            }
            for (r, sums) in sums.iter().enumerate() {
                let (s, _) = self.s[r * PART + first * TILE..][..N * TILE].as_chunks_mut();
                for (s, sum) in s.iter_mut().zip(sums) {
                    sum.store(s);
                }
            }
        }
    }
}
