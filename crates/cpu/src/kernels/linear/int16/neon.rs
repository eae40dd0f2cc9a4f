//! NEON: four vectors of 4 outputs a panel. A load takes the pairs of 8 outputs apart, and each half of them is multiplied with its value
//! of a row and added in one instruction.

use super::{PAIR, Rows, Words};
use crate::kernels::linear::cell::CELL;
use crate::kernels::linear::tile::Target;
use std::arch::aarch64::*;

/// # Safety
/// Lengths and shape were checked by `int16::multiply`, and its duties hold.
#[target_feature(enable = "neon")]
pub(super) unsafe fn multiply(weights: Words<'_>, x: Rows<'_>, out: Target, first: bool) {
    // SAFETY: by the caller's duties.
    unsafe {
        match (x.rows, weights.panels) {
            (1, 4) => tile::<1, 4>(weights, x, out, first),
            (1, _) => tile::<1, 1>(weights, x, out, first),
            (2, _) => tile::<2, 1>(weights, x, out, first),
            (3, _) => tile::<3, 1>(weights, x, out, first),
            _ => tile::<4, 1>(weights, x, out, first),
        }
    }
}

#[target_feature(enable = "neon")]
unsafe fn tile<const ROWS: usize, const PANELS: usize>(weights: Words<'_>, x: Rows<'_>, out: Target, first: bool) {
    let mut acc = [[[vdupq_n_f32(0.0); 4]; PANELS]; ROWS];
    // SAFETY: the rows and panels of `out`, each used here alone; the weights' pairs, panels and scales lie in their bytes, as
    // checked above.
    unsafe {
        if !first {
            for (row, acc) in acc.iter_mut().enumerate() {
                for (panel, acc) in acc.iter_mut().enumerate() {
                    *acc = four(out.row(row, panel).as_ptr());
                }
            }
        }
        let (mut pair, mut ahead) = (weights.bytes.as_ptr(), weights.ahead);
        let blocks = x.words.chunks_exact(ROWS * CELL).zip(x.scales.as_chunks::<ROWS>().0);
        for (words, scales) in blocks {
            let mut dots = [[[vdupq_n_s32(0); 4]; PANELS]; ROWS];
            for words in words.as_chunks::<2>().0.as_chunks::<ROWS>().0 {
                for panel in 0..PANELS {
                    if PANELS == 1 {
                        ahead.ask_line();
                    }
                    let w = pair.add(panel * weights.panel_bytes).cast::<i16>();
                    let (low, high) = (vld2q_s16(w), vld2q_s16(w.add(16)));
                    for (words, dots) in words.iter().zip(&mut dots) {
                        for ((a, b), &x) in [(low.0, high.0), (low.1, high.1)].into_iter().zip(words) {
                            let dots = &mut dots[panel];
                            dots[0] = vmlal_n_s16(dots[0], vget_low_s16(a), x);
                            dots[1] = vmlal_high_n_s16(dots[1], a, x);
                            dots[2] = vmlal_n_s16(dots[2], vget_low_s16(b), x);
                            dots[3] = vmlal_high_n_s16(dots[3], b, x);
                        }
                    }
                }
                pair = pair.wrapping_add(PAIR);
            }
            for ((acc, dots), &scale) in acc.iter_mut().zip(dots).zip(scales) {
                for (acc, dot) in acc.as_flattened_mut().iter_mut().zip(dots.as_flattened()) {
                    *acc = vfmaq_n_f32(*acc, vcvtq_f32_s32(*dot), scale);
                }
            }
        }
        for (row, acc) in acc.iter().enumerate() {
            for (panel, acc) in acc.iter().enumerate() {
                let mut sums = *acc;
                if let Some(scales) = weights.scales {
                    let scales = four(scales.as_ptr().add(panel * weights.panel_bytes).cast());
                    sums.iter_mut().zip(scales).for_each(|(sum, scale)| *sum = vmulq_f32(*sum, scale));
                }
                let (out, _) = out.row(row, panel).as_chunks_mut::<4>();
                for (out, sums) in out.iter_mut().zip(sums) {
                    vst1q_f32(out.as_mut_ptr(), sums);
                }
            }
        }
    }
}

/// 16 numbers.
///
/// # Safety
/// `at` points at them.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn four(at: *const f32) -> [float32x4_t; 4] {
    // SAFETY: by the caller's duties.
    unsafe { [vld1q_f32(at), vld1q_f32(at.add(4)), vld1q_f32(at.add(8)), vld1q_f32(at.add(12))] }
}
