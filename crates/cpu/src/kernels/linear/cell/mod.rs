//! How quantised weights are packed: cells of 32 values of K by 16 outputs, in blocks of one or more cells, one after the other along K.
//!
//! **Integers.** A *unit* is 4 values of K by 16 outputs, `[16][4]`; a cell has 8. Integers of 8 bits are the units as they are. Fewer bits
//! are cut into a low part of 4 or 2 bits and perhaps a high part of 1 or 2, and a part of `w` bits fills `w` lines of 64 bytes: byte `i`
//! of a line holds that part of byte `i` of `8 / w` units. Units are read in pairs whose members belong to one group, `4 / groups` apart;
//! pair after pair takes `w` bits from the lower half of each byte for its first unit and the same bits of the upper half for its second.
//! So every part is read by a shift and a mask, whatever the instruction set. See [`Cell::place_integers`] and [`Cell::integer`].
//!
//! **Factors.** Where a cell is the file's block, it is followed by its f16 scales, `[16]`, and its f16 minima, `[16]`, if it has any. Where
//! the file has a half-precision number for 256 values and small integers for its groups, the block is 8 cells, followed by f16 scales
//! `[16]`, f16 minima `[16]`, the groups' scales in i8, `[8 * groups][16]`, and their minima in i8. Their products are exact in f32. Integers
//! of group scales and zero points have f32 scales `[16]` and i16 zero points with the other sign `[16]`, whose products are the minima; powers
//! of two are bf16 scales `[16]`. Plain
//! int8 has one scale for all of K, which is no part of a cell: a panel begins with those of its outputs (`panels.rs`).
//!
//! So a panel is as small as the file, but for scales of 4 or 6 bits, which take 8.

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;
pub(super) mod forms;
#[cfg(target_arch = "aarch64")]
pub(super) mod neon;
#[cfg(test)]
mod tests;

use super::PANEL;
use super::across::{self, Next};
use half::{bf16, f16};
use nxd_ops::BlockFormat;
use nxd_ops::quant::{self, Factors, IQ4_VALUES, MXFP4_VALUES, Single};
use std::ops::Range;

/// Values of K in a cell, and in a block of quantised activations.
pub(super) const CELL: usize = 32;
/// Bytes of a unit: 4 values of 16 outputs.
pub(super) const UNIT: usize = 4 * PANEL;

/// The packed form of a block format, or of plain int8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cell {
    /// The block format that is packed so; `None` for int8, whose cells have no factors.
    pub(super) format: Option<BlockFormat>,
    /// What the stored bits mean.
    pub(super) integers: Integers,
    /// Bits of the low part: 8, 4 or 2.
    pub(super) low: usize,
    /// Bits of the high part: 0, 1 or 2.
    pub(super) high: usize,
    /// Groups of values that share a scale: 1 or 2.
    pub(super) groups: usize,
    /// Whether groups have a minimum.
    pub(super) min: bool,
    /// How factors are stored.
    pub(super) factors: Stored,
    /// Cells that share factors.
    pub(super) block: usize,
}

/// How a cell's factors are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stored {
    /// f16, and where several cells share them, multiples of them in i8.
    Half,
    /// An f32 scale, and an i16 multiple of it as the minimum.
    Single,
    /// A bf16 scale.
    Power,
}

/// What stored bits mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Integers {
    /// Signed bytes.
    Signed,
    /// Unsigned integers, and this is taken off each.
    Less(u8),
    /// Places in a table.
    Codes(&'static [i8; 16]),
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
    /// The packed form of int8.
    pub(super) const I8: Cell = Cell {
        format: None,
        integers: Integers::Signed,
        low: 8,
        high: 0,
        groups: 1,
        min: false,
        factors: Stored::Half,
        block: 1,
    };

    pub(super) const fn of(format: BlockFormat) -> Self {
        let (integers, low, high) = match format {
            BlockFormat::Q8_0 => (Integers::Signed, 8, 0),
            BlockFormat::Q4_0 => (Integers::Less(8), 4, 0),
            BlockFormat::Q4_1 | BlockFormat::Q4_K => (Integers::Less(0), 4, 0),
            BlockFormat::Q5_0 => (Integers::Less(16), 4, 1),
            BlockFormat::Q5_1 | BlockFormat::Q5_K => (Integers::Less(0), 4, 1),
            BlockFormat::Q6_K => (Integers::Less(32), 4, 2),
            BlockFormat::Q2_K => (Integers::Less(0), 2, 0),
            BlockFormat::Q3_K => (Integers::Less(4), 2, 1),
            BlockFormat::IQ4_NL | BlockFormat::IQ4_XS => (Integers::Codes(&IQ4_VALUES), 4, 0),
            BlockFormat::MXFP4 => (Integers::Codes(&MXFP4_VALUES), 4, 0),
            BlockFormat::INT4 | BlockFormat::INT4_128 => (Integers::Less(0), 4, 0),
            BlockFormat::INT8 => (Integers::Signed, 8, 0),
        };
        let factors = match format {
            BlockFormat::MXFP4 => Stored::Power,
            BlockFormat::INT4 | BlockFormat::INT4_128 | BlockFormat::INT8 => Stored::Single,
            _ => Stored::Half,
        };
        let (groups, block) = (CELL / format.group_len(), format.block_len() / CELL);
        Cell { format: Some(format), integers, low, high, groups, min: format.has_min(), factors, block }
    }

    /// Whether the integers, once read, are signed bytes: too large for products of unsigned ones in 16 bits.
    pub(super) const fn is_signed(self) -> bool {
        !matches!(self.integers, Integers::Less(_))
    }

    /// Bytes of a cell's integers, of which each bit takes a line.
    pub(super) const fn quant_bytes(self) -> usize {
        (self.low + self.high) * UNIT
    }

    /// Whether groups have factors of their own. Otherwise sums are multiplied with the scale of their output once they are complete.
    pub(super) const fn has_factors(self) -> bool {
        self.format.is_some()
    }

    /// Bytes of a block's factors.
    pub(super) const fn factor_bytes(self) -> usize {
        if !self.has_factors() {
            return 0;
        }
        match self.factors {
            Stored::Half => {
                let small = if self.block > 1 { self.block * self.groups * PANEL } else { 0 };
                (1 + self.min as usize) * (2 * PANEL + small)
            }
            Stored::Single => 6 * PANEL,
            Stored::Power => 2 * PANEL,
        }
    }

    /// Bytes of a block: a multiple of 32, and of the cells in it.
    pub(super) const fn block_bytes(self) -> usize {
        self.block * self.quant_bytes() + self.factor_bytes()
    }

    /// Bytes of a cell and its share of the block's factors.
    pub(super) const fn bytes(self) -> usize {
        self.block_bytes() / self.block
    }

    /// Where a block's factors for group `group` of 16 outputs lie, from the block's start: floats, and integers that they are multiplied with
    /// where it has them. With `min` those of minima.
    pub(super) const fn factors_at(self, group: usize, min: bool) -> (usize, Option<usize>) {
        let start = self.block * self.quant_bytes();
        if !matches!(self.factors, Stored::Half) {
            return (start, if min { Some(start + 4 * PANEL) } else { None });
        }
        let (half, small) = (2 * PANEL, start + (1 + self.min as usize) * 2 * PANEL);
        let group = group + min as usize * self.block * self.groups;
        (start + min as usize * half, if self.block > 1 { Some(small + group * PANEL) } else { None })
    }

    /// Packs 16 rows of blocks, `[16][row_bytes]` as the file has them, into a panel's cells.
    pub(super) fn pack_panel(self, rows: &[u8], panel: &mut [u8], next: Next) {
        forms::by_form!(self, pack_panel_as(rows, panel, next));
    }

    /// The pair of a unit, and whether the unit is its second.
    const fn pair_of(self, unit: usize) -> (usize, bool) {
        let apart = 4 / self.groups;
        (unit / (2 * apart) * apart + unit % apart, unit % (2 * apart) >= apart)
    }

    /// The first unit of a pair; the second is `4 / groups` behind it.
    pub(super) const fn first_of(self, pair: usize) -> usize {
        let apart = 4 / self.groups;
        pair / apart * (2 * apart) + pair % apart
    }

    /// Pairs of units whose parts of `width` bits share a line; of no parts, one.
    const fn pairs_a_line(width: usize) -> usize {
        match width {
            1 => 4,
            2 => 2,
            _ => 1,
        }
    }

    /// Lines of a cell that stand in the file's block as they are, at its end: bytes do; and nibbles, where the file pairs them as lines do,
    /// those of value `k` under those of value `k + 16`.
    const fn stored_lines(self) -> usize {
        match (self.block, self.low) {
            (1, low @ (4 | 8)) => low,
            _ => 0,
        }
    }

    /// Puts output `j`'s 32 integers into a cell's lines, but for the first `done` lines. `stored` are the bits to store, four values of K a
    /// word.
    #[inline(always)]
    fn place_integers(self, j: usize, done: usize, stored: &[u32; 8], lines: &mut [u8]) {
        if done == 0 {
            self.place_part(j, 0..self.low, stored, lines);
        }
        self.place_part(j, self.low..self.low + self.high, stored, lines);
    }

    /// Puts the bits `part` of output `j`'s integers into as many lines.
    #[inline(always)]
    fn place_part(self, j: usize, part: Range<usize>, stored: &[u32; 8], lines: &mut [u8]) {
        let (mask, apart) = (0x0101_0101 * ((1 << part.len()) - 1), 4 / self.groups);
        let pairs = Self::pairs_a_line(part.len());
        let mut of_lines = [0; 4];
        for pair in 0..4 {
            let unit = self.first_of(pair);
            let [a, b] = [stored[unit] >> part.start & mask, stored[unit + apart] >> part.start & mask];
            of_lines[pair / pairs] |= (a | b << 4) << (pair % pairs * part.len());
        }
        for (line, word) in part.zip(of_lines) {
            place_word(j, line, word, lines);
        }
    }

    /// An integer of a cell: value `k` of output `j`.
    fn integer(self, lines: &[u8], k: usize, j: usize) -> i8 {
        let (unit, byte) = (k / 4, j * 4 + k % 4);
        if self.low == 8 {
            return lines[unit * UNIT + byte].cast_signed();
        }
        let (pair, second) = self.pair_of(unit);
        let part = |first_line: usize, width: usize| {
            let pairs = Self::pairs_a_line(width);
            let bits =
                lines[(first_line + pair / pairs) * UNIT + byte] >> (pair % pairs * width + usize::from(second) * 4);
            bits & ((1 << width) - 1)
        };
        let high = if self.high > 0 { part(self.low, self.high) } else { 0 };
        let stored = part(0, self.low) | high << self.low;
        match self.integers {
            Integers::Signed => stored.cast_signed(),
            Integers::Less(zero) => stored.cast_signed() - zero.cast_signed(),
            Integers::Codes(values) => values[usize::from(stored)],
        }
    }

    /// Cell `index` of a packed block in plain numbers; scales of 1 where groups have no factors.
    pub(super) fn open(self, block: &[u8], index: usize) -> Opened {
        let mut opened = Opened { quants: [[0; PANEL]; CELL], scales: [[0.0; PANEL]; 2], mins: [[0.0; PANEL]; 2] };
        let lines = &block[index * self.quant_bytes()..][..self.quant_bytes()];
        for (k, quants) in opened.quants.iter_mut().enumerate() {
            for (j, quant) in quants.iter_mut().enumerate() {
                *quant = self.integer(lines, k, j);
            }
        }
        if !self.has_factors() {
            opened.scales = [[1.0; PANEL]; 2];
            return opened;
        }
        let factor = |group: usize, min: bool, j: usize| {
            let (half, small) = self.factors_at(index * self.groups + group, min);
            let two = |at: usize| [block[at + j * 2], block[at + j * 2 + 1]];
            match self.factors {
                Stored::Half => {
                    let half = f16::from_le_bytes(two(half)).to_f32();
                    small.map_or(half, |small| half * f32::from(block[small + j].cast_signed()))
                }
                Stored::Single => {
                    let at = half + j * 4;
                    let scale = f32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
                    small.map_or(scale, |small| scale * f32::from(i16::from_le_bytes(two(small))))
                }
                Stored::Power => bf16::from_le_bytes(two(half)).to_f32(),
            }
        };
        for group in 0..self.groups {
            for j in 0..PANEL {
                opened.scales[group][j] = factor(group, false, j);
                if self.min {
                    opened.mins[group][j] = factor(group, true, j);
                }
            }
        }
        opened
    }
}

/// [`Cell::pack_panel`] with everything about the format known to the compiler.
fn pack_panel_as<F: forms::Form>(rows: &[u8], panel: &mut [u8], next: Next) {
    let cell = F::CELL;
    let Some(format) = cell.format else { return pack_bytes(rows, panel, next) };
    let as_stored = cell.stored_lines();
    let mut quants = [0; 256];
    let of_rows = across::rows(rows);
    for (b, block) in panel.chunks_exact_mut(cell.block_bytes()).enumerate() {
        let end = (b + 1) * format.block_bytes();
        next.ask(b, PANEL * format.block_bytes());
        across::words_at(&of_rows, end - as_stored * 4, &mut block[..as_stored * UNIT]);
        for (j, row) in of_rows.iter().enumerate() {
            let stored = &row[end - format.block_bytes()..end];
            let factors = quant::parts(format, stored, &mut quants);
            if as_stored < cell.low + cell.high {
                let lines = block.chunks_exact_mut(cell.quant_bytes()).zip(quants.as_chunks::<CELL>().0);
                for (lines, quants) in lines.take(cell.block) {
                    let mut words = [0; 8];
                    for (word, four) in words.iter_mut().zip(quants.as_chunks::<4>().0) {
                        *word = stored_word(cell.integers, *four);
                    }
                    cell.place_integers(j, as_stored, &words, lines);
                }
            }
            match quant::single(format, stored) {
                Some(single) => place_single(cell, j, single, block),
                None => place_factors(cell, j, &factors, block),
            }
        }
    }
}

/// [`Cell::pack_panel`] of int8: bytes as they are. Where rows end within a cell, zeros fill it up.
fn pack_bytes(rows: &[u8], panel: &mut [u8], next: Next) {
    let row_bytes = rows.len() / PANEL;
    let whole = row_bytes / 4 * 4;
    let of_rows = across::rows(rows);
    let (words, rest) = panel.split_at_mut(whole * PANEL);
    across::words(&of_rows, words, next);
    rest.fill(0);
    for (j, row) in of_rows.iter().enumerate() {
        // At most three bytes, the front of a word.
        rest.iter_mut().skip(j * 4).zip(&row[whole..]).for_each(|(to, byte)| *to = *byte);
    }
}

/// Puts four bytes of output `j` into a line.
#[inline(always)]
fn place_word(j: usize, line: usize, word: u32, lines: &mut [u8]) {
    lines[line * UNIT + j * 4..][..4].copy_from_slice(&word.to_le_bytes());
}

/// The bits to store of four values. Bits above those of the parts are of no account.
#[inline(always)]
fn stored_word(integers: Integers, quants: [i8; 4]) -> u32 {
    let [a, b, c, d] = quants.map(i8::cast_unsigned);
    match integers {
        // What is taken off is half of the range, so adding it turns over one bit.
        Integers::Less(zero) => u32::from_le_bytes([a, b, c, d]) ^ (u32::from(zero) * 0x0101_0101),
        Integers::Signed => u32::from_le_bytes([a, b, c, d]),
        Integers::Codes(_) => {
            let code = |value: u8| u32::from(CODES[usize::from(value)]);
            code(a) | code(b) << 8 | code(c) << 16 | code(d) << 24
        }
    }
}

/// Puts output `j`'s factors into a block.
#[inline(always)]
fn place_factors(cell: Cell, j: usize, factors: &Factors, block: &mut [u8]) {
    let of_kinds = [(factors.scale, &factors.scales), (factors.min, &factors.mins)];
    for (min, (half, multiples)) in [false, true].into_iter().zip(of_kinds).take(1 + usize::from(cell.min)) {
        for (group, multiple) in multiples.iter().enumerate().take(cell.block * cell.groups) {
            let (at, small) = cell.factors_at(group, min);
            block[at + j * 2..][..2].copy_from_slice(&half.to_le_bytes());
            if let Some(small) = small {
                block[small + j] = multiple.cast_unsigned();
            }
        }
    }
}

/// Puts output `j`'s one scale, and its zero point, into a block.
#[inline(always)]
fn place_single(cell: Cell, j: usize, Single { scale, minus_zero }: Single, block: &mut [u8]) {
    let (at, _) = cell.factors_at(0, false);
    if let Stored::Power = cell.factors {
        block[at + j * 2..][..2].copy_from_slice(&bf16::from_f32(scale).to_le_bytes());
        return;
    }
    block[at + j * 4..][..4].copy_from_slice(&scale.to_le_bytes());
    if let (_, Some(at)) = cell.factors_at(0, true) {
        block[at + j * 2..][..2].copy_from_slice(&minus_zero.to_le_bytes());
    }
}

/// The code of each value of IQ4's table, by the value as an unsigned byte.
const CODES: [u8; 256] = {
    let (mut codes, mut code) = ([0; 256], 0);
    while code < IQ4_VALUES.len() {
        codes[IQ4_VALUES[code] as u8 as usize] = code as u8;
        code += 1;
    }
    codes
};
