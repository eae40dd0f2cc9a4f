//! Attention of a tile's rows over one partition: scores, softmax, weighted V.
//!
//! A row's score for a token is one FMA chain along `D`; its sum of exponentials has eight lanes, token `t` in lane `t mod 8`, and a fixed
//! tree; each output dimension is one FMA chain along the tokens that the row sees. So how rows and tokens are blocked, and what other rows
//! a tile has, cannot change a bit. What a row does not see is never multiplied, not even by zero, so it may be NaN.

use super::plan::{PART, Tile};
use super::stored::Stored;
use crate::kernels::exp::exp;
use crate::kernels::lanes::{LANES, Lanes};
use crate::kv::{Place, Shape, TILE};
use std::ops::Range;

/// The results of a tile's rows over one partition.
pub(super) struct Partial<'a> {
    /// Weighted V, `[rows, padded D]`.
    pub(super) o: &'a mut [f32],
    /// Each row's largest score.
    pub(super) m: &'a mut [f32],
    /// Each row's sum of exponentials.
    pub(super) l: &'a mut [f32],
}

impl<'a> Partial<'a> {
    /// Cuts memory of [`super::plan::partial_len`] values.
    pub(super) fn new(memory: &'a mut [f32], rows: usize, padded: usize) -> Self {
        let (o, ml) = memory.split_at_mut(rows * padded);
        let (m, l) = ml.split_at_mut(rows);
        Partial { o, m, l }
    }
}

/// Where K and V of one partition lie for one KV head, a tile of eight tokens at a time; only the tiles that rows see are set.
pub(super) struct Blocks<'a, T> {
    all: &'a [T],
    keys: [usize; PART / TILE],
    values: [usize; PART / TILE],
    shape: &'a Shape,
}

impl<'a, T> Blocks<'a, T> {
    /// Looks up the blocks of the partition's `tiles`.
    #[inline(always)]
    pub(super) fn find(
        all: &'a [T],
        shape: &'a Shape,
        place: &Place<'_>,
        tile: &Tile,
        part: usize,
        tiles: Range<usize>,
    ) -> Self {
        let mut blocks = Blocks { all, keys: [0; PART / TILE], values: [0; PART / TILE], shape };
        for i in tiles {
            let token = part * PART + i * TILE;
            let block = place.block(tile.request, token / shape.block_size);
            let slot = token % shape.block_size;
            let head = shape.block_at(place.layer, block) + tile.head * shape.head();
            blocks.keys[i] = head + slot * shape.dim;
            blocks.values[i] = head + shape.keys() + slot * shape.padded;
            // Both ends lie within the block, which is what the reads below rely on.
            assert!(tile.head < shape.heads && head + shape.head() <= all.len());
        }
        blocks
    }
}

/// The tiles of eight that hold `tokens`.
#[inline(always)]
pub(super) fn tiles_of(tokens: &Range<usize>) -> Range<usize> {
    tokens.start / TILE..tokens.end.div_ceil(TILE)
}

/// Computes `out` for the rows of `tile`. `q` holds them scaled, in tiles of [`Lanes::ROWS`] rows `[D][rows]`; `s` is work space
/// `[rows, PART]`. Rows that see nothing of the partition get a sum of 0.
#[inline(always)]
pub(super) fn attend_part<L: Lanes, T: Stored>(
    zero: L,
    blocks: &Blocks<'_, T>,
    tile: &Tile,
    part: usize,
    q: &[f32],
    s: &mut [f32],
    out: &mut Partial<'_>,
) {
    let (rows, dim, padded) = (tile.rows(), blocks.shape.dim, blocks.shape.padded);
    assert!(q.len() >= rows * dim && s.len() >= rows * PART && out.o.len() >= rows * padded);
    for first in (0..rows).step_by(L::ROWS) {
        let n = L::ROWS.min(rows - first);
        let tiles = tiles_of(&(tile.span(first, part).start..tile.span(first + n - 1, part).end));
        let (q, s) = (&q[first * dim..][..n * dim], &mut s[first * PART..][..n * PART]);
        let task = Scores { blocks, tiles, q, s, fetch: first == 0 };
        if L::ROWS == 1 {
            // Without vectors there is nothing to keep in registers, and tiles of many rows are much code.
            task.run::<L, 1, 1>(zero);
            continue;
        }
        match n {
            1 => task.run::<L, 1, 8>(zero),
            2 => task.run::<L, 2, 4>(zero),
            3 => task.run::<L, 3, 4>(zero),
            4 => task.run::<L, 4, 2>(zero),
            5 => task.run::<L, 5, 2>(zero),
            _ => task.run::<L, 6, 2>(zero),
        }
    }
    for row in 0..rows {
        let s = &mut s[row * PART..][..PART];
        (out.m[row], out.l[row]) = softmax(zero, s, tile.span(row, part));
    }
    out.o[..rows * padded].fill(0.0);
    for first in (0..rows).step_by(L::ROWS) {
        let n = L::ROWS.min(rows - first);
        let (s, o) = (&s[first * PART..][..n * PART], &mut out.o[first * padded..][..n * padded]);
        // What all of these rows see; what only some see, before and behind it, is done row by row.
        let common = tile.span(first + n - 1, part).start..tile.span(first, part).end;
        let common = common.start..common.end.max(common.start);
        for row in 0..n {
            let own = tile.span(first + row, part);
            let before = own.start..own.end.min(common.start);
            one_row(zero, blocks, before, &s[row * PART..][..PART], &mut o[row * padded..][..padded]);
        }
        let task = Weigh { blocks, tokens: common.clone(), s, o, fetch: first == 0 };
        if L::ROWS == 1 {
            task.run::<L, 1, 1>(zero);
            continue;
        }
        match n {
            1 => task.run::<L, 1, 8>(zero),
            2 => task.run::<L, 2, 4>(zero),
            3 => task.run::<L, 3, 4>(zero),
            4 => task.run::<L, 4, 2>(zero),
            5 => task.run::<L, 5, 2>(zero),
            _ => task.run::<L, 6, 2>(zero),
        }
        for row in 0..n {
            let own = tile.span(first + row, part);
            let behind = own.start.max(common.end)..own.end;
            one_row(zero, blocks, behind, &s[row * PART..][..PART], &mut o[row * padded..][..padded]);
        }
    }
}

/// Adds V of tokens that `s` weighs for one row.
#[inline(always)]
fn one_row<L: Lanes, T: Stored>(zero: L, blocks: &Blocks<'_, T>, tokens: Range<usize>, s: &[f32], o: &mut [f32]) {
    if !tokens.is_empty() {
        Weigh { blocks, tokens, s, o, fetch: false }.run::<L, 1, 2>(zero);
    }
}

/// Turns the scores of the tokens in `span` into exponentials; the largest score and the sum. The rest of their tiles becomes 0.
#[inline(always)]
fn softmax<L: Lanes>(zero: L, s: &mut [f32], span: Range<usize>) -> (f32, f32) {
    if span.is_empty() {
        return (f32::NEG_INFINITY, 0.0);
    }
    let tiles = tiles_of(&span);
    s[tiles.start * TILE..span.start].fill(f32::NEG_INFINITY);
    s[span.end..tiles.end * TILE].fill(f32::NEG_INFINITY);
    let (s, _) = s.as_chunks_mut::<LANES>();
    let s = &mut s[tiles];
    let mut top = zero.splat(f32::NEG_INFINITY);
    for s in s.iter() {
        top = top.max(zero.load(s));
    }
    let top = top.top();
    let (base, mut sum) = (zero.splat(top), zero);
    for s in s {
        let e = exp(zero.load(s) - base);
        e.store(s);
        sum = sum + e;
    }
    (top, sum.sum())
}

/// The products of some rows' queries with the keys of `tiles`.
struct Scores<'a, T> {
    blocks: &'a Blocks<'a, T>,
    tiles: Range<usize>,
    /// `[D][rows]`
    q: &'a [f32],
    /// `[rows, PART]`
    s: &'a mut [f32],
    /// Whether these are the first rows that need the keys.
    fetch: bool,
}

impl<T: Stored> Scores<'_, T> {
    /// Of `R` rows, `N` tiles at a time: enough chains to hide the latency of an FMA, few enough for the registers.
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

    /// As many whole groups of `N` tiles as are left.
    #[inline(always)]
    fn tiles<L: Lanes, const R: usize, const N: usize>(&mut self, zero: L) {
        let dim = self.blocks.shape.dim;
        assert!(self.q.len() == R * dim && self.s.len() == R * PART && self.tiles.end <= PART / TILE);
        while self.tiles.len() >= N {
            let first = self.tiles.start;
            self.tiles.start += N;
            if self.fetch {
                // Blocks lie anywhere: the hardware cannot guess the next, the table can.
                for next in self.tiles.clone().take(N) {
                    fetch(zero, &self.blocks.all[self.blocks.keys[next]..][..TILE * dim]);
                }
            }
            let mut keys = [std::ptr::null::<[T; LANES]>(); N];
            for (n, key) in keys.iter_mut().enumerate() {
                *key = self.blocks.all[self.blocks.keys[first + n]..][..TILE * dim].as_ptr().cast();
            }
            let mut sums = [[zero; N]; R];
            for d in 0..dim {
                let mut k = [zero; N];
                for (k, key) in k.iter_mut().zip(keys) {
                    // SAFETY: each tile has `dim` times eight values, by the slice above.
                    *k = T::load(zero, unsafe { &*key.add(d) });
                }
                for (r, sums) in sums.iter_mut().enumerate() {
                    // SAFETY: `q` has `R` values for each of `dim`, as asserted.
                    let q = zero.splat(unsafe { *self.q.get_unchecked(d * R + r) });
                    for (sum, k) in sums.iter_mut().zip(k) {
                        *sum = q.mul_add(k, *sum);
                    }
                }
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

/// The sum over `tokens` of V times its weight, added to `o`.
struct Weigh<'a, T> {
    blocks: &'a Blocks<'a, T>,
    tokens: Range<usize>,
    /// `[rows, PART]`
    s: &'a [f32],
    /// `[rows, padded D]`
    o: &'a mut [f32],
    /// Whether these are the first rows that need the values.
    fetch: bool,
}

impl<T: Stored> Weigh<'_, T> {
    /// For `R` rows, `N` vectors of dimensions at a time.
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

    /// As many whole groups of `N` vectors as are left behind the `done` first dimensions.
    #[inline(always)]
    fn columns<L: Lanes, const R: usize, const N: usize>(&mut self, zero: L, done: &mut usize) {
        let padded = self.blocks.shape.padded;
        assert!(self.s.len() == R * PART && self.o.len() == R * padded && self.tokens.end <= PART);
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
            let tiles = tiles_of(&self.tokens);
            for tile in tiles.clone() {
                if self.fetch && column == 0 && tile + 2 < tiles.end {
                    fetch(zero, &self.blocks.all[self.blocks.values[tile + 2]..][..TILE * padded]);
                }
                let values = self.blocks.all[self.blocks.values[tile]..][..TILE * padded].as_ptr();
                for token in self.tokens.start.max(tile * TILE)..self.tokens.end.min(tile * TILE + TILE) {
                    let mut v = [zero; N];
                    for (n, v) in v.iter_mut().enumerate() {
                        // SAFETY: the tile has eight rows of `padded` values, by the slice above; columns end at `padded`.
                        let at = unsafe { values.add((token % TILE) * padded + column + n * LANES) };
                        // SAFETY: as above; there is no alignment to keep beyond the values' own.
                        *v = T::load(zero, unsafe { &*at.cast::<[T; LANES]>() });
                    }
                    for (r, sums) in sums.iter_mut().enumerate() {
                        // SAFETY: `s` has `PART` values a row and tokens end before, as asserted.
                        let weight = zero.splat(unsafe { *self.s.get_unchecked(r * PART + token) });
                        for (sum, v) in sums.iter_mut().zip(v) {
                            *sum = weight.mul_add(v, *sum);
                        }
                    }
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

/// Asks for the cache lines of `values`.
#[inline(always)]
fn fetch<L: Lanes, T>(zero: L, values: &[T]) {
    for line in values.chunks(64 / size_of::<T>()) {
        zero.prefetch(line.as_ptr());
    }
}
