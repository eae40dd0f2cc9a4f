//! Opening GGUF blocks: every format turned into the same integers, scales and minima.
//!
//! Source: the block structures of `ggml-common.h` and the `dequantize_row_*` functions of `ggml-quants.c` in llama.cpp.

mod k;
mod nonlinear;
mod plain;

use super::Groups;
use crate::format::BlockFormat;
use half::f16;

/// A block's bytes as its fields. All fields are bytes, so any bytes of the right length are a block.
trait Block: bytemuck::AnyBitPattern {
    /// Writes the block's integers, scales, and minima if the format has them.
    fn open(&self, groups: &mut Groups);
}

/// Opens one block into its integers, scales and minima.
///
/// Integers past [`BlockFormat::block_len`] and scales past the last group keep what they held.
///
/// # Panics
/// When `bytes` is not [`BlockFormat::block_bytes`] long.
#[inline]
pub fn open(format: BlockFormat, bytes: &[u8], groups: &mut Groups) {
    match format {
        BlockFormat::Q4_0 => open_as::<plain::Q4_0>(bytes, groups),
        BlockFormat::Q4_1 => open_as::<plain::Q4_1>(bytes, groups),
        BlockFormat::Q5_0 => open_as::<plain::Q5_0>(bytes, groups),
        BlockFormat::Q5_1 => open_as::<plain::Q5_1>(bytes, groups),
        BlockFormat::Q8_0 => open_as::<plain::Q8_0>(bytes, groups),
        BlockFormat::Q2_K => open_as::<k::Q2_K>(bytes, groups),
        BlockFormat::Q3_K => open_as::<k::Q3_K>(bytes, groups),
        BlockFormat::Q4_K => open_as::<k::Q4_K>(bytes, groups),
        BlockFormat::Q5_K => open_as::<k::Q5_K>(bytes, groups),
        BlockFormat::Q6_K => open_as::<k::Q6_K>(bytes, groups),
        BlockFormat::IQ4_NL => open_as::<nonlinear::IQ4_NL>(bytes, groups),
        BlockFormat::IQ4_XS => open_as::<nonlinear::IQ4_XS>(bytes, groups),
    }
    if !format.has_min() {
        groups.mins = [0.0; 16];
    }
}

#[inline]
fn open_as<B: Block>(bytes: &[u8], groups: &mut Groups) {
    assert_eq!(bytes.len(), size_of::<B>(), "bytes of a block");
    bytemuck::from_bytes::<B>(bytes).open(groups);
}

/// A half-precision number as f32, exactly.
#[inline]
fn half(bytes: [u8; 2]) -> f32 {
    f16::from_le_bytes(bytes).to_f32()
}

/// Low nibbles of `packed` to the first half of `quants`, high ones to the second, each minus `zero`.
#[inline]
fn nibbles(packed: &[u8], zero: i8, quants: &mut [i8]) {
    let (low, high) = quants.split_at_mut(packed.len());
    for ((low, high), &byte) in low.iter_mut().zip(high).zip(packed) {
        *low = (byte & 15) as i8 - zero;
        *high = (byte >> 4) as i8 - zero;
    }
}
