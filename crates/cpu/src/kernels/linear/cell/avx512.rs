//! AVX-512: a unit is one vector.

use super::forms::Form;
use super::{Cell, Integers, Stored, UNIT};
use std::arch::x86_64::*;

/// What is added to every integer of a form to make it unsigned: a power of two, or 0.
pub(in crate::kernels::linear) const fn offset<F: Form>() -> u32 {
    match F::CELL.integers {
        Integers::Less(zero) => zero as u32,
        Integers::Signed | Integers::Codes(_) => 128,
    }
}

/// The two units of a pair as unsigned integers, [`offset`] too large.
///
/// # Safety
/// `lines` points at the integers of a cell; AVX-512 is present.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(in crate::kernels::linear) unsafe fn pair<F: Form>(lines: *const u8, pair: usize) -> [__m512i; 2] {
    let cell = const { F::CELL };
    // SAFETY: by the caller's duties: a cell has as many lines as bits.
    let line = |line: usize| unsafe { _mm512_loadu_si512(lines.add(line * UNIT).cast()) };
    if cell.low == 8 {
        let (first, sign) = (cell.first_of(pair), _mm512_set1_epi8(i8::MIN));
        return [line(first), line(first + 4 / cell.groups)].map(|unit| _mm512_xor_si512(unit, sign));
    }
    let (pairs, mask) = (Cell::pairs_a_line(cell.low), _mm512_set1_epi8((1 << cell.low) - 1));
    let bits = right(line(pair / pairs), pair % pairs * cell.low);
    let mut units = [_mm512_and_si512(bits, mask), _mm512_and_si512(right(bits, 4), mask)];
    if cell.high > 0 {
        let (pairs, mask) = (Cell::pairs_a_line(cell.high), _mm512_set1_epi8(((1 << cell.high) - 1) << cell.low));
        let (bits, at) = (line(cell.low + pair / pairs), pair % pairs * cell.high);
        for (unit, at) in units.iter_mut().zip([at, at + 4]) {
            let placed = if at < cell.low { left(bits, cell.low - at) } else { right(bits, at - cell.low) };
            *unit = _mm512_or_si512(*unit, _mm512_and_si512(placed, mask));
        }
    }
    if let Integers::Codes(values) = cell.integers {
        let values = _mm512_broadcast_i32x4(turned(values, i8::MIN));
        units = units.map(|codes| _mm512_shuffle_epi8(values, codes));
    }
    units
}

/// A factor of 16 outputs: `half`, or a multiple of it.
///
/// # Safety
/// `block` points at a block that has this group; AVX-512 is present.
#[inline]
#[target_feature(enable = "avx512f")]
pub(in crate::kernels::linear) unsafe fn factor<F: Form>(
    block: *const u8,
    half: __m512,
    group: usize,
    min: bool,
) -> __m512 {
    let Some(small) = F::CELL.factors_at(group, min).1 else { return half };
    if let Stored::Single = const { F::CELL.factors } {
        // SAFETY: 16 integers of 16 bits of the block's factors.
        let multiples = unsafe { _mm512_cvtepi16_epi32(_mm256_loadu_si256(block.add(small).cast())) };
        return _mm512_mul_ps(half, _mm512_cvtepi32_ps(multiples));
    }
    // SAFETY: 16 bytes of the block's factors.
    let multiples = unsafe { _mm512_cvtepi8_epi32(_mm_loadu_si128(block.add(small).cast())) };
    _mm512_mul_ps(half, _mm512_cvtepi32_ps(multiples))
}

/// The floats among the factors of a block.
///
/// # Safety
/// `block` points at a block that has them; AVX-512 is present.
#[inline]
#[target_feature(enable = "avx512f")]
pub(in crate::kernels::linear) unsafe fn half<F: Form>(block: *const u8, min: bool) -> __m512 {
    let at = F::CELL.factors_at(0, min).0;
    // SAFETY: 32 bytes of the block's factors, 64 of f32.
    unsafe {
        match const { F::CELL.factors } {
            Stored::Half => _mm512_cvtph_ps(_mm256_loadu_si256(block.add(at).cast())),
            Stored::Single => _mm512_loadu_ps(block.add(at).cast()),
            Stored::Power => {
                let upper = _mm512_cvtepu16_epi32(_mm256_loadu_si256(block.add(at).cast()));
                _mm512_castsi512_ps(_mm512_slli_epi32(upper, 16))
            }
        }
    }
}

/// A table, each value with some bits turned over.
#[inline(always)]
fn turned(values: &[i8; 16], bits: i8) -> __m128i {
    // SAFETY: 16 bytes.
    unsafe { _mm_loadu_si128(values.map(|value| value ^ bits).as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn right(bits: __m512i, by: usize) -> __m512i {
    _mm512_srl_epi16(bits, _mm_cvtsi32_si128(by as i32))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn left(bits: __m512i, by: usize) -> __m512i {
    _mm512_sll_epi16(bits, _mm_cvtsi32_si128(by as i32))
}
