//! Small integers and scales where a checkpoint has them: packed into words along one side or the other.
#![warn(clippy::indexing_slicing)]

use nxd_ops::{Format, SharedBytes, quant};

/// A matrix of unsigned integers of 4 or 8 bits.
#[derive(Clone, Debug)]
pub(super) struct Integers {
    pub(super) data: SharedBytes,
    /// Words, or bytes, of a stored row.
    pub(super) width: usize,
    /// Bits of an integer.
    pub(super) bits: u32,
    pub(super) packing: Packing,
    /// Whether the stored matrix is `[columns, rows]`.
    pub(super) transposed: bool,
}

/// How integers share words of 32 bits, lowest bits first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    /// Integers of neighbouring stored rows.
    Down,
    /// Integers of neighbouring stored columns.
    Across,
    /// Eight neighbouring stored columns, the even ones first.
    ///
    /// Source: `AWQ_ORDER` of transformers' and AutoAWQ's packing.
    EvenFirst,
    /// Signed bytes, alone; 128 is added to each.
    Bytes,
}

impl Integers {
    /// The integer of a row and a column; zero where there is none.
    #[inline]
    pub(super) fn at(&self, row: usize, col: usize) -> u8 {
        let (i, j) = if self.transposed { (col, row) } else { (row, col) };
        let per = 32 / self.bits as usize;
        let (word, place) = match self.packing {
            Packing::Down => (i / per * self.width + j, i % per),
            Packing::Across => (i * self.width + j / per, j % per),
            Packing::EvenFirst => (i * self.width + j / 8, j % 2 * 4 + j % 8 / 2),
            Packing::Bytes => return self.data.get(i * self.width + j).map_or(0, |byte| byte ^ 0x80),
        };
        (self.word(word) >> (place as u32 * self.bits)) as u8 & self.mask()
    }

    /// The 32 integers of a row from column `first` on, a multiple of 32.
    #[inline]
    pub(super) fn read(&self, row: usize, first: usize, out: &mut [u8; 32]) {
        let per = 32 / self.bits as usize;
        let start = match (self.packing, self.transposed) {
            // Words of a row stand under each other.
            (Packing::Down, true) => Some((first / per * self.width + row, self.width)),
            (Packing::Across, false) => Some((row * self.width + first / per, 1)),
            _ => None,
        };
        let Some((start, step)) = start else {
            out.iter_mut().zip(first..).for_each(|(out, col)| *out = self.at(row, col));
            return;
        };
        for (i, out) in out.chunks_exact_mut(per).enumerate() {
            let word = self.word(start + i * step);
            out.iter_mut().zip(0..).for_each(|(out, place)| *out = (word >> (place * self.bits)) as u8 & self.mask());
        }
    }

    #[inline]
    fn word(&self, index: usize) -> u32 {
        self.data.as_chunks::<4>().0.get(index).map_or(0, |word| u32::from_le_bytes(*word))
    }

    #[inline]
    fn mask(&self) -> u8 {
        if self.bits == 4 { 15 } else { u8::MAX }
    }

    /// Says that the integers of `rows`, of `count`, will not be read for a while.
    pub(super) fn release(&self, rows: std::ops::Range<usize>, count: usize) {
        let all = 0..self.data.len();
        let bytes = match self.packing {
            // Every row lies in every page: the last one releases them.
            _ if self.transposed => (rows.end == count).then_some(all),
            Packing::Bytes => Some(rows.start * self.width..rows.end * self.width),
            _ => Some(rows.start * self.width * 4..rows.end * self.width * 4),
        };
        if let Some(bytes) = bytes.and_then(|bytes| self.data.slice(bytes)) {
            bytes.release();
        }
    }
}

/// How scales are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ScaleType {
    Floats(Format),
    /// Powers of two.
    E8M0,
}

impl ScaleType {
    /// The type of a tensor's dtype.
    pub(super) fn of(dtype: &str) -> Option<Self> {
        let floats = [Format::F32, Format::F16, Format::BF16].into_iter().find(|format| format.name() == dtype);
        floats.map(ScaleType::Floats).or((dtype == "F8_E8M0").then_some(ScaleType::E8M0))
    }

    pub(super) const fn bytes(self) -> usize {
        match self {
            ScaleType::Floats(format) => format.block_bytes(),
            ScaleType::E8M0 => 1,
        }
    }

    /// All scales of a tensor, in its order.
    pub(super) fn all(self, data: &[u8]) -> impl Iterator<Item = f32> {
        data.chunks_exact(self.bytes()).map(move |bytes| match (self, bytes) {
            (ScaleType::Floats(format), bytes) => {
                let mut value = [f32::NAN];
                quant::decode_row(format, bytes, &mut value);
                let [value] = value;
                value
            }
            (ScaleType::E8M0, &[0]) => f32::MIN_POSITIVE / 2.0,
            (ScaleType::E8M0, &[byte]) if byte < u8::MAX => f32::from_bits(u32::from(byte) << 23),
            (ScaleType::E8M0, _) => f32::NAN,
        })
    }
}

/// A matrix of scales.
#[derive(Clone, Debug)]
pub(super) struct ScaleGrid {
    pub(super) data: SharedBytes,
    pub(super) kind: ScaleType,
    /// Scales of a stored row.
    pub(super) width: usize,
    /// Whether the stored matrix is `[groups, rows]`.
    pub(super) transposed: bool,
}

impl ScaleGrid {
    /// The scale of a row and a group; no number where there is none.
    pub(super) fn at(&self, row: usize, group: usize) -> f32 {
        let (i, j) = if self.transposed { (group, row) } else { (row, group) };
        let (at, bytes) = ((i * self.width + j) * self.kind.bytes(), self.kind.bytes());
        let scale = self.data.get(at..at + bytes).and_then(|bytes| self.kind.all(bytes).next());
        scale.unwrap_or(f32::NAN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn integers(words: &[u32], width: usize, packing: Packing, transposed: bool) -> Integers {
        let data = words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>().into();
        Integers { data, width, bits: 4, packing, transposed }
    }

    #[test]
    fn nibbles_lie_down_across_or_even_ones_first() {
        let word = 0x7654_3210;
        let down = integers(&[word, !word], 2, Packing::Down, true);
        assert_eq!((0..8).map(|col| down.at(0, col)).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(down.at(1, 0), 15);
        let across = integers(&[word, !word], 1, Packing::Across, false);
        assert_eq!((across.at(0, 5), across.at(1, 5)), (5, 10));
        let even = integers(&[word], 1, Packing::EvenFirst, false);
        assert_eq!((0..8).map(|col| even.at(0, col)).collect::<Vec<_>>(), [0, 4, 1, 5, 2, 6, 3, 7]);
        assert_eq!(even.at(3, 0), 0, "nothing is read behind the end");
    }

    #[test]
    fn thirty_two_at_once_are_those_one_by_one() {
        let words: Vec<u32> = (1..=64_u32).map(|i| i.wrapping_mul(0x9e37_79b9)).collect();
        let even_first = [(Packing::EvenFirst, 1, true, 4)];
        let others = [4, 8].map(|bits| [(Packing::Down, 3, true, bits), (Packing::Across, 8, false, bits)]);
        for (packing, width, transposed, bits) in others.into_iter().flatten().chain(even_first) {
            let integers = Integers { bits, ..integers(&words, width, packing, transposed) };
            let mut read = [0; 32];
            integers.read(1, 32, &mut read);
            assert_eq!(read.to_vec(), (32..64).map(|col| integers.at(1, col)).collect::<Vec<_>>(), "{packing:?}");
        }
    }
}
