//! AVX2: two vectors of 8 outputs a panel. 16-bit weights are converted in the inner loop: converting a panel ahead was slower at
//! every number of rows (512 rows: 180 against 186 GFLOP/s).

use super::{Element, Weights};
use crate::kernels::linear::PANEL;
use crate::kernels::linear::tile::Target;
use std::arch::x86_64::*;

/// How 16 stored weights become two vectors of f32.
trait Load {
    const BYTES: usize;
    /// Whether runs of them have scales.
    const SCALED: bool = Self::BYTES == 1;

    /// # Safety
    /// `step` points at 16 weights; AVX2 and F16C are present.
    unsafe fn load(step: *const u8) -> [__m256; 2];
}

struct F32;
struct F16;
struct Bf16;
struct E4m3;
struct E5m2;

impl Load for F32 {
    const BYTES: usize = 4;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load(step: *const u8) -> [__m256; 2] {
        // SAFETY: 64 bytes, by the duties of `load`.
        unsafe { [_mm256_loadu_ps(step.cast()), _mm256_loadu_ps(step.add(32).cast())] }
    }
}

impl Load for F16 {
    const BYTES: usize = 2;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load(step: *const u8) -> [__m256; 2] {
        // SAFETY: 32 bytes, by the duties of `load`.
        unsafe {
            [_mm256_cvtph_ps(_mm_loadu_si128(step.cast())), _mm256_cvtph_ps(_mm_loadu_si128(step.add(16).cast()))]
        }
    }
}

impl Load for Bf16 {
    const BYTES: usize = 2;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load(step: *const u8) -> [__m256; 2] {
        // SAFETY: 32 bytes, by the duties of `load`.
        let pairs = unsafe { _mm256_loadu_si256(step.cast()) };
        let high = _mm256_and_si256(pairs, _mm256_set1_epi32(i32::MIN >> 15));
        [_mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16)), _mm256_castsi256_ps(high)]
    }
}

impl Load for E4m3 {
    const BYTES: usize = 1;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load(step: *const u8) -> [__m256; 2] {
        // SAFETY: 16 bytes, by the duties of `load`.
        let wide = unsafe { _mm256_cvtepi8_epi16(_mm_loadu_si128(step.cast())) };
        // The sign came along twice.
        halves(_mm256_and_si256(_mm256_slli_epi16(wide, 7), _mm256_set1_epi16(!0x4000)))
    }
}

impl Load for E5m2 {
    const BYTES: usize = 1;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load(step: *const u8) -> [__m256; 2] {
        // SAFETY: 16 bytes, by the duties of `load`.
        let wide = unsafe { _mm256_cvtepi8_epi16(_mm_loadu_si128(step.cast())) };
        halves(_mm256_slli_epi16(wide, 8))
    }
}

/// 16 f16 as f32.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn halves(v: __m256i) -> [__m256; 2] {
    [_mm256_cvtph_ps(_mm256_castsi256_si128(v)), _mm256_cvtph_ps(_mm256_extracti128_si256(v, 1))]
}

// Eight chains hide the latency of the FMA, and four streams read memory better than one.
by_element_and_shape!("avx2,fma,f16c", tile, [1, 4] [1, 1] [2, 1] [3, 1] [4, 1] [5, 1] [6, 1]);

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile<L: Load, const ROWS: usize, const PANELS: usize>(
    weights: Weights<'_>,
    x: &[f32],
    out: Target,
    first: bool,
) {
    let mut acc = [[[_mm256_setzero_ps(); 2]; PANELS]; ROWS];
    // SAFETY: the rows and panels of `out`, each used here alone; the weights' steps, panels and scales lie in their bytes, as
    // checked above.
    unsafe {
        if !first {
            for (row, acc) in acc.iter_mut().enumerate() {
                for (panel, acc) in acc.iter_mut().enumerate() {
                    let sums = out.row(row, panel).as_ptr();
                    *acc = [_mm256_loadu_ps(sums), _mm256_loadu_ps(sums.add(8))];
                }
            }
        }
        let (mut step, mut ahead) = (weights.bytes.as_ptr(), weights.ahead);
        for x in x.as_chunks::<ROWS>().0 {
            let mut w = [[_mm256_setzero_ps(); 2]; PANELS];
            for (panel, w) in w.iter_mut().enumerate() {
                if PANELS == 1 {
                    ahead.ask_line();
                }
                *w = L::load(step.add(panel * weights.panel_bytes));
            }
            for (x, acc) in x.iter().zip(&mut acc) {
                let x = _mm256_broadcast_ss(x);
                for (w, acc) in w.iter().zip(acc) {
                    acc[0] = _mm256_fmadd_ps(x, w[0], acc[0]);
                    acc[1] = _mm256_fmadd_ps(x, w[1], acc[1]);
                }
            }
            step = step.wrapping_add(PANEL * L::BYTES);
        }
        if L::SCALED
            && let Some(scales) = weights.scales
        {
            for (row, acc) in acc.iter_mut().enumerate() {
                for (panel, acc) in acc.iter_mut().enumerate() {
                    let scales = F32::load(scales.as_ptr().add(panel * weights.panel_bytes));
                    let mut sums = [_mm256_setzero_ps(); 2];
                    if weights.sums {
                        sums = F32::load(out.row(row, panel).as_ptr().cast());
                    }
                    for h in 0..2 {
                        acc[h] = _mm256_fmadd_ps(acc[h], scales[h], sums[h]);
                    }
                }
            }
        }
        for (row, acc) in acc.iter().enumerate() {
            for (panel, acc) in acc.iter().enumerate() {
                let sums = out.row(row, panel).as_mut_ptr();
                _mm256_storeu_ps(sums, acc[0]);
                _mm256_storeu_ps(sums.add(8), acc[1]);
            }
        }
    }
}
