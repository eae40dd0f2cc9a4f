//! Attention of a tile's rows over one partition: scores, softmax, weighted V.
//!
//! A row's score for a token is one FMA chain along `D`, or eight and a fixed tree where keys lie in rows (`rows`); its sum of exponentials has eight lanes, token `t` in lane `t mod 8`, and a fixed
//! tree; each output dimension is one FMA chain along the tokens that the row sees. So how rows and tokens are blocked, and what other rows
//! a tile has, cannot change a bit. What a row does not see is never multiplied, not even by zero, so it may be NaN.
//!
//! Where values have scales, a token's score is multiplied by that of its K, and its weight by that of its V, each once.

use super::blocks::{Blocks, tiles_of};
use super::plan::{PART, Tile};
use super::queries;
use super::rows::RowScores;
use super::scores::Scores;
use super::stored::Stored;
use super::tiled::{ByRows, rows_at_once};
use super::weigh::Weigh;
use crate::kernels::exp::{exp, tanh};
use crate::kernels::lanes::{LANES, Lanes};
use crate::kv::TILE;
use std::ops::Range;

/// The results of a tile's rows over one partition.
pub(super) struct Partial<'a> {
    pub(super) rows: usize,
    /// Weighted V, `[rows, padded D]`.
    pub(super) o: &'a mut [f32],
    /// Each row's largest score. Behind the rows anything, up to a whole vector.
    pub(super) m: &'a mut [[f32; LANES]],
    /// Each row's sum of exponentials, likewise.
    pub(super) l: &'a mut [[f32; LANES]],
}

impl<'a> Partial<'a> {
    /// Cuts memory of [`super::plan::partial_len`] values.
    pub(super) fn new(memory: &'a mut [f32], rows: usize, padded: usize) -> Self {
        let (o, ml) = memory.split_at_mut(rows * padded);
        let (m, l) = ml.as_chunks_mut().0.split_at_mut(rows.div_ceil(LANES));
        Partial { rows, o, m, l }
    }
}

/// What is read: one partition, and what is likely to be read after it.
pub(super) struct Source<'a, T> {
    pub(super) blocks: &'a Blocks<'a, T>,
    pub(super) next: &'a Blocks<'a, T>,
    /// See [`nxd_ops::AttendSpec::softcap`].
    pub(super) softcap: Option<f32>,
}

/// Computes `out` for the rows of `tile`. `q` holds them as [`super::queries`] says; `s` is work space `[rows, PART]`. Rows that see nothing
/// of the partition get a sum of 0, and a largest score below all others that is not infinite, as differences are taken.
#[inline(always)]
pub(super) fn attend_part<L: Lanes, T: Stored>(
    zero: L,
    source: &Source<'_, T>,
    tile: &Tile,
    part: usize,
    q: &[f32],
    s: &mut [f32],
    out: &mut Partial<'_>,
) {
    let blocks = source.blocks;
    let (rows, dim, padded) = (tile.rows(), blocks.shape().dim, blocks.shape().padded);
    let wide = queries::row_len(dim);
    assert!(q.len() >= rows * wide && s.len() >= rows * PART && out.o.len() >= rows * padded);
    let (mut ahead, mut first) = (blocks.values_ahead(), 0);
    while first < rows {
        let n = rows_at_once::<L>(rows - first);
        let seen = tile.span(first, part).start..tile.span(first + n - 1, part).end;
        let (q, s) = (&q[first * wide..][..n * wide], &mut s[first * PART..][..n * PART]);
        if blocks.shape().shared {
            RowScores { blocks, tokens: seen, q, s }.of_rows(zero, n);
        } else {
            Scores { blocks, tiles: tiles_of(&seen), q, s, ahead: &mut ahead }.of_rows(zero, n);
        }
        first += n;
    }
    for row in 0..rows {
        let s = &mut s[row * PART..][..PART];
        let (m, l) = (&mut out.m[row / LANES], &mut out.l[row / LANES]);
        (m[row % LANES], l[row % LANES]) = softmax(zero, source, s, tile.span(row, part));
    }
    out.o[..rows * padded].fill(0.0);
    let (mut ahead, mut first) = (source.next.keys_ahead(), 0);
    while first < rows {
        let n = rows_at_once::<L>(rows - first);
        let (s, o) = (&s[first * PART..][..n * PART], &mut out.o[first * padded..][..n * padded]);
        // What all of these rows see; what only some see, before and behind it, is done row by row.
        let common = tile.span(first + n - 1, part).start..tile.span(first, part).end;
        let common = common.start..common.end.max(common.start);
        for row in 0..n {
            let own = tile.span(first + row, part);
            let before = own.start..own.end.min(common.start);
            let (s, o) = (&s[row * PART..][..PART], &mut o[row * padded..][..padded]);
            one_row(zero, Weigh { blocks, tokens: before, s, o, ahead: &mut ahead });
        }
        Weigh { blocks, tokens: common.clone(), s, o, ahead: &mut ahead }.of_rows(zero, n);
        for row in 0..n {
            let own = tile.span(first + row, part);
            let behind = own.start.max(common.end)..own.end;
            let (s, o) = (&s[row * PART..][..PART], &mut o[row * padded..][..padded]);
            one_row(zero, Weigh { blocks, tokens: behind, s, o, ahead: &mut ahead });
        }
        first += n;
    }
}

/// A sum for one row, often over nothing.
#[inline(always)]
fn one_row<L: Lanes, T: Stored>(zero: L, task: Weigh<'_, '_, T>) {
    if !task.tokens.is_empty() {
        task.of_rows(zero, 1);
    }
}

/// Turns the products of the tokens in `span` into weights of their V; the largest score and the sum of the exponentials. The rest of
/// their tiles becomes anything.
#[inline(always)]
fn softmax<L: Lanes, T: Stored>(zero: L, source: &Source<'_, T>, s: &mut [f32], span: Range<usize>) -> (f32, f32) {
    let Source { blocks, softcap, .. } = *source;
    if span.is_empty() {
        return (f32::MIN, 0.0);
    }
    let tiles = tiles_of(&span);
    if T::SCALED {
        for tile in tiles.clone() {
            let s: &mut [f32; LANES] = s[tile * TILE..].first_chunk_mut().expect("tiles end at the partition's end");
            (zero.load(s) * zero.load(blocks.scales(tile)[0])).store(s);
        }
    }
    if let Some(cap) = softcap {
        for s in &mut s.as_chunks_mut::<LANES>().0[tiles.clone()] {
            (tanh(zero.load(s) * zero.splat(1.0 / cap)) * zero.splat(cap)).store(s);
        }
    }
    s[tiles.start * TILE..span.start].fill(f32::NEG_INFINITY);
    s[span.end..tiles.end * TILE].fill(f32::NEG_INFINITY);
    let (s, _) = s.as_chunks_mut::<LANES>();
    let mut top = zero.splat(f32::NEG_INFINITY);
    for s in &s[tiles.clone()] {
        top = top.max(zero.load(s));
    }
    let top = top.top();
    let (base, mut sum) = (zero.splat(top), zero);
    for tile in tiles {
        let s = &mut s[tile];
        let e = exp(zero.load(s) - base);
        sum = sum + e;
        if T::SCALED { e * zero.load(blocks.scales(tile)[1]) } else { e }.store(s);
    }
    (top, sum.sum())
}
