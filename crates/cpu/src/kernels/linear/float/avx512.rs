//! AVX-512: a step of a panel is one vector of 16 outputs. Twelve rows share each load and conversion of weights, and an FMA takes its
//! broadcast from memory.

use super::{Element, Weights};
use crate::kernels::linear::PANEL;
use crate::kernels::linear::prefetch::ask;
use crate::kernels::linear::tile::Target;
use std::arch::x86_64::*;

/// How 16 stored weights become a vector of f32.
trait Load {
    const BYTES: usize;

    /// # Safety
    /// `step` points at 16 weights; AVX-512 is present.
    unsafe fn load(step: *const u8) -> __m512;
}

struct F32;
struct F16;
struct Bf16;

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

/// # Safety
/// AVX-512 F, BW, DQ and VL are present; lengths and shape were checked by `float::multiply`, and its duties hold.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn multiply(weights: Weights<'_>, x: &[f32], rows: usize, out: Target, first: bool) {
    // SAFETY: by the caller's duties.
    unsafe {
        match weights.element {
            Element::F32 => by_shape::<F32>(weights, x, rows, out, first),
            Element::F16 => by_shape::<F16>(weights, x, rows, out, first),
            Element::BF16 => by_shape::<Bf16>(weights, x, rows, out, first),
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn by_shape<L: Load>(weights: Weights<'_>, x: &[f32], rows: usize, out: Target, first: bool) {
    // SAFETY: by the caller's duties.
    unsafe {
        match (rows, weights.panels) {
            // Four chains hide the latency of the FMA, and four streams read memory better than one.
            (1, 4) => tile::<L, 1, 4>(weights, x, out, first),
            (2, 4) => tile::<L, 2, 4>(weights, x, out, first),
            (3, 4) => tile::<L, 3, 4>(weights, x, out, first),
            (1, _) => tile::<L, 1, 1>(weights, x, out, first),
            (2, _) => tile::<L, 2, 1>(weights, x, out, first),
            (3, _) => tile::<L, 3, 1>(weights, x, out, first),
            (4, _) => tile::<L, 4, 1>(weights, x, out, first),
            (5, _) => tile::<L, 5, 1>(weights, x, out, first),
            (6, _) => tile::<L, 6, 1>(weights, x, out, first),
            (7, _) => tile::<L, 7, 1>(weights, x, out, first),
            (8, _) => tile::<L, 8, 1>(weights, x, out, first),
            (9, _) => tile::<L, 9, 1>(weights, x, out, first),
            (10, _) => tile::<L, 10, 1>(weights, x, out, first),
            (11, _) => tile::<L, 11, 1>(weights, x, out, first),
            _ => tile::<L, 12, 1>(weights, x, out, first),
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn tile<L: Load, const ROWS: usize, const PANELS: usize>(
    weights: Weights<'_>,
    x: &[f32],
    out: Target,
    first: bool,
) {
    let mut acc = [[_mm512_setzero_ps(); PANELS]; ROWS];
    // SAFETY: the rows and panels of `out`, each used here alone; the weights' steps and panels lie in their bytes, as checked above.
    unsafe {
        if !first {
            for (row, acc) in acc.iter_mut().enumerate() {
                for (panel, acc) in acc.iter_mut().enumerate() {
                    *acc = _mm512_loadu_ps(out.row(row, panel).as_ptr());
                }
            }
        }
        let mut step = weights.bytes.as_ptr();
        for x in x.as_chunks::<ROWS>().0 {
            let mut w = [_mm512_setzero_ps(); PANELS];
            for (panel, w) in w.iter_mut().enumerate() {
                if PANELS == 1 {
                    ask(step.wrapping_add(weights.ahead));
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
        for (row, acc) in acc.iter().enumerate() {
            for (panel, acc) in acc.iter().enumerate() {
                _mm512_storeu_ps(out.row(row, panel).as_mut_ptr(), *acc);
            }
        }
    }
}
