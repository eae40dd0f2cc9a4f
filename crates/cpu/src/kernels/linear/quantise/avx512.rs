//! AVX-512: eight blocks at a time, each with a lane of scales and sums: the same block of eight rows, or neighbours of a single row.

use super::{MOST, QuantisedMut, Sums, WordsMut};
use crate::kernels::linear::cell::CELL;
use crate::kernels::linear::int16;
use std::arch::x86_64::*;

/// Blocks at a time.
const LANES: usize = 8;

/// Quantises all rows of a tile, `stride` values apart in `x`.
///
/// # Safety
/// AVX-512 F, BW, DQ, VL and VNNI are present, the lengths were checked by `quantise`, and the tile has no more rows than [`LANES`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn quantise(x: &[f32], stride: usize, tile: &mut QuantisedMut<'_>) {
    let (rows, blocks) = (tile.rows, tile.quants.len() / tile.rows / CELL);
    let x = x.as_ptr();
    // SAFETY: blocks lie in `x`, and everything is stored within the tile, as the lengths say.
    unsafe {
        if rows == 1 {
            for first in (0..blocks).step_by(LANES) {
                let count = LANES.min(blocks - first);
                let eight = Eight::new(count, |lane| x.add((first + lane) * CELL));
                for (lane, bytes) in eight.bytes.into_iter().take(count).enumerate() {
                    _mm256_storeu_si256(tile.quants.as_mut_ptr().add((first + lane) * CELL).cast(), bytes);
                }
                eight.note(tile, first, count);
                eight.note_halves_side_by_side(tile, first * 2, count);
            }
        } else {
            for block in 0..blocks {
                let eight = Eight::new(rows, |lane| x.add(lane * stride + block * CELL));
                for (unit, rows_of_unit) in eight.units().into_iter().enumerate() {
                    let at = tile.quants.as_mut_ptr().add((block * 8 + unit) * rows * 4);
                    _mm256_mask_storeu_epi32(at.cast(), first_lanes(rows), rows_of_unit);
                }
                eight.note(tile, block * rows, rows);
                eight.note_halves(tile, [0, 1].map(|half| (block * 2 + half) * rows), rows);
            }
        }
    }
}

/// Quantises all rows of a tile, `stride` values apart in `x`, for AMX: rows side by side, and no sums but those that minima meet.
///
/// # Safety
/// AVX-512 F, BW, DQ, VL and VNNI are present, and the lengths were checked by `quantise`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn quantise_for_tiles(x: &[f32], stride: usize, tile: &mut QuantisedMut<'_>) {
    let (rows, blocks) = (tile.rows, tile.quants.len() / tile.rows / CELL);
    let x = x.as_ptr();
    // SAFETY: blocks lie in `x`, and everything is stored within the tile, as the lengths say.
    unsafe {
        for block in 0..blocks {
            for row in (0..rows).step_by(LANES) {
                let (count, at) = (LANES.min(rows - row), block * rows + row);
                let scaled = Scaled::new(count, MOST, |lane| x.add((row + lane) * stride + block * CELL));
                let mut bytes = [_mm256_setzero_si256(); LANES];
                for (lane, bytes) in bytes.iter_mut().enumerate().take(count) {
                    *bytes = scaled.bytes(lane);
                    _mm256_storeu_si256(tile.quants.as_mut_ptr().add((at + lane) * CELL).cast(), *bytes);
                }
                _mm256_mask_storeu_ps(tile.scales.as_mut_ptr().add(at), first_lanes(count), scaled.scales);
                if tile.sums == Sums::None {
                    continue;
                }
                let eight = Eight::of(bytes, scaled.scales);
                eight.note(tile, at, count);
                eight.note_halves(tile, [0, 1].map(|half| (block * 2 + half) * rows + row), count);
            }
        }
    }
}

/// Quantises all rows of a tile to integers of 16 bits, `stride` values apart in `x`.
///
/// # Safety
/// AVX-512 F, BW, DQ, VL and VNNI are present, and the lengths were checked by `quantise_words`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn quantise_words(x: &[f32], stride: usize, tile: &mut WordsMut<'_>) {
    let (rows, blocks) = (tile.rows, tile.words.len() / tile.rows / CELL);
    let (x, words, scales) = (x.as_ptr(), tile.words.as_mut_ptr(), tile.scales.as_mut_ptr());
    // SAFETY: blocks lie in `x`, and everything is stored within the tile, as the lengths say.
    unsafe {
        if rows == 1 {
            for first in (0..blocks).step_by(LANES) {
                let count = LANES.min(blocks - first);
                let eight = Scaled::new(count, int16::MOST, |lane| x.add((first + lane) * CELL));
                for lane in 0..count {
                    for (half, words_of_half) in eight.words(lane).into_iter().enumerate() {
                        _mm256_storeu_si256(words.add((first + lane) * CELL + half * 16).cast(), words_of_half);
                    }
                }
                _mm256_mask_storeu_ps(scales.add(first), first_lanes(count), eight.scales);
            }
            return;
        }
        for block in 0..blocks {
            for row in (0..rows).step_by(LANES) {
                let count = LANES.min(rows - row);
                let eight = Scaled::new(count, int16::MOST, |lane| x.add((row + lane) * stride + block * CELL));
                let [mut first, mut second] = [[_mm256_setzero_si256(); LANES]; 2];
                for (lane, (first, second)) in first.iter_mut().zip(&mut second).enumerate() {
                    [*first, *second] = eight.words(lane);
                }
                for (half, lanes) in [first, second].into_iter().enumerate() {
                    for (pair, of_rows) in transpose(lanes).into_iter().enumerate() {
                        let at = words.add(((block * 16 + half * 8 + pair) * rows + row) * 2);
                        _mm256_mask_storeu_epi32(at.cast(), first_lanes(count), of_rows);
                    }
                }
                _mm256_mask_storeu_ps(scales.add(block * rows + row), first_lanes(count), eight.scales);
            }
        }
    }
}

/// Eight blocks, and what makes integers of them.
struct Scaled {
    values: [[__m512; 2]; LANES],
    factors: [f32; LANES],
    scales: __m256,
    /// The blocks that hold a NaN or an infinity.
    bad: __mmask8,
}

impl Scaled {
    /// `count` blocks, of whose integers the largest is `most`; the other ones are zeros.
    ///
    /// # Safety
    /// `block` points at 32 values for each number below `count`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn new(count: usize, most: f32, block: impl Fn(usize) -> *const f32) -> Self {
        static ZEROS: [f32; CELL] = [0.0; CELL];
        let mut values = [[_mm512_setzero_ps(); 2]; LANES];
        let mut largest = [_mm256_setzero_si256(); LANES];
        for (lane, (values, largest)) in values.iter_mut().zip(&mut largest).enumerate() {
            let from = if lane < count { block(lane) } else { ZEROS.as_ptr() };
            // SAFETY: 32 values.
            *values = unsafe { [_mm512_loadu_ps(from), _mm512_loadu_ps(from.add(16))] };
            let magnitude = |v| _mm512_and_si512(_mm512_castps_si512(v), _mm512_set1_epi32(i32::MAX));
            let both = _mm512_max_epu32(magnitude(values[0]), magnitude(values[1]));
            *largest = _mm256_max_epu32(_mm512_castsi512_si256(both), _mm512_extracti64x4_epi64::<1>(both));
        }
        let largest = transpose(largest).into_iter().reduce(|a, b| _mm256_max_epu32(a, b)).expect("eight lanes");
        // As `scale_of`, lane by lane.
        let infinity = _mm256_set1_epi32(f32::INFINITY.to_bits().cast_signed());
        let (bad, most) = (_mm256_cmpge_epu32_mask(largest, infinity), _mm256_set1_ps(most));
        let amax = _mm256_castsi256_ps(largest);
        let scales = _mm256_mask_mov_ps(_mm256_div_ps(amax, most), bad, _mm256_set1_ps(f32::NAN));
        let factors = _mm256_div_ps(most, amax);
        let finite = _mm256_cmplt_epu32_mask(_mm256_castps_si256(factors), infinity);
        let mut own = [0.0; LANES];
        // SAFETY: eight values.
        unsafe { _mm256_storeu_ps(own.as_mut_ptr(), _mm256_maskz_mov_ps(finite, factors)) };
        Scaled { values, factors: own, scales, bad }
    }

    /// A block's integers, 16 and 16.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    fn integers(&self, lane: usize) -> [__m512i; 2] {
        // A NaN times zero is no integer: such a block has zeros.
        let keep = u16::from(self.bad >> lane & 1).wrapping_sub(1);
        let factor = _mm512_set1_ps(self.factors[lane]);
        let integers = |v| _mm512_maskz_cvtps_epi32(keep, _mm512_mul_ps(v, factor));
        [integers(self.values[lane][0]), integers(self.values[lane][1])]
    }

    /// The same in 8 bits.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    fn bytes(&self, lane: usize) -> __m256i {
        let [first, second] = self.integers(lane);
        let (first, second) = (_mm512_cvtsepi32_epi8(first), _mm512_cvtsepi32_epi8(second));
        _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(first), second)
    }

    /// The same in 16 bits.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    fn words(&self, lane: usize) -> [__m256i; 2] {
        let [first, second] = self.integers(lane);
        [_mm512_cvtepi32_epi16(first), _mm512_cvtepi32_epi16(second)]
    }
}

/// Eight blocks as integers.
struct Eight {
    /// The integers of each.
    bytes: [__m256i; LANES],
    scales: __m256,
    /// Minus the sums of each one's first and second 16 integers.
    minus: [__m256i; 2],
}

impl Eight {
    /// Quantises `count` blocks; the other ones are zeros.
    ///
    /// # Safety
    /// `block` points at 32 values for each number below `count`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn new(count: usize, block: impl Fn(usize) -> *const f32) -> Self {
        // SAFETY: by the caller's duties.
        let scaled = unsafe { Scaled::new(count, MOST, block) };
        let mut bytes = [_mm256_setzero_si256(); LANES];
        for (lane, bytes) in bytes.iter_mut().enumerate() {
            *bytes = scaled.bytes(lane);
        }
        Self::of(bytes, scaled.scales)
    }

    /// With the sums of their integers.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    fn of(bytes: [__m256i; LANES], scales: __m256) -> Self {
        let mut eight = Eight { bytes, scales, minus: [_mm256_setzero_si256(); 2] };
        let (units, ones) = (eight.units(), _mm256_set1_epi8(1));
        for (minus, units) in eight.minus.iter_mut().zip(units.as_chunks::<4>().0) {
            let mut sum = _mm256_setzero_si256();
            for unit in units {
                sum = _mm256_dpbusd_epi32(sum, ones, *unit);
            }
            *minus = _mm256_sub_epi32(_mm256_setzero_si256(), sum);
        }
        eight
    }

    /// The integers unit by unit: 4 values of each block.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    fn units(&self) -> [__m256i; LANES] {
        transpose(self.bytes)
    }

    /// Notes scales and sums of the first `count` blocks from `at` on.
    ///
    /// # Safety
    /// The tile has them.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn note(&self, tile: &mut QuantisedMut<'_>, at: usize, count: usize) {
        let (lanes, minus) = (first_lanes(count), _mm256_add_epi32(self.minus[0], self.minus[1]));
        // SAFETY: by the caller's duties.
        unsafe {
            _mm256_mask_storeu_ps(tile.scales.as_mut_ptr().add(at), lanes, self.scales);
            _mm256_mask_storeu_epi32(tile.minus_sums.as_mut_ptr().add(at), lanes, minus);
            _mm256_mask_storeu_ps(tile.weighted.as_mut_ptr().add(at), lanes, self.weighted(minus));
        }
    }

    /// Notes the sums of the first and of the second halves of `count` blocks from `at` on.
    ///
    /// # Safety
    /// The tile has them.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn note_halves(&self, tile: &mut QuantisedMut<'_>, at: [usize; 2], count: usize) {
        let lanes = first_lanes(count);
        for (minus, at) in self.minus.into_iter().zip(at) {
            // SAFETY: by the caller's duties.
            unsafe {
                _mm256_mask_storeu_epi32(tile.minus_half_sums.as_mut_ptr().add(at), lanes, minus);
                _mm256_mask_storeu_ps(tile.half_weighted.as_mut_ptr().add(at), lanes, self.weighted(minus));
            }
        }
    }

    /// The same, with the two of a block side by side.
    ///
    /// # Safety
    /// The tile has them.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn note_halves_side_by_side(&self, tile: &mut QuantisedMut<'_>, at: usize, count: usize) {
        let order = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
        let pairs = |[a, b]: [__m256i; 2]| {
            _mm512_permutex2var_epi32(_mm512_castsi256_si512(a), order, _mm512_castsi256_si512(b))
        };
        let lanes = (1u32 << (2 * count)).wrapping_sub(1) as u16;
        let weighted = self.minus.map(|minus| _mm256_castps_si256(self.weighted(minus)));
        // SAFETY: by the caller's duties.
        unsafe {
            _mm512_mask_storeu_epi32(tile.minus_half_sums.as_mut_ptr().add(at), lanes, pairs(self.minus));
            _mm512_mask_storeu_epi32(tile.half_weighted.as_mut_ptr().add(at).cast(), lanes, pairs(weighted));
        }
    }

    /// Scales times sums, of which `minus` is the negative.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    fn weighted(&self, minus: __m256i) -> __m256 {
        _mm256_mul_ps(self.scales, _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_setzero_si256(), minus)))
    }
}

/// A mask of the first `count` of eight lanes.
#[inline(always)]
fn first_lanes(count: usize) -> __mmask8 {
    (1u32 << count).wrapping_sub(1) as u8
}

/// Lane `j` of vector `i` becomes lane `i` of vector `j`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn transpose(v: [__m256i; LANES]) -> [__m256i; LANES] {
    let pair = |a: usize| [_mm256_unpacklo_epi32(v[a], v[a + 1]), _mm256_unpackhi_epi32(v[a], v[a + 1])];
    let [ab, cd, ef, gh] = [pair(0), pair(2), pair(4), pair(6)];
    let four = |[a, b]: [__m256i; 2], [c, d]: [__m256i; 2]| {
        [
            _mm256_unpacklo_epi64(a, c),
            _mm256_unpackhi_epi64(a, c),
            _mm256_unpacklo_epi64(b, d),
            _mm256_unpackhi_epi64(b, d),
        ]
    };
    let (low, high) = (four(ab, cd), four(ef, gh));
    let mut out = [_mm256_setzero_si256(); LANES];
    for i in 0..4 {
        out[i] = _mm256_permute2x128_si256::<0x20>(low[i], high[i]);
        out[i + 4] = _mm256_permute2x128_si256::<0x31>(low[i], high[i]);
    }
    out
}
