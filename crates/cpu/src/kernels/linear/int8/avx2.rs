//! AVX2: two vectors of 8 outputs, a unit of 4 values of K at a time.

use super::super::PANEL;
use crate::kernels::linear::cell::{Cell, UNIT};
use crate::kernels::linear::quantise::Quantised;
use crate::kernels::linear::tile::Target;
use std::arch::x86_64::*;
use std::hint::black_box;

/// How far ahead kernels of few rows ask for weights, in bytes: +10 % for bytes, +10 to +20 % for nibbles, with two threads.
const AHEAD: usize = 1024;

/// # Safety
/// AVX2, FMA and F16C are present; the lengths were checked by `int8::multiply`, and its duties hold.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn multiply(cell: Cell, cells: &[u8], tile: Quantised<'_>, out: Target, first: bool) {
    // SAFETY: by the caller's duties.
    unsafe {
        match cell {
            Cell::Bytes => by_rows::<Bytes>(cells, tile, out, first),
            Cell::Nibbles { min: false } => by_rows::<Nibbles<false>>(cells, tile, out, first),
            Cell::Nibbles { min: true } => by_rows::<Nibbles<true>>(cells, tile, out, first),
            Cell::Wide { groups: 1, min: false } => by_rows::<Wide<1, false>>(cells, tile, out, first),
            Cell::Wide { groups: 1, min: true } => by_rows::<Wide<1, true>>(cells, tile, out, first),
            Cell::Wide { groups: _, min: false } => by_rows::<Wide<2, false>>(cells, tile, out, first),
            Cell::Wide { groups: _, min: true } => by_rows::<Wide<2, true>>(cells, tile, out, first),
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn by_rows<C: Kernel>(cells: &[u8], tile: Quantised<'_>, out: Target, first: bool) {
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
    /// `cell` points at a cell, `quants` at its rows' integers, `sums` at the sums of this group; AVX2 is present.
    unsafe fn sums<const ROWS: usize>(
        cell: *const u8,
        group: usize,
        quants: *const i8,
        sums: *const i32,
    ) -> [[__m256i; 2]; ROWS];

    /// Factor `index` of 16 outputs: scales of all groups, then minima of all groups.
    ///
    /// # Safety
    /// `cell` points at a cell that has this factor; AVX2 and F16C are present.
    unsafe fn factor(cell: *const u8, index: usize) -> [__m256; 2];
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn multiply_rows<C: Kernel, const ROWS: usize>(cells: &[u8], tile: Quantised<'_>, out: Target, first: bool) {
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
        for block in 0..cells.len() / C::BYTES {
            let cell = cells.as_ptr().add(block * C::BYTES);
            let quants = tile.quants.as_ptr().add(block * ROWS * 32);
            let scales = tile.scales.as_ptr().add(block * ROWS);
            for group in 0..C::GROUPS {
                let group_sums = group_sums.as_ptr().add((block * C::GROUPS + group) * ROWS);
                let sums = C::sums::<ROWS>(cell, group, quants, group_sums);
                let factor = C::factor(cell, group);
                for row in 0..ROWS {
                    let scale = _mm256_broadcast_ss(&*scales.add(row));
                    for h in 0..2 {
                        let sums = _mm256_cvtepi32_ps(sums[row][h]);
                        acc[row][h] = _mm256_fmadd_ps(_mm256_mul_ps(factor[h], scale), sums, acc[row][h]);
                    }
                }
                if C::MIN {
                    let min = C::factor(cell, C::GROUPS + group);
                    for row in 0..ROWS {
                        let scale = _mm256_broadcast_ss(&*scales.add(row));
                        let sum = _mm256_cvtepi32_ps(_mm256_set1_epi32(*group_sums.add(row)));
                        for h in 0..2 {
                            acc[row][h] = _mm256_fmadd_ps(_mm256_mul_ps(min[h], scale), sum, acc[row][h]);
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
    unsafe fn sums<const ROWS: usize>(
        cell: *const u8,
        _group: usize,
        quants: *const i8,
        _sums: *const i32,
    ) -> [[__m256i; 2]; ROWS] {
        // SAFETY: 8 units of weights and activations, by the duties of `sums`.
        unsafe { byte_sums::<ROWS>(cell, quants, 8) }
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
    unsafe fn sums<const ROWS: usize>(
        cell: *const u8,
        group: usize,
        quants: *const i8,
        _sums: *const i32,
    ) -> [[__m256i; 2]; ROWS] {
        let units = 8 / GROUPS;
        // SAFETY: the group's units of weights and activations, by the duties of `sums`.
        unsafe { byte_sums::<ROWS>(cell.add(group * units * UNIT), quants.add(group * units * ROWS * 4), units) }
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
    unsafe fn sums<const ROWS: usize>(
        cell: *const u8,
        _group: usize,
        quants: *const i8,
        sums: *const i32,
    ) -> [[__m256i; 2]; ROWS] {
        let (low, one) = (_mm256_set1_epi8(15), _mm256_set1_epi16(1));
        let mut t = [[_mm256_setzero_si256(); 2]; ROWS];
        // SAFETY: 4 units of nibbles, 8 of activations and a sum a row, by the duties of `sums`.
        unsafe {
            for unit in 0..hidden(4) {
                let (lows, highs) = (quants.add(unit * ROWS * 4), quants.add((unit + 4) * ROWS * 4));
                ahead::<ROWS>(cell.wrapping_add(unit * UNIT));
                let w = unit_of(cell.add(unit * UNIT));
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
                        *t = _mm256_sub_epi32(*t, _mm256_set1_epi32(8 * *sums.add(row)));
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

/// Sums of `units` units of bytes: `|w|` unsigned times `a` with the sign of `w`. Two products of at most 128 · 127 fit 16 bits.
///
/// # Safety
/// There are `units` units of weights, and as many of `ROWS` rows' integers; AVX2 is present.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn byte_sums<const ROWS: usize>(weights: *const u8, quants: *const i8, units: usize) -> [[__m256i; 2]; ROWS] {
    let one = _mm256_set1_epi16(1);
    let mut t = [[_mm256_setzero_si256(); 2]; ROWS];
    // SAFETY: by the caller's duties.
    unsafe {
        for unit in 0..hidden(units) {
            ahead::<ROWS>(weights.wrapping_add(unit * UNIT));
            let w = unit_of(weights.add(unit * UNIT));
            let magnitude = [_mm256_abs_epi8(w[0]), _mm256_abs_epi8(w[1])];
            for (row, t) in t.iter_mut().enumerate() {
                let x = four(quants.add((unit * ROWS + row) * 4));
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

#[inline]
#[target_feature(enable = "avx2")]
fn ahead<const ROWS: usize>(weights: *const u8) {
    if ROWS <= 2 {
        _mm_prefetch(weights.wrapping_add(AHEAD).cast(), _MM_HINT_T0);
    }
}

/// # Safety
/// `at` points at 64 bytes.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn unit_of(at: *const u8) -> [__m256i; 2] {
    // SAFETY: by the caller's duties.
    unsafe { [_mm256_loadu_si256(at.cast()), _mm256_loadu_si256(at.add(32).cast())] }
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
