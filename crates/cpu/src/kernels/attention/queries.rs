//! How a tile's queries are laid out for the products with keys.
//!
//! In groups of [`rows_at_once`] rows, each group `[D / 64][rows][64]`, the last 64 dimensions partly in use: a row's values stay beside each
//! other, so that laying them out is a copy, and rows are a constant apart, so that one address serves all of them.

use super::plan::Tile;
use super::tiled::rows_at_once;
use crate::kernels::lanes::Lanes;

/// Dimensions of a row that lie beside each other.
pub(super) const RUN: usize = 64;

/// Values that a row takes.
pub(super) fn row_len(dim: usize) -> usize {
    dim.next_multiple_of(RUN)
}

/// Lays out the tile's query rows, scaled.
#[inline(always)]
pub(super) fn lay_out<L: Lanes>(
    zero: L,
    q: &[f32],
    tile: &Tile,
    num_heads: usize,
    dim: usize,
    scale: f32,
    to: &mut [f32],
) {
    let (mut first, factor) = (0, zero.splat(scale));
    while first < tile.rows() {
        let n = rows_at_once::<L>(tile.rows() - first);
        let group = &mut to[first * row_len(dim)..][..n * row_len(dim)];
        for r in 0..n {
            let row = first + r;
            let head = tile.head * tile.group + row % tile.group;
            let from = &q[((tile.row + row / tile.group) * num_heads + head) * dim..][..dim];
            for (from, rows) in from.chunks(RUN).zip(group.chunks_exact_mut(n * RUN)) {
                let to = &mut rows[r * RUN..][..RUN];
                let ((from, last), (to, rest)) = (from.as_chunks(), to.as_chunks_mut());
                debug_assert!(rest.is_empty());
                for (from, to) in from.iter().zip(&mut *to) {
                    (zero.load(from) * factor).store(to);
                }
                if !last.is_empty() {
                    (zero.load_part(last) * factor).store(&mut to[from.len()]);
                }
            }
        }
        first += n;
    }
}
