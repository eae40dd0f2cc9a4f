//! AVX2: a block is four vectors.

use super::{MOST, QuantisedMut, scale_of};
use crate::kernels::linear::cell::CELL;
use std::arch::x86_64::*;

/// # Safety
/// AVX2 is present, and the lengths were checked by `quantise`.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn quantise(x: &[f32], row: usize, tile: &mut QuantisedMut<'_>) {
    let rows = tile.rows;
    let magnitude = _mm256_set1_epi32(i32::MAX);
    for (block, x) in x.as_chunks::<CELL>().0.iter().enumerate() {
        let mut values = [_mm256_setzero_ps(); 4];
        let mut largest = _mm256_setzero_si256();
        for (value, x) in values.iter_mut().zip(x.as_chunks::<8>().0) {
            // SAFETY: eight values.
            *value = unsafe { _mm256_loadu_ps(x.as_ptr()) };
            largest = _mm256_max_epu32(largest, _mm256_and_si256(_mm256_castps_si256(*value), magnitude));
        }
        let (scale, factor) = scale_of(largest_lane(largest), MOST);
        // A NaN times zero is no integer: such a block has zeros.
        let values = if scale.is_nan() { [_mm256_setzero_ps(); 4] } else { values };
        let factor = _mm256_set1_ps(factor);
        let q = values.map(|x| _mm256_cvtps_epi32(_mm256_mul_ps(x, factor)));
        // Packing works within halves of a vector: 0-3 8-11 | 4-7 12-15, put in order at the end.
        let (low, high) = (_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
        let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
        let bytes = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), order);
        let mut units = [0i8; CELL];
        // SAFETY: 32 bytes.
        unsafe { _mm256_storeu_si256(units.as_mut_ptr().cast(), bytes) };
        if rows == 1 {
            tile.quants[block * CELL..][..CELL].copy_from_slice(&units);
        } else {
            let quants = tile.quants[block * rows * CELL..][..rows * CELL].as_chunks_mut::<4>().0;
            for (out, unit) in quants[row..].iter_mut().step_by(rows).zip(units.as_chunks::<4>().0) {
                *out = *unit;
            }
        }
        tile.note(block, row, scale, [sum_lanes(low), sum_lanes(high)]);
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn largest_lane(v: __m256i) -> u32 {
    let v = _mm_max_epu32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    let v = _mm_max_epu32(v, _mm_shuffle_epi32(v, 0b01_00_11_10));
    _mm_cvtsi128_si32(_mm_max_epu32(v, _mm_shuffle_epi32(v, 1))).cast_unsigned()
}

/// The sum of 16 small integers.
#[inline]
#[target_feature(enable = "avx2")]
fn sum_lanes(v: __m256i) -> i32 {
    let v = _mm256_madd_epi16(v, _mm256_set1_epi16(1));
    let v = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    let v = _mm_add_epi32(v, _mm_shuffle_epi32(v, 0b01_00_11_10));
    _mm_cvtsi128_si32(_mm_add_epi32(v, _mm_shuffle_epi32(v, 1)))
}
