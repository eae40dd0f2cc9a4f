//! AVX2: two vectors of 8 outputs a panel. `vpmaddwd` adds the two products of a pair, which fit 32 bits, and an addition follows.

use super::{PAIR, Rows, Words};
use crate::kernels::linear::cell::CELL;
use crate::kernels::linear::tile::Target;
use std::arch::x86_64::*;
use std::hint::black_box;

/// # Safety
/// AVX2 and FMA are present; lengths and shape were checked by `int16::multiply`, and its duties hold.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn multiply(weights: Words<'_>, x: Rows<'_>, out: Target, first: bool) {
    // SAFETY: by the caller's duties.
    unsafe {
        match (x.rows, weights.panels) {
            (1, 4) => tile::<1, 4>(weights, x, out, first),
            (1, _) => tile::<1, 1>(weights, x, out, first),
            (2, _) => tile::<2, 1>(weights, x, out, first),
            (3, _) => tile::<3, 1>(weights, x, out, first),
            (4, _) => tile::<4, 1>(weights, x, out, first),
            (5, _) => tile::<5, 1>(weights, x, out, first),
            _ => tile::<6, 1>(weights, x, out, first),
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile<const ROWS: usize, const PANELS: usize>(weights: Words<'_>, x: Rows<'_>, out: Target, first: bool) {
    let mut acc = [[[_mm256_setzero_ps(); 2]; PANELS]; ROWS];
    // SAFETY: the rows and panels of `out`, each used here alone; the weights' pairs, panels and scales lie in their bytes, as
    // checked above.
    unsafe {
        if !first {
            for (row, acc) in acc.iter_mut().enumerate() {
                for (panel, acc) in acc.iter_mut().enumerate() {
                    *acc = two(out.row(row, panel).as_ptr());
                }
            }
        }
        let (mut pair, mut ahead) = (weights.bytes.as_ptr(), weights.ahead);
        let mut words = x.words.as_ptr();
        for scales in x.scales.as_chunks::<ROWS>().0 {
            let mut dots = [[[_mm256_setzero_si256(); 2]; PANELS]; ROWS];
            for _ in 0..twos() {
                for _ in 0..2 {
                    for panel in 0..PANELS {
                        if PANELS == 1 {
                            ahead.ask_line();
                        }
                        let w = pair.add(panel * weights.panel_bytes).cast::<__m256i>();
                        let w = [_mm256_loadu_si256(w), _mm256_loadu_si256(w.add(1))];
                        for (row, dots) in dots.iter_mut().enumerate() {
                            let x = _mm256_set1_epi32(words.add(row * 2).cast::<i32>().read_unaligned());
                            for (w, dot) in w.iter().zip(&mut dots[panel]) {
                                *dot = _mm256_add_epi32(*dot, _mm256_madd_epi16(*w, x));
                            }
                        }
                    }
                    pair = pair.wrapping_add(PAIR);
                    words = words.wrapping_add(ROWS * 2);
                }
            }
            for ((acc, dots), scale) in acc.iter_mut().zip(dots).zip(scales) {
                let scale = _mm256_set1_ps(*scale);
                for (acc, dot) in acc.as_flattened_mut().iter_mut().zip(dots.as_flattened()) {
                    *acc = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(*dot), *acc);
                }
            }
        }
        for (row, acc) in acc.iter().enumerate() {
            for (panel, acc) in acc.iter().enumerate() {
                let mut sums = *acc;
                if let Some(scales) = weights.scales {
                    let scales = two(scales.as_ptr().add(panel * weights.panel_bytes).cast());
                    sums = [_mm256_mul_ps(acc[0], scales[0]), _mm256_mul_ps(acc[1], scales[1])];
                }
                let out = out.row(row, panel).as_mut_ptr();
                _mm256_storeu_ps(out, sums[0]);
                _mm256_storeu_ps(out.add(8), sums[1]);
            }
        }
    }
}

/// 16 numbers.
///
/// # Safety
/// `at` points at them; AVX2 is present.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn two(at: *const f32) -> [__m256; 2] {
    // SAFETY: by the caller's duties.
    unsafe { [_mm256_loadu_ps(at), _mm256_loadu_ps(at.add(8))] }
}

/// Twos of a block's pairs, a number that the compiler cannot see: it would unroll them all and spill.
#[inline(always)]
fn twos() -> usize {
    black_box(CELL / 4)
}
