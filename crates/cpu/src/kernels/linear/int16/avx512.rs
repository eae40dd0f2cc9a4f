//! AVX-512 with VNNI: a pair of values of K by 16 outputs is one vector, and `vpdpwssd` multiplies it with a pair of a row, which it takes
//! from memory for every output. Twelve rows share each load of weights. With many rows, where a load a product is more than a processor
//! with two loads and two products a cycle has (Zen 5), six rows by two panels share both: 512 rows x1.07 to x1.11.
//!
//! The instruction is written out: compilers take `vpmaddwd` and `vpaddd` instead, which wait for less and compute half as much (8 rows
//! 0.85 of the time, 12 rows 0.8), and an addition for each address.

use super::{PAIR, Rows, Words};
use crate::kernels::linear::cell::CELL;
use crate::kernels::linear::tile::Target;
use std::arch::asm;
use std::arch::x86_64::*;

/// # Safety
/// AVX-512 F, BW, DQ, VL and VNNI are present; lengths and shape were checked by `int16::multiply`, and its duties hold.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn multiply(weights: Words<'_>, x: Rows<'_>, out: Target, first: bool) {
    // SAFETY: by the caller's duties.
    unsafe {
        match (x.rows, weights.panels) {
            (1, 4) => tile::<1, 4>(weights, x, out, first),
            (2, 4) => tile::<2, 4>(weights, x, out, first),
            (3, 4) => tile::<3, 4>(weights, x, out, first),
            (4, 2) => tile::<4, 2>(weights, x, out, first),
            (5, 2) => tile::<5, 2>(weights, x, out, first),
            (6, 2) => tile::<6, 2>(weights, x, out, first),
            (1, _) => tile::<1, 1>(weights, x, out, first),
            (2, _) => tile::<2, 1>(weights, x, out, first),
            (3, _) => tile::<3, 1>(weights, x, out, first),
            (4, _) => tile::<4, 1>(weights, x, out, first),
            (5, _) => tile::<5, 1>(weights, x, out, first),
            (6, _) => tile::<6, 1>(weights, x, out, first),
            (7, _) => tile::<7, 1>(weights, x, out, first),
            (8, _) => tile::<8, 1>(weights, x, out, first),
            (9, _) => tile::<9, 1>(weights, x, out, first),
            (10, _) => tile::<10, 1>(weights, x, out, first),
            (11, _) => tile::<11, 1>(weights, x, out, first),
            _ => tile::<12, 1>(weights, x, out, first),
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn tile<const ROWS: usize, const PANELS: usize>(weights: Words<'_>, x: Rows<'_>, out: Target, first: bool) {
    let mut acc = [[_mm512_setzero_ps(); PANELS]; ROWS];
    // SAFETY: the rows and panels of `out`, each used here alone; the weights' pairs, panels and scales lie in their bytes, as
    // checked above.
    unsafe {
        if !first {
            for (row, acc) in acc.iter_mut().enumerate() {
                for (panel, acc) in acc.iter_mut().enumerate() {
                    *acc = _mm512_loadu_ps(out.row(row, panel).as_ptr());
                }
            }
        }
        let (mut pair, mut ahead) = (weights.bytes.as_ptr(), weights.ahead);
        let blocks = x.words.chunks_exact(ROWS * CELL).zip(x.scales.as_chunks::<ROWS>().0);
        for (block, (words, scales)) in blocks.enumerate() {
            if weights.several {
                for panel in 0..PANELS {
                    ahead.behind(panel * weights.panel_bytes).ask_share(block * CELL / 2, CELL / 2);
                }
            }
            let mut dots = [[_mm512_setzero_si512(); PANELS]; ROWS];
            for words in words.as_chunks::<2>().0.as_chunks::<ROWS>().0 {
                if PANELS == 1 && !weights.several {
                    ahead.ask_line();
                }
                let mut w = [_mm512_setzero_si512(); PANELS];
                for (panel, w) in w.iter_mut().enumerate() {
                    *w = _mm512_loadu_si512(pair.add(panel * weights.panel_bytes).cast());
                }
                let words = words.as_ptr();
                macro_rules! multiply {
                    ($($row:literal)*) => {
                        $(if $row < ROWS {
                            let dots = &mut dots[$row % ROWS];
                            // One panel takes the pair from memory, several from a register.
                            if PANELS > 1 {
                                let x = _mm512_set1_epi32(words.cast::<i32>().add($row).read_unaligned());
                                for (w, dot) in w.iter().zip(dots) {
                                    asm!(
                                        "vpdpwssd {dot}, {w}, {x}",
                                        dot = inout(zmm_reg) *dot,
                                        w = in(zmm_reg) *w,
                                        x = in(zmm_reg) x,
                                        options(pure, nomem, nostack, preserves_flags),
                                    );
                                }
                            } else {
                                for (w, dot) in w.iter().zip(dots) {
                                    asm!(
                                        "vpdpwssd {dot}, {w}, dword ptr [{words} + {at}]{{1to16}}",
                                        dot = inout(zmm_reg) *dot,
                                        w = in(zmm_reg) *w,
                                        words = in(reg) words,
                                        at = const $row * size_of::<[i16; 2]>(),
                                        options(pure, readonly, nostack, preserves_flags),
                                    );
                                }
                            }
                        })*
                    };
                }
                multiply!(0 1 2 3 4 5 6 7 8 9 10 11);
                pair = pair.wrapping_add(PAIR);
            }
            for ((acc, dots), scale) in acc.iter_mut().zip(dots).zip(scales) {
                for (acc, dot) in acc.iter_mut().zip(dots) {
                    *acc = _mm512_fmadd_ps(_mm512_set1_ps(*scale), _mm512_cvtepi32_ps(dot), *acc);
                }
            }
        }
        for (row, acc) in acc.iter().enumerate() {
            for (panel, acc) in acc.iter().enumerate() {
                let mut sums = *acc;
                if let Some(scales) = weights.scales {
                    sums =
                        _mm512_mul_ps(sums, _mm512_loadu_ps(scales.as_ptr().add(panel * weights.panel_bytes).cast()));
                }
                _mm512_storeu_ps(out.row(row, panel).as_mut_ptr(), sums);
            }
        }
    }
}
