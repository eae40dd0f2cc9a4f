//! How quantised weights are packed: cells of 32 values of K by 16 outputs, one after the other along K.
//!
//! A cell starts with its integers in units of 4 values by 16 outputs, `[k/4][16][4]`, and ends with what scales them:
//!
//! | cell | integers | scales | minima |
//! | --- | --- | --- | --- |
//! | [`Cell::Bytes`] | 8 units of i8, 512 B | f16, `[16]` | – |
//! | [`Cell::Nibbles`] | 4 units of bytes: unit `j` low, unit `j + 4` high, 256 B | f16, `[16]` | f16, `[16]`, or none and integers less 8 |
//! | [`Cell::Wide`] | 8 units of i8, 512 B | f32, `[groups][16]` | f32, `[groups][16]`, or none |
//!
//! Bytes and nibbles are as small as the file (Q8_0, Q4_0, Q4_1) and as fast as memory; every other block format is widened.

use super::PANEL;
use half::f16;
use nxd_ops::BlockFormat;
use nxd_ops::quant::{self, Groups};

/// Values of K in a cell, and in a block of quantised activations.
pub(super) const CELL: usize = 32;
/// Bytes of a unit: 4 values of 16 outputs.
pub(super) const UNIT: usize = 4 * PANEL;

/// The packed form of a block format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cell {
    /// Q8_0.
    Bytes,
    /// Q4_0, and Q4_1 with a minimum.
    Nibbles { min: bool },
    /// Everything else: 1 or 2 groups a cell.
    Wide { groups: usize, min: bool },
}

/// A cell in plain numbers.
pub(super) struct Opened {
    /// Integers, `[32][16]`.
    pub(super) quants: [[i8; PANEL]; CELL],
    /// Scales, `[groups][16]`.
    pub(super) scales: [[f32; PANEL]; 2],
    /// Minima, `[groups][16]`; zeros where the format has none.
    pub(super) mins: [[f32; PANEL]; 2],
}

impl Cell {
    pub(super) fn of(format: BlockFormat) -> Self {
        match format {
            BlockFormat::Q8_0 => Cell::Bytes,
            BlockFormat::Q4_0 => Cell::Nibbles { min: false },
            BlockFormat::Q4_1 => Cell::Nibbles { min: true },
            other => Cell::Wide { groups: CELL / other.group_len(), min: other.has_min() },
        }
    }

    /// Groups of values that share a scale: 1 or 2.
    pub(super) fn groups(self) -> usize {
        match self {
            Cell::Wide { groups, .. } => groups,
            _ => 1,
        }
    }

    /// Whether groups have a minimum.
    pub(super) fn has_min(self) -> bool {
        match self {
            Cell::Bytes => false,
            Cell::Nibbles { min } | Cell::Wide { min, .. } => min,
        }
    }

    /// Bytes of the integers.
    pub(super) const fn quant_bytes(self) -> usize {
        match self {
            Cell::Nibbles { .. } => 4 * UNIT,
            _ => 8 * UNIT,
        }
    }

    /// Bytes of a cell, a multiple of 32.
    pub(super) const fn bytes(self) -> usize {
        self.quant_bytes()
            + match self {
                Cell::Bytes => 2 * PANEL,
                Cell::Nibbles { min } => (1 + min as usize) * 2 * PANEL,
                Cell::Wide { groups, min } => (1 + min as usize) * groups * 4 * PANEL,
            }
    }

    /// Packs 16 rows of blocks, `[16][row_bytes]` as the file has them, into a panel.
    pub(super) fn pack_panel(self, format: BlockFormat, rows: &[u8], panel: &mut [u8]) {
        let row_bytes = rows.len() / PANEL;
        let (block, per_block) = (format.block_bytes(), format.block_len() / CELL);
        let cells = panel.chunks_exact_mut(self.bytes() * per_block);
        for (b, cells) in cells.enumerate() {
            for (j, row) in rows.chunks_exact(row_bytes).enumerate() {
                let block = &row[b * block..(b + 1) * block];
                match self {
                    Cell::Bytes => self.place(j, &block[2..], &[&block[..2]], cells),
                    Cell::Nibbles { min: false } => self.place(j, &block[2..], &[&block[..2]], cells),
                    Cell::Nibbles { min: true } => self.place(j, &block[4..], &[&block[..2], &block[2..4]], cells),
                    Cell::Wide { .. } => self.place_wide(j, format, block, cells),
                }
            }
        }
    }

    /// Puts output `j`'s integers and 16-bit factors into a cell.
    #[inline(always)]
    fn place(self, j: usize, quants: &[u8], factors: &[&[u8]], cell: &mut [u8]) {
        let (units, tail) = cell.split_at_mut(self.quant_bytes());
        for (unit, four) in units.chunks_exact_mut(UNIT).zip(quants.as_chunks::<4>().0) {
            unit[j * 4..][..4].copy_from_slice(four);
        }
        for (out, factor) in tail.chunks_exact_mut(2 * PANEL).zip(factors) {
            out[j * 2..][..2].copy_from_slice(factor);
        }
    }

    /// Opens output `j`'s block into the cells it covers.
    fn place_wide(self, j: usize, format: BlockFormat, block: &[u8], cells: &mut [u8]) {
        let mut opened = Groups::default();
        quant::open(format, block, &mut opened);
        let groups = self.groups();
        for (c, cell) in cells.chunks_exact_mut(self.bytes()).enumerate() {
            let (units, tail) = cell.split_at_mut(self.quant_bytes());
            let quants = opened.quants[c * CELL..][..CELL].as_chunks::<4>().0;
            for (unit, four) in units.chunks_exact_mut(UNIT).zip(quants) {
                unit[j * 4..][..4].copy_from_slice(&four.map(|q| q.cast_unsigned()));
            }
            let scales = &opened.scales[c * groups..][..groups];
            let mins = &opened.mins[c * groups..][..groups];
            for (out, factor) in tail.chunks_exact_mut(4 * PANEL).zip(scales.iter().chain(mins)) {
                out[j * 4..][..4].copy_from_slice(&factor.to_le_bytes());
            }
        }
    }

    /// A packed cell in plain numbers.
    pub(super) fn open(self, cell: &[u8]) -> Opened {
        let mut opened = Opened { quants: [[0; PANEL]; CELL], scales: [[0.0; PANEL]; 2], mins: [[0.0; PANEL]; 2] };
        let (units, tail) = cell[..self.bytes()].split_at(self.quant_bytes());
        for (i, quants) in opened.quants.iter_mut().enumerate() {
            for (j, quant) in quants.iter_mut().enumerate() {
                let at = |k: usize| units[k / 4 * UNIT + j * 4 + k % 4];
                *quant = match self {
                    Cell::Nibbles { min } => {
                        let nibble = if i < CELL / 2 { at(i) & 15 } else { at(i - CELL / 2) >> 4 };
                        nibble.cast_signed() - if min { 0 } else { 8 }
                    }
                    _ => at(i).cast_signed(),
                };
            }
        }
        let groups = self.groups();
        let factors = |index: usize, j: usize| match self {
            Cell::Wide { .. } => {
                let at = (index * PANEL + j) * 4;
                f32::from_le_bytes([tail[at], tail[at + 1], tail[at + 2], tail[at + 3]])
            }
            _ => {
                let at = (index * PANEL + j) * 2;
                f16::from_le_bytes([tail[at], tail[at + 1]]).to_f32()
            }
        };
        for group in 0..groups {
            for j in 0..PANEL {
                opened.scales[group][j] = factors(group, j);
                if self.has_min() {
                    opened.mins[group][j] = factors(groups + group, j);
                }
            }
        }
        opened
    }
}
