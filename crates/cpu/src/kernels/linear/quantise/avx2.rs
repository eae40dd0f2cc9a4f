//! AVX2: a block is four vectors, and what one number is of, like a scale, is computed for eight blocks at once.

use super::{MOST, QuantisedMut};
use crate::kernels::linear::cell::CELL;
use crate::kernels::linear::int8::Sums;
use std::arch::x86_64::*;

/// Blocks whose numbers fill a vector.
const TOGETHER: usize = 8;

/// The lanes of each of eight vectors joined to one, in the order of the vectors: first those that are two apart, then neighbours, then the
/// halves. What a closure is would not have these instructions.
macro_rules! across {
    ($v:expr, $two_apart:ident, $neighbours:ident, $halves:ident) => {{
        let v = $v;
        let mut pairs = [v[0]; 4];
        for (i, pair) in pairs.iter_mut().enumerate() {
            let (a, b) = (v[2 * i], v[2 * i + 1]);
            *pair = $two_apart(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
        }
        let mut fours = [v[0]; 2];
        for (i, four) in fours.iter_mut().enumerate() {
            let (a, b) = (pairs[2 * i], pairs[2 * i + 1]);
            *four = $neighbours(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
        }
        let [a, b] = fours;
        $halves(_mm256_permute2x128_si256::<0x20>(a, b), _mm256_permute2x128_si256::<0x31>(a, b))
    }};
}

/// # Safety
/// AVX2 is present, and the lengths were checked by `quantise`.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn quantise(x: &[f32], row: usize, tile: &mut QuantisedMut<'_>) {
    for (part, x) in x.as_chunks::<CELL>().0.chunks(TOGETHER).enumerate() {
        let mut largest = [_mm256_setzero_si256(); TOGETHER];
        for (largest, x) in largest.iter_mut().zip(x) {
            for x in vectors(x) {
                let magnitude = _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(i32::MAX));
                *largest = _mm256_max_epu32(*largest, magnitude);
            }
        }
        let (scales, factors) = scales_of(across!(largest, _mm256_max_epu32, _mm256_max_epu32, _mm256_max_epu32));
        let mut halves = [[_mm256_setzero_si256(); TOGETHER]; 2];
        for (i, x) in x.iter().enumerate() {
            // A NaN times zero is no integer: such a block has zeros.
            let values = if scales[i].is_nan() { [_mm256_setzero_ps(); 4] } else { vectors(x) };
            let factor = _mm256_set1_ps(factors[i]);
            let mut q = [_mm256_setzero_si256(); 4];
            for (q, x) in q.iter_mut().zip(values) {
                *q = _mm256_cvtps_epi32(_mm256_mul_ps(x, factor));
            }
            // Packing works within halves of a vector: 0-3 8-11 | 4-7 12-15, put in order at the end.
            let (low, high) = (_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
            let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
            tile.write(part * TOGETHER + i, row, _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), order));
            if tile.sums > Sums::None {
                halves[0][i] = _mm256_madd_epi16(low, _mm256_set1_epi16(1));
                halves[1][i] = _mm256_madd_epi16(high, _mm256_set1_epi16(1));
            }
        }
        if tile.sums == Sums::None {
            for (i, &scale) in scales.iter().enumerate().take(x.len()) {
                tile.note(part * TOGETHER + i, row, scale, [0; 2]);
            }
            continue;
        }
        let (zero, one) = (_mm256_setzero_si256(), _mm256_set1_epi16(1));
        let low = across!(halves[0], _mm256_add_epi32, beside, _mm256_add_epi16);
        let high = across!(halves[1], _mm256_add_epi32, beside, _mm256_add_epi16);
        let sums = [numbers(_mm256_madd_epi16(low, one)), numbers(_mm256_madd_epi16(high, one))];
        let minus_halves = [numbers(_mm256_sub_epi16(zero, low)), numbers(_mm256_sub_epi16(zero, high))];
        let minus = numbers(_mm256_sub_epi16(zero, _mm256_add_epi16(low, high)));
        for i in 0..x.len() {
            let (block, halves) = (part * TOGETHER + i, [minus_halves[0][i], minus_halves[1][i]]);
            tile.note_sums(block, row, scales[i], [sums[0][i], sums[1][i]], minus[i], halves);
        }
    }
}

/// Two sums that fit 16 bits in one lane: the second one above the first.
#[inline]
#[target_feature(enable = "avx2")]
fn beside(first: __m256i, second: __m256i) -> __m256i {
    _mm256_blend_epi16::<0b1010_1010>(first, _mm256_slli_epi32::<16>(second))
}

impl QuantisedMut<'_> {
    /// Writes the integers of a block.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn write(&mut self, block: usize, row: usize, bytes: __m256i) {
        let mut units = [0i8; CELL];
        // SAFETY: 32 bytes.
        unsafe { _mm256_storeu_si256(units.as_mut_ptr().cast(), bytes) };
        let rows = self.rows;
        if rows == 1 {
            self.quants[block * CELL..][..CELL].copy_from_slice(&units);
        } else {
            let quants = self.quants[block * rows * CELL..][..rows * CELL].as_chunks_mut::<4>().0;
            for (i, unit) in units.as_chunks::<4>().0.iter().enumerate() {
                quants[i * rows + row] = *unit;
            }
        }
    }
}

/// The values of a block.
#[inline]
#[target_feature(enable = "avx2")]
fn vectors(x: &[f32; CELL]) -> [__m256; 4] {
    let mut vectors = [_mm256_setzero_ps(); 4];
    for (vector, x) in vectors.iter_mut().zip(x.as_chunks::<8>().0) {
        // SAFETY: eight values.
        *vector = unsafe { _mm256_loadu_ps(x.as_ptr()) };
    }
    vectors
}

/// What [`scale_of`](super::scale_of) says for eight blocks.
#[inline]
#[target_feature(enable = "avx2")]
fn scales_of(largest: __m256i) -> ([f32; TOGETHER], [f32; TOGETHER]) {
    let (amax, infinity) = (_mm256_castsi256_ps(largest), _mm256_set1_ps(f32::INFINITY));
    let most = _mm256_set1_ps(MOST);
    let is_number = _mm256_cmp_ps::<_CMP_LT_OQ>(amax, infinity);
    let scales = _mm256_blendv_ps(_mm256_set1_ps(f32::NAN), _mm256_div_ps(amax, most), is_number);
    let factors = _mm256_div_ps(most, amax);
    let factors = _mm256_and_ps(factors, _mm256_cmp_ps::<_CMP_LT_OQ>(factors, infinity));
    let mut found = ([0.0; TOGETHER], [0.0; TOGETHER]);
    // SAFETY: eight values each.
    unsafe {
        _mm256_storeu_ps(found.0.as_mut_ptr(), scales);
        _mm256_storeu_ps(found.1.as_mut_ptr(), factors);
    }
    found
}

#[inline]
#[target_feature(enable = "avx2")]
fn numbers(v: __m256i) -> [i32; TOGETHER] {
    let mut numbers = [0; TOGETHER];
    // SAFETY: eight integers.
    unsafe { _mm256_storeu_si256(numbers.as_mut_ptr().cast(), v) };
    numbers
}
