//! Cells times quantised activations.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;

use super::cell::{CELL, Cell};
use super::quantise::Quantised;
use super::tile::Target;
use crate::isa::Isa;

/// Rows of a full tile: 4 rows by 16 outputs take 8 of 16 registers for integer sums, 8 rows 16 of 32 for both sums.
pub(super) const fn most_rows(isa: Isa) -> usize {
    match isa {
        Isa::Avx512 => 8,
        _ => 4,
    }
}

/// Neighbouring cells of a panel.
#[derive(Clone, Copy)]
pub(super) struct Cells<'a> {
    pub(super) cell: Cell,
    pub(super) bytes: &'a [u8],
    /// Whether they were [opened](open).
    pub(super) opened: bool,
    /// How far ahead to ask memory for weights, in bytes.
    pub(super) ahead: usize,
}

/// What many tiles take instead of packed cells, which then are opened once a panel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opened {
    /// Nibbles as bytes.
    Bytes,
    /// Bytes as 16 bits, for activations in 16 bits.
    Words,
}

/// How cells are opened for `tiles` tiles, if it pays: +8 % for 8 tiles, +15 % for 32, a loss for 2.
pub(super) fn opened_for(isa: Isa, cell: Cell, tiles: usize) -> Option<Opened> {
    match (isa, cell) {
        (Isa::Scalar | Isa::Avx512 | Isa::Neon | Isa::NeonDot, _) => None,
        _ if tiles < 8 => None,
        (_, Cell::Nibbles { .. }) => Some(Opened::Bytes),
        _ => Some(Opened::Words),
    }
}

/// Opens cells into the front of `opened`; the bytes that they take there.
///
/// # Safety
/// The CPU has the instructions of `isa`.
///
/// # Panics
/// When `opened` is too short.
pub(super) unsafe fn open<'a>(isa: Isa, cell: Cell, cells: &[u8], opened: &'a mut [u8]) -> &'a [u8] {
    match isa {
        // SAFETY: by the caller's duties.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { avx2::open(cell, cells, opened) },
        _ => unreachable!("{isa} takes {cell:?} as they are: {} bytes, not {} opened ones", cells.len(), opened.len()),
    }
}

/// Adds to `out` a tile of rows times some cells; the first chunk along K starts from zero.
///
/// # Safety
/// The CPU has the instructions of `isa`; `out` has as many rows as the tile (see [`Target`]).
pub(super) unsafe fn multiply(isa: Isa, cells: Cells<'_>, tile: Quantised<'_>, out: Target, first: bool) {
    let cell_bytes = if cells.opened { cells.cell.bytes() + cells.cell.quant_bytes() } else { cells.cell.bytes() };
    let blocks = cells.bytes.len() / cell_bytes * tile.rows;
    assert!((1..=most_rows(isa)).contains(&tile.rows), "a tile's rows");
    assert_eq!(tile.quants.len(), blocks * CELL, "integers of a tile");
    assert_eq!((tile.scales.len(), tile.sums.len()), (blocks, blocks), "scales and sums of a tile");
    assert_eq!(tile.half_sums.len(), blocks * 2, "half sums of a tile");
    assert_eq!((tile.weighted.len(), tile.half_weighted.len()), (blocks, blocks * 2), "weighted sums of a tile");
    assert!(!takes_words(cells) || tile.words.len() == blocks * CELL, "integers of 16 bits of a tile");
    // SAFETY: the lengths were checked; the rest are the caller's duties.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::multiply(cells, tile, out, first),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => avx512::multiply(cells, tile, out, first),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => neon::multiply(cells, tile, out, first),
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDot => neon::multiply_dots(cells, tile, out, first),
            _ => scalar::multiply(cells, tile, out, first),
        }
    }
}

fn takes_words(cells: Cells<'_>) -> bool {
    cells.opened && !matches!(cells.cell, Cell::Nibbles { .. })
}
