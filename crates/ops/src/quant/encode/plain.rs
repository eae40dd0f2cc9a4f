//! Blocks of 32 values under one scale: the value of greatest magnitude, or its negative, is the end of the range.
//!
//! Source: `quantize_row_*_ref` of `ggml-quants.c` in llama.cpp, for which scale is taken and how values are rounded to it.

use super::{extreme, inverse};
use half::f16;

/// Integers of 4 bits around 8.
pub(super) fn q4_0(values: &[f32; 32], bytes: &mut [u8; 18]) {
    let (scale, quants) = around_middle(values, 8.0, 15.0);
    bytes[..2].copy_from_slice(&scale);
    low_bits(&quants, &mut bytes[2..]);
}

/// Integers of 5 bits around 16; the fifth bits lie apart.
pub(super) fn q5_0(values: &[f32; 32], bytes: &mut [u8; 22]) {
    let (scale, quants) = around_middle(values, 16.0, 31.0);
    let fifths = (0..).zip(&quants).fold(0u32, |bits, (i, quant)| bits | u32::from(quant >> 4) << i);
    bytes[..2].copy_from_slice(&scale);
    bytes[2..6].copy_from_slice(&fifths.to_le_bytes());
    low_bits(&quants, &mut bytes[6..]);
}

/// Integers of 8 bits, halves rounded away from zero.
pub(super) fn q8_0(values: &[f32; 32], bytes: &mut [u8; 34]) {
    let scale = extreme(values).abs() / 127.0;
    let inverse = inverse(scale);
    bytes[..2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
    for (out, value) in bytes[2..].iter_mut().zip(values) {
        // Adding a half is exact in f64.
        let scaled = f64::from(value * inverse);
        *out = ((scaled + 0.5_f64.copysign(scaled)) as i8).cast_unsigned();
    }
}

/// The scale that makes the extreme value `-middle`, and the integers from 0 to `last`.
fn around_middle(values: &[f32; 32], middle: f32, last: f32) -> ([u8; 2], [u8; 32]) {
    let scale = extreme(values) / -middle;
    let (inverse, offset) = (f64::from(inverse(scale)), f64::from(middle) + 0.5);
    // Product and sum are rounded to f32 once, as where they are one instruction.
    let quant = |value: f32| ((f64::from(value) * inverse + offset) as f32).clamp(0.0, last) as u8;
    (f16::from_f32(scale).to_le_bytes(), values.map(quant))
}

/// The low nibbles: those of the first half below those of the second.
fn low_bits(quants: &[u8; 32], out: &mut [u8]) {
    let (first, second) = quants.split_at(16);
    for (out, (low, high)) in out.iter_mut().zip(first.iter().zip(second)) {
        *out = low & 15 | high << 4;
    }
}
