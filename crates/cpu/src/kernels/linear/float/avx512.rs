//! AVX-512: a step of a panel is one vector of 16 outputs. Twelve rows share each load and conversion of weights, and an FMA takes its
//! broadcast from memory.

use super::{Element, Weights};
use crate::kernels::linear::PANEL;
use crate::kernels::linear::tile::Target;
use std::arch::x86_64::*;

/// How 16 stored weights become a vector of f32.
trait Load {
    const BYTES: usize;
    /// Whether runs of them have scales.
    const SCALED: bool = Self::BYTES == 1;

    /// # Safety
    /// `step` points at 16 weights; AVX-512 is present.
    unsafe fn load(step: *const u8) -> __m512;
}

struct F32;
struct F16;
struct Bf16;
struct E4m3;
struct E5m2;

impl Load for F32 {
    const BYTES: usize = 4;

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn load(step: *const u8) -> __m512 {
        // SAFETY: 64 bytes, by the duties of `load`.
        unsafe { _mm512_loadu_ps(step.cast()) }
    }
}

impl Load for F16 {
    const BYTES: usize = 2;

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn load(step: *const u8) -> __m512 {
        // SAFETY: 32 bytes, by the duties of `load`.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(step.cast())) }
    }
}

impl Load for Bf16 {
    const BYTES: usize = 2;

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn load(step: *const u8) -> __m512 {
        // SAFETY: 32 bytes, by the duties of `load`.
        let pairs = unsafe { _mm256_loadu_si256(step.cast()) };
        let high = _mm256_and_si256(pairs, _mm256_set1_epi32(i32::MIN >> 15));
        let low = _mm512_castsi256_si512(_mm256_slli_epi32(pairs, 16));
        _mm512_castsi512_ps(_mm512_inserti64x4::<1>(low, high))
    }
}

impl Load for E4m3 {
    const BYTES: usize = 1;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn load(step: *const u8) -> __m512 {
        // SAFETY: 16 bytes, by the duties of `load`.
        let wide = unsafe { _mm256_cvtepi8_epi16(_mm_loadu_si128(step.cast())) };
        // The sign came along twice.
        _mm512_cvtph_ps(_mm256_and_si256(_mm256_slli_epi16(wide, 7), _mm256_set1_epi16(!0x4000)))
    }
}

impl Load for E5m2 {
    const BYTES: usize = 1;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn load(step: *const u8) -> __m512 {
        // SAFETY: 16 bytes, by the duties of `load`.
        let wide = unsafe { _mm256_cvtepi8_epi16(_mm_loadu_si128(step.cast())) };
        _mm512_cvtph_ps(_mm256_slli_epi16(wide, 8))
    }
}

// Four chains hide the latency of the FMA, and four streams read memory better than one.
by_element_and_shape!(
    "avx512f,avx512bw,avx512dq,avx512vl",
    tile,
    [1, 4] [2, 4] [3, 4]
    [1, 1] [2, 1] [3, 1] [4, 1] [5, 1] [6, 1] [7, 1] [8, 1] [9, 1] [10, 1] [11, 1] [12, 1]
);

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn tile<L: Load, const ROWS: usize, const PANELS: usize>(
    weights: Weights<'_>,
    x: &[f32],
    out: Target,
    first: bool,
) {
    let mut acc = [[_mm512_setzero_ps(); PANELS]; ROWS];
    // SAFETY: the rows and panels of `out`, each used here alone; the weights' steps, panels and scales lie in their bytes, as
    // checked above.
    unsafe {
        if !first {
            for (row, acc) in acc.iter_mut().enumerate() {
                for (panel, acc) in acc.iter_mut().enumerate() {
                    *acc = _mm512_loadu_ps(out.row(row, panel).as_ptr());
                }
            }
        }
        let (mut step, mut ahead) = (weights.bytes.as_ptr(), weights.ahead);
        for x in x.as_chunks::<ROWS>().0 {
            let mut w = [_mm512_setzero_ps(); PANELS];
            for (panel, w) in w.iter_mut().enumerate() {
                if PANELS == 1 {
                    ahead.ask_line();
                }
                *w = L::load(step.add(panel * weights.panel_bytes));
            }
            for (x, acc) in x.iter().zip(&mut acc) {
                let x = _mm512_set1_ps(*x);
                for (w, acc) in w.iter().zip(acc) {
                    *acc = _mm512_fmadd_ps(x, *w, *acc);
                }
            }
            step = step.wrapping_add(PANEL * L::BYTES);
        }
        if L::SCALED
            && let Some(scales) = weights.scales
        {
            for (row, acc) in acc.iter_mut().enumerate() {
                for (panel, acc) in acc.iter_mut().enumerate() {
                    let scale = _mm512_loadu_ps(scales.as_ptr().add(panel * weights.panel_bytes).cast());
                    let mut sum = _mm512_setzero_ps();
                    if weights.sums {
                        sum = _mm512_loadu_ps(out.row(row, panel).as_ptr());
                    }
                    *acc = _mm512_fmadd_ps(*acc, scale, sum);
                }
            }
        }
        for (row, acc) in acc.iter().enumerate() {
            for (panel, acc) in acc.iter().enumerate() {
                _mm512_storeu_ps(out.row(row, panel).as_mut_ptr(), *acc);
            }
        }
    }
}
