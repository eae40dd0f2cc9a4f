//! Cells times quantised activations.

#[cfg(target_arch = "x86_64")]
mod avx2;
mod scalar;

use super::cell::{CELL, Cell};
use super::quantise::Quantised;
use super::tile::Target;
use crate::isa::Isa;

/// Rows of a full tile: 4 rows by 16 outputs take 8 registers for integer sums.
pub(super) const MOST_ROWS: usize = 4;

/// Adds to `out` a tile of rows times the neighbouring `cells` of a panel; the first chunk along K starts from zero.
///
/// # Safety
/// The CPU has the instructions of `isa`; `out` has as many rows as the tile (see [`Target`]).
pub(super) unsafe fn multiply(isa: Isa, cell: Cell, cells: &[u8], tile: Quantised<'_>, out: Target, first: bool) {
    let blocks = cells.len() / cell.bytes() * tile.rows;
    assert!((1..=MOST_ROWS).contains(&tile.rows), "a tile's rows");
    assert_eq!(tile.quants.len(), blocks * CELL, "integers of a tile");
    assert_eq!((tile.scales.len(), tile.sums.len()), (blocks, blocks), "scales and sums of a tile");
    assert_eq!(tile.half_sums.len(), blocks * 2, "half sums of a tile");
    // SAFETY: the lengths were checked; the rest are the caller's duties.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::multiply(cell, cells, tile, out, first),
            _ => scalar::multiply(cell, cells, tile, out, first),
        }
    }
}
