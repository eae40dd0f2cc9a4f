//! Cells times quantised activations.

/// Multiplies each of `tiles` with each panel of `cells`; within `$multiply` the names stand for one of them and where its results go.
/// Written once and compiled with each kernel's instructions.
macro_rules! each_panel {
    ($cells:ident, $tiles:ident, |$tile:ident, $out:ident| $multiply:expr) => {
        let (mut all, tiles, mut target) = ($cells, $tiles.quantised, $tiles.out);
        for n in 0..tiles.count() {
            let ($tile, next) = (tiles.tile(n), target.below(tiles.first().rows));
            if n + 1 < tiles.count() {
                next.ask(0..$tile.rows, all.panels);
            }
            for panel in 0..all.panels {
                let ($cells, $out) = (all.panel(panel), target.panel(panel));
                // SAFETY: by the caller's duties.
                unsafe { $multiply }
            }
            (all, target) = (all.after(1), next);
        }
    };
}

/// Has the vector that is referred to done before what follows is begun. Without it compilers leave the products of one row for the end of a
/// cell: a chain of eight, in which each waits for the one before. With it 8 rows of Q4_0 and Q4_1 take 0.82 of the time with AVX-512, 2 to 4
/// rows 0.9. With AVX2 they would keep the sums of a loop in memory.
#[cfg(target_arch = "x86_64")]
macro_rules! in_order {
    ($register:ident, $vector:expr) => {
        // No instruction; but what is volatile stays in order.
        std::arch::asm!("/* {0} */", inout($register) * $vector, options(nomem, nostack, preserves_flags))
    };
}

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;

use super::ahead::Ahead;
use super::cell::{CELL, Cell, Integers, Stored, UNIT};
use super::float;
use super::panels::SCALES;
use super::quantise::Alike;
use super::scratch::PanelRow;
use super::tile::Target;
use crate::isa::Isa;

/// Rows from which on tiles of AMX are worth the opening of cells.
const TILED_ROWS: usize = 12;

/// The same where they take all cells [as they are](are_tiles): 5 rows of Q8_0 gain a tenth, 8 rows a quarter, 4 nothing.
const TILED_AS_THEY_ARE: usize = 5;

/// The instruction set that multiplies `rows` rows, with such cells alone or with others too.
pub(super) const fn isa_of(isa: Isa, rows: usize, as_they_are: bool) -> Isa {
    if rows < if as_they_are { TILED_AS_THEY_ARE } else { TILED_ROWS } { isa.vectors() } else { isa }
}

/// Whether cells are what tiles of AMX take: units of signed bytes, and behind them f16 scales or nothing. To open them costs more than it
/// helps even for hundreds of rows, though every other one of those with scales begins within a cache line.
pub(super) const fn are_tiles(cell: Cell) -> bool {
    let plain = cell.low == 8 && cell.groups == 1 && cell.block == 1 && !cell.min;
    plain && matches!((cell.integers, cell.factors), (Integers::Signed, Stored::Half))
}

/// Rows of a full tile: with AVX2 8 rows by 8 outputs take 8 of 16 registers for integer sums, with AVX-512 8 rows by 16 outputs 16 of 32
/// for both sums. Tiles of AMX have 16.
pub(super) const fn most_rows(isa: Isa) -> usize {
    match isa {
        Isa::Amx => 16,
        Isa::Avx2 | Isa::Avx512 => 8,
        _ => 4,
    }
}

/// Rows from which on cells are opened once a panel, where kernels gain by it: 512 rows of nibbles 13 %, 32 rows 2 %, 16 rows nothing.
const MANY_ROWS: usize = 32;

/// Rows of [opened](open) cells' tiles at most: both vectors of a unit meet each row while it is at hand, 61 against 55 GOP/s for 8 rows by 8
/// outputs. Tiles of so many rows are full but for one row.
const OPENED_ROWS: usize = 4;

/// Rows at most of the tiles that `rows` rows are cut into, where weights of `cell` are the first that they meet.
pub(super) const fn tile_rows(isa: Isa, cell: Cell, rows: usize) -> usize {
    match isa {
        Isa::Avx2 if rows >= MANY_ROWS && !cell.is_signed() => OPENED_ROWS,
        _ => most_rows(isa),
    }
}

/// Which sums of a row's integers kernels read: those of whole blocks are among those of their halves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Sums {
    #[default]
    None,
    Blocks,
    Halves,
}

/// What is read beside weights of `cell`: with AVX2 nothing beside signed ones, which others may take with an offset; with AMX all are signed.
pub(super) const fn sums(isa: Isa, cell: Cell) -> Sums {
    match (isa, cell.groups) {
        (Isa::Avx2, _) if cell.is_signed() && !cell.min => Sums::None,
        (Isa::Amx, _) if !cell.min => Sums::None,
        (_, 1) => Sums::Blocks,
        _ => Sums::Halves,
    }
}

/// Panels that each of several tiles meets in one call, where cells are not opened: +3 % for 16 and 32 rows with AVX2, +3 to +12 % for 12
/// to 512 rows with AVX-512, where more of them make the first one wait for memory; elsewhere not measured.
pub(super) const fn panels_at_once(isa: Isa) -> usize {
    match isa {
        Isa::Avx2 => 8,
        Isa::Avx512 => 4,
        _ => 1,
    }
}

/// Bytes of a member's work area for opened cells.
const OPENED_BYTES: usize = float::CHUNK * size_of::<PanelRow>();

/// Values of K that are done for all tiles before the next ones.
///
/// With AVX2 so many of a panel, opened or not, stay in the first-level cache. With AVX-512 the second is fast enough, and results are
/// written and read again the less often: 341 against 291 GOP/s (Q8_0), 349 against 328 (Q4_0).
pub(super) const fn chunk(isa: Isa, cell: Cell) -> usize {
    match isa {
        Isa::Avx512 => 4096,
        // Whole blocks of any format, as many as there is room for.
        Isa::Amx => OPENED_BYTES / (Opened::Tiles.block_bytes(cell) / cell.block * 8) * 8 * CELL,
        _ => 1024,
    }
}

/// Neighbouring cells of a panel, or all cells of several.
#[derive(Clone, Copy)]
pub(super) struct Cells<'a> {
    pub(super) cell: Cell,
    pub(super) bytes: &'a [u8],
    /// Blocks of cells of each panel.
    pub(super) blocks: usize,
    /// How many panels; kernels take one.
    pub(super) panels: usize,
    /// Bytes from a panel to the next.
    pub(super) panel_bytes: usize,
    /// The scales of the first panel's outputs and what follows, where sums are complete after these cells and have no factors yet.
    pub(super) scales: Option<&'a [u8]>,
    /// Bytes behind these that belong to the same share.
    pub(super) left: usize,
    /// How they were [opened](open), if they were.
    pub(super) opened: Option<Opened>,
    /// What to ask memory for meanwhile, with each cell.
    pub(super) ahead: Ahead,
}

impl Cells<'_> {
    /// One of several panels; all but the first ask for what lies behind them.
    #[inline(always)]
    fn panel(self, panel: usize) -> Self {
        let len = self.bytes.len() - (self.panels - 1) * self.panel_bytes;
        let bytes = &self.bytes[panel * self.panel_bytes..][..len];
        let scales = self.scales.map(|scales| &scales[panel * self.panel_bytes..][..SCALES]);
        let ahead = match panel {
            0 => self.ahead,
            _ if self.ahead.is_shared() => self.ahead.behind(panel * self.panel_bytes),
            _ => self.ahead.instead(self.bytes, bytes, (self.panels - 1 - panel) * self.panel_bytes + self.left),
        };
        Cells { bytes, scales, ahead, panels: 1, ..self }
    }

    /// The same for a tile that comes so many tiles later.
    pub(super) fn after(self, tiles: usize) -> Self {
        Cells { ahead: self.ahead.after(tiles), ..self }
    }
}

/// Tiles of as many rows each, and where the results of the first one go: those of the others are below.
#[derive(Clone, Copy)]
pub(super) struct Tiled<'a> {
    pub(super) quantised: Alike<'a>,
    pub(super) out: Target,
}

/// What many tiles take instead of packed cells, which then are opened once a panel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opened {
    /// Unsigned integers of fewer bits as bytes.
    Bytes,
    /// All integers as signed bytes, each cell with its factors in f32.
    Tiles,
}

impl Opened {
    /// Bytes of a block that is opened so.
    const fn block_bytes(self, cell: Cell) -> usize {
        match self {
            Opened::Bytes => cell.block * 8 * UNIT + cell.factor_bytes(),
            Opened::Tiles => {
                let kinds = cell.has_factors() as usize + cell.min as usize;
                cell.block * (8 * UNIT + kinds * cell.groups * SCALES)
            }
        }
    }
}

/// Tiles from which on it pays to do more with a panel than to read it.
pub(super) const MANY_TILES: usize = 8;

/// How cells are opened, if they are, for rows cut into [tiles](tile_rows) of at most `tile_rows`.
///
/// With AVX2 signed ones are not: as integers of 16 bits, which need neither magnitudes nor signs, they take as many instructions and more
/// loads (0.83 to 0.96 of the rate on Zen 3, though 1.08 on Zen 4).
pub(super) const fn opened_for(isa: Isa, cell: Cell, tile_rows: usize) -> Option<Opened> {
    match isa {
        Isa::Amx if are_tiles(cell) => None,
        Isa::Amx => Some(Opened::Tiles),
        Isa::Avx2 if tile_rows == OPENED_ROWS && !cell.is_signed() => Some(Opened::Bytes),
        _ => None,
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
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Amx => unsafe { amx::open(cell, cells, opened) },
        _ => unreachable!("{isa} takes {cell:?} as they are: {} bytes, not {} opened ones", cells.len(), opened.len()),
    }
}

/// Adds to the results of each tile its rows times some cells; the first chunk along K starts from zero.
///
/// # Safety
/// The CPU has the instructions of `isa`; the results of each tile have its rows and as many panels as the cells (see [`Target`]).
pub(super) unsafe fn multiply(isa: Isa, cells: Cells<'_>, tiles: Tiled<'_>, first: bool) {
    let as_taken = opened_for(isa, cells.cell, OPENED_ROWS);
    assert!(cells.opened.is_none() || cells.opened == as_taken, "opened as kernels take them: {as_taken:?}");
    let len = cells.blocks * cells.opened.map_or(cells.cell.block_bytes(), |opened| opened.block_bytes(cells.cell));
    let before = (cells.panels - 1) * cells.panel_bytes;
    assert!(before + len <= cells.bytes.len(), "{} blocks of {} panels", cells.blocks, cells.panels);
    assert!(cells.scales.is_none_or(|scales| before + SCALES <= scales.len()), "scales of {} panels", cells.panels);
    let cells = Cells { bytes: &cells.bytes[..before + len], ..cells };
    let tile = tiles.quantised.first();
    let all = match cells.opened {
        None if isa == Isa::Amx => {
            assert!(are_tiles(cells.cell), "tiles take other cells opened");
            TILED_AS_THEY_ARE..=most_rows(isa)
        }
        None => 1..=most_rows(isa),
        Some(Opened::Bytes) => OPENED_ROWS - 1..=OPENED_ROWS,
        Some(Opened::Tiles) => most_rows(isa) / 2..=most_rows(isa),
    };
    assert!(all.contains(&tile.rows), "a tile's rows: {} of {all:?}", tile.rows);
    assert_eq!(tile.row_blocks, cells.blocks * cells.cell.block, "the tile is as wide as the cells");
    // SAFETY: the lengths were checked; the rest are the caller's duties.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2::multiply(cells, tiles, first),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => avx512::multiply(cells, tiles, first),
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => amx::multiply(cells, tiles, first),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => neon::multiply(cells, tiles, first),
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDot => neon::multiply_dots(cells, tiles, first),
            Isa::Scalar => scalar::multiply(cells, tiles, first),
            _ => unreachable!("{isa} has no kernel on this architecture"),
        }
    }
}

/// What a member does when its part of a job is done.
///
/// # Safety
/// The CPU has the instructions of `isa`.
pub(super) unsafe fn put_away(isa: Isa) {
    match isa {
        // SAFETY: by the caller's duties.
        #[cfg(target_arch = "x86_64")]
        Isa::Amx => unsafe { amx::release() },
        _ => (),
    }
}
