//! AVX2: a unit is two vectors of 8 outputs each.

use super::forms::Form;
use super::{Cell, Integers, Stored, UNIT};
use std::arch::x86_64::*;

/// Half `h` of the two units of a pair: signed bytes where [`Cell::is_signed`] says so, else the unsigned integers
/// that are stored.
///
/// # Safety
/// `lines` points at the integers of a cell; AVX2 is present.
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::kernels::linear) unsafe fn pair<F: Form>(lines: *const u8, pair: usize, h: usize) -> [__m256i; 2] {
    let cell = const { F::CELL };
    // SAFETY: by the caller's duties: a cell has as many lines as bits.
    let line = |line: usize| unsafe { _mm256_loadu_si256(lines.add(line * UNIT + h * 32).cast()) };
    if cell.low == 8 {
        let first = cell.first_of(pair);
        return [line(first), line(first + 4 / cell.groups)];
    }
    let (pairs, mask) = (Cell::pairs_a_line(cell.low), _mm256_set1_epi8((1 << cell.low) - 1));
    let mut bits = line(pair / pairs);
    if pairs > 1 {
        bits = right(bits, pair % pairs * cell.low);
    }
    let mut units = [_mm256_and_si256(bits, mask), _mm256_and_si256(_mm256_srli_epi16(bits, 4), mask)];
    if cell.high > 0 {
        let (pairs, mask) = (Cell::pairs_a_line(cell.high), _mm256_set1_epi8(((1 << cell.high) - 1) << cell.low));
        let bits = right(line(cell.low + pair / pairs), pair % pairs * cell.high);
        let placed = match cell.low {
            4 => [_mm256_slli_epi16(bits, 4), bits],
            _ => [_mm256_slli_epi16(bits, 2), _mm256_srli_epi16(bits, 2)],
        };
        for (unit, placed) in units.iter_mut().zip(placed) {
            *unit = _mm256_or_si256(*unit, _mm256_and_si256(placed, mask));
        }
    }
    if let Integers::Codes(values) = cell.integers {
        // SAFETY: 16 bytes.
        let values = unsafe { _mm256_broadcastsi128_si256(_mm_loadu_si128(values.as_ptr().cast())) };
        units = units.map(|codes| _mm256_shuffle_epi8(values, codes));
    }
    units
}

/// A factor of outputs `8 * h..8 * h + 8`.
///
/// # Safety
/// `factors` points at the factors of a block that has this group; AVX2 and F16C are present.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(in crate::kernels::linear) unsafe fn factor<F: Form>(
    factors: *const u8,
    group: usize,
    h: usize,
    min: bool,
) -> __m256 {
    let (half, small) = F::CELL.factors_at(group, min);
    let start = const { F::CELL.block * F::CELL.quant_bytes() };
    match const { F::CELL.factors } {
        // SAFETY: 8 of 16 bf16 among the block's factors.
        Stored::Power => unsafe {
            let upper = _mm256_cvtepu16_epi32(_mm_loadu_si128(factors.add(half - start + h * 16).cast()));
            return _mm256_castsi256_ps(_mm256_slli_epi32(upper, 16));
        },
        // SAFETY: 8 of 16 f32, and 8 of 16 integers in 16 bits, among the block's factors.
        Stored::Single => unsafe {
            let scale = _mm256_loadu_ps(factors.add(half - start + h * 32).cast());
            let Some(small) = small else { return scale };
            let multiples = _mm_loadu_si128(factors.add(small - start + h * 16).cast());
            return _mm256_mul_ps(scale, _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(multiples)));
        },
        Stored::Half => {}
    }
    // SAFETY: 8 of 16 f16 among the block's factors.
    let half = unsafe { _mm256_cvtph_ps(_mm_loadu_si128(factors.add(half - start + h * 16).cast())) };
    let Some(small) = small else { return half };
    // SAFETY: 8 of 16 bytes among the block's factors.
    let multiples = unsafe { _mm_loadl_epi64(factors.add(small - start + h * 8).cast()) };
    _mm256_mul_ps(half, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(multiples)))
}

#[inline]
#[target_feature(enable = "avx2")]
fn right(bits: __m256i, by: usize) -> __m256i {
    _mm256_srl_epi16(bits, _mm_cvtsi32_si128(by as i32))
}
