//! Rows of weights whose integers, scales and zero points are tensors of their own, made when they are read.
#![warn(clippy::indexing_slicing)]

use super::packed::{Integers, ScaleGrid};
use nxd_ops::{BlockFormat, Format, SharedBytes, StoredRows};
use std::ops::Range;
use std::sync::Arc;

/// Integers that share scales, and perhaps zero points, in groups along a row: a value is `scale * (integer - zero)`.
#[derive(Debug)]
pub(super) struct Grouped {
    pub(super) integers: Integers,
    pub(super) scales: ScaleGrid,
    pub(super) zeros: Zeros,
    pub(super) rows: usize,
    /// Values of a group.
    pub(super) group: usize,
    pub(super) order: Order,
    /// What rows are given as: [`Format::F32`], or integers in blocks that groups are a multiple of.
    pub(super) format: Format,
}

/// The integers that stand for zero.
#[derive(Debug)]
pub(super) enum Zeros {
    /// One for all groups.
    Constant(i16),
    /// One for each row and group, and what is added to it.
    Of(Integers, i16),
}

/// Which group a column belongs to.
#[derive(Debug)]
pub(super) enum Order {
    /// So many neighbours are a group.
    Neighbours,
    /// Columns in the order of their groups.
    Sorted(Arc<[u32]>),
    /// The group of each column, where they are not sorted.
    Listed(Arc<[u32]>),
}

/// Sorts columns by their group, of which each but the last has `group` members.
///
/// # Errors
/// The first group that has another number, and how many it has.
pub(super) fn sorted(groups: &[u32], group: usize) -> Result<Order, (usize, usize)> {
    let mut counts = vec![0_usize; groups.len().div_ceil(group)];
    for &of in groups {
        match counts.get_mut(of as usize) {
            Some(count) => *count += 1,
            None => return Err((of as usize, 1)),
        }
    }
    let expected = |index: usize| group.min(groups.len() - index * group);
    if let Some((index, &count)) = counts.iter().enumerate().find(|&(index, &count)| count != expected(index)) {
        return Err((index, count));
    }
    if groups.is_sorted() {
        return Ok(Order::Neighbours);
    }
    let mut columns: Vec<u32> = (0..).take(groups.len()).collect();
    columns.sort_by_key(|&col| groups.get(col as usize));
    Ok(Order::Sorted(columns.into()))
}

impl Grouped {
    /// The format of integers of `bits` bits in groups of `group` of a row's `cols`; f32 where no block fits.
    pub(super) fn format(bits: u32, group: usize, cols: usize) -> Format {
        let fits =
            |block: BlockFormat| group.is_multiple_of(block.block_len()) && cols.is_multiple_of(block.block_len());
        let of_bits = match bits {
            4 => &[BlockFormat::INT4_128, BlockFormat::INT4][..],
            _ => &[BlockFormat::INT8],
        };
        of_bits.iter().copied().find(|&block| fits(block)).map_or(Format::F32, Format::Blocks)
    }

    fn zero(&self, row: usize, group: usize) -> i16 {
        match &self.zeros {
            Zeros::Constant(zero) => *zero,
            Zeros::Of(zeros, plus) => i16::from(zeros.at(row, group)) + plus,
        }
    }

    /// Block `index` of a row.
    fn block(&self, row: usize, index: usize, format: BlockFormat, out: &mut [u8]) {
        let first = index * format.block_len();
        let group = first / self.group;
        let is_byte = format == BlockFormat::INT8;
        // Bytes become signed ones, and so does their zero.
        let minus_zero = if is_byte { 128 } else { 0 } - self.zero(row, group);
        let Some((scale, rest)) = out.split_first_chunk_mut() else { return };
        let Some((zero, quants)) = rest.split_first_chunk_mut() else { return };
        (*scale, *zero) = (self.scales.at(row, group).to_le_bytes(), minus_zero.to_le_bytes());
        let mut integers = [0; 32];
        for (quants, first) in quants.chunks_mut(if is_byte { 32 } else { 16 }).zip((first..).step_by(32)) {
            match &self.order {
                Order::Sorted(columns) => {
                    let columns = columns.get(first..).unwrap_or_default();
                    integers.iter_mut().zip(columns).for_each(|(q, &col)| *q = self.integers.at(row, col as usize));
                }
                _ => self.integers.read(row, first, &mut integers),
            }
            if is_byte {
                quants.iter_mut().zip(&integers).for_each(|(out, q)| *out = q ^ 0x80);
            } else {
                let (low, high) = integers.split_at(16);
                quants.iter_mut().zip(low.iter().zip(high)).for_each(|(out, (low, high))| *out = low | high << 4);
            }
        }
    }

    /// Value `col` of a row.
    fn value(&self, row: usize, col: usize) -> f32 {
        let group = match &self.order {
            Order::Listed(groups) => groups.get(col).map_or(0, |&group| group as usize),
            _ => col / self.group,
        };
        self.scales.at(row, group) * f32::from(i16::from(self.integers.at(row, col)) - self.zero(row, group))
    }
}

impl StoredRows for Grouped {
    fn read(&self, row: usize, bytes: Range<usize>, out: &mut [u8]) {
        assert!(row < self.rows && bytes.len() == out.len(), "row {row} of {}", self.rows);
        let size = self.format.block_bytes();
        for (out, index) in out.chunks_exact_mut(size).zip(bytes.start / size..) {
            match self.format {
                Format::Blocks(block) => self.block(row, index, block, out),
                _ => out.copy_from_slice(&self.value(row, index).to_le_bytes()),
            }
        }
    }

    fn release(&self, rows: Range<usize>) {
        self.integers.release(rows, self.rows);
    }

    fn columns(&self) -> Option<&[u32]> {
        match &self.order {
            Order::Sorted(columns) => Some(columns),
            Order::Neighbours | Order::Listed(_) => None,
        }
    }
}

/// Blocks of 32 codes of 4 bits, a pair of neighbours a byte, whose powers of two are a tensor of their own.
///
/// Source: `integrations/mxfp4.py` of transformers; OCP Microscaling Formats (MX) v1.0.
#[derive(Debug)]
pub(super) struct Mxfp4 {
    /// `[rows][blocks][16]`
    pub(super) codes: SharedBytes,
    /// `[rows][blocks]`
    pub(super) exponents: SharedBytes,
    pub(super) rows: usize,
    /// Blocks of a row.
    pub(super) blocks: usize,
}

impl StoredRows for Mxfp4 {
    fn read(&self, row: usize, bytes: Range<usize>, out: &mut [u8]) {
        assert!(row < self.rows && bytes.len() == out.len(), "row {row} of {}", self.rows);
        let size = BlockFormat::MXFP4.block_bytes();
        let first = row * self.blocks + bytes.start / size;
        let codes = self.codes.as_chunks::<16>().0.get(first..).unwrap_or_default();
        let exponents = self.exponents.get(first..).unwrap_or_default();
        for ((out, codes), &exponent) in out.chunks_exact_mut(size).zip(codes).zip(exponents) {
            let Some((power, out)) = out.split_first_mut() else { continue };
            *power = exponent;
            let code = |k: usize| codes.get(k / 2).map_or(0, |pair| pair >> (k % 2 * 4) & 15);
            out.iter_mut().enumerate().for_each(|(k, out)| *out = code(k) | code(k + 16) << 4);
        }
    }

    fn release(&self, rows: Range<usize>) {
        let blocks = rows.start * self.blocks..rows.end * self.blocks;
        if let Some(codes) = self.codes.slice(blocks.start * 16..blocks.end * 16) {
            codes.release();
        }
    }
}
