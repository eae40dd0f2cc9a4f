//! AVX2: each of a unit's four values for 16 outputs in turn.

use crate::kernels::linear::PANEL;
use crate::kernels::linear::cell::{CELL, Cell, UNIT};
use std::arch::x86_64::*;

/// # Safety
/// AVX2 and F16C are present, and the lengths were checked by `dequantise`.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn dequantise(cell: Cell, cells: &[u8], values: &mut [[f32; PANEL]]) {
    let (groups, min) = (cell.groups(), cell.has_min());
    for (bytes, values) in cells.chunks_exact(cell.bytes()).zip(values.as_chunks_mut::<CELL>().0) {
        let (units, factors) = bytes.split_at(cell.quant_bytes());
        for (unit, values) in values.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            let group = unit * groups / 8;
            for h in 0..2 {
                let scale = factor(cell, factors, group, h);
                let add = if min { factor(cell, factors, groups + group, h) } else { _mm256_setzero_ps() };
                let quants = quants(cell, units, unit, h);
                let by_value = [
                    _mm256_slli_epi32(quants, 24),
                    _mm256_slli_epi32(quants, 16),
                    _mm256_slli_epi32(quants, 8),
                    quants,
                ];
                for (value, quant) in values.iter_mut().zip(by_value) {
                    let scaled = _mm256_mul_ps(scale, _mm256_cvtepi32_ps(_mm256_srai_epi32(quant, 24)));
                    let scaled = if min { _mm256_add_ps(scaled, add) } else { scaled };
                    // SAFETY: the half `h` of 16 values.
                    unsafe { _mm256_storeu_ps(value.as_mut_ptr().add(h * 8), scaled) };
                }
            }
        }
    }
}

/// The signed bytes of `unit` for half of the outputs.
#[inline]
#[target_feature(enable = "avx2")]
fn quants(cell: Cell, units: &[u8], unit: usize, h: usize) -> __m256i {
    let load = |unit: usize| {
        let half = &units[unit * UNIT + h * 32..][..32];
        // SAFETY: 32 bytes.
        unsafe { _mm256_loadu_si256(half.as_ptr().cast()) }
    };
    let Cell::Nibbles { min } = cell else { return load(unit) };
    let bytes = if unit < 4 { load(unit) } else { _mm256_srli_epi16(load(unit - 4), 4) };
    let nibbles = _mm256_and_si256(bytes, _mm256_set1_epi8(15));
    if min { nibbles } else { _mm256_sub_epi8(nibbles, _mm256_set1_epi8(8)) }
}

/// Factor `index` for half of the outputs.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn factor(cell: Cell, factors: &[u8], index: usize, h: usize) -> __m256 {
    if let Cell::Wide { .. } = cell {
        let half = &factors[index * 4 * PANEL + h * 32..][..32];
        // SAFETY: 32 bytes.
        unsafe { _mm256_loadu_ps(half.as_ptr().cast()) }
    } else {
        let half = &factors[index * 2 * PANEL + h * 16..][..16];
        // SAFETY: 16 bytes.
        _mm256_cvtph_ps(unsafe { _mm_loadu_si128(half.as_ptr().cast()) })
    }
}
