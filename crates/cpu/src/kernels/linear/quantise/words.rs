//! Integers of 16 bits: as those of 8, with 8191 steps of a block's largest magnitude.
//!
//! But for AVX-512 one function, compiled for each instruction set: it is loops over a block, which become vectors.

#[cfg(target_arch = "x86_64")]
use super::avx512;
use super::scale_of;
use crate::isa::Isa;
use crate::kernels::linear::cell::CELL;
use crate::kernels::linear::int16::{self, nearest};

/// A tile while it is written.
pub(in crate::kernels::linear) struct WordsMut<'a> {
    pub(in crate::kernels::linear) rows: usize,
    /// Integers, `[k/2][rows][2]`.
    pub(in crate::kernels::linear) words: &'a mut [i16],
    /// Scales, `[k/32][rows]`.
    pub(in crate::kernels::linear) scales: &'a mut [f32],
}

/// Quantises rows of a tile: those at the front of each `stride` values of `x`, as many values as the tile has.
///
/// # Safety
/// The CPU has the instructions of `isa`.
///
/// # Panics
/// When `x` does not have the tile's rows, or a row is not whole blocks.
pub(in crate::kernels::linear) unsafe fn quantise_words(isa: Isa, x: &[f32], stride: usize, tile: &mut WordsMut<'_>) {
    let (values, rows) = (tile.words.len(), tile.rows);
    assert!(
        (1..=int16::most_rows(isa)).contains(&rows) && values.is_multiple_of(rows * CELL),
        "whole blocks of a tile's rows"
    );
    let cols = values / rows;
    assert!(cols <= stride && x.len() >= (rows - 1) * stride + cols, "rows of a tile's width");
    assert_eq!(tile.scales.len(), values / CELL, "scales of a tile");
    match isa.vectors() {
        // SAFETY: by the caller's duties.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { avx512::quantise_words(x, stride, tile) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { avx2(x, stride, tile) },
        _ => all(x, stride, tile),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn avx2(x: &[f32], stride: usize, tile: &mut WordsMut<'_>) {
    all(x, stride, tile);
}

#[inline(always)]
fn all(x: &[f32], stride: usize, tile: &mut WordsMut<'_>) {
    let rows = tile.rows;
    let blocks = tile.words.chunks_exact_mut(rows * CELL).zip(tile.scales.chunks_exact_mut(rows));
    for (block, (words, scales)) in blocks.enumerate() {
        let pairs = words.as_chunks_mut::<2>().0;
        for (row, scale) in scales.iter_mut().enumerate() {
            let x = x[row * stride + block * CELL..].first_chunk::<CELL>().expect("whole blocks of each row");
            let quants;
            (quants, *scale) = quantised(x);
            for (out, pair) in pairs[row..].iter_mut().step_by(rows).zip(quants.as_chunks::<2>().0) {
                *out = *pair;
            }
        }
    }
}

/// A block's integers, and their scale.
#[inline(always)]
fn quantised(x: &[f32; CELL]) -> ([i16; CELL], f32) {
    let largest = x.iter().fold(0, |largest, x| largest.max(x.abs().to_bits()));
    let (scale, factor) = scale_of(largest, int16::MOST);
    // A NaN times zero is no integer: such a block has zeros.
    let mut quants = [0; CELL];
    if !scale.is_nan() {
        // A loop: what `map` of an array calls does not become part of this function, nor of its instruction set.
        quants.iter_mut().zip(x).for_each(|(quant, x)| *quant = nearest(x * factor));
    }
    (quants, scale)
}
