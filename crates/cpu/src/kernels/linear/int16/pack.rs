//! Rows of 16-bit floats as integers, each row under a power of two.
//!
//! `scale` is the power of two for which the row's largest magnitude becomes more than 4096 and at most 8192, but none below 2^-126, and
//! `q = round_to_even(w / scale)`, where the division is exact. So a weight of f16 is kept as it is unless it is smaller than an eighth of
//! its row's largest, one of bf16 than a 64th, and none is off by more than a 8192nd of that. A row that holds an infinity or NaN has
//! the scale NaN, so that its output is NaN.

use super::{BITS, nearest};
use crate::isa::Isa;
use crate::kernels::linear::PANEL;
use crate::kernels::linear::across::{self, Next};
use crate::kernels::linear::cell::CELL;
use crate::kernels::linear::float::Element;

/// Columns that are rounded before they are laid across, whole cells: they stay in the nearest cache. A loop over so many becomes one over
/// vectors, where one over 32 was unrolled first and did not (a fifth of the speed).
const CHUNK: usize = 4 * CELL;

/// Packs 16 rows, `[16][k]` of `element` as the file has them, into a panel's scales and its integers. K of the panel is filled up with
/// zeros.
///
/// One function, compiled for each instruction set: it is loops over a block, which become vectors. With AVX2 f16 have an instruction.
pub(in crate::kernels::linear) fn pack_panel(element: Element, rows: &[u8], to: [&mut [u8]; 2], next: Next) {
    match Isa::detect().vectors() {
        // SAFETY: it is the machine's.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { avx512(element, rows, to, next) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { avx2(element, rows, to, next) },
        _ => pack(element, rows, to, next, Steps::integers),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn avx512(element: Element, rows: &[u8], to: [&mut [u8]; 2], next: Next) {
    pack(element, rows, to, next, Steps::integers);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn avx2(element: Element, rows: &[u8], to: [&mut [u8]; 2], next: Next) {
    match element {
        Element::F16 => pack(element, rows, to, next, |steps, _, halves, words| f16c(steps, halves, words)),
        _ => pack(element, rows, to, next, Steps::integers),
    }
}

/// [`Steps::integers`] of f16.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn f16c(steps: Steps, halves: &[[u8; 2]], words: &mut [[u8; 2]]) {
    use std::arch::x86_64::*;
    const EIGHT: usize = 8;
    if steps.scale.is_nan() {
        return words.fill([0; 2]);
    }
    let factor = _mm256_set1_ps(steps.factor);
    let (eights, rest) = words.as_chunks_mut::<EIGHT>();
    let done = eights.len() * EIGHT;
    for (words, halves) in eights.iter_mut().zip(halves.as_chunks::<EIGHT>().0) {
        // SAFETY: 16 bytes each.
        unsafe {
            let floats = _mm256_cvtph_ps(_mm_loadu_si128(halves.as_ptr().cast()));
            let nearest = _mm256_cvtps_epi32(_mm256_mul_ps(floats, factor));
            let nearest = _mm_packs_epi32(_mm256_castsi256_si128(nearest), _mm256_extracti128_si256::<1>(nearest));
            _mm_storeu_si128(words.as_mut_ptr().cast(), nearest);
        }
    }
    steps.integers(Element::F16, &halves[done..], rest);
}

/// `integers` is what rounds the floats of a row, of which it is given some.
#[inline(always)]
fn pack(
    element: Element,
    rows: &[u8],
    [scales, panel]: [&mut [u8]; 2],
    next: Next,
    integers: impl Fn(Steps, Element, &[[u8; 2]], &mut [[u8; 2]]),
) {
    let rows = across::rows(rows);
    let mut steps = [Steps { scale: 0.0, factor: 0.0 }; PANEL];
    for ((row, steps), scale) in rows.iter().zip(&mut steps).zip(scales.as_chunks_mut().0) {
        *steps = Steps::of(element, row);
        *scale = steps.scale.to_le_bytes();
    }
    let mut words = [[[0; 2]; CHUNK]; PANEL];
    for (part, panel) in panel.chunks_mut(CHUNK * 2 * PANEL).enumerate() {
        let cols = panel.len() / (2 * PANEL);
        for (j, (row, words)) in rows.iter().zip(&mut words).enumerate() {
            next.ask(part * PANEL + j, CHUNK * 2);
            let halves = &row.as_chunks::<2>().0[part * CHUNK..];
            let halves = &halves[..cols.min(halves.len())];
            let (words, filled_up) = words[..cols].split_at_mut(halves.len());
            integers(steps[j], element, halves, words);
            filled_up.fill([0; 2]);
        }
        let mut columns = [&[][..]; PANEL];
        columns.iter_mut().zip(&words).for_each(|(column, words)| *column = words.as_flattened());
        across::words_at(&columns, 0, panel);
    }
}

/// The steps in which a row is stored.
#[derive(Clone, Copy)]
struct Steps {
    scale: f32,
    /// One over the scale; 0 where that is NaN.
    factor: f32,
}

impl Steps {
    #[inline(always)]
    fn of(element: Element, row: &[u8]) -> Self {
        // Floats are in the order of their bits, and an infinity or NaN is behind all others.
        let magnitudes = row.as_chunks::<2>().0.iter().map(|&half| i16::from_le_bytes(half) & i16::MAX);
        let largest = element.read(&magnitudes.fold(0, i16::max).to_le_bytes());
        if !largest.is_finite() {
            return Steps { scale: f32::NAN, factor: 0.0 };
        }
        // The exponent of the power of two that is not below it, and from there down.
        let power = (largest.to_bits() + (1 << 23) - 1) >> 23;
        let exponent = power.saturating_sub(BITS).max(1);
        Steps { scale: f32::from_bits(exponent << 23), factor: f32::from_bits((254 - exponent) << 23) }
    }

    /// Rounds floats.
    #[inline(always)]
    fn integers(self, element: Element, halves: &[[u8; 2]], words: &mut [[u8; 2]]) {
        /// An f16 whose bits stand where those of an f32 do is smaller by this.
        const BIAS: f32 = f32::from_bits((127 + 112) << 23);
        match element {
            Element::BF16 => self.round(halves, words, |half| f32::from_bits(half << 16)),
            _ => self.round(halves, words, |half| f32::from_bits((half & 0x8000) << 16 | (half & 0x7fff) << 13) * BIAS),
        }
    }

    #[inline(always)]
    fn round(self, halves: &[[u8; 2]], words: &mut [[u8; 2]], float: impl Fn(u32) -> f32) {
        if self.scale.is_nan() {
            return words.fill([0; 2]);
        }
        for (word, &half) in words.iter_mut().zip(halves) {
            *word = nearest(float(u32::from(u16::from_le_bytes(half))) * self.factor).to_le_bytes();
        }
    }
}
