//! AVX2: two vectors of 8 outputs, a unit of 4 values of K at a time.

use super::Cells;
use crate::kernels::linear::PANEL;
use crate::kernels::linear::cell::{CELL, Cell, UNIT};
use crate::kernels::linear::quantise::Quantised;
use crate::kernels::linear::tile::Target;
use std::arch::x86_64::*;
use std::hint::black_box;
use std::marker::PhantomData;

/// # Safety
/// AVX2, FMA and F16C are present; the lengths were checked by `int8::multiply`, and its duties hold.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn multiply(cells: Cells<'_>, tile: Quantised<'_>, out: Target, first: bool) {
    // SAFETY: by the caller's duties.
    unsafe {
        match cells.cell {
            Cell::Bytes => by_form::<Bytes, Words<Bytes>>(cells, tile, out, first),
            Cell::Nibbles { min: false } => {
                by_form::<Nibbles<false>, Spread<Nibbles<false>>>(cells, tile, out, first);
            }
            Cell::Nibbles { min: true } => by_form::<Nibbles<true>, Spread<Nibbles<true>>>(cells, tile, out, first),
            Cell::Wide { groups: 1, min: false } => {
                by_form::<Wide<1, false>, Words<Wide<1, false>>>(cells, tile, out, first);
            }
            Cell::Wide { groups: 1, min: true } => {
                by_form::<Wide<1, true>, Words<Wide<1, true>>>(cells, tile, out, first);
            }
            Cell::Wide { groups: _, min: false } => {
                by_form::<Wide<2, false>, Words<Wide<2, false>>>(cells, tile, out, first);
            }
            Cell::Wide { groups: _, min: true } => {
                by_form::<Wide<2, true>, Words<Wide<2, true>>>(cells, tile, out, first);
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn by_form<P: Kernel, O: Kernel>(cells: Cells<'_>, tile: Quantised<'_>, out: Target, first: bool) {
    // SAFETY: by the caller's duties.
    unsafe { if cells.opened { by_rows::<O>(cells, tile, out, first) } else { by_rows::<P>(cells, tile, out, first) } }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn by_rows<C: Kernel>(cells: Cells<'_>, tile: Quantised<'_>, out: Target, first: bool) {
    // SAFETY: by the caller's duties.
    unsafe {
        match tile.rows {
            1 => multiply_rows::<C, 1>(cells, tile, out, first),
            2 => multiply_rows::<C, 2>(cells, tile, out, first),
            3 => multiply_rows::<C, 3>(cells, tile, out, first),
            _ => multiply_rows::<C, 4>(cells, tile, out, first),
        }
    }
}

/// Where a kernel is.
#[derive(Clone, Copy)]
struct At {
    cell: *const u8,
    quants: *const i8,
    words: *const i16,
    sums: *const i32,
    /// How far ahead to ask memory for weights, in bytes.
    ahead: usize,
}

/// A form of cell: how its integers meet those of the activations, and what scales them.
trait Kernel {
    /// The cell's size.
    const BYTES: usize;
    /// Groups a cell.
    const GROUPS: usize;
    /// Whether groups have a minimum.
    const MIN: bool;

    /// Integer sums of one group for `ROWS` rows.
    ///
    /// # Safety
    /// `at` points at a cell, its rows' integers and the sums of this group; AVX2 is present.
    unsafe fn sums<const ROWS: usize>(at: At, group: usize) -> [[__m256i; 2]; ROWS];

    /// Factor `index` of 16 outputs: scales of all groups, then minima of all groups.
    ///
    /// # Safety
    /// `cell` points at a cell that has this factor; AVX2 and F16C are present.
    unsafe fn factor(cell: *const u8, index: usize) -> [__m256; 2];
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn multiply_rows<C: Kernel, const ROWS: usize>(cells: Cells<'_>, tile: Quantised<'_>, out: Target, first: bool) {
    let mut acc = [[_mm256_setzero_ps(); 2]; ROWS];
    // SAFETY: the rows of `out`, each used here alone; cells, integers, scales and sums are as many as was checked above.
    unsafe {
        if !first {
            for (row, acc) in acc.iter_mut().enumerate() {
                let sums = out.row(row, 0).as_ptr();
                *acc = [_mm256_loadu_ps(sums), _mm256_loadu_ps(sums.add(8))];
            }
        }
        let group_sums = if C::GROUPS == 1 { tile.sums } else { tile.half_sums };
        let weighted = if C::GROUPS == 1 { tile.weighted } else { tile.half_weighted };
        for block in 0..cells.bytes.len() / C::BYTES {
            let cell = cells.bytes.as_ptr().add(block * C::BYTES);
            let quants = tile.quants.as_ptr().add(block * ROWS * CELL);
            let words = tile.words.as_ptr().wrapping_add(block * ROWS * CELL);
            let scales = tile.scales.as_ptr().add(block * ROWS);
            for group in 0..C::GROUPS {
                let group_sums = group_sums.as_ptr().add((block * C::GROUPS + group) * ROWS);
                let weighted = weighted.as_ptr().add((block * C::GROUPS + group) * ROWS);
                let at = At { cell, quants, words, sums: group_sums, ahead: cells.ahead };
                let sums = C::sums::<ROWS>(at, group);
                let factor = C::factor(cell, group);
                for (row, acc) in acc.iter_mut().enumerate() {
                    let scale = _mm256_broadcast_ss(&*scales.add(row));
                    for h in 0..2 {
                        let sums = _mm256_cvtepi32_ps(sums[row][h]);
                        acc[h] = _mm256_fmadd_ps(_mm256_mul_ps(factor[h], scale), sums, acc[h]);
                    }
                }
                if C::MIN {
                    let min = C::factor(cell, C::GROUPS + group);
                    for (row, acc) in acc.iter_mut().enumerate() {
                        let sum = _mm256_broadcast_ss(&*weighted.add(row));
                        for h in 0..2 {
                            acc[h] = _mm256_fmadd_ps(min[h], sum, acc[h]);
                        }
                    }
                }
            }
        }
        for (row, acc) in acc.iter().enumerate() {
            let sums = out.row(row, 0).as_mut_ptr();
            _mm256_storeu_ps(sums, acc[0]);
            _mm256_storeu_ps(sums.add(8), acc[1]);
        }
    }
}

/// [`Cell::Bytes`].
struct Bytes;

impl Kernel for Bytes {
    const BYTES: usize = Cell::Bytes.bytes();
    const GROUPS: usize = 1;
    const MIN: bool = false;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn sums<const ROWS: usize>(at: At, _group: usize) -> [[__m256i; 2]; ROWS] {
        // SAFETY: 8 units of weights and activations, by the duties of `sums`.
        unsafe { byte_sums::<ROWS>(at, 8) }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn factor(cell: *const u8, index: usize) -> [__m256; 2] {
        // SAFETY: the factors follow 8 units.
        unsafe { halves(cell.add(8 * UNIT + index * 2 * PANEL)) }
    }
}

/// [`Cell::Wide`].
struct Wide<const GROUPS: usize, const MIN: bool>;

impl<const GROUPS: usize, const MIN: bool> Kernel for Wide<GROUPS, MIN> {
    const BYTES: usize = Cell::Wide { groups: GROUPS, min: MIN }.bytes();
    const GROUPS: usize = GROUPS;
    const MIN: bool = MIN;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn sums<const ROWS: usize>(at: At, group: usize) -> [[__m256i; 2]; ROWS] {
        let units = 8 / GROUPS;
        // SAFETY: the group's units of weights and activations, by the duties of `sums`.
        unsafe {
            let (cell, quants) = (at.cell.add(group * units * UNIT), at.quants.add(group * units * ROWS * 4));
            byte_sums::<ROWS>(At { cell, quants, ..at }, units)
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn factor(cell: *const u8, index: usize) -> [__m256; 2] {
        // SAFETY: the factors follow 8 units.
        unsafe {
            let factors = cell.add(8 * UNIT + index * 4 * PANEL).cast::<f32>();
            [_mm256_loadu_ps(factors), _mm256_loadu_ps(factors.add(8))]
        }
    }
}

/// [`Cell::Nibbles`].
struct Nibbles<const MIN: bool>;

impl<const MIN: bool> Kernel for Nibbles<MIN> {
    const BYTES: usize = Cell::Nibbles { min: MIN }.bytes();
    const GROUPS: usize = 1;
    const MIN: bool = MIN;

    /// Eight products of at most 2 · 15 · 127 fit 16 bits, so there is one widening step a cell. The 8 that Q4_0 takes off each integer
    /// comes off as `8 * sum(a)`.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn sums<const ROWS: usize>(at: At, _group: usize) -> [[__m256i; 2]; ROWS] {
        let (low, one) = (_mm256_set1_epi8(15), _mm256_set1_epi16(1));
        let mut t = [[_mm256_setzero_si256(); 2]; ROWS];
        // SAFETY: 4 units of nibbles, 8 of activations and a sum a row, by the duties of `sums`.
        unsafe {
            for unit in 0..hidden(4) {
                let (lows, highs) = (at.quants.add(unit * ROWS * 4), at.quants.add((unit + 4) * ROWS * 4));
                let w = at.unit(unit);
                for h in 0..2 {
                    let (a, b) = (_mm256_and_si256(w[h], low), _mm256_and_si256(_mm256_srli_epi16(w[h], 4), low));
                    for (row, t) in t.iter_mut().enumerate() {
                        let (x, y) = (four(lows.add(row * 4)), four(highs.add(row * 4)));
                        let products = _mm256_add_epi16(_mm256_maddubs_epi16(a, x), _mm256_maddubs_epi16(b, y));
                        t[h] = _mm256_add_epi16(t[h], products);
                    }
                }
            }
            for (row, t) in t.iter_mut().enumerate() {
                for t in t {
                    *t = _mm256_madd_epi16(*t, one);
                    if !MIN {
                        *t = _mm256_sub_epi32(*t, _mm256_set1_epi32(8 * *at.sums.add(row)));
                    }
                }
            }
        }
        t
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn factor(cell: *const u8, index: usize) -> [__m256; 2] {
        // SAFETY: the factors follow 4 units.
        unsafe { halves(cell.add(4 * UNIT + index * 2 * PANEL)) }
    }
}

/// Opened [`Nibbles`]: 8 units of bytes.
struct Spread<C>(PhantomData<C>);

impl<C: Kernel> Kernel for Spread<C> {
    const BYTES: usize = C::BYTES + 4 * UNIT;
    const GROUPS: usize = C::GROUPS;
    const MIN: bool = C::MIN;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn sums<const ROWS: usize>(at: At, _group: usize) -> [[__m256i; 2]; ROWS] {
        let one = _mm256_set1_epi16(1);
        let mut t = [[_mm256_setzero_si256(); 2]; ROWS];
        // SAFETY: 8 units of weights and activations and a sum a row, by the duties of `sums`.
        unsafe {
            for unit in 0..hidden(8) {
                let w = at.unit(unit);
                for (row, t) in t.iter_mut().enumerate() {
                    let x = four(at.quants.add((unit * ROWS + row) * 4));
                    for h in 0..2 {
                        t[h] = _mm256_add_epi16(t[h], _mm256_maddubs_epi16(w[h], x));
                    }
                }
            }
            for (row, t) in t.iter_mut().enumerate() {
                for t in t {
                    *t = _mm256_madd_epi16(*t, one);
                    if !C::MIN {
                        *t = _mm256_sub_epi32(*t, _mm256_set1_epi32(8 * *at.sums.add(row)));
                    }
                }
            }
        }
        t
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn factor(cell: *const u8, index: usize) -> [__m256; 2] {
        // SAFETY: the factors lie behind twice as many units.
        unsafe { C::factor(cell.add(4 * UNIT), index) }
    }
}

/// Opened [`Bytes`] or [`Wide`]: 16 units of 2 values by 16 outputs in 16 bits. Without sign and magnitude, two of four instructions
/// are multiplications instead of two and one that shares their ports: 134 against 116 GOP/s.
struct Words<C>(PhantomData<C>);

impl<C: Kernel> Kernel for Words<C> {
    const BYTES: usize = C::BYTES + 8 * UNIT;
    const GROUPS: usize = C::GROUPS;
    const MIN: bool = C::MIN;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn sums<const ROWS: usize>(at: At, group: usize) -> [[__m256i; 2]; ROWS] {
        let units = 8 / C::GROUPS;
        let mut t = [[_mm256_setzero_si256(); 2]; ROWS];
        // SAFETY: the group's units of weights and activations, by the duties of `sums`.
        unsafe {
            for unit in group * units..group * units + hidden(units) {
                let (w, v) = (at.unit(unit * 2), at.unit(unit * 2 + 1));
                for (row, t) in t.iter_mut().enumerate() {
                    let words = at.words.add((unit * ROWS + row) * 4).cast::<i8>();
                    let (x, y) = (four(words), four(words.add(4)));
                    for h in 0..2 {
                        t[h] = _mm256_add_epi32(t[h], _mm256_madd_epi16(w[h], x));
                    }
                    for h in 0..2 {
                        t[h] = _mm256_add_epi32(t[h], _mm256_madd_epi16(v[h], y));
                    }
                }
            }
        }
        t
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn factor(cell: *const u8, index: usize) -> [__m256; 2] {
        // SAFETY: the factors lie behind twice as many units.
        unsafe { C::factor(cell.add(8 * UNIT), index) }
    }
}

/// Opens cells into the front of `opened`: integers twice as wide, then the factors as they are.
///
/// # Safety
/// AVX2 is present.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn open<'a>(cell: Cell, cells: &[u8], opened: &'a mut [u8]) -> &'a [u8] {
    let (bytes, quants) = (cell.bytes(), cell.quant_bytes());
    let opened = &mut opened[..cells.len() / bytes * (bytes + quants)];
    for (from, to) in cells.chunks_exact(bytes).zip(opened.chunks_exact_mut(bytes + quants)) {
        let ((units, factors), (wide, tail)) = (from.split_at(quants), to.split_at_mut(2 * quants));
        tail.copy_from_slice(factors);
        match cell {
            Cell::Nibbles { .. } => {
                let (lows, highs) = wide.split_at_mut(quants);
                for ((v, low), high) in units.iter().zip(lows).zip(highs) {
                    (*low, *high) = (v & 15, v >> 4);
                }
            }
            _ => {
                for (unit, pairs) in units.as_chunks::<UNIT>().0.iter().zip(wide.chunks_exact_mut(2 * UNIT)) {
                    // SAFETY: a unit of 64 bytes becomes two.
                    unsafe { open_unit(unit, pairs.as_mut_ptr()) };
                }
            }
        }
    }
    opened
}

/// Four bytes of each output as two pairs in 16 bits.
///
/// # Safety
/// `pairs` has room for 128 bytes; AVX2 is present.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn open_unit(unit: &[u8; UNIT], pairs: *mut u8) {
    // Each byte goes to the upper half of its 16 bits and is shifted down with its sign.
    let first = _mm256_broadcastsi128_si256(_mm_setr_epi8(-1, 0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13));
    let second = _mm256_add_epi8(first, _mm256_set1_epi16(0x0200));
    for h in 0..2 {
        // SAFETY: the halves of the unit and of both pairs.
        unsafe {
            let v = _mm256_loadu_si256(unit.as_ptr().add(h * 32).cast());
            for (pair, bytes) in [first, second].into_iter().enumerate() {
                let words = _mm256_srai_epi16(_mm256_shuffle_epi8(v, bytes), 8);
                _mm256_storeu_si256(pairs.add(pair * UNIT + h * 32).cast(), words);
            }
        }
    }
}

/// Sums of `units` units of bytes: `|w|` unsigned times `a` with the sign of `w`. Two products of at most 128 · 127 fit 16 bits.
///
/// # Safety
/// `at` points at `units` units of weights and of `ROWS` rows' integers; AVX2 is present.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn byte_sums<const ROWS: usize>(at: At, units: usize) -> [[__m256i; 2]; ROWS] {
    let one = _mm256_set1_epi16(1);
    let mut t = [[_mm256_setzero_si256(); 2]; ROWS];
    // SAFETY: by the caller's duties.
    unsafe {
        for unit in 0..hidden(units) {
            let w = at.unit(unit);
            let magnitude = [_mm256_abs_epi8(w[0]), _mm256_abs_epi8(w[1])];
            for (row, t) in t.iter_mut().enumerate() {
                let x = four(at.quants.add((unit * ROWS + row) * 4));
                for h in 0..2 {
                    let products = _mm256_maddubs_epi16(magnitude[h], _mm256_sign_epi8(x, w[h]));
                    t[h] = _mm256_add_epi32(t[h], _mm256_madd_epi16(products, one));
                }
            }
        }
    }
    t
}

/// A trip count that the compiler cannot see: unrolled, it regroups the sums by accumulator and spills every weight (150 against
/// 207 GOP/s).
#[inline(always)]
fn hidden(count: usize) -> usize {
    black_box(count)
}

impl At {
    /// A unit of weights; asks for the one that lies `ahead`.
    ///
    /// # Safety
    /// The cell has this unit; AVX2 is present.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn unit(self, unit: usize) -> [__m256i; 2] {
        // SAFETY: by the caller's duties; a prefetch may name any address.
        unsafe {
            let unit = self.cell.add(unit * UNIT);
            _mm_prefetch(unit.wrapping_add(self.ahead).cast(), _MM_HINT_T0);
            [_mm256_loadu_si256(unit.cast()), _mm256_loadu_si256(unit.add(32).cast())]
        }
    }
}

/// Four integers of a row for every output.
///
/// # Safety
/// `at` points at 4 bytes.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn four(at: *const i8) -> __m256i {
    // SAFETY: by the caller's duties.
    _mm256_set1_epi32(unsafe { at.cast::<i32>().read_unaligned() })
}

/// # Safety
/// `at` points at 16 f16.
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn halves(at: *const u8) -> [__m256; 2] {
    // SAFETY: by the caller's duties.
    unsafe { [_mm256_cvtph_ps(_mm_loadu_si128(at.cast())), _mm256_cvtph_ps(_mm_loadu_si128(at.add(16).cast()))] }
}
