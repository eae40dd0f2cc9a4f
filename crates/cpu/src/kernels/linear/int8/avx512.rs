//! AVX-512 with VNNI: a unit, 4 values of K by 16 outputs, is one vector, and `vpdpbusd` multiplies it with 4 integers of a row.
//!
//! The instruction takes unsigned weights and signed activations. Where weights are signed they are read with an offset, which comes off
//! as `offset * sum(a)`; so every integer sum is the exact one of the definition.

use super::Cells;
use crate::kernels::linear::PANEL;
use crate::kernels::linear::cell::{Cell, UNIT};
use crate::kernels::linear::quantise::Quantised;
use crate::kernels::linear::tile::Target;
use std::arch::x86_64::*;

/// # Safety
/// AVX-512 F, BW, DQ, VL and VNNI are present; the lengths were checked by `int8::multiply`, and its duties hold.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn multiply(cells: Cells<'_>, tile: Quantised<'_>, out: Target, first: bool) {
    // SAFETY: by the caller's duties.
    unsafe {
        match cells.cell {
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
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn by_rows<C: Kernel>(cells: Cells<'_>, tile: Quantised<'_>, out: Target, first: bool) {
    // SAFETY: by the caller's duties.
    unsafe {
        match tile.rows {
            1 => multiply_rows::<C, 1>(cells, tile, out, first),
            2 => multiply_rows::<C, 2>(cells, tile, out, first),
            3 => multiply_rows::<C, 3>(cells, tile, out, first),
            4 => multiply_rows::<C, 4>(cells, tile, out, first),
            5 => multiply_rows::<C, 5>(cells, tile, out, first),
            6 => multiply_rows::<C, 6>(cells, tile, out, first),
            7 => multiply_rows::<C, 7>(cells, tile, out, first),
            _ => multiply_rows::<C, 8>(cells, tile, out, first),
        }
    }
}

/// A form of cell: how its integers are read, and what scales them.
trait Kernel {
    /// The cell's size.
    const BYTES: usize;
    /// Groups a cell.
    const GROUPS: usize;
    /// Whether groups have a minimum.
    const MIN: bool;
    /// What is added to every integer to make it unsigned: a power of two, or 0.
    const OFFSET: u32;
    /// From the first unit of a pair to the second.
    const STEP: usize;

    /// Two units of a group, `first` and `first + STEP`, as unsigned integers.
    ///
    /// # Safety
    /// `cell` points at a cell that has these units; AVX-512 is present.
    unsafe fn pair(cell: *const u8, first: usize) -> [__m512i; 2];

    /// Factor `index` of 16 outputs: scales of all groups, then minima of all groups.
    ///
    /// # Safety
    /// `cell` points at a cell that has this factor; AVX-512 is present.
    unsafe fn factor(cell: *const u8, index: usize) -> __m512;
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn multiply_rows<C: Kernel, const ROWS: usize>(cells: Cells<'_>, tile: Quantised<'_>, out: Target, first: bool) {
    let mut acc = [_mm512_setzero_ps(); ROWS];
    // SAFETY: the rows of `out`, each used here alone; cells, integers, scales and sums are as many as `int8::multiply` checked; a
    // prefetch may name any address.
    unsafe {
        if !first {
            for (row, acc) in acc.iter_mut().enumerate() {
                *acc = _mm512_loadu_ps(out.row(row, 0).as_ptr());
            }
        }
        let (sums, weighted) =
            if C::GROUPS == 1 { (tile.sums, tile.weighted) } else { (tile.half_sums, tile.half_weighted) };
        let units = 8 / C::GROUPS;
        for block in 0..cells.bytes.len() / C::BYTES {
            let cell = cells.bytes.as_ptr().add(block * C::BYTES);
            for line in 0..C::BYTES.div_ceil(64) {
                _mm_prefetch(cell.wrapping_add(cells.ahead + line * 64).cast(), _MM_HINT_T0);
            }
            let scales = tile.scales.as_ptr().add(block * ROWS);
            for group in 0..C::GROUPS {
                let at = (block * C::GROUPS + group) * ROWS;
                let (sums, weighted) = (sums.as_ptr().add(at), weighted.as_ptr().add(at));
                let quants = tile.quants.as_ptr().add(block * 8 * ROWS * 4);
                let mut dots = [_mm512_setzero_si512(); ROWS];
                for i in 0..units / 2 {
                    let unit = group * units + if C::STEP == 1 { 2 * i } else { i };
                    let pair = C::pair(cell, unit);
                    for (w, unit) in pair.into_iter().zip([unit, unit + C::STEP]) {
                        for (row, dot) in dots.iter_mut().enumerate() {
                            *dot = _mm512_dpbusd_epi32(*dot, w, four(quants.add((unit * ROWS + row) * 4)));
                        }
                    }
                }
                let factor = C::factor(cell, group);
                for (row, (acc, dot)) in acc.iter_mut().zip(dots).enumerate() {
                    let mut dot = dot;
                    if C::OFFSET > 0 {
                        let offset = _mm512_sll_epi32(_mm512_set1_epi32(*sums.add(row)), shift(C::OFFSET));
                        dot = _mm512_sub_epi32(dot, offset);
                    }
                    let scale = _mm512_mul_ps(factor, _mm512_set1_ps(*scales.add(row)));
                    *acc = _mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(dot), *acc);
                }
                if C::MIN {
                    let min = C::factor(cell, C::GROUPS + group);
                    for (row, acc) in acc.iter_mut().enumerate() {
                        *acc = _mm512_fmadd_ps(min, _mm512_set1_ps(*weighted.add(row)), *acc);
                    }
                }
            }
        }
        for (row, acc) in acc.iter().enumerate() {
            _mm512_storeu_ps(out.row(row, 0).as_mut_ptr(), *acc);
        }
    }
}

/// [`Cell::Bytes`].
struct Bytes;

impl Kernel for Bytes {
    const BYTES: usize = Cell::Bytes.bytes();
    const GROUPS: usize = 1;
    const MIN: bool = false;
    const OFFSET: u32 = 128;
    const STEP: usize = 1;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn pair(cell: *const u8, first: usize) -> [__m512i; 2] {
        // SAFETY: by the duties of `pair`.
        unsafe { byte_pair(cell, first) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn factor(cell: *const u8, index: usize) -> __m512 {
        // SAFETY: the factors follow 8 units.
        unsafe { halves(cell.add(8 * UNIT + index * 2 * PANEL)) }
    }
}

/// [`Cell::Nibbles`].
struct Nibbles<const MIN: bool>;

impl<const MIN: bool> Kernel for Nibbles<MIN> {
    const BYTES: usize = Cell::Nibbles { min: MIN }.bytes();
    const GROUPS: usize = 1;
    const MIN: bool = MIN;
    const OFFSET: u32 = if MIN { 0 } else { 8 };
    const STEP: usize = 4;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn pair(cell: *const u8, first: usize) -> [__m512i; 2] {
        let low = _mm512_set1_epi8(15);
        // SAFETY: by the duties of `pair`.
        let w = unsafe { _mm512_loadu_si512(cell.add(first * UNIT).cast()) };
        [_mm512_and_si512(w, low), _mm512_and_si512(_mm512_srli_epi16(w, 4), low)]
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn factor(cell: *const u8, index: usize) -> __m512 {
        // SAFETY: the factors follow 4 units.
        unsafe { halves(cell.add(4 * UNIT + index * 2 * PANEL)) }
    }
}

/// [`Cell::Wide`].
struct Wide<const GROUPS: usize, const MIN: bool>;

impl<const GROUPS: usize, const MIN: bool> Kernel for Wide<GROUPS, MIN> {
    const BYTES: usize = Cell::Wide { groups: GROUPS, min: MIN }.bytes();
    const GROUPS: usize = GROUPS;
    const MIN: bool = MIN;
    const OFFSET: u32 = 128;
    const STEP: usize = 1;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn pair(cell: *const u8, first: usize) -> [__m512i; 2] {
        // SAFETY: by the duties of `pair`.
        unsafe { byte_pair(cell, first) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn factor(cell: *const u8, index: usize) -> __m512 {
        // SAFETY: the factors follow 8 units.
        unsafe { _mm512_loadu_ps(cell.add(8 * UNIT + index * 4 * PANEL).cast()) }
    }
}

/// Two neighbouring units of signed bytes, made unsigned by an offset of 128.
///
/// # Safety
/// `cell` has these units; AVX-512 is present.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn byte_pair(cell: *const u8, first: usize) -> [__m512i; 2] {
    let sign = _mm512_set1_epi8(i8::MIN);
    // SAFETY: by the caller's duties.
    unsafe {
        let unit = cell.add(first * UNIT);
        let (a, b) = (_mm512_loadu_si512(unit.cast()), _mm512_loadu_si512(unit.add(UNIT).cast()));
        [_mm512_xor_si512(a, sign), _mm512_xor_si512(b, sign)]
    }
}

/// How far to shift for a product with `power`, a power of two.
#[inline(always)]
fn shift(power: u32) -> __m128i {
    // SAFETY: SSE2 is part of x86-64.
    unsafe { _mm_cvtsi32_si128(power.trailing_zeros().cast_signed()) }
}

/// Four integers of a row for every output.
///
/// # Safety
/// `at` points at 4 bytes; AVX-512 is present.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn four(at: *const i8) -> __m512i {
    // SAFETY: by the caller's duties.
    _mm512_set1_epi32(unsafe { at.cast::<i32>().read_unaligned() })
}

/// # Safety
/// `at` points at 16 f16; AVX-512 is present.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn halves(at: *const u8) -> __m512 {
    // SAFETY: by the caller's duties.
    unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(at.cast())) }
}
