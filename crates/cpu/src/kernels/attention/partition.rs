//! Attention of a tile's rows over one partition: scores, softmax, weighted V.
//!
//! A row's score for a token is one FMA chain along `D`, or eight and a fixed tree where keys lie in rows (`rows`); its sum of exponentials has eight lanes, token `t` in lane `t mod 8`, and a fixed
//! tree; each output dimension is one FMA chain along the tokens that the row sees. So how rows and tokens are blocked, and what other rows
//! a tile has, cannot change a bit. What a row does not see is never multiplied, not even by zero, so it may be NaN.
//!
//! Where values have scales, a token's score is multiplied by that of its K, and its weight by that of its V, each once.

use super::blocks::{Blocks, Keys, Next, Nothing, Values, tiles_of};
use super::floats::{self, FloatKeys, FloatValues};
use super::plan::{PART, Tile};
use super::queries;
use super::rows::RowScores;
use super::scores::Scores;
use super::stored::Stored;
use super::tiled::{ByRows, rows_at_once};
use super::weigh::Weigh;
use crate::kernels::exp::{exp, tanh};
use crate::kernels::lanes::{LANES, Lanes, Wide};
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

/// Computes `out` for the rows of `tile`. `q` holds them as [`super::queries`] says; `s` is work space `[rows, PART]`, `work` that of
/// [`floats`]. Rows that see nothing of the partition get a sum of 0, and a largest score below all others that is not infinite, as
/// differences are taken.
#[inline(always)]
pub(super) fn attend_part<L: Lanes, T: Stored>(
    zero: L,
    source: &Source<'_, T>,
    rows: &Rows<'_>,
    s: &mut [f32],
    work: &mut [f32],
    out: &mut Partial<'_>,
) {
    let (blocks, tile, part) = (source.blocks, rows.tile, rows.part);
    let (count, dim, padded) = (tile.rows(), blocks.shape().dim, blocks.shape().padded);
    let wide = queries::row_len(dim);
    assert!(rows.q.len() >= count * wide && s.len() >= count * PART && out.o.len() >= count * padded);
    // Where constants stand in the conditions themselves, what they exclude is not compiled.
    let many = count > L::ROWS;
    let (seen, mut ahead) = (tiles_of(&tile.seen(part)), blocks.values_ahead());
    if blocks.shape().shared {
        for group in rows.groups::<L>() {
            let (tokens, n) = (rows.seen(&group), group.len());
            let (q, s) = (&rows.q[group.start * wide..][..n * wide], &mut s[group.start * PART..][..n * PART]);
            RowScores { blocks, tokens, q, s }.of_rows(zero, n);
        }
    } else if const { floats::serve::<L, T>() } && many {
        let (end, step) = (seen.end, floats::tiles_at_once(dim));
        for start in seen.step_by(step) {
            let tiles = start..end.min(start + step);
            let keys = FloatKeys::new(zero, blocks, &tiles, work, &mut ahead);
            scores(zero, &keys, rows, &tiles, s, &mut Nothing);
        }
    } else {
        scores(zero, blocks, rows, &seen, s, &mut ahead);
    }
    let mut ahead = source.next.keys_ahead();
    for row in 0..count {
        let s = &mut s[row * PART..][..PART];
        let (m, l) = (&mut out.m[row / LANES], &mut out.l[row / LANES]);
        let span = tile.span(row, part);
        // Few rows wait for memory, so that it should be busy all the time.
        (m[row % LANES], l[row % LANES]) = if many {
            softmax(zero, source, s, span, &mut Nothing)
        } else {
            softmax(zero, source, s, span, &mut ahead)
        };
    }
    let o = &mut out.o[..count * padded];
    o.fill(0.0);
    let columns = 0..padded / LANES;
    if const { floats::serve::<L, T>() } && many {
        let (tiles, mut column) = (tiles_of(&tile.seen(part)), 0);
        while column < columns.end {
            let values = FloatValues::new(zero, blocks, &tiles, column, work, &mut ahead);
            weigh(zero, &values, rows, &values.columns(), s, o, &mut Nothing);
            column = values.columns().end;
        }
    } else {
        weigh(zero, blocks, rows, &columns, s, o, &mut ahead);
    }
}

/// A tile's rows, and the partition that they are to see.
pub(super) struct Rows<'a> {
    pub(super) tile: &'a Tile,
    pub(super) part: usize,
    /// As [`super::queries`] says.
    pub(super) q: &'a [f32],
}

impl Rows<'_> {
    /// The rows in groups that products take at once.
    #[inline(always)]
    fn groups<L: Lanes>(&self) -> impl Iterator<Item = Range<usize>> + use<L> {
        let (mut first, rows) = (0, self.tile.rows());
        std::iter::from_fn(
            #[inline(always)]
            move || {
                let start = first;
                first += rows_at_once::<L>(rows - start);
                (start < rows).then_some(start..first)
            },
        )
    }

    /// The tokens that some row of a group sees.
    #[inline(always)]
    fn seen(&self, group: &Range<usize>) -> Range<usize> {
        self.tile.span(group.start, self.part).start..self.tile.span(group.end - 1, self.part).end
    }
}

/// The scores of `tiles`.
#[inline(always)]
fn scores<L: Lanes>(
    zero: L,
    keys: &impl Keys,
    rows: &Rows<'_>,
    tiles: &Range<usize>,
    s: &mut [f32],
    ahead: &mut impl Next,
) {
    let wide = queries::row_len(keys.dim());
    for group in rows.groups::<L>() {
        let (seen, n) = (tiles_of(&rows.seen(&group)), group.len());
        let tiles = seen.start.max(tiles.start)..seen.end.min(tiles.end);
        let (q, s) = (&rows.q[group.start * wide..][..n * wide], &mut s[group.start * PART..][..n * PART]);
        Scores { keys, tiles, q, s, ahead: &mut *ahead }.of_rows(zero, n);
    }
}

/// Adds the weighted vectors `columns` of V to `o`, `[rows, padded D]`.
#[inline(always)]
fn weigh<L: Lanes>(
    zero: L,
    values: &impl Values,
    rows: &Rows<'_>,
    columns: &Range<usize>,
    s: &[f32],
    o: &mut [f32],
    ahead: &mut impl Next,
) {
    let (tile, part, padded) = (rows.tile, rows.part, o.len() / rows.tile.rows());
    for group in rows.groups::<L>() {
        let n = group.len();
        let (s, o) = (&s[group.start * PART..][..n * PART], &mut o[group.start * padded..][..n * padded]);
        // What all of these rows see; what only some see lies before and behind it.
        let common = tile.span(group.end - 1, part).start..tile.span(group.start, part).end;
        let common = common.start..common.end.max(common.start);
        for side in 0..2 {
            if side == 1 {
                let (tokens, columns, o) = (common.clone(), columns.clone(), &mut *o);
                Weigh { values, tokens, columns, s, o, ahead: &mut *ahead }.of_rows(zero, n);
            }
            let mut rows = group.start..group.start;
            while rows.end < group.end {
                // Rows of one query see the same.
                let start = rows.end;
                rows = start..start + rows_at_once::<L>(tile.end_of_query(start).min(group.end) - start);
                let own = tile.span(start, part);
                let tokens = match side {
                    0 => own.start..own.end.min(common.start),
                    _ => own.start.max(common.end)..own.end,
                };
                if !tokens.is_empty() {
                    let (first, n) = (start - group.start, rows.len());
                    let (s, o) = (&s[first * PART..][..n * PART], &mut o[first * padded..][..n * padded]);
                    Weigh { values, tokens, columns: columns.clone(), s, o, ahead: &mut *ahead }.of_rows(zero, n);
                }
            }
        }
    }
}

/// Turns the products of the tokens in `span` into weights of their V; the largest score and the sum of the exponentials. The rest of
/// their tiles becomes anything.
#[inline(always)]
fn softmax<L: Lanes, T: Stored>(
    zero: L,
    source: &Source<'_, T>,
    s: &mut [f32],
    span: Range<usize>,
    ahead: &mut impl Next,
) -> (f32, f32) {
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
    // One vector at a time where others would be of no use; what a condition excludes is not compiled.
    let sum = if const { L::ROWS < 12 } {
        exponentials::<L, L, T>(zero, blocks, s, tiles, top, ahead)
    } else {
        exponentials::<L, L::Wide, T>(zero, blocks, s, tiles, top, ahead)
    };
    (top, sum.sum())
}

/// Makes weights of the scores of `tiles`, of which none is larger than `top`; the sums of their exponentials.
#[inline(always)]
fn exponentials<L: Lanes, C: Wide<L>, T: Stored>(
    zero: L,
    blocks: &Blocks<'_, T>,
    s: &mut [[f32; LANES]],
    tiles: Range<usize>,
    top: f32,
    ahead: &mut impl Next,
) -> L {
    let (top, mut sum) = (C::of(zero.splat(top), zero.splat(top)), zero);
    for first in tiles.clone().step_by(C::VECTORS) {
        let last = (first + C::VECTORS).min(tiles.end) - 1;
        ahead.fetch();
        let e = exp(C::of(zero.load(&s[first]), zero.load(&s[last])) - top);
        for i in 0..C::VECTORS {
            if first + i <= last {
                let e = e.vector(i);
                sum = sum + e;
                if T::SCALED { e * zero.load(blocks.scales(first + i)[1]) } else { e }.store(&mut s[first + i]);
            }
        }
    }
    sum
}
